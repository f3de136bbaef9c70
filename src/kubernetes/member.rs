//! A member's own Lease on the API server: what is written in it beside its spec, and its deletion.

use hyper::Method;
use serde_json::{Map, Value, json};

use super::{Api, Failure, Pod, lease, request};
use crate::election::Outcome;
use crate::membership::own::OwnWrite;
use crate::membership::{MEMBER_OF, REVISION, STANDS_FOR};

/// What a member's Lease says beside its spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Card {
    pub group: String,
    /// The user's and our own.
    pub annotations: Vec<(String, String)>,
    /// Owns the Lease, which goes with it; `None` where the pod's uid is not known, or is none of the API server's.
    pub owner: Option<Pod>,
}

impl Api {
    /// Writes a member's Lease, or deletes it.
    pub async fn write_member(&self, write: &OwnWrite, card: &Card) -> (Option<Outcome>, Option<Failure>) {
        let Some(spec) = &write.spec else { return self.delete_member(write).await };
        let object = |base: Option<&Value>| {
            let mut object = base.cloned().unwrap_or_else(|| lease::empty(&self.namespace, &self.name));
            lease::set_base(&mut object, write.base.as_ref());
            lease::set_spec(&mut object, spec);
            card.write_to(&mut object);
            object
        };
        let (outcome, failure) = self.put(write.base.as_ref(), object, write.timeout).await;
        (Some(outcome), failure)
    }

    /// `None`: it is gone.
    async fn delete_member(&self, write: &OwnWrite) -> (Option<Outcome>, Option<Failure>) {
        let mut options = json!({"apiVersion": "v1", "kind": "DeleteOptions"});
        if let Some(base) = &write.base {
            options["preconditions"] = json!({"uid": base.uid, "resourceVersion": base.version.to_string()});
        }
        let request = request(Method::DELETE, self.path(), Some(&options));
        match self.connection.json("delete", request, write.timeout).await {
            Ok(_) | Err(Failure::Status { code: 404, .. }) => (None, None),
            Err(failure) => (Some(self.outcome(false, &failure)), Some(failure)),
        }
    }
}

impl Card {
    fn write_to(&self, object: &mut Value) {
        let metadata = lease::map(object, "metadata");
        lease::map_in(metadata, "labels").insert(MEMBER_OF.into(), json!(self.group));
        let annotations = lease::map_in(metadata, "annotations");
        // An earlier pod of this name may have had others.
        annotations.remove(REVISION);
        annotations.remove(STANDS_FOR);
        annotations.extend(self.annotations.iter().map(|(key, value)| (key.clone(), json!(value))));
        set_owner(metadata, self.owner.as_ref());
    }
}

/// The Lease goes with the pod of today, and with none of yesterday.
fn set_owner(metadata: &mut Map<String, Value>, owner: Option<&Pod>) {
    let mut owners = match metadata.remove("ownerReferences") {
        Some(Value::Array(owners)) => owners,
        _ => Vec::new(),
    };
    owners.retain(|owner| !lease::is_pod(owner));
    if let Some(Pod { name, uid: Some(uid), .. }) = owner {
        owners.push(json!({"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}));
    }
    if !owners.is_empty() {
        metadata.insert("ownerReferences".into(), owners.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(owner: Option<Pod>) -> Card {
        let annotations = vec![("zone".into(), "a".into()), (REVISION.into(), "5d".into())];
        Card { group: "web".into(), annotations, owner }
    }

    #[test]
    fn the_card_replaces_what_is_ours_and_keeps_what_is_not() {
        let pod = Pod { namespace: "shop".into(), name: "web-0".into(), uid: Some("u-2".into()) };
        let mut object = json!({"metadata": {
            "labels": {"team": "a", MEMBER_OF: "edited"},
            "annotations": {"note": "kept", STANDS_FOR: "web", REVISION: "4c"},
            "ownerReferences": [{"kind": "Pod", "uid": "u-1"}, {"kind": "Deployment", "uid": "d"}],
        }});
        card(Some(pod)).write_to(&mut object);
        let metadata = &object["metadata"];
        assert_eq!(metadata["labels"], json!({"team": "a", MEMBER_OF: "web"}));
        assert_eq!(metadata["annotations"], json!({"note": "kept", "zone": "a", REVISION: "5d"}));
        let owners = json!([
            {"kind": "Deployment", "uid": "d"},
            {"apiVersion": "v1", "kind": "Pod", "name": "web-0", "uid": "u-2"},
        ]);
        assert_eq!(metadata["ownerReferences"], owners);
    }

    #[test]
    fn without_a_uid_nothing_owns_the_lease() {
        for uid in [None, Some(Pod { namespace: "shop".into(), name: "web-0".into(), uid: None })] {
            let mut object = json!({"metadata": {"ownerReferences": [{"kind": "Pod", "uid": "u-1"}]}});
            card(uid).write_to(&mut object);
            assert_eq!(object["metadata"].get("ownerReferences"), None);
        }
    }
}
