//! What the app is told of the members of its group. Nothing of it is a promise: a member that is told to live may die
//! at this very moment, and one that is told dead may be cut off.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use tokio::sync::watch;

use super::random_instance;
use crate::membership::own::Standing;
use crate::membership::roster::Member;
use crate::time::Moment;

/// The members as they were last published.
pub struct MembersBoard {
    pub group: String,
    pub namespace: String,
    pub pod: String,
    /// The name of this pod's own Lease.
    pub lease: String,
    pub boot_id: String,
    instance: u32,
    inner: Mutex<Members>,
    changed: watch::Sender<u64>,
}

/// What is known of a group.
#[derive(Clone, Debug)]
pub struct Members {
    pub standing: Standing,
    /// Why that is not as it should be; empty where it is.
    pub message: String,
    /// All of them were listed once.
    pub listed: bool,
    pub members: Vec<Member>,
    version: u64,
}

impl Members {
    pub fn new(standing: Standing, message: String, listed: bool, members: Vec<Member>) -> Self {
        Members { standing, message, listed, members, version: 0 }
    }

    pub fn count(&self) -> usize {
        self.members.iter().filter(|member| member.life.is_alive()).count()
    }

    /// Apart from renewals, which change nothing that anybody waits for.
    fn says_the_same(&self, other: &Members) -> bool {
        let same = |(a, b): (&Member, &Member)| {
            (&a.lease, &a.holder, a.life, &a.annotations) == (&b.lease, &b.holder, b.life, &b.annotations)
        };
        self.standing.is_like(&other.standing)
            && (&self.message, self.listed, self.members.len()) == (&other.message, other.listed, other.members.len())
            && self.members.iter().zip(&other.members).all(same)
    }
}

impl MembersBoard {
    pub fn new(group: String, namespace: String, pod: String, lease: String, boot_id: String) -> Self {
        let (changed, _) = watch::channel(0);
        let inner = Mutex::new(Members::new(Standing::Joining, String::new(), false, Vec::new()));
        MembersBoard { group, namespace, pod, lease, boot_id, instance: random_instance(), inner, changed }
    }

    /// True: that is news.
    pub fn publish(&self, members: Members) -> bool {
        let mut inner = self.lock();
        let news = !inner.says_the_same(&members);
        let version = inner.version + u64::from(news);
        *inner = Members { version, ..members };
        drop(inner);
        self.changed.send_if_modified(|known| std::mem::replace(known, version) != version)
    }

    pub fn members(&self) -> Members {
        self.lock().clone()
    }

    /// Opaque, and new after a restart of the sidecar.
    pub fn version_text(&self, version: u64) -> String {
        format!("{:08x}-{version}", self.instance)
    }

    /// Wakes when the version changes.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// The answer at `now`, as HTTP and `members.json` say it.
    pub fn to_json(&self, now: Moment) -> String {
        let known = self.lock();
        let member = |member: &'_ Member| MemberView {
            lease: member.lease.clone(),
            pod: member.pod().to_owned(),
            holder: member.holder.clone(),
            state: member.life.as_str(),
            renewed_ms_ago: member.renewed.map(|renewed| millis(now.since(renewed))),
            lease_duration_ms: member.duration.map(millis),
            annotations: member.annotations.iter().cloned().collect(),
        };
        let own = SelfView {
            lease: &self.lease,
            pod: &self.pod,
            state: known.standing.as_str(),
            renewed_ms_ago: known.standing.renewed_at().map(|renewed| millis(now.since(renewed))),
            contested_by: known.standing.contested_by(),
        };
        let view = View {
            group: &self.group,
            namespace: &self.namespace,
            own,
            listed: known.listed,
            count: known.count(),
            members: known.members.iter().map(member).collect(),
            as_of_uptime: now.uptime_hundredths() as f64 / 100.0,
            boot_id: &self.boot_id,
            version: self.version_text(known.version),
            message: &known.message,
        };
        // Strings and numbers into memory: nothing here can fail.
        serde_json::to_string(&view).unwrap_or_default()
    }

    /// The pods of those that live, a line each.
    pub fn to_lines(&self) -> String {
        let known = self.lock();
        let mut text = String::new();
        for member in known.members.iter().filter(|member| member.life.is_alive()) {
            // Anybody who may write Leases chooses a holder: a name of a pod has no line in it.
            if crate::names::dns_subdomain(member.pod()).is_ok() {
                // Writing to a String cannot fail.
                let _ = writeln!(text, "{}", member.pod());
            }
        }
        text
    }

    fn lock(&self) -> MutexGuard<'_, Members> {
        // Nothing panics while holding it; were it poisoned, the state would still be whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Serialize)]
struct View<'a> {
    group: &'a str,
    namespace: &'a str,
    #[serde(rename = "self")]
    own: SelfView<'a>,
    listed: bool,
    count: usize,
    members: Vec<MemberView>,
    as_of_uptime: f64,
    boot_id: &'a str,
    version: String,
    message: &'a str,
}

#[derive(Serialize)]
struct SelfView<'a> {
    lease: &'a str,
    pod: &'a str,
    state: &'static str,
    renewed_ms_ago: Option<u64>,
    contested_by: Option<&'a str>,
}

#[derive(Serialize)]
struct MemberView {
    lease: String,
    pod: String,
    holder: String,
    state: &'static str,
    renewed_ms_ago: Option<u64>,
    lease_duration_ms: Option<u64>,
    annotations: BTreeMap<String, String>,
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::membership::roster::Life;

    fn board() -> MembersBoard {
        let text = |text: &str| text.to_owned();
        MembersBoard::new(text("web"), text("shop"), text("web-0"), text("web-abc"), text("boot"))
    }

    fn member(holder: &str, life: Life, renewed: Option<Moment>) -> Member {
        let (lease, duration) = (format!("web-{holder}"), Some(Duration::from_secs(40)));
        Member { lease, holder: holder.into(), life, renewed, duration, annotations: vec![("zone".into(), "a".into())] }
    }

    #[test]
    fn a_renewal_is_no_news_and_a_change_of_life_is() {
        let board = board();
        let at = |n| Moment::BOOT + Duration::from_secs(n);
        let of = |life, renewed| {
            let standing = Standing::Member { renewed_at: at(renewed) };
            Members::new(standing, String::new(), true, vec![member("web-1_x", life, Some(at(renewed)))])
        };
        assert!(board.publish(of(Life::Alive, 5)));
        let version = board.members().version;
        assert!(!board.publish(of(Life::Alive, 15)));
        assert_eq!(board.members().version, version);
        assert!(board.to_json(at(16)).contains("\"renewed_ms_ago\":1000"));
        assert!(board.publish(of(Life::Late, 15)));
        assert!(board.members().version > version);
    }

    #[test]
    fn the_file_names_pods_that_live_and_nothing_that_is_no_pods_name() {
        let board = board();
        let members = vec![
            member("web-1_x", Life::Alive, None),
            member("web-2_x", Life::Late, None),
            member("web-3_x", Life::Dead, None),
            member("web-4_x", Life::Unknown, None),
            member("$(reboot)\nweb-9_x", Life::Alive, None),
        ];
        board.publish(Members::new(Standing::Joining, String::new(), true, members));
        assert_eq!(board.to_lines(), "web-1\nweb-2\n");
        assert_eq!(board.members().count(), 3);
    }
}
