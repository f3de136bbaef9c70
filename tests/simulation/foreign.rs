//! A candidate as client-go's leader election behaves (0.36): it counts from the answer, compares the whole record on
//! its own clock, takes an empty holder at once, and releases without a proof by writing over whatever a GET shows.

use std::time::Duration;

use leasehold::election::{Record, Spec};

use crate::api::some_time;
use crate::rng::Rng;
use crate::trace::Time;

pub const IDENTITY: &str = "client-go";

#[derive(Clone, Debug)]
pub enum Ask {
    Get { releasing: bool },
    Put { version: Option<u64>, spec: Spec, releasing: bool },
}

#[derive(Clone, Debug)]
pub enum Told {
    Got(Option<Record>),
    Written(Record),
    Failed,
}

/// What it does next: a request, or a pause.
#[derive(Debug)]
pub enum Next {
    Send(Ask),
    Wait(Duration),
}

pub struct Foreign {
    pub duration: Duration,
    pub retry_period: Duration,
    renew_deadline: Duration,
    observed: Option<Spec>,
    observed_at: Time,
    version: Option<u64>,
    /// It believes that it leads, and last heard of a success then.
    pub leading: Option<Time>,
    /// The request whose answer is awaited.
    pub awaited: Option<u64>,
    /// Nothing of it reaches the API server, nor the other way, before then.
    pub cut_off_until: Time,
    /// It is stopped, or dead, before then.
    pub stands_until: Time,
    wall: i64,
}

impl Foreign {
    pub fn new(duration: Duration, rng: &mut Rng) -> Self {
        Foreign {
            duration,
            retry_period: duration * 2 / 15,
            renew_deadline: duration * 10 / 15,
            observed: None,
            observed_at: Time::START,
            version: None,
            leading: None,
            awaited: None,
            cut_off_until: Time::START,
            stands_until: Time::START,
            wall: 1_790_000_000_000_000 + rng.between(0, 1_000_000) as i64,
        }
    }

    /// Another process takes its place later, and knows nothing.
    pub fn killed(&mut self, back: Time) {
        self.observed = None;
        self.version = None;
        self.leading = None;
        self.stands_until = self.stands_until.max(back);
    }

    /// Its retry period is over. `cancelled`: its process ends, and another starts later.
    pub fn tick(&mut self, at: Time, cancelled: bool) -> Next {
        if let Some(since) = self.leading {
            if at > since.plus(self.renew_deadline) || cancelled {
                // It lost by its own rules, or its context is cancelled: it releases by default settings.
                return Next::Send(Ask::Get { releasing: true });
            }
            if let (Some(version), Some(spec)) = (self.version, self.observed.clone()) {
                let spec = Spec { renew_time: Some(self.wall_at(at)), ..spec };
                return Next::Send(Ask::Put { version: Some(version), spec, releasing: false });
            }
        }
        Next::Send(Ask::Get { releasing: false })
    }

    pub fn told(&mut self, at: Time, ask: &Ask, told: Told) -> Next {
        match (ask, told) {
            (Ask::Get { releasing: true }, Told::Got(Some(record))) => {
                self.leading = None;
                let spec = Spec {
                    holder: None,
                    duration_seconds: Some(1),
                    acquire_time: Some(self.wall_at(at)),
                    renew_time: Some(self.wall_at(at)),
                    transitions: record.spec.transitions,
                    ..Spec::default()
                };
                Next::Send(Ask::Put { version: Some(record.version), spec, releasing: true })
            }
            (Ask::Get { releasing: true }, _) => {
                self.leading = None;
                Next::Wait(self.duration * 3 / 2)
            }
            (Ask::Get { .. }, Told::Got(record)) => self.judge(at, record),
            (Ask::Put { releasing: false, .. }, Told::Written(record)) => {
                self.version = Some(record.version);
                self.observed = Some(record.spec);
                self.observed_at = at;
                self.leading = Some(at);
                Next::Wait(self.retry_period)
            }
            (Ask::Put { releasing: true, .. }, _) => {
                self.version = None;
                Next::Wait(self.duration * 3 / 2)
            }
            _ => {
                self.version = None;
                Next::Wait(self.retry_period)
            }
        }
    }

    fn judge(&mut self, at: Time, record: Option<Record>) -> Next {
        let spec = Spec {
            holder: Some(IDENTITY.into()),
            duration_seconds: i32::try_from(self.duration.as_secs()).ok(),
            acquire_time: Some(self.wall_at(at)),
            renew_time: Some(self.wall_at(at)),
            ..Spec::default()
        };
        let Some(record) = record else {
            return Next::Send(Ask::Put { version: None, spec, releasing: false });
        };
        if self.observed.as_ref() != Some(&record.spec) {
            self.observed = Some(record.spec.clone());
            self.observed_at = at;
        }
        let mine = record.holder() == Some(IDENTITY);
        if record.holder().is_some() && !mine && at < self.observed_at.plus(self.duration) {
            self.leading = None;
            return Next::Wait(self.retry_period);
        }
        let spec = if mine {
            Spec { renew_time: spec.renew_time, ..record.spec }
        } else {
            Spec { transitions: record.spec.transitions.saturating_add(1), ..spec }
        };
        Next::Send(Ask::Put { version: Some(record.version), spec, releasing: false })
    }

    fn wall_at(&self, at: Time) -> jiff::Timestamp {
        some_time(self.wall + (at.0 / 1000) as i64)
    }
}
