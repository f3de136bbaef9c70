//! Who else has a say in each write of a Lease: webhooks and policies whose rules match it.
//!
//! A webhook is on the way of every renewal: one that does not answer ends leadership, or slows every write down. A
//! policy is evaluated in the API server. That the selectors of either match is told as a condition, not looked up.

use serde_json::{Value, json};

use super::cluster::Cluster;
use super::{Beside, Findings, Task};
use crate::kubernetes::Failure;

/// What a sidecar does with a Lease.
const OPERATIONS: [&str; 2] = ["CREATE", "UPDATE"];
/// v1beta1 is the same Lease in API servers before 1.22.
const EQUIVALENT: [&str; 2] = ["v1", "v1beta1"];

const WEBHOOKS: [(&str, &str); 2] = [
    ("validatingwebhookconfigurations", "ValidatingWebhookConfiguration"),
    ("mutatingwebhookconfigurations", "MutatingWebhookConfiguration"),
];

/// The policies of a kind, and what puts them in force.
struct Policies {
    plural: &'static str,
    bindings: &'static str,
    kind: &'static str,
    mutating: bool,
}

const POLICIES: [Policies; 2] = [
    Policies {
        plural: "validatingadmissionpolicies",
        bindings: "validatingadmissionpolicybindings",
        kind: "ValidatingAdmissionPolicy",
        mutating: false,
    },
    Policies {
        plural: "mutatingadmissionpolicies",
        bindings: "mutatingadmissionpolicybindings",
        kind: "MutatingAdmissionPolicy",
        mutating: true,
    },
];

pub async fn examine(task: &Task, cluster: &mut Cluster, findings: &mut Findings) {
    // The sidecar's memory limit counts for the doctor in its container too, and a long list must not end a term.
    if task.beside == Beside::Sidecar {
        let why = "webhooks and policies are not looked at beside a sidecar; an admin sees them from a workstation";
        return findings.skipped("admission", why);
    }
    let mut look = Look { leases: &task.settings.leases, seen: 0, matched: 0, hidden: Vec::new() };
    for (plural, kind) in WEBHOOKS {
        for configuration in look.list(cluster, plural).await {
            look.webhooks(kind, &configuration, findings);
        }
    }
    for policies in POLICIES {
        let found = look.list(cluster, policies.plural).await;
        let matching: Vec<&Value> = found.iter().filter(|policy| look.policy_matches(policy)).collect();
        if !matching.is_empty() {
            let bindings = look.list(cluster, policies.bindings).await;
            let bindings = (!look.hidden.iter().any(|(hidden, _)| *hidden == policies.bindings)).then_some(bindings);
            for policy in matching {
                look.policy(&policies, policy, bindings.as_deref(), findings);
            }
        }
    }
    look.sum_up(findings);
}

struct Look<'a> {
    leases: &'a [String],
    seen: usize,
    matched: usize,
    /// What could not be listed, and why.
    hidden: Vec<(&'static str, String)>,
}

impl Look<'_> {
    /// None where the cluster has no such thing, or does not show it.
    async fn list(&mut self, cluster: &mut Cluster, plural: &'static str) -> Vec<Value> {
        for version in ["v1", "v1beta1"] {
            match cluster.get(&format!("/apis/admissionregistration.k8s.io/{version}/{plural}")).await {
                Ok(mut list) => match list.get_mut("items").map(Value::take).unwrap_or_default() {
                    Value::Array(items) => return items,
                    _ => return Vec::new(),
                },
                Err(Failure::Status { code: 404, .. }) => {}
                Err(failure) => {
                    let why = match failure {
                        Failure::Status { code: 403, .. } => "not allowed".to_owned(),
                        failure => cluster.advice(&failure),
                    };
                    self.hidden.push((plural, why));
                    return Vec::new();
                }
            }
        }
        Vec::new()
    }

    fn webhooks(&mut self, kind: &str, configuration: &Value, findings: &mut Findings) {
        for webhook in array(&configuration["webhooks"]) {
            self.seen += 1;
            let exact = webhook["matchPolicy"] == "Exact";
            let operations = operations(&webhook["rules"], &Value::Null, self.leases, exact);
            if operations.is_empty() {
                continue;
            }
            self.matched += 1;
            let name = text(&webhook["name"]);
            let fails = webhook["failurePolicy"] != "Ignore";
            let seconds = webhook["timeoutSeconds"].as_u64().unwrap_or(10);
            let consequence = match fails {
                true => format!(
                    "while it does not answer within {seconds} s, no Lease can be renewed or taken (failurePolicy Fail)"
                ),
                false => format!(
                    "while it does not answer, each write takes up to {seconds} s longer (failurePolicy Ignore)"
                ),
            };
            let message = format!(
                "the {kind} {} asks it at each {} of a Lease{}: {consequence}",
                text(&configuration["metadata"]["name"]),
                operations.join(" and "),
                conditions(webhook),
            );
            findings.warning(
                format!("admission {name}"),
                message,
                "leave leases of coordination.k8s.io out of its rules, or this namespace out by its namespaceSelector",
            );
        }
    }

    fn policy_matches(&mut self, policy: &Value) -> bool {
        self.seen += 1;
        !policy_operations(&policy["spec"]["matchConstraints"], self.leases).is_empty()
    }

    fn policy(&mut self, of: &Policies, policy: &Value, bindings: Option<&[Value]>, findings: &mut Findings) {
        self.matched += 1;
        let (policy_name, spec) = (text(&policy["metadata"]["name"]), &policy["spec"]);
        let constraints = &spec["matchConstraints"];
        let operations = policy_operations(constraints, self.leases).join(" and ");
        let name = format!("admission {policy_name}");
        let mut message = format!("the {} judges each {operations} of a Lease{}", of.kind, conditions(constraints));
        if of.mutating {
            message = format!("the {} may change a Lease at each {operations}{}", of.kind, conditions(constraints));
        }
        if !array(&spec["matchConditions"]).is_empty() {
            message += ", if its matchConditions hold";
        }
        let Some(bindings) = bindings else {
            return findings.ok(name, message + "; whether it is bound may not be seen");
        };
        let bound: Vec<String> = bindings
            .iter()
            .filter(|binding| binding["spec"]["policyName"] == policy_name && binding_matches(binding, self.leases))
            .map(binding_text)
            .collect();
        if bound.is_empty() {
            return findings.ok(name, message + ", and is not in force: no binding applies it to Leases");
        }
        let failure = if spec["failurePolicy"] == "Ignore" { "Ignore" } else { "Fail" };
        message += &format!("; bound by {}; failurePolicy {failure}", bound.join(", "));
        match of.mutating {
            true => findings.warning(name, message, "labels and annotations may change; a changed spec is another's write to the sidecar, and its term ends: leave leases of coordination.k8s.io out of it"),
            false => findings.ok(name, message),
        }
    }

    fn sum_up(self, findings: &mut Findings) {
        let name = "admission";
        for (plural, why) in &self.hidden {
            if why != "not allowed" {
                findings.skipped(name, format!("{plural} cannot be listed: {why}"));
            }
        }
        let hidden: Vec<&str> =
            self.hidden.iter().filter(|(_, why)| why == "not allowed").map(|(plural, _)| *plural).collect();
        if !hidden.is_empty() {
            let message = match hidden.len() == WEBHOOKS.len() + POLICIES.len() {
                true => "webhooks and policies".to_owned(),
                false => hidden.join(", "),
            };
            findings.skipped(
                name,
                message
                    + " may not be listed by who asks, and a sidecar need not; an admin sees them from a workstation",
            );
        } else if self.matched == 0 && self.hidden.is_empty() {
            findings.ok(name, format!("no webhook or policy matches Leases ({} looked at)", self.seen));
        }
    }
}

/// Which operations on any of the Leases the rules match and the exceptions do not, as the API server's matcher has it.
fn operations(rules: &Value, exceptions: &Value, leases: &[String], exact: bool) -> Vec<&'static str> {
    let any = |rules: &Value, operation: &str, lease: &str| {
        array(rules).iter().any(|rule| rule_matches(rule, operation, lease, exact))
    };
    let matches = |operation: &&str| {
        leases.iter().any(|lease| any(rules, operation, lease) && !any(exceptions, operation, lease))
    };
    OPERATIONS.into_iter().filter(matches).collect()
}

fn rule_matches(rule: &Value, operation: &str, lease: &str, exact: bool) -> bool {
    let has = |key: &str, wanted: &[&str]| {
        array(&rule[key]).iter().any(|value| value == "*" || wanted.iter().any(|wanted| value == wanted))
    };
    let versions: &[&str] = if exact { &EQUIVALENT[..1] } else { &EQUIVALENT };
    let names = array(&rule["resourceNames"]);
    has("apiGroups", &["coordination.k8s.io"])
        && has("apiVersions", versions)
        && has("operations", &[operation])
        && array(&rule["resources"]).iter().any(|resource| is_leases(text(resource)))
        && rule["scope"] != "Cluster"
        && (names.is_empty() || names.iter().any(|name| name == lease))
}

/// `leases/*` means the Lease itself as well, and `*` no subresource.
fn is_leases(rule: &str) -> bool {
    let (resource, subresource) = rule.split_once('/').unwrap_or((rule, ""));
    matches!(resource, "*" | "leases") && matches!(subresource, "*" | "")
}

/// The same for a policy. A binding without rules of its own takes the policy's.
fn policy_operations(constraints: &Value, leases: &[String]) -> Vec<&'static str> {
    let exact = constraints["matchPolicy"] == "Exact";
    operations(&constraints["resourceRules"], &constraints["excludeResourceRules"], leases, exact)
}

fn binding_matches(binding: &Value, leases: &[String]) -> bool {
    let mut narrowed = binding["spec"]["matchResources"].clone();
    if array(&narrowed["resourceRules"]).is_empty() {
        narrowed["resourceRules"] = json!([{
            "apiGroups": ["*"], "apiVersions": ["*"], "operations": ["*"], "resources": ["*"],
        }]);
    }
    !policy_operations(&narrowed, leases).is_empty()
}

/// What has to be so for it to matter here.
fn conditions(of: &Value) -> String {
    let mut conditions = Vec::new();
    for (key, what) in [("namespaceSelector", "the namespace"), ("objectSelector", "the Lease")] {
        let selector = selector(&of[key]);
        if !selector.is_empty() {
            conditions.push(format!("{what} has {selector}"));
        }
    }
    if !array(&of["matchConditions"]).is_empty() {
        conditions.push("its matchConditions hold".into());
    }
    match conditions.is_empty() {
        true => String::new(),
        false => format!(", if {}", conditions.join(" and ")),
    }
}

/// As kubectl writes a label selector.
fn selector(selector: &Value) -> String {
    let labels = selector["matchLabels"].as_object().into_iter().flatten();
    let mut terms: Vec<String> = labels.map(|(key, value)| format!("{key}={}", text(value))).collect();
    for term in array(&selector["matchExpressions"]) {
        let key = text(&term["key"]);
        let values: Vec<&str> = array(&term["values"]).iter().map(text).collect();
        let values = values.join(",");
        terms.push(match text(&term["operator"]) {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    terms.join(",")
}

fn binding_text(binding: &Value) -> String {
    let mut said = text(&binding["metadata"]["name"]).to_owned();
    let actions: Vec<&str> = array(&binding["spec"]["validationActions"]).iter().map(text).collect();
    if !actions.is_empty() {
        said += &format!(" ({})", actions.join(", "));
    }
    said + &conditions(&binding["spec"]["matchResources"])
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leases() -> Vec<String> {
        vec!["web".into()]
    }

    fn rule() -> Value {
        json!({"apiGroups": ["coordination.k8s.io"], "apiVersions": ["v1"], "operations": ["UPDATE"], "resources": ["leases"]})
    }

    fn with(key: &str, value: Value) -> Value {
        let mut rule = rule();
        rule[key] = value;
        rule
    }

    #[track_caller]
    fn assert_matches(key: &str, value: Value, expected: bool) {
        let found = operations(&json!([with(key, value.clone())]), &Value::Null, &leases(), false);
        assert_eq!(!found.is_empty(), expected, "{key}: {value}");
    }

    #[test]
    fn rules_match_as_the_api_servers_matcher_has_it() {
        assert_eq!(operations(&json!([rule()]), &Value::Null, &leases(), true), ["UPDATE"]);
        for group in ["*", "coordination.k8s.io"] {
            assert_matches("apiGroups", json!(["apps", group]), true);
        }
        assert_matches("apiGroups", json!(["", "apps", "k8s.io"]), false);
        for resource in ["*", "*/*", "leases/*", "leases"] {
            assert_matches("resources", json!(["pods", resource]), true);
        }
        for resource in ["*/status", "leases/status", "leasecandidates", "pods"] {
            assert_matches("resources", json!([resource]), false);
        }
        assert_matches("apiVersions", json!(["*"]), true);
        assert_matches("apiVersions", json!(["v1alpha1"]), false);
        assert_matches("scope", json!("Cluster"), false);
        assert_matches("scope", json!("Namespaced"), true);
        assert_matches("operations", json!(["DELETE", "CONNECT"]), false);
        let rules = json!([with("operations", json!(["*"]))]);
        assert_eq!(operations(&rules, &Value::Null, &leases(), false), ["CREATE", "UPDATE"]);
        assert_matches("resourceNames", json!(["api"]), false);
        assert_matches("resourceNames", json!(["api", "web"]), true);
    }

    #[test]
    fn another_version_of_the_same_lease_matches_unless_the_rule_is_exact() {
        let rules = json!([with("apiVersions", json!(["v1beta1"]))]);
        assert_eq!(operations(&rules, &Value::Null, &leases(), false), ["UPDATE"]);
        assert!(operations(&rules, &Value::Null, &leases(), true).is_empty());
    }

    #[test]
    fn a_policys_exceptions_and_its_bindings_narrow_it() {
        let all = with("operations", json!(["*"]));
        let constraints = |exception: &Value| json!({"resourceRules": [all], "excludeResourceRules": [exception]});
        assert_eq!(policy_operations(&constraints(&rule()), &leases()), ["CREATE"]);
        assert!(policy_operations(&constraints(&all), &leases()).is_empty());
        let mut named = all.clone();
        named["resourceNames"] = json!(["web"]);
        assert!(policy_operations(&constraints(&named), &leases()).is_empty());
        assert_eq!(policy_operations(&constraints(&named), &["web".into(), "api".into()]), ["CREATE", "UPDATE"]);

        let binding = |resources: Value| json!({"spec": {"policyName": "p", "matchResources": resources}});
        let is_bound = |resources: Value| binding_matches(&binding(resources), &leases());
        assert!(is_bound(Value::Null));
        assert!(is_bound(json!({"namespaceSelector": {"matchLabels": {"a": "b"}}})));
        assert!(is_bound(json!({"resourceRules": [rule()]})));
        assert!(!is_bound(json!({"resourceRules": [with("resources", json!(["pods"]))]})));
        assert!(!is_bound(json!({"excludeResourceRules": [all]})));
    }

    #[test]
    fn selectors_are_told_as_kubectl_writes_them() {
        let of = json!({
            "namespaceSelector": {
                "matchLabels": {"team": "a"},
                "matchExpressions": [
                    {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["kube-system", "x"]},
                    {"key": "k", "operator": "Exists"}, {"key": "d", "operator": "DoesNotExist"},
                ],
            },
            "objectSelector": {}, "matchConditions": [{"name": "x", "expression": "true"}],
        });
        assert_eq!(
            conditions(&of),
            ", if the namespace has team=a,kubernetes.io/metadata.name notin (kube-system,x),k,!d and its matchConditions hold"
        );
        assert_eq!(conditions(&json!({"namespaceSelector": {}})), "");
    }
}
