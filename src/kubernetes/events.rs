//! The Events of this pod's terms: that one began or ended, and why, on the Lease and on the Pod.
//!
//! They are for people (`kubectl describe lease web`), so nothing waits for them: [`Terms`] puts what to tell into a
//! short queue, and [`send`], a task of its own, posts it. A cluster that is slow, away or unwilling costs the queue
//! its Events and the election nothing. What could not be told is counted, and the next Event says how often.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use hyper::Method;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{Connection, Failure, Pod, request};
use crate::election::Status;
use crate::time::{Clock, Moment, Now, SystemClock};

/// The reason that client-go's leader election gives.
const REASON: &str = "LeaderElection";
/// As whom an Event names its sender.
const COMPONENT: &str = "leasehold";

/// So many beginnings and ends are told of one lease without a pause ...
const BURST: u32 = 10;
/// ... and one more each time that this has passed.
const REFILL: Duration = Duration::from_secs(60);
/// Turns that wait for the API server.
const QUEUE: usize = 16;

/// What a hand-over hangs on goes first: the release, and another pod's taking.
const HOLD_BACK: Duration = Duration::from_millis(100);
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// An Event that could not be posted for so long is news to nobody.
const GIVE_UP_AFTER: Duration = Duration::from_secs(600);
/// After a refusal, such as a missing right, nothing is asked for so long.
const QUIET: Duration = Duration::from_secs(600);
/// In bytes, as events.k8s.io/v1 has it.
const LONGEST_MESSAGE: usize = 1024;
/// Of an Event's name, which ends with a time and has at most 253.
const LONGEST_PREFIX: usize = 230;

/// What [`Terms`] of all leases put in, and [`send`] takes out.
pub fn queue() -> (mpsc::Sender<Turn>, mpsc::Receiver<Turn>) {
    mpsc::channel(QUEUE)
}

/// A term began or ended: an Event for each object that it concerns.
pub struct Turn {
    events: Vec<Value>,
    at: Moment,
    /// This one, and those before it that it speaks of.
    tells: u32,
    untold: Arc<AtomicU32>,
}

/// The terms of this pod under one lease, as they are told.
pub struct Terms {
    lease: String,
    namespace: String,
    /// Who leads, as the Lease and people name it.
    leader: String,
    pod: Pod,
    queue: mpsc::Sender<Turn>,
    /// The term whose beginning was published, and the uid of the Lease that it is of.
    term: Option<(u64, String)>,
    budget: Budget,
    untold: Arc<AtomicU32>,
}

impl Terms {
    pub fn new(lease: String, namespace: String, leader: String, pod: Pod, queue: mpsc::Sender<Turn>) -> Self {
        let untold = Arc::default();
        Terms { lease, namespace, leader, pod, queue, term: None, budget: Budget::full(), untold }
    }

    /// Tells what this status, which is published now, begins or ends: a term of this pod, each once.
    pub fn published(&mut self, status: &Status, lease_uid: Option<&str>, now: Now) {
        let token = status.leading.map(|leading| leading.token);
        if token == self.term.as_ref().map(|(token, _)| *token) {
            return;
        }
        if let Some((token, uid)) = self.term.take() {
            self.tell(&format!("{} stopped leading: {}", self.leader, status.message), token, &uid, now);
        }
        if let (Some(token), Some(uid)) = (token, lease_uid) {
            self.tell(&format!("{} became leader", self.leader), token, uid, now);
            self.term = Some((token, uid.to_owned()));
        }
    }

    fn tell(&mut self, what: &str, token: u64, lease_uid: &str, now: Now) {
        let untold = self.untold.load(Ordering::Relaxed);
        let mut message = format!("{what} (lease {}, fencing token {token})", self.lease);
        if untold > 0 {
            message += &format!("; {untold} earlier changes were not told");
        }
        let turn = Turn {
            events: self.events(&message, lease_uid, now.wall),
            at: now.boot,
            tells: untold + 1,
            untold: Arc::clone(&self.untold),
        };
        if self.budget.take(now.boot) && self.queue.try_send(turn).is_ok() {
            self.untold.fetch_sub(untold, Ordering::Relaxed);
        } else {
            self.untold.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// One for the Lease; one for the Pod, if its uid is known: without, `kubectl describe pod` would not find it.
    fn events(&self, message: &str, lease_uid: &str, at: Timestamp) -> Vec<Value> {
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "namespace": self.namespace, "name": self.lease, "uid": lease_uid,
        });
        let pod = self.pod.uid.as_ref().map(|uid| {
            json!({
                "apiVersion": "v1", "kind": "Pod",
                "namespace": self.pod.namespace, "name": self.pod.name, "uid": uid,
            })
        });
        let about = [Some(lease), pod].into_iter().flatten();
        about.enumerate().map(|(number, object)| event(object, message, &self.pod.name, at, number)).collect()
    }
}

/// An Event as the API server takes it. Its name is made here, so that one whose answer was lost is not there twice.
fn event(object: Value, message: &str, pod: &str, at: Timestamp, number: usize) -> Value {
    let about = object["name"].as_str().unwrap_or_default();
    let about = &about[..about.floor_char_boundary(LONGEST_PREFIX)];
    let time = format!("{at:.0}");
    json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "namespace": object["namespace"],
            // As client-go names them; the number tells two apart whose objects have the same name.
            "name": format!("{}.{:x}", about.trim_end_matches(['-', '.']), at.as_nanosecond() + number as i128),
        },
        "involvedObject": object,
        "type": "Normal",
        "reason": REASON,
        "message": message[..message.floor_char_boundary(LONGEST_MESSAGE)],
        "source": {"component": COMPONENT},
        "reportingComponent": COMPONENT,
        "reportingInstance": pod,
        "firstTimestamp": time,
        "lastTimestamp": time,
        "count": 1,
    })
}

/// A token bucket.
struct Budget {
    left: u32,
    since: Moment,
}

impl Budget {
    fn full() -> Self {
        Budget { left: BURST, since: Moment::BOOT }
    }

    fn take(&mut self, now: Moment) -> bool {
        let earned = now.since(self.since).as_nanos() / REFILL.as_nanos();
        if earned >= u128::from(BURST - self.left) {
            *self = Budget { left: BURST, since: now };
        } else {
            // Fewer than BURST.
            self.left += earned as u32;
            self.since = self.since + REFILL * earned as u32;
        }
        let some = self.left > 0;
        self.left -= u32::from(some);
        some
    }
}

/// Posts what is in the queue, in its order, until nobody can put anything in any more.
pub async fn send(connection: Arc<Connection>, mut queue: mpsc::Receiver<Turn>) {
    let mut quiet_until = Moment::BOOT;
    while let Some(turn) = queue.recv().await {
        tokio::time::sleep((turn.at + HOLD_BACK).since(SystemClock.boot())).await;
        let told = match SystemClock.boot() < quiet_until {
            true => false,
            false => match post(&connection, &turn).await {
                Ok(()) => true,
                Err(failure) => {
                    tracing::debug!("cannot post an Event, which is no fault of the election: {failure}");
                    if !failure.may_pass() {
                        quiet_until = SystemClock.boot() + QUIET;
                    }
                    false
                }
            },
        };
        if !told {
            turn.untold.fetch_add(turn.tells, Ordering::Relaxed);
        }
    }
}

async fn post(connection: &Connection, turn: &Turn) -> Result<(), Failure> {
    for event in &turn.events {
        let uri = format!("/api/v1/namespaces/{}/events", event["metadata"]["namespace"].as_str().unwrap_or_default());
        let mut pause = FIRST_PAUSE;
        loop {
            let request = request(Method::POST, uri.clone(), Some(event));
            match connection.json_aside("create", request, ATTEMPT_TIMEOUT).await {
                Ok(_) => break,
                // An attempt whose answer was lost has posted it.
                Err(Failure::Status { code: 409, .. }) => break,
                Err(failure) if !failure.may_pass() => return Err(failure),
                Err(failure) if SystemClock.boot() + pause >= turn.at + GIVE_UP_AFTER => return Err(failure),
                Err(_) => tokio::time::sleep(pause).await,
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::election::Leading;

    fn second(n: u64) -> Now {
        Now { boot: Moment::BOOT + Duration::from_secs(n), wall: Timestamp::UNIX_EPOCH }
    }

    fn status(token: Option<u64>) -> Status {
        let leading = token.map(|token| Leading {
            token,
            valid_until: Moment::NEVER,
            stop_by: Moment::NEVER,
            acquired_at: Timestamp::UNIX_EPOCH,
        });
        Status { leading, message: "the app is not alive".into(), ..Status::starting() }
    }

    fn terms() -> (Terms, mpsc::Receiver<Turn>) {
        let (sender, receiver) = queue();
        let pod = Pod { namespace: "apps".into(), name: "web-0".into(), uid: Some("1-2-3".into()) };
        (Terms::new("web".into(), "shared".into(), "web-0".into(), pod, sender), receiver)
    }

    /// The message of each turn in the queue.
    fn told(queue: &mut mpsc::Receiver<Turn>) -> Vec<String> {
        let turns = std::iter::from_fn(|| queue.try_recv().ok());
        turns.map(|turn| turn.events[0]["message"].as_str().unwrap_or_default().to_owned()).collect()
    }

    #[test]
    fn what_begins_and_ends_is_told_once_under_its_token_and_nothing_else_is() {
        let (mut terms, mut queue) = terms();
        for token in [None, None, Some(7), Some(7), None, None, Some(9)] {
            terms.published(&status(token), Some("uid"), second(0));
        }
        let expected = [
            "web-0 became leader (lease web, fencing token 7)",
            "web-0 stopped leading: the app is not alive (lease web, fencing token 7)",
            "web-0 became leader (lease web, fencing token 9)",
        ];
        assert_eq!(told(&mut queue), expected);
    }

    #[test]
    fn the_end_of_a_deleted_lease_s_term_is_told_of_the_lease_that_it_was() {
        let (mut terms, mut queue) = terms();
        terms.published(&status(Some(7)), Some("uid"), second(0));
        terms.published(&status(None), None, second(0));
        let turns: Vec<_> = std::iter::from_fn(|| queue.try_recv().ok()).collect();
        assert_eq!(turns.len(), 2);
        for turn in &turns {
            let [lease, pod] = &turn.events[..] else { panic!("{:?}", turn.events) };
            assert_eq!(
                (&lease["involvedObject"]["uid"], &lease["metadata"]["namespace"]),
                (&"uid".into(), &"shared".into())
            );
            assert_eq!(
                (&pod["involvedObject"]["uid"], &pod["metadata"]["namespace"]),
                (&"1-2-3".into(), &"apps".into())
            );
            assert_ne!(lease["metadata"]["name"], pod["metadata"]["name"]);
        }
    }

    #[test]
    fn a_flapping_election_is_told_of_a_few_times_and_then_once_a_minute_with_the_number_of_the_rest() {
        let (mut terms, mut queue) = terms();
        let mut said = Vec::new();
        for n in 0..180 {
            terms.published(&status((n % 2 == 0).then_some(n)), Some("uid"), second(n));
            said.extend(told(&mut queue));
        }
        assert_eq!(said.len(), 12, "{said:#?}");
        assert!(said[..10].iter().all(|message| !message.contains("not told")), "{said:#?}");
        assert!(said[10].ends_with("token 60); 50 earlier changes were not told"), "{said:#?}");
        assert!(said[11].ends_with("token 120); 59 earlier changes were not told"), "{said:#?}");
    }

    #[test]
    fn what_finds_the_queue_full_or_cannot_be_posted_is_counted() {
        let (mut terms, mut queue) = terms();
        // Slow enough for the budget.
        for n in 0..20 {
            terms.published(&status((n % 2 == 0).then_some(n)), Some("uid"), second(60 * n));
        }
        let turns: Vec<_> = std::iter::from_fn(|| queue.try_recv().ok()).collect();
        assert_eq!(turns.len(), QUEUE);
        // As the task does with one that it gives up.
        turns[0].untold.fetch_add(turns[0].tells, Ordering::Relaxed);
        terms.published(&status(Some(20)), Some("uid"), second(1200));
        assert!(told(&mut queue)[0].ends_with("; 5 earlier changes were not told"));
        assert_eq!(terms.untold.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn names_and_messages_stay_within_what_the_api_server_takes() {
        let object = json!({"name": format!("{}-{}", "a".repeat(229), "b".repeat(23)), "namespace": "apps"});
        let event = event(object, &"ü".repeat(1000), "web-0", Timestamp::MAX, 1);
        let name = event["metadata"]["name"].as_str().unwrap();
        assert!(name.len() <= 253 && crate::names::dns_subdomain(name).is_ok(), "{name}");
        assert_eq!(event["message"].as_str().map(str::len), Some(LONGEST_MESSAGE));
    }
}
