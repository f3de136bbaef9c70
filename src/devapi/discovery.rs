//! What clients ask before they ask for a Lease: groups, resources, schemas, namespaces.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::status::GROUP;

/// The API that this server speaks: what `kubectl version` shows and compares itself with.
const MAJOR: &str = "1";
const MINOR: &str = "36";

/// The published schema of `coordination.k8s.io/v1` with what is not about Leases left out.
/// `kubectl` reads which options a write takes from it, and `kubectl explain` the rest.
const OPENAPI: &str = include_str!("openapi.json");

pub fn version() -> Value {
    json!({
        "major": MAJOR,
        "minor": MINOR,
        "gitVersion": format!("v{MAJOR}.{MINOR}.0-leasehold"),
        "gitCommit": "",
        "gitTreeState": "",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "",
        "platform": "linux/amd64",
    })
}

/// The fixed documents, by path.
pub fn document(segments: &[&str]) -> Option<Value> {
    match segments {
        ["api"] => Some(json!({
            "kind": "APIVersions",
            "versions": ["v1"],
            "serverAddressByClientCIDRs": [],
        })),
        ["api", "v1"] => Some(resources(
            "v1",
            json!([{
                "name": "namespaces",
                "singularName": "namespace",
                "namespaced": false,
                "kind": "Namespace",
                "verbs": ["get", "list"],
                "shortNames": ["ns"],
            }]),
        )),
        ["apis"] => Some(json!({
            "kind": "APIGroupList",
            "apiVersion": "v1",
            "groups": [group(GROUP), group("authorization.k8s.io")],
        })),
        ["apis", name @ (GROUP | "authorization.k8s.io")] => {
            let mut group = group(name);
            group["kind"] = "APIGroup".into();
            group["apiVersion"] = "v1".into();
            Some(group)
        }
        ["apis", GROUP, "v1"] => Some(resources(
            "coordination.k8s.io/v1",
            json!([{
                "name": "leases",
                "singularName": "lease",
                "namespaced": true,
                "kind": "Lease",
                "verbs": [
                    "create", "delete", "deletecollection", "get", "list", "patch", "update", "watch",
                ],
                "storageVersionHash": "gqkMMb/YqFM=",
            }]),
        )),
        ["apis", "authorization.k8s.io", "v1"] => Some(resources(
            "authorization.k8s.io/v1",
            json!([{
                "name": "selfsubjectaccessreviews",
                "singularName": "selfsubjectaccessreview",
                "namespaced": false,
                "kind": "SelfSubjectAccessReview",
                "verbs": ["create"],
            }]),
        )),
        ["openapi", "v3"] => Some(json!({
            "paths": {
                "apis/coordination.k8s.io/v1": {
                    "serverRelativeURL": "/openapi/v3/apis/coordination.k8s.io/v1",
                },
            },
        })),
        // The file is this crate's own, and a test parses it.
        ["openapi", "v3", "apis", GROUP, "v1"] => serde_json::from_str(OPENAPI).ok(),
        _ => None,
    }
}

/// Every namespace may be used; those listed are the ones every cluster has, and those in use.
pub fn namespaces<'a>(in_use: impl Iterator<Item = &'a str>, created: Timestamp) -> Value {
    let standard = ["default", "kube-node-lease", "kube-public", "kube-system"];
    let names: BTreeSet<&str> = standard.into_iter().chain(in_use).collect();
    json!({
        "kind": "NamespaceList",
        "apiVersion": "v1",
        "metadata": { "resourceVersion": "1" },
        "items": names.into_iter().map(|name| namespace(name, created)).collect::<Vec<_>>(),
    })
}

pub fn namespace(name: &str, created: Timestamp) -> Value {
    json!({
        "kind": "Namespace",
        "apiVersion": "v1",
        "metadata": {
            "name": name,
            "resourceVersion": "1",
            "creationTimestamp": format!("{created:.0}"),
            "labels": { "kubernetes.io/metadata.name": name },
        },
        "spec": { "finalizers": ["kubernetes"] },
        "status": { "phase": "Active" },
    })
}

fn group(name: &str) -> Value {
    let version = json!({ "groupVersion": format!("{name}/v1"), "version": "v1" });
    json!({ "name": name, "versions": [version], "preferredVersion": version })
}

fn resources(group_version: &str, resources: Value) -> Value {
    json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": group_version,
        "resources": resources,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_is_json_and_describes_a_lease() {
        let schema = document(&["openapi", "v3", "apis", GROUP, "v1"]).expect("it parses");
        let lease = &schema["components"]["schemas"]["io.k8s.api.coordination.v1.Lease"];
        assert_eq!(lease["type"], "object");
    }
}
