//! This pod's membership of a group: one task beside the elections, which none of them waits for. It keeps the own
//! Lease, watches those of all members, and tells the app and the elections what it makes of them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::{EVENTS, RunError, random_share};
use crate::complaint::{self, Ask, Complaints};
use crate::election::{Outcome, Record};
use crate::kubernetes::{Api, Card, Connection, Failure, Leases, News, Pod, Reader, advice};
use crate::membership::own::{Member, OwnConfig, OwnInput, OwnOutput, OwnWrite, Standing};
use crate::membership::roster::{self, Rivals};
use crate::membership::{MEMBER_OF, REVISION, STANDS_FOR};
use crate::names;
use crate::report::file;
use crate::report::members::{Members, MembersBoard};
use crate::time::{Clock, Moment, SystemClock};

/// What came in meanwhile is told together.
const TOLD_EVERY: Duration = Duration::from_millis(200);
const LIST_TIMEOUT: Duration = Duration::from_secs(5);
/// After a list, a watch or a read of those in doubt.
const PAUSE: Duration = Duration::from_secs(2);

/// As what this pod joins.
#[derive(Clone, Debug)]
pub struct MemberSettings {
    pub group: String,
    pub lease_duration: Duration,
    pub renew_interval: Duration,
    pub annotations: Vec<(String, String)>,
    /// Of the pod's template.
    pub revision: Option<String>,
}

/// The most that all annotations of an object may have, with room for our own.
const LONGEST_ANNOTATIONS: usize = 64 << 10;

impl MemberSettings {
    /// Everything wrong with them, a sentence each.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = OwnConfig::faults(self.lease_duration, self.renew_interval);
        let group = &self.group;
        if let Err(fault) = names::label_value(group).and_then(|()| names::dns_subdomain(group)) {
            faults.push(format!("the group {group:?} of --member-of is no name for one: {fault}"));
        }
        for (number, (key, _)) in self.annotations.iter().enumerate() {
            if let Err(fault) = names::annotation_key(key) {
                faults.push(format!("--member-annotation must be KEY=VALUE, and {key:?} is no key: {fault}"));
            }
            if key.starts_with("leasehold.dev/") {
                faults.push(format!("--member-annotation {key} is this program's own"));
            }
            if self.annotations[..number].iter().any(|(other, _)| other == key) {
                faults.push(format!("--member-annotation {key} is given twice"));
            }
        }
        if self.annotations.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>() > LONGEST_ANNOTATIONS {
            faults.push(
                "the annotations of --member-annotation are longer than 64 KiB: each member keeps those of all".into(),
            );
        }
        faults
    }
}

/// Who joins, and where.
pub(super) struct Place {
    pub pod: Pod,
    /// `<pod>_<random>`.
    pub identity: String,
    /// Those of the pod's earlier sidecars, which are known to be dead.
    pub former: Vec<String>,
    pub leases: Vec<String>,
    pub report_dir: Option<PathBuf>,
}

/// The loop's end of it.
pub(super) struct Membership {
    /// Who contends for each lease, whenever that changes.
    pub rivals: watch::Receiver<Vec<Rivals>>,
    wish: watch::Sender<Wish>,
    task: JoinHandle<()>,
}

/// What the loop asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wish {
    /// This pod would take the leases.
    stands: bool,
    leave_by: Option<Moment>,
}

impl Membership {
    /// Joins; `observed` is called when all members were listed once.
    pub fn join(
        settings: &MemberSettings,
        board: Arc<MembersBoard>,
        place: Place,
        connection: &Arc<Connection>,
        observed: impl Fn() + Send + 'static,
    ) -> Result<Self, RunError> {
        let (wish, wishes) = watch::channel(Wish { stands: false, leave_by: None });
        let (rivals_in, rivals) = watch::channel(vec![Rivals::default(); place.leases.len()]);
        let (done_in, done) = mpsc::channel(EVENTS);
        let own = OwnConfig {
            identity: place.identity.clone(),
            duration: settings.lease_duration,
            renew_interval: settings.renew_interval,
            spread: random_share(),
        };
        let namespace = &place.pod.namespace;
        let selector = format!("{MEMBER_OF}={}", settings.group);
        let leases = Leases::new(Arc::clone(connection), Some(namespace.clone()), selector, keep, LIST_TIMEOUT);
        let keeper = Keeper {
            own: Member::new(own, place.former),
            api: Arc::new(Api::of_member(Arc::clone(connection), namespace.clone(), board.lease.clone())),
            settings: settings.clone(),
            owner: Some(place.pod).filter(|pod| pod.uid.as_deref().is_some_and(is_from_the_api)),
            identity: place.identity,
            lease_names: place.leases,
            others: Reader::new(leases, PAUSE, random_share()).map_err(|error| RunError::Machine("timers", error))?,
            listed: false,
            board,
            report_dir: place.report_dir,
            rivals: rivals_in,
            observed: Box::new(observed),
            wishes,
            done_in,
            done,
            standing: Standing::Joining,
            own_wakes_at: Moment::BOOT,
            told_at: Moment::BOOT,
            written_at: Moment::BOOT,
            complaints: Complaints::default(),
            file_complaints: Complaints::default(),
            message: String::new(),
            ended: false,
        };
        let task = tokio::spawn(keeper.keep());
        Ok(Membership { rivals, wish, task })
    }

    /// Whether this pod would take the leases now, for others to know.
    pub fn stand(&self, stands: bool) {
        self.wish.send_if_modified(|wish| std::mem::replace(&mut wish.stands, stands) != stands);
    }

    /// Deletes the own Lease, and ends.
    pub async fn leave(self, end_by: Moment) {
        self.wish.send_modify(|wish| *wish = Wish { stands: false, leave_by: Some(end_by) });
        let _ = self.task.await;
    }
}

/// What came of a request.
enum Done {
    Read(Result<Option<Box<Record>>, Failure>),
    Wrote(Option<Outcome>, Option<Failure>),
}

struct Keeper {
    own: Member,
    settings: MemberSettings,
    owner: Option<Pod>,
    identity: String,
    lease_names: Vec<String>,
    api: Arc<Api>,
    others: Reader,
    listed: bool,
    board: Arc<MembersBoard>,
    report_dir: Option<PathBuf>,
    rivals: watch::Sender<Vec<Rivals>>,
    observed: Box<dyn Fn() + Send>,
    wishes: watch::Receiver<Wish>,
    done_in: mpsc::Sender<Done>,
    done: mpsc::Receiver<Done>,
    standing: Standing,
    own_wakes_at: Moment,
    told_at: Moment,
    written_at: Moment,
    complaints: Complaints,
    file_complaints: Complaints,
    message: String,
    ended: bool,
}

impl Keeper {
    async fn keep(mut self) {
        self.handle(OwnInput::Tick);
        while !self.ended {
            let wake_at = self.tell(SystemClock.boot()).min(self.own_wakes_at);
            tokio::select! {
                Some(done) = self.done.recv() => self.finished(done),
                changed = self.wishes.changed() => self.wish(changed.is_ok()),
                news = self.others.next(wake_at) => self.hear(news),
            }
            if self.own_wakes_at <= SystemClock.boot() {
                self.handle(OwnInput::Tick);
            }
        }
        // Everybody that still asks is told that it left.
        self.publish(SystemClock.boot());
    }

    // ---- The own Lease ----

    fn handle(&mut self, input: OwnInput) {
        for output in self.own.handle(SystemClock.now(), input) {
            match output {
                OwnOutput::Publish(standing) => self.stands(standing),
                OwnOutput::Read { timeout } => {
                    let api = Arc::clone(&self.api);
                    self.ask(async move { Done::Read(api.get(timeout).await.map(|record| record.map(Box::new))) });
                }
                OwnOutput::Write(write) => self.write(write),
                OwnOutput::WakeAt(at) => self.own_wakes_at = at,
                OwnOutput::Done => self.ended = true,
            }
        }
    }

    fn stands(&mut self, standing: Standing) {
        let (group, lease) = (&self.settings.group, &self.board.lease);
        match (&self.standing, &standing) {
            (Standing::Member { .. }, Standing::Member { .. }) => {}
            (_, Standing::Member { .. }) => tracing::info!(group, lease, "this pod is a member"),
            (_, Standing::Contested { holder }) => tracing::warn!(
                group,
                lease,
                holder,
                "another pod renews this pod's member lease: two pods have one identity; give each its own POD_NAME or --identity"
            ),
            (Standing::Member { .. }, Standing::Joining) => {
                tracing::warn!(
                    group,
                    lease,
                    "this pod is no member any more: its lease could not be renewed, or somebody took it"
                );
            }
            _ => {}
        }
        self.standing = standing;
        self.told_at = Moment::BOOT;
    }

    fn write(&mut self, write: OwnWrite) {
        let mut annotations = self.settings.annotations.clone();
        annotations.extend(self.settings.revision.iter().map(|revision| (REVISION.to_owned(), revision.clone())));
        if self.wishes.borrow().stands && !self.lease_names.is_empty() {
            annotations.push((STANDS_FOR.to_owned(), self.lease_names.join(",")));
        }
        let card = Card { group: self.settings.group.clone(), annotations, owner: self.owner.clone() };
        let api = Arc::clone(&self.api);
        self.ask(async move {
            let (outcome, failure) = api.write_member(&write, &card).await;
            Done::Wrote(outcome, failure)
        });
    }

    fn ask(&self, asking: impl Future<Output = Done> + Send + 'static) {
        let done = self.done_in.clone();
        tokio::spawn(async move {
            // The keeper is gone only when the process ends.
            let _ = done.send(asking.await).await;
        });
    }

    fn wish(&mut self, asked: bool) {
        let wish = *self.wishes.borrow_and_update();
        match wish.leave_by {
            Some(end_by) => self.handle(OwnInput::Leave { end_by }),
            // The loop is gone without a word: nobody waits for this task.
            None if !asked => self.ended = true,
            None => self.handle(OwnInput::Changed),
        }
    }

    fn finished(&mut self, done: Done) {
        match done {
            Done::Read(result) => {
                self.note(Ask::Read, result.as_ref().err());
                self.handle(OwnInput::Read(result.ok()));
            }
            Done::Wrote(outcome, failure) => {
                self.note(Ask::Write, failure.as_ref());
                self.handle(outcome.map_or(OwnInput::Deleted, OwnInput::Wrote));
            }
        }
    }

    fn note(&mut self, ask: Ask, failure: Option<&Failure>) {
        // Somebody else wrote: what that means is found out by a read.
        let failure = failure.filter(|failure| !matches!(failure, Failure::Status { code: 409, .. }));
        let Some(failure) = failure else {
            if self.complaints.worked(ask) == Some(complaint::News::AllWell) {
                tracing::info!(group = self.settings.group, "membership works again");
                self.message.clear();
            }
            return;
        };
        let text = advice(failure, &self.api);
        if self.complaints.failed(ask, &text, SystemClock.boot()).is_some() {
            tracing::warn!(group = self.settings.group, "membership: {text}");
        }
        self.message = text;
    }

    // ---- The others ----

    fn hear(&mut self, news: News) {
        match news {
            News::Listed => {
                if !std::mem::replace(&mut self.listed, true) {
                    (self.observed)();
                    self.told_at = Moment::BOOT;
                }
            }
            News::Changed => {}
            News::Worked(ask) => self.note(ask, None),
            News::Failed(ask, failure) => self.note(ask, Some(&failure)),
        }
    }

    // ---- What is told ----

    /// Tells everybody what is so now, unless that was just done; says when it is to be called again.
    fn tell(&mut self, now: Moment) -> Moment {
        let refresh = self.settings.renew_interval;
        if now < self.told_at + TOLD_EVERY {
            return self.told_at + TOLD_EVERY;
        }
        self.told_at = now;
        let news = self.publish(now);
        if news || now >= self.written_at + refresh {
            self.write_files(now);
        }
        // Only what comes in changes anything before that.
        self.written_at + refresh
    }

    fn publish(&mut self, now: Moment) -> bool {
        let own = self.standing.renewed_at().map(|renewed| (self.identity.as_str(), renewed));
        let members = roster::members(self.others.catalogue(), now, own);
        let of = |lease: &String| roster::rivals(self.others.catalogue(), now, lease, &self.identity);
        let rivals: Vec<Rivals> = self.lease_names.iter().map(of).collect();
        self.rivals.send_if_modified(|known| {
            let news = self.listed && *known != rivals;
            if news {
                *known = rivals;
            }
            news
        });
        self.board.publish(Members::new(self.standing.clone(), self.message.clone(), self.listed, members))
    }

    fn write_files(&mut self, now: Moment) {
        self.written_at = now;
        let Some(dir) = &self.report_dir else { return };
        if let Err(error) = file::write_members(dir, &self.board, now) {
            let text = format!("cannot write the members' files: {error}");
            if self.file_complaints.is_news(&text, now) {
                tracing::warn!("{text}");
            }
        }
    }
}

/// Labels say nothing here, and annotations are the members' own words.
fn keep(_key: &str) -> bool {
    true
}

/// A static pod is told the digest of its file, which is no object's uid: whatever names it as its owner is collected.
fn is_from_the_api(uid: &str) -> bool {
    uid.contains('-')
}
