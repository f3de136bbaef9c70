//! The state directory's files, as a sidecar finds them.
//!
//! Nothing is inherited from what is not a whole state of this boot, namespace and lease; identities only from this
//! very pod's. What is inherited is what the file says, and what is written then is read again by the next start: the
//! same sight of the Lease, the newest identities, and not more of them than are kept.
//!
//! Input: `web.json`. A sidecar that finds the file is of the owner that it names, so that there is something to
//! inherit, and then of another.

use std::fs;
use std::time::Duration;

use leasehold::state::{Inheritance, LOCK, Owner, StateDir, owner_of};
use serde_json::Value;
use tempfile::TempDir;

const TTL: Duration = Duration::from_secs(1);
const KEPT: usize = 16;

pub fn run(data: &[u8]) {
    let text = serde_json::from_slice::<Value>(data).unwrap_or_default();
    let named = serde_json::from_value::<Owner>(text["owner"].clone()).ok();
    let own = named.clone().unwrap_or_else(|| owner("boot", Some("uid")));
    let dir = folder();
    let start = |owner: &Owner, identity: &str| {
        let state = StateDir::open(dir.path(), owner.clone()).expect("nobody else has it");
        state.lease("web", identity, TTL).expect("a temporary folder can be written")
    };

    let file = dir.path().join("web.json");
    fs::write(&file, data).expect("a temporary folder can be written");
    let (_, first) = start(&own, "web-0_1");
    let is_ours = named.is_some() && text["lease"] == "web";
    if !is_ours {
        assert!(is_nothing(&first), "{first:?} of a file that is no state of ours");
    }
    if own.pod_uid.is_none() {
        assert!(first.former.is_empty(), "no uid, no former self");
    }
    let mut identities = first.former.clone();
    identities.push("web-0_1".into());
    let newest = |identities: &[String]| identities[identities.len().saturating_sub(KEPT)..].to_vec();

    // The next start of the same pod.
    let (mut state, second) = start(&own, "web-0_2");
    assert_eq!(second.seen, first.seen);
    if own.pod_uid.is_some() {
        assert_eq!(second.former, newest(&identities));
        assert!(second.promised_for >= TTL.max(first.promised_for));
    }
    if let Some(seen) = second.seen {
        state.remember(seen).expect("a temporary folder can be written");
    }
    drop(state);

    // Another pod's, on the same machine and after its reboot.
    let (_, other) = start(&Owner { pod_uid: Some("another".into()), ..own.clone() }, "web-1_1");
    assert!(other.former.is_empty() && other.promised_for.is_zero() || own.pod_uid.as_deref() == Some("another"));
    assert_eq!(other.seen, first.seen);
    let (_, rebooted) = start(&Owner { boot_id: format!("{}'", own.boot_id), ..own }, "web-0_3");
    assert!(is_nothing(&rebooted));

    // And as the file that is locked.
    fs::write(dir.path().join(LOCK), data).expect("a temporary folder can be written");
    if let Some(owner) = owner_of(dir.path()) {
        assert_eq!(text["boot_id"], owner.boot_id.as_str());
    }
}

fn is_nothing(inheritance: &Inheritance) -> bool {
    inheritance.seen.is_none() && inheritance.former.is_empty() && inheritance.promised_for.is_zero()
}

fn owner(boot_id: &str, pod_uid: Option<&str>) -> Owner {
    Owner { boot_id: boot_id.into(), pod_uid: pod_uid.map(str::to_owned), namespace: "shop".into() }
}

/// In memory where there is such a place: an input makes a dozen of files.
pub fn folder() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a temporary folder")
}
