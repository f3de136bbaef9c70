//! Who is alive: what a reader makes of Leases that others renew. Pure: no I/O, no async, no clock reads.
//!
//! [`Sight`] is what one reader's own clock knows of one Lease, [`Catalogue`] is that of many. Nobody's wall clock
//! decides anything: a Lease is alive because it was seen to change.

mod catalogue;
#[cfg(feature = "program")]
pub mod name;
pub mod own;
mod reading;
pub mod roster;

use jiff::Timestamp;

pub use catalogue::{Catalogue, Known, Look, Place};
pub use reading::{Sight, State};

use crate::election::Record;

/// The label by which members of one workload find each other; its value is their common name.
pub const MEMBER_OF: &str = "leasehold.dev/member-of";
/// Annotation of a member: of its pod's template, so that readers know who is of the newest.
pub const REVISION: &str = "leasehold.dev/revision";
/// Annotation of a member: the leases that its pod would take now, with commas between them.
pub const STANDS_FOR: &str = "leasehold.dev/stands-for";
/// The label of an API server's own Lease (KEP-1965).
pub const API_SERVER: &str = "apiserver.kubernetes.io/identity";
/// Where each kubelet renews a Lease of its node's name.
const NODE_NAMESPACE: &str = "kube-node-lease";
const SYSTEM_NAMESPACE: &str = "kube-system";

/// One version of a Lease, with what tells it from others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub namespace: String,
    pub name: String,
    pub record: Record,
    /// Labels and annotations that the reader asked to keep.
    pub labels: Vec<(String, String)>,
    pub annotations: Vec<(String, String)>,
    /// The Pod among the owners, else the first of them.
    pub owner: Option<Owner>,
    /// `metadata.creationTimestamp`, by the API server's clock.
    pub created: Option<Timestamp>,
}

/// Of an ownerReference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    pub kind: String,
    pub name: String,
    pub uid: String,
}

/// What a Lease is used for, as far as its place and labels tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A kubelet's heartbeat.
    Node,
    /// An API server's identity.
    ApiServer,
    /// Of the control plane: kube-controller-manager, kube-scheduler and others in kube-system.
    Component,
    Workload,
    /// A pod of a workload, alive or not.
    Member,
}

impl Entry {
    pub fn label(&self, key: &str) -> Option<&str> {
        value_of(&self.labels, key)
    }

    pub fn annotation(&self, key: &str) -> Option<&str> {
        value_of(&self.annotations, key)
    }

    /// The labels [`API_SERVER`] and [`MEMBER_OF`] must be among those kept.
    pub fn kind(&self) -> Kind {
        if self.label(MEMBER_OF).is_some() {
            Kind::Member
        } else if self.namespace == NODE_NAMESPACE {
            Kind::Node
        } else if self.namespace != SYSTEM_NAMESPACE {
            Kind::Workload
        } else if self.label(API_SERVER).is_some() {
            Kind::ApiServer
        } else {
            Kind::Component
        }
    }
}

fn value_of<'a>(pairs: &'a [(String, String)], key: &str) -> Option<&'a str> {
    pairs.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str())
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Node => "node",
            Kind::ApiServer => "API server",
            Kind::Component => "component",
            Kind::Workload => "workload",
            Kind::Member => "member",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::election::{Spec, Token};
    use crate::time::Moment;

    pub fn second(n: u64) -> Moment {
        Moment::BOOT + Duration::from_secs(n)
    }

    /// Held under a lease of 40 s, renewed for the `renewal`th time.
    pub fn held(holder: &str, renewal: i64) -> Record {
        let spec = Spec {
            holder: Some(holder.into()),
            duration_seconds: Some(40),
            renew_time: Timestamp::from_second(renewal).ok(),
            ..Spec::default()
        };
        record(spec)
    }

    pub fn record(spec: Spec) -> Record {
        let uid = "u-1".into();
        Record { uid, version: 1, spec, token: Token::Absent, released: None, step_down: None, pod_owned: false }
    }

    pub fn entry(namespace: &str, name: &str, version: u64, record: Record) -> Entry {
        Entry {
            namespace: namespace.into(),
            name: name.into(),
            record: Record { version, ..record },
            labels: Vec::new(),
            annotations: Vec::new(),
            owner: None,
            created: None,
        }
    }

    #[test]
    fn the_place_and_the_labels_of_a_lease_tell_what_it_is_used_for() {
        let kind = |namespace: &str, label: &str| {
            let mut entry = entry(namespace, "x", 1, held("a", 1));
            entry.labels.push((label.into(), "any".into()));
            entry.kind()
        };
        assert_eq!(kind("kube-node-lease", "team"), Kind::Node);
        assert_eq!(kind("kube-system", API_SERVER), Kind::ApiServer);
        // Anybody may set a label elsewhere.
        assert_eq!(kind("shop", API_SERVER), Kind::Workload);
        assert_eq!(kind("kube-system", "team"), Kind::Component);
        assert_eq!(kind("shop", "team"), Kind::Workload);
        assert_eq!(kind("shop", MEMBER_OF), Kind::Member);
        let kinds = [Kind::Node, Kind::ApiServer, Kind::Component, Kind::Workload, Kind::Member];
        assert_eq!(kinds.map(Kind::as_str), ["node", "API server", "component", "workload", "member"]);
    }
}
