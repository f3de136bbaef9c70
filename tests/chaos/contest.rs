//! One Lease, and the pods that contend for it.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::candidate::{Candidate, Evidence, Kind, Link};
use crate::rng::Rng;
use crate::store::{Store, Writer};
use crate::support::clock;
use crate::support::control_plane::ControlPlane;
use crate::support::proxy::Proxy;
use crate::support::recorder::Recorder;
use crate::support::stage::Stage;
use crate::world::Aim;

/// Lease duration, renew deadline, renew interval and retry period, in milliseconds.
#[derive(Clone, Copy)]
pub struct Times(pub [u64; 4]);

/// Short ones with a renew deadline as long as the program allows, so that a promise which is a tenth of a second too
/// long shows; the tests' usual ones; and the program's own.
pub const TIGHT: Times = Times([3000, 2900, 1000, 200]);
pub const QUICK: Times = Times([5000, 4000, 1000, 300]);
pub const USUAL: Times = Times([15_000, 12_000, 3000, 1000]);

/// By so much somebody lengthens a Lease by hand.
pub const LENGTHENED_BY: Duration = Duration::from_secs(1);

/// From a free candidate's view: a reconnection, a list, a process's start, its writes, on a machine that does all of
/// it at once.
const SLACK: Duration = Duration::from_secs(5);

impl Times {
    pub fn duration(self) -> Duration {
        Duration::from_millis(self.0[0])
    }

    pub fn renew_interval(self) -> Duration {
        Duration::from_millis(self.0[2])
    }

    pub fn renew_deadline(self) -> Duration {
        Duration::from_millis(self.0[1])
    }

    /// Of a leader's renewals, while each succeeds.
    pub fn attempt_timeout(self) -> Duration {
        ((self.renew_deadline() - self.renew_interval()) / 3).min(Duration::from_secs(2))
    }

    /// How long a candidate that nothing hinders may take to lead: L4 with what reconnecting costs.
    pub fn bound(self) -> Duration {
        self.duration() + LENGTHENED_BY + self.renew_interval() + SLACK
    }
}

/// What a contest is made of.
pub struct Plan {
    pub times: Times,
    pub pods: Vec<Kind>,
    /// The recorder's pause; how many writers there are follows from it.
    pub ask_every: Duration,
    pub writers: bool,
}

pub struct Contest<'a> {
    pub name: String,
    pub stage: Stage<'a>,
    pub times: Times,
    // Before the candidates: they stop asking first.
    _writers: Vec<Writer>,
    pub recorder: Arc<Recorder>,
    pub candidates: Vec<Candidate>,
    pub store: Arc<Store>,
}

impl<'a> Contest<'a> {
    /// Starts the pods; the first that comes leads.
    pub fn start(control_plane: &'a ControlPlane, index: usize, plan: &Plan, seed: u64) -> Self {
        let name = lease_letter(index);
        let stage = Stage::released(control_plane, &format!("chaos-{name}"));
        let pods = plan.pods.iter().enumerate();
        let candidates: Vec<_> =
            pods.map(|(pod, kind)| start_candidate(&stage, &format!("{name}{pod}"), *kind, plan.times, pod)).collect();
        let mut recorder = Recorder::start_every(plan.ask_every, []);
        for candidate in &candidates {
            // Until its app has begun, nobody is told anything.
            recorder.app_ended(&candidate.name);
            recorder.watch(&candidate.try_body().expect("nobody else has it").sidecar);
        }
        let (recorder, store) = (Arc::new(recorder), Arc::new(Store::default()));
        for candidate in &candidates {
            candidate.begin_app(&mut candidate.try_body().expect("nobody else has it"), &recorder);
        }
        let writer = |candidate: &Candidate| {
            let (shared, apps) = (candidate.shared.clone(), candidate.apps.clone());
            Writer::start(shared, store.clone(), apps, 2 * plan.times.duration(), seed ^ name_number(&candidate.name))
        };
        let writers = candidates.iter().filter(|_| plan.writers).map(writer).collect();
        Self { name, stage, times: plan.times, _writers: writers, recorder, candidates, store }
    }

    /// Who leads, as its number and the token.
    pub fn leader(&self) -> Option<(usize, u64)> {
        let (pod, token) = self.recorder.leading()?;
        Some((self.candidates.iter().position(|candidate| candidate.name == pod)?, token))
    }

    /// The first candidate of which `take` gives something: the leader if that is aimed at, else any that the numbers
    /// choose.
    pub fn pick<'c, T>(
        &'c self,
        aim: Aim,
        rng: &mut Rng,
        take: impl Fn(&'c Candidate) -> Option<T>,
    ) -> Option<(usize, &'c Candidate, T)> {
        let count = self.candidates.len();
        let (prefers_leader, first) = (aim.wants_leader(rng), rng.between(0, count as u64 - 1) as usize);
        let leader = self.leader().map(|(leader, _)| leader).filter(|_| prefers_leader);
        let order = leader.into_iter().chain((0..count).map(|place| (first + place) % count));
        order.into_iter().find_map(|index| {
            let candidate = &self.candidates[index];
            Some((index, candidate, take(candidate)?))
        })
    }

    /// Returns when the Lease has been renewed, or is not for so long that it will not be.
    pub fn wait_renewal(&self) {
        let time = || self.lease().map(|lease| lease["spec"]["renewTime"].clone());
        let (before, until) = (time(), clock::now() + 3 * self.times.renew_interval());
        while time() == before && clock::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The Lease, unless the API server does not answer.
    pub fn lease(&self) -> Option<Value> {
        let answer = self.stage.control_plane.api("GET", &self.path(), None).ok()?;
        (answer.status == 200).then(|| answer.json())
    }

    /// Edits it by a merge patch; false when the API server did not say that it is done.
    pub fn edit(&self, patch: &Value) -> bool {
        let answer = self.stage.control_plane.api("PATCH", &self.path(), Some(patch));
        answer.is_ok_and(|answer| answer.status == 200)
    }

    pub fn delete(&self) -> bool {
        let answer = self.stage.control_plane.api("DELETE", &self.path(), None);
        answer.is_ok_and(|answer| answer.status == 200)
    }

    fn path(&self) -> String {
        let namespace = &self.stage.namespace;
        format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{}", crate::support::stage::LEASE)
    }
}

fn start_candidate(stage: &Stage, name: &str, kind: Kind, times: Times, pod: usize) -> Candidate {
    let server = pod % 2;
    let proxy = Proxy::start(stage.control_plane.address_of(server));
    let [lease, deadline, interval, retry] = times.0.map(|ms| format!("{ms}ms"));
    let builder = stage.pod_over(name, Some(proxy.address())).times(&lease, &deadline, &interval, &retry);
    Candidate::start(kind, builder, Link { proxy, server })
}

/// a, b, ..., z, aa, ...
fn lease_letter(index: usize) -> String {
    let letter = char::from(b'a' + (index % 26) as u8);
    letter.to_string().repeat(index / 26 + 1)
}

fn name_number(name: &str) -> u64 {
    name.bytes().fold(0, |number, byte| number * 256 + u64::from(byte))
}

/// Kinds of pods: all evidences and ways to end occur among five.
pub fn mixed(count: usize, mortal: impl Fn(usize) -> bool) -> Vec<Kind> {
    let kinds = [
        (Evidence::Lock, "wait-for-app"),
        (Evidence::Session, "auto"),
        (Evidence::None, "release"),
        (Evidence::Lock, "release"),
        (Evidence::None, "auto"),
    ];
    let of = |index| {
        let (evidence, on_sigterm) = kinds[index % kinds.len()];
        Kind { evidence, on_sigterm, mortal: mortal(index) }
    };
    (0..count).map(of).collect()
}
