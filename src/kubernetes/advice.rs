//! What a person is told when the API server does not do what was asked: what happened, and what to do.

use std::borrow::Cow;
use std::fmt;

use super::{Api, Failure, Pod};

/// In the message of a 403 when no role allows it: `User "x" cannot get resource "leases" in API group ...`. Admission
/// has other words.
pub const FORBIDDEN: &str = " cannot ";

/// One text for a failure, the same for the same cause, so that a log can tell news from repetition.
pub fn advice(failure: &Failure, api: &Api) -> String {
    advice_on(failure, &api.namespace, &api.name, &api.role)
}

fn advice_on(failure: &Failure, namespace: &str, name: &str, role: &Role) -> String {
    match failure {
        Failure::Status { code: 401, .. } => {
            "the API server does not accept the credentials (401): is the service account token mounted and in date, and of this cluster?".into()
        }
        Failure::Status { code: 403, message, .. } if message.contains("being terminated") => {
            format!("the namespace {namespace} is being deleted (403), so the Lease cannot be created in it")
        }
        // OwnerReferencesPermissionEnforcement, which is on by default in OpenShift.
        Failure::Status { code: 403, message, .. } if message.contains("ownerRef") => {
            format!("an older sidecar's Pod owns the Lease {name}, and only who may delete a Lease may change that here (403: {message}): once that Pod has ended, delete the Lease")
        }
        Failure::Status { code: 403, message, .. } if message.contains(FORBIDDEN) => {
            format!("the API server forbids it (403: {message}); this Role is needed, bound to this pod's service account:\n{role}")
        }
        Failure::Status { code: 403, message, .. } => {
            format!("an admission webhook or policy, or a quota, forbids it (403: {message})")
        }
        Failure::Status { code: 404, .. } => {
            format!("the API server has no namespace {namespace}, or no coordination.k8s.io/v1 (404): check --namespace")
        }
        Failure::Status { code: 422, message, .. } => format!("the API server finds the Lease invalid (422): {message}"),
        Failure::Status { code: 429, .. } => {
            "the API server is overloaded and asks to wait (429): see its priority and fairness settings".into()
        }
        Failure::Status { code, message, .. } if *code >= 500 => {
            format!("the API server fails ({code}): {message}")
        }
        Failure::Status { code, reason, message, .. } => format!("the API server refuses ({code} {reason}): {message}"),
        Failure::Connect(error) if error.contains("NotValidForName") || error.contains("not valid for name") => {
            format!("the API server's certificate is for another name: set tls-server-name in the kubeconfig, or use an address that the certificate holds ({error})")
        }
        Failure::Connect(error) if error.contains("UnknownIssuer") => {
            format!("the API server's certificate is signed by an authority that is not trusted: check certificate-authority in the kubeconfig ({error})")
        }
        Failure::Connect(error) => format!("the API server cannot be reached: {error}"),
        // How long that was differs from attempt to attempt.
        Failure::Timeout(_) => "the API server gave no answer in time".into(),
        Failure::Broken(error) => format!("the connection to the API server broke: {error}"),
        Failure::TooLarge(most) => {
            format!("the API server's answer is larger than {} MiB, more than etcd keeps in an object unless it is told to: what is in the Lease?", most >> 20)
        }
        Failure::NotUnderstood(what) => format!("the answer is no {what}: does the address lead to an API server?"),
        Failure::Credentials(error) => format!("the credentials for the API server cannot be used: {error}"),
    }
}

/// The same for who hands a lease over from outside, with other credentials and other rights.
pub fn operator_advice(failure: &Failure, api: &Api) -> String {
    match failure {
        Failure::Status { code: 401, .. } => LOG_IN_AGAIN.into(),
        Failure::Status { code: 403, message, .. } if message.contains(FORBIDDEN) => {
            let role = Role::step_down(&api.namespace, &api.name);
            format!("the API server forbids it (403: {message}); this Role is needed, bound to who asks:\n{role}")
        }
        other => advice(other, api),
    }
}

const LOG_IN_AGAIN: &str =
    "the API server does not accept the credentials (401): log in again, or check the user of the kubeconfig's context";

/// The same for who reads the Leases of a namespace, or of all.
pub fn reader_advice(failure: &Failure, namespace: Option<&str>) -> String {
    let role = Role::leases(namespace.unwrap_or_default());
    match failure {
        Failure::Status { code: 401, .. } => LOG_IN_AGAIN.into(),
        Failure::Status { code: 403, message, .. } if message.contains(FORBIDDEN) => {
            let kind = role.kind();
            format!("the API server forbids it (403: {message}); this {kind} is needed, bound to who asks:\n{role}")
        }
        Failure::Status { code: 404, .. } => "the API server has no coordination.k8s.io/v1 (404)".into(),
        other => advice_on(other, namespace.unwrap_or_default(), "", &role),
    }
}

/// Why this pod's label cannot be set, where waiting alone does not help.
pub fn label_advice(failure: &Failure, Pod { namespace, name, .. }: &Pod) -> String {
    match failure {
        Failure::Status { code: 403, message, .. } if message.contains(FORBIDDEN) => {
            let role = Role::pod_label(namespace);
            format!(
                "the API server forbids --role-label (403: {message}); this Role is needed, bound to this pod's service account:\n{role}"
            )
        }
        Failure::Status { code: 404, .. } => {
            format!(
                "--role-label finds no pod {name} in the namespace {namespace} (404): set POD_NAME and POD_NAMESPACE by the downward API"
            )
        }
        Failure::Status { code: 422, message, fields, .. } if fields.iter().any(|field| field == "metadata.uid") => {
            format!("the pod {name} is another one now, so its label is left alone ({message})")
        }
        Failure::Status { code, reason, message, .. } => {
            format!("the API server refuses to label this pod ({code} {reason}): {message}")
        }
        other => format!("this pod cannot be labelled: {other}"),
    }
}

/// Permissions that are needed together, and the Role that grants them: its text is YAML, ready to be applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Role {
    pub name: String,
    /// Empty: it is a ClusterRole.
    pub namespace: String,
    /// The API group; the core one is empty.
    pub group: &'static str,
    pub resource: &'static str,
    /// The one object that it is about; `None`: any of the namespace.
    pub object: Option<String>,
    pub verbs: &'static [&'static str],
    /// Further rules, which no request needs.
    pub more: &'static str,
}

/// For the policy that keeps whoever has this verb to the label of their own pod; without it the rule means nothing.
const GUARDED: &str = "
- apiGroups: [leasehold.dev]
  resources: [candidates]
  verbs: [label]";

impl Role {
    /// All that a sidecar needs: `create` is used by PUT, so that `resourceNames` covers it.
    pub fn lease(namespace: &str, lease: &str) -> Self {
        let name = format!("leasehold-{lease}");
        Role::on_lease(name, namespace, lease, &["get", "list", "watch", "create", "update"])
    }

    /// For `--member-of`. No Role can know the names of members, which hash those of pods; a list and watch by label
    /// cannot be narrowed by names either.
    pub fn member(namespace: &str) -> Self {
        let verbs = &["get", "list", "watch", "create", "update", "delete"];
        Role { object: None, ..Role::on_lease("leasehold-member".into(), namespace, "", verbs) }
    }

    /// All that `leasehold stepdown` needs.
    fn step_down(namespace: &str, lease: &str) -> Self {
        Role::on_lease(format!("leasehold-stepdown-{lease}"), namespace, lease, &["get", "patch"])
    }

    /// To read all Leases of a namespace, or with an empty one of the cluster.
    pub fn leases(namespace: &str) -> Self {
        let group = "coordination.k8s.io";
        Role { group, ..Role::of_core("leasehold-leases", namespace, "leases", &["list", "watch"]) }
    }

    fn kind(&self) -> &'static str {
        if self.namespace.is_empty() { "ClusterRole" } else { "Role" }
    }

    fn on_lease(name: String, namespace: &str, lease: &str, verbs: &'static [&'static str]) -> Self {
        let object = Some(lease.to_owned());
        let group = "coordination.k8s.io";
        Role { name, namespace: namespace.into(), group, resource: "leases", object, verbs, more: "" }
    }

    /// To tell the cluster of terms, which a sidecar can do without.
    pub fn events(namespace: &str) -> Self {
        Role::of_core("leasehold-events", namespace, "events", &["create"])
    }

    /// For `--role-label`. No Role can know the names of pods.
    pub fn pod_label(namespace: &str) -> Self {
        Role { more: GUARDED, ..Role::of_core("leasehold-role-label", namespace, "pods", &["patch"]) }
    }

    fn of_core(name: &str, namespace: &str, resource: &'static str, verbs: &'static [&'static str]) -> Self {
        Role { name: name.into(), namespace: namespace.into(), group: "", resource, object: None, verbs, more: "" }
    }

    /// The RoleBinding that gives it to a user, as the API server names who asks.
    pub fn binding(&self, user: &str) -> String {
        let subject = match user.strip_prefix("system:serviceaccount:").and_then(|account| account.split_once(':')) {
            Some((namespace, name)) => {
                format!("- kind: ServiceAccount\n  name: {}\n  namespace: {}", scalar(name), scalar(namespace))
            }
            // Anything may be in a user's name. JSON is YAML.
            None => {
                let name = serde_json::Value::from(user);
                format!("- apiGroup: rbac.authorization.k8s.io\n  kind: User\n  name: {name}")
            }
        };
        format!(
            "apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {role}
  namespace: {namespace}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: Role
  name: {role}
subjects:
{subject}",
            role = self.name,
            namespace = scalar(&self.namespace),
        )
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let group = if self.group.is_empty() { "\"\"" } else { self.group };
        let (kind, name) = (self.kind(), &self.name);
        write!(f, "apiVersion: rbac.authorization.k8s.io/v1\nkind: {kind}\nmetadata:\n  name: {name}")?;
        if !self.namespace.is_empty() {
            write!(f, "\n  namespace: {}", scalar(&self.namespace))?;
        }
        write!(f, "\nrules:\n- apiGroups: [{group}]\n  resources: [{}]", self.resource)?;
        if let Some(object) = &self.object {
            write!(f, "\n  resourceNames: [{}]", scalar(object))?;
        }
        write!(f, "\n  verbs: [{}]{}", self.verbs.join(", "), self.more)
    }
}

/// A name of Kubernetes as YAML, which takes `1e3`, `2026-01-02` and `no` for other things than text.
fn scalar(name: &str) -> Cow<'_, str> {
    const WORDS: [&str; 9] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    if name.starts_with(|c: char| c.is_ascii_digit()) || WORDS.contains(&name) {
        return Cow::Owned(format!("\"{name}\""));
    }
    Cow::Borrowed(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_yaml_also_where_a_name_looks_like_a_number() {
        let expected = r#"apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: leasehold-7
  namespace: "no"
rules:
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: ["7"]
  verbs: [get, list, watch, create, update]"#;
        assert_eq!(Role::lease("no", "7").to_string(), expected);
        assert!(
            Role::events("a").to_string().ends_with("- apiGroups: [\"\"]\n  resources: [events]\n  verbs: [create]")
        );
    }

    #[test]
    fn who_reads_leases_of_all_namespaces_needs_a_cluster_role() {
        let message = "User \"x\" cannot list resource \"leases\" in API group \"coordination.k8s.io\"".into();
        let failure =
            Failure::Status { code: 403, reason: String::new(), message, retry_after: None, fields: Vec::new() };
        let rule = "rules:\n- apiGroups: [coordination.k8s.io]\n  resources: [leases]\n  verbs: [list, watch]";
        let all = reader_advice(&failure, None);
        assert!(all.contains("this ClusterRole is needed"), "{all}");
        assert!(all.ends_with(&format!("\nkind: ClusterRole\nmetadata:\n  name: leasehold-leases\n{rule}")), "{all}");
        let one = reader_advice(&failure, Some("shop"));
        assert!(one.contains("this Role is needed"), "{one}");
        assert!(one.ends_with(&format!("metadata:\n  name: leasehold-leases\n  namespace: shop\n{rule}")), "{one}");
    }

    #[test]
    fn a_binding_names_a_service_account_or_any_user() {
        let binding = |user| Role::lease("shop", "web").binding(user);
        let account = binding("system:serviceaccount:shop:7");
        assert!(account.ends_with("subjects:\n- kind: ServiceAccount\n  name: \"7\"\n  namespace: shop"), "{account}");
        let user = binding("jane: \"x\"");
        assert!(user.ends_with("  kind: User\n  name: \"jane: \\\"x\\\"\""), "{user}");
    }
}
