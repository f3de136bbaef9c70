//! What the API server allows to whoever asks: each verb by a SelfSubjectAccessReview. What is missing is told as the
//! Role and RoleBinding to apply.

use serde_json::json;

use super::cluster::Cluster;
use super::{Findings, Task};
use crate::election::Record;
use crate::kubernetes::{Api, Failure, Role};

/// The Lease's own verbs. `create` can be left out where the Lease is there.
pub async fn examine_lease(
    cluster: &mut Cluster,
    user: &str,
    api: &Api,
    seen: &Result<Option<Record>, Failure>,
    findings: &mut Findings,
) {
    let name = format!("permissions leases/{}", api.name);
    let role = Role::lease(&cluster.namespace, &api.name);
    let Some(missing) = missing(&name, cluster, &role, findings).await else { return };
    let allowed: Vec<&str> = role.verbs.iter().copied().filter(|verb| !missing.contains(verb)).collect();
    let allowed = allowed.join(", ");
    match (&missing[..], seen) {
        ([], _) => findings.ok(name, allowed),
        (["create"], Ok(Some(_))) => {
            findings.ok(name, format!("{allowed}; create is not allowed, and not needed while the Lease is there"));
        }
        (missing, _) => findings.failed(name, not_allowed(missing), yaml(&role, user)),
    }
}

/// To keep a Lease of the pod's own and to see those of the other members, where the sidecar joins a group.
pub async fn examine_member(task: &Task, cluster: &mut Cluster, user: &str, findings: &mut Findings) {
    let Some(member) = &task.settings.member else { return };
    let role = Role::member(&cluster.pod_namespace);
    let name = format!("permissions members/{}", member.group);
    match missing(&name, cluster, &role, findings).await.as_deref() {
        None => {}
        Some([]) => findings.ok(name, role.verbs.join(", ")),
        Some(missing) => findings.failed(name, not_allowed(missing), yaml(&role, user)),
    }
}

/// To write Events, about the Lease and about the pod; without it, all else works.
pub async fn examine_events(task: &Task, cluster: &mut Cluster, user: &str, findings: &mut Findings) {
    if !task.settings.events {
        return findings.skipped("permissions events", "the sidecar writes none (--events off)");
    }
    let mut namespaces = vec![cluster.namespace.clone(), cluster.pod_namespace.clone()];
    namespaces.dedup();
    for namespace in namespaces {
        let role = Role::events(&namespace);
        let name = match namespace == cluster.namespace {
            true => "permissions events".to_owned(),
            false => format!("permissions events in {namespace}"),
        };
        match missing(&name, cluster, &role, findings).await.as_deref() {
            None => {}
            Some([]) => findings.ok(name, "create"),
            Some(missing) => {
                let message = not_allowed(missing) + "; no Events will be there, and all else works";
                findings.warning(name, message, yaml(&role, user));
            }
        }
    }
}

/// To keep a label on the pod, where the sidecar is to.
pub async fn examine_pod(task: &Task, cluster: &mut Cluster, user: &str, findings: &mut Findings) {
    if !task.settings.role_label {
        return;
    }
    let role = Role { object: task.pod.clone(), ..Role::pod_label(&cluster.pod_namespace) };
    let name = format!("permissions pods/{}", task.pod.as_deref().unwrap_or("*"));
    match missing(&name, cluster, &role, findings).await.as_deref() {
        None => {}
        Some([]) => findings.ok(name, role.verbs.join(", ")),
        Some(missing) => {
            // Another pod's name would be the next one's.
            findings.failed(name, not_allowed(missing), yaml(&Role::pod_label(&role.namespace), user));
        }
    }
}

fn not_allowed(missing: &[&str]) -> String {
    format!("not allowed: {}", missing.join(", "))
}

/// As it stands, this can be applied.
fn yaml(role: &Role, user: &str) -> String {
    match user.is_empty() {
        true => role.to_string(),
        false => format!("{role}\n---\n{}", role.binding(user)),
    }
}

/// The verbs of a Role that are not allowed. `None`: that cannot be asked, which is told.
async fn missing(name: &str, cluster: &mut Cluster, role: &Role, findings: &mut Findings) -> Option<Vec<&'static str>> {
    let mut missing = Vec::new();
    for verb in role.verbs {
        match is_allowed(cluster, role, verb).await {
            Ok(true) => {}
            Ok(false) => missing.push(*verb),
            Err(failure) if failure.is_no_such_question() => {
                findings.skipped(name, "the API server does not say what is allowed");
                return None;
            }
            Err(failure) => {
                let message = format!("cannot ask what is allowed: {}", cluster.advice(&failure));
                findings.failed(name, message, "try again when the API server works");
                return None;
            }
        }
    }
    Some(missing)
}

async fn is_allowed(cluster: &mut Cluster, role: &Role, verb: &str) -> Result<bool, Failure> {
    let mut attributes =
        json!({"namespace": role.namespace, "verb": verb, "group": role.group, "resource": role.resource});
    if let Some(object) = &role.object {
        attributes["name"] = json!(object);
    }
    let spec = json!({ "resourceAttributes": attributes });
    let review = cluster.review("authorization.k8s.io", "SelfSubjectAccessReview", spec).await?;
    Ok(review["status"]["allowed"] == true)
}
