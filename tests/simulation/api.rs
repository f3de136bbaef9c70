//! One Lease on an API server: resourceVersions, uids, compare-and-swap by both, and the history that a watch may
//! replay. Nothing here fails: what gets lost, late or refused is the network's matter (`world.rs`).

use jiff::Timestamp;
use leasehold::election::{Kind, Record, Spec, Token, Write};

use crate::trace::Time;

/// Who made a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum By {
    Pod {
        pod: usize,
        kind: Kind,
    },
    /// A client-go candidate.
    Foreign,
    Hand,
}

/// The newest version, and what only the simulator knows of it.
#[derive(Clone, Debug, Hash)]
pub struct Object {
    pub record: Record,
    pub by: By,
    /// When the present spec was made.
    pub spec_since: Time,
    pub created: (By, Time),
    created_spec: Spec,
    /// The proof of the newest release by a leasehold process, while only people wrote since.
    release: Option<Timestamp>,
}

impl Object {
    /// This pod created it, and nobody has taken it since; what people edited they took back.
    pub fn is_created_by(&self, pod: usize) -> bool {
        matches!(self.created.0, By::Pod { pod: by, .. } if by == pod) && self.is_created_by_a_pod()
    }

    pub fn is_created_by_a_pod(&self) -> bool {
        let created = matches!(self.created.0, By::Pod { kind: Kind::Create, .. });
        created && self.record.spec == self.created_spec
    }

    /// A leasehold process released it, and whatever people edited since left the proof whole.
    pub fn is_released(&self) -> bool {
        self.record.is_proved_release() && self.record.released == self.release
    }
}

/// 409.
#[derive(Debug)]
pub struct Conflict;

#[derive(Clone, Debug, Default, Hash)]
pub struct Api {
    pub object: Option<Object>,
    /// etcd's revision: other objects raise it too.
    pub revision: u64,
    uids: u64,
    /// Each version of the Lease, and `None` for a deletion.
    pub history: Vec<(u64, Option<Record>)>,
    /// When each was written.
    times: Vec<Time>,
}

impl Api {
    pub fn new(revision: u64) -> Self {
        Api { revision, ..Api::default() }
    }

    pub fn read(&self) -> (Option<Record>, u64) {
        match &self.object {
            Some(object) => (Some(object.record.clone()), object.record.version),
            None => (None, self.revision),
        }
    }

    /// A candidate's write, as its adapter sends it.
    pub fn put(&mut self, at: Time, pod: usize, write: &Write) -> Result<Record, Conflict> {
        let by = By::Pod { pod, kind: write.kind };
        let Some(base) = &write.base else {
            if self.object.is_some() {
                return Err(Conflict);
            }
            let token = if let Kind::Acquire { token } = write.kind { Token::Value(token) } else { Token::Absent };
            return Ok(self.create_with(at, by, write.spec.clone(), token));
        };
        let Some(object) = &self.object else { return Err(Conflict) };
        if object.record.uid != base.uid || object.record.version != base.version {
            return Err(Conflict);
        }
        let mut record = object.record.clone();
        record.spec = write.spec.clone();
        match write.kind {
            Kind::Create => return Err(Conflict),
            Kind::Acquire { token } => {
                record.token = Token::Value(token);
                record.released = None;
                record.step_down = None;
                record.pod_owned = false;
            }
            Kind::Renew => {}
            Kind::Release => {
                record.released = record.spec.renew_time;
                record.step_down = write.step_down.clone();
            }
        }
        Ok(self.store(at, by, record))
    }

    /// For a broken rule: what a server makes of a write that names a version and no uid.
    pub fn fill_in_uid(&mut self, write: &mut Write) {
        match (&self.object, &mut write.base) {
            (Some(object), Some(base)) => base.uid = object.record.uid.clone(),
            (None, base) => *base = None,
            _ => {}
        }
    }

    /// Where A2 is broken: the newest write is gone, and only its writer heard of it.
    pub fn lose_newest(&mut self, before: Option<Object>) -> bool {
        let lost = self.history.pop().is_some() && self.times.pop().is_some();
        self.object = before;
        lost
    }

    /// A client-go candidate's write: compare-and-swap by version, metadata kept.
    pub fn put_foreign(&mut self, at: Time, version: Option<u64>, spec: Spec) -> Result<Record, Conflict> {
        match (&self.object, version) {
            (None, None) => Ok(self.create(at, By::Foreign, spec)),
            (Some(object), Some(version)) if object.record.version == version => {
                let record = Record { spec, ..object.record.clone() };
                Ok(self.store(at, By::Foreign, record))
            }
            _ => Err(Conflict),
        }
    }

    pub fn create(&mut self, at: Time, by: By, spec: Spec) -> Record {
        self.create_with(at, by, spec, Token::Absent)
    }

    fn create_with(&mut self, at: Time, by: By, spec: Spec, token: Token) -> Record {
        self.uids += 1;
        let record = Record {
            uid: format!("uid-{}", self.uids),
            version: 0,
            spec,
            token,
            released: None,
            step_down: None,
            pod_owned: false,
        };
        self.object = None;
        self.store(at, by, record)
    }

    /// Edits whatever is there, as `kubectl edit` does after a re-read.
    pub fn edit(&mut self, at: Time, edit: impl FnOnce(&mut Record)) -> bool {
        let Some(object) = &self.object else { return false };
        let mut record = object.record.clone();
        edit(&mut record);
        self.store(at, By::Hand, record);
        true
    }

    pub fn delete(&mut self, at: Time) -> bool {
        let existed = self.object.take().is_some();
        if existed {
            self.revision += 1;
            self.history.push((self.revision, None));
            self.times.push(at);
        }
        existed
    }

    /// For the model checker (`tests/model`), in whose states no history is kept.
    #[allow(dead_code)]
    pub fn forget_history(&mut self) {
        self.history.clear();
        self.times.clear();
    }

    /// A restore of etcd: the state and the revision of an older version, and a history that goes on from there.
    pub fn roll_back(&mut self, at: Time, steps: usize) -> bool {
        let keep = self.history.len().saturating_sub(steps);
        if keep == 0 || steps == 0 {
            return false;
        }
        self.history.truncate(keep);
        self.times.truncate(keep);
        let (revision, record) = self.history[keep - 1].clone();
        self.revision = revision;
        self.object = record.map(|record| Object {
            record,
            by: By::Hand,
            spec_since: at,
            created: (By::Hand, at),
            created_spec: Spec::default(),
            release: None,
        });
        true
    }

    fn store(&mut self, at: Time, by: By, mut record: Record) -> Record {
        self.revision += 1;
        record.version = self.revision;
        self.history.push((self.revision, Some(record.clone())));
        self.times.push(at);
        // A held spec that somebody puts back is as old as it was.
        let first = match by {
            By::Hand if record.spec.holder.is_some() => self.first_written(&record),
            _ => at,
        };
        let release = match by {
            By::Pod { kind: Kind::Release, .. } => record.spec.renew_time,
            By::Hand => self.object.as_ref().and_then(|old| old.release),
            By::Pod { .. } | By::Foreign => None,
        };
        let (spec_since, created) = match &self.object {
            Some(old) if old.record.spec == record.spec => (old.spec_since, old.created),
            Some(old) => (first, old.created),
            None => (at, (by, at)),
        };
        let created_spec = self.object.as_ref().map_or_else(|| record.spec.clone(), |old| old.created_spec.clone());
        self.object = Some(Object { record: record.clone(), by, spec_since, created, created_spec, release });
        record
    }
}

impl Api {
    fn first_written(&self, record: &Record) -> Time {
        let same = |old: &Record| old.uid == record.uid && old.spec == record.spec;
        let first = self.history.iter().position(|(_, old)| old.as_ref().is_some_and(same));
        self.times[first.unwrap_or(self.times.len() - 1)]
    }
}

/// A time that a person or a foreign client writes.
pub fn some_time(micros: i64) -> Timestamp {
    Timestamp::from_microsecond(micros).unwrap_or(Timestamp::UNIX_EPOCH)
}
