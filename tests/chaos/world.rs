//! The control plane and every contest on it, and the lanes in which faults come.
//!
//! A lane deals one fault after the other and undoes each before the next; several lanes run at once. What befalls
//! whom is decided by the seed, except that many faults look for who leads just then.

use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::contest::{Contest, Plan};
use crate::fault::{Dealer, Deck, Fault};
use crate::journal::Journal;
use crate::rng::Rng;
use crate::support::clock::{self, BootTime};
use crate::support::control_plane::ControlPlane;

/// A machine that is slow for so long is of no use.
const FOR_EVER: Duration = Duration::from_secs(600);

pub struct World<'a> {
    pub control_plane: &'a ControlPlane,
    pub contests: Vec<Contest<'a>>,
    pub journal: Journal,
    wrongs: Mutex<Vec<String>>,
}

/// How quickly faults follow on each other in a lane.
#[derive(Clone, Copy)]
pub struct Pace {
    pub storm: Duration,
    /// Milliseconds from one fault's end to the next, at least and at most.
    pub pause: (u64, u64),
    /// The same of the control plane's.
    pub control_pause: (u64, u64),
}

/// One fault after the other.
pub struct Lane {
    /// None: the control plane.
    lease: Option<usize>,
    pub dealer: Dealer,
}

impl<'a> World<'a> {
    /// Starts everything and waits until each lease has its first leader.
    pub fn start(control_plane: &'a ControlPlane, plans: &[Plan], seed: u64) -> Self {
        let contests: Vec<_> =
            plans.iter().enumerate().map(|(index, plan)| Contest::start(control_plane, index, plan, seed)).collect();
        Self { control_plane, contests, journal: Journal::new(), wrongs: Mutex::default() }
    }

    /// The lanes of a storm: one for the control plane, and so many of each kind for each lease.
    pub fn lanes(&self, seed: u64, of_links: impl Fn(usize) -> usize) -> Vec<Lane> {
        let mut rng = Rng::new(seed);
        let mut lane = |lease, deck| Lane { lease, dealer: Dealer::new(Deck::faults(deck), rng.next()) };
        let mut lanes = vec![lane(None, Deck::Control)];
        for lease in 0..self.contests.len() {
            let links = std::iter::repeat_n(Deck::Link, of_links(lease));
            for deck in links.chain([Deck::Process, Deck::Edit]) {
                lanes.push(lane(Some(lease), deck));
            }
        }
        lanes
    }

    /// Faults in all lanes at once; returns when the last is undone.
    pub fn storm(&self, lanes: &mut [Lane], pace: Pace) {
        let until = clock::now() + pace.storm;
        thread::scope(|scope| {
            for lane in lanes {
                scope.spawn(move || self.run(lane, pace, until));
            }
        });
    }

    fn run(&self, lane: &mut Lane, pace: Pace, until: BootTime) {
        let pause = if lane.lease.is_some() { pace.pause } else { pace.control_pause };
        loop {
            let pause = lane.dealer.rng.millis(pause.0, pause.1);
            thread::sleep(pause.min(until.saturating_sub(clock::now())));
            if clock::now() >= until {
                return;
            }
            let fault = lane.dealer.deal();
            match lane.lease {
                None => self.strike_control(fault, &mut lane.dealer.rng),
                Some(lease) => self.strike(lease, fault, Aim::Wide, &mut lane.dealer.rng),
            }
        }
    }

    /// With all faults over: somebody leads each lease within its bound, and every process runs.
    pub fn calm(&self) {
        for contest in &self.contests {
            self.wait_leader(contest, 0, "all faults");
        }
        for candidate in self.contests.iter().flat_map(|contest| &contest.candidates) {
            let ended = candidate.try_body().and_then(|mut body| body.sidecar.ended());
            if let Some(status) = ended {
                self.wrong(format!("{} ended by itself: {status}", candidate.name));
            }
        }
        for server in 0..2 {
            if let Some(how) = self.control_plane.server_ended(server) {
                eprintln!("chaos: API server {server} ended by itself, and is started again: {how}");
                self.control_plane.start_server(server);
            }
        }
    }

    /// Waits until somebody leads with a token above `token`. The time in which the control plane was slow by itself
    /// does not count.
    pub fn wait_leader(&self, contest: &Contest, token: u64, after: &str) {
        let began = clock::now();
        while contest.leader().is_none_or(|(_, now)| now <= token) {
            let undisturbed_since = began.max(self.journal.last_end(Fault::Slow));
            let waited = clock::now() - undisturbed_since;
            if waited > contest.times.bound() || clock::now() > began + FOR_EVER {
                let name = &contest.name;
                return self.wrong(format!("lease {name}: nobody leads {waited:.1?} after {after} (token {token})"));
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// What ought not to be, said at once and counted at the end.
    pub fn wrong(&self, wrong: String) {
        eprintln!("chaos: {:.3} WRONG: {wrong}", clock::now().as_secs_f64());
        self.wrongs.lock().unwrap_or_else(PoisonError::into_inner).push(wrong);
    }

    pub fn wrongs(&self) -> Vec<String> {
        self.wrongs.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Whom a fault looks for, and how long it lasts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Aim {
    /// Anybody, more often who leads; for a blink, or for as long as a lease lasts.
    Wide,
    /// Who leads, until its lease has run out.
    Leader,
}

impl Aim {
    pub fn lasts(self, rng: &mut Rng, duration: Duration) -> Duration {
        match self {
            Aim::Wide if rng.percent(40) => rng.duration(Duration::from_millis(100), duration / 2),
            Aim::Wide => rng.duration(duration * 4 / 5, duration * 8 / 5),
            Aim::Leader => rng.duration(duration * 6 / 5, duration * 8 / 5),
        }
    }

    pub fn wants_leader(self, rng: &mut Rng) -> bool {
        self == Aim::Leader || rng.percent(60)
    }
}
