//! What a person is told when the API server does not do what was asked: what happened, and what to do.

use super::{Api, Failure, Pod};

/// One text for a failure, the same for the same cause, so that a log can tell news from repetition.
pub fn advice(failure: &Failure, api: &Api) -> String {
    let (namespace, name) = (&api.namespace, &api.name);
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
        Failure::Status { code: 403, message, .. } => {
            format!("the API server forbids it (403: {message}); this Role is needed, bound to this pod's service account:\n{}", role(api))
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
        Failure::NotUnderstood(what) => format!("the answer is no {what}: does the address lead to an API server?"),
        Failure::Credentials(error) => format!("the credentials for the API server cannot be used: {error}"),
    }
}

/// The same for who hands a lease over from outside, with other credentials and other rights.
pub fn operator_advice(failure: &Failure, api: &Api) -> String {
    match failure {
        Failure::Status { code: 401, .. } => {
            "the API server does not accept the credentials (401): log in again, or check the user of the kubeconfig's context".into()
        }
        Failure::Status { code: 403, message, .. } => {
            format!("the API server forbids it (403: {message}); this Role is needed, bound to who asks:\n{}", operator_role(api))
        }
        other => advice(other, api),
    }
}

/// Why this pod's label cannot be set, where waiting alone does not help.
pub fn label_advice(failure: &Failure, Pod { namespace, name, .. }: &Pod) -> String {
    match failure {
        Failure::Status { code: 403, message, .. } if message.contains("cannot patch resource") => {
            let rule = "- apiGroups: [\"\"]\n  resources: [pods]\n  verbs: [patch]";
            let role = role_of("leasehold-role-label", namespace, rule);
            format!(
                "the API server forbids --role-label (403: {message}); this Role is needed, bound to this pod's service account:\n{role}"
            )
        }
        Failure::Status { code: 404, .. } => {
            format!(
                "--role-label finds no pod {name} in the namespace {namespace} (404): set POD_NAME and POD_NAMESPACE by the downward API"
            )
        }
        Failure::Status { code: 409 | 422, message, .. } if message.contains("uid") || message.contains("UID") => {
            format!("the pod {name} is another one now, so its label is left alone ({message})")
        }
        Failure::Status { code, reason, message, .. } => {
            format!("the API server refuses to label this pod ({code} {reason}): {message}")
        }
        other => format!("this pod cannot be labelled: {other}"),
    }
}

/// All the permissions that a sidecar needs: `create` is used by PUT, so that `resourceNames` covers it.
fn role(api: &Api) -> String {
    role_named(&format!("leasehold-{}", api.name), api, "get, list, watch, create, update")
}

/// All that `leasehold stepdown` needs.
fn operator_role(api: &Api) -> String {
    role_named(&format!("leasehold-stepdown-{}", api.name), api, "get, patch")
}

fn role_named(role: &str, Api { namespace, name, .. }: &Api, verbs: &str) -> String {
    let rule = format!(
        "- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [{name}]
  verbs: [{verbs}]"
    );
    role_of(role, namespace, &rule)
}

fn role_of(name: &str, namespace: &str, rule: &str) -> String {
    format!(
        "apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: {name}
  namespace: {namespace}
rules:
{rule}"
    )
}
