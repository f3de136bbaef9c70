//! The real thing under fault: two API servers on one etcd, sidecars behind links of their own, and faults of every
//! kind at once, for minutes. `make chaos MINUTES=10`; three minutes of it run with all tests.
//!
//! A storm of faults, a calm in which every lease must have a leader again, one fault of each leader alone, an edit of
//! each Lease that only a calm one bears, and again. A recorder keeps every promise that is made, and every app writes
//! to a store that refuses old tokens.
//!
//! | Module | Holds |
//! |---|---|
//! | [`fault`] | every kind of fault |
//! | [`candidate`], [`contest`] | a pod; a Lease and its pods |
//! | [`world`], [`strikes`] | the lanes in which faults come; each fault done and undone |
//! | [`store`], [`pulse`] | what the apps write to; whether the machine keeps up |
//! | [`journal`], [`verdict`] | what befell whom, and what came of it |
//! | [`soak`] | a hundred sidecars for an hour: `make soak` |

mod candidate;
mod contest;
mod fault;
mod journal;
mod pulse;
#[path = "../simulation/rng.rs"]
#[allow(dead_code)]
mod rng;
mod soak;
mod store;
mod strikes;
#[path = "../support/mod.rs"]
mod support;
mod verdict;
mod world;

use std::time::Duration;

use contest::{Plan, QUICK, TIGHT, USUAL, mixed};
use fault::{ALONE, Dealer, Deck, Fault};
use support::clock::{self, wait_until};
use support::control_plane::{ControlPlane, shared};
use support::proxy::Proxy;
use support::stage::{SOON, Stage};
use world::{Aim, Pace, World};

/// Minutes under `make test`.
const MINUTES: f64 = 3.0;
/// From here on each kind of fault must have occurred, and a lease with the program's own times takes part.
const LONG: f64 = 10.0;
const PACE: Pace = Pace { storm: Duration::from_secs(16), pause: (100, 1500), control_pause: (1000, 5000) };

#[test]
fn no_two_pods_lead_whatever_happens_and_somebody_leads_when_it_is_over() {
    let minutes = number("LEASEHOLD_CHAOS_MINUTES").unwrap_or(MINUTES);
    let seed = number("LEASEHOLD_CHAOS_SEED").map_or_else(any_seed, |seed| seed as u64);
    println!("chaos: {minutes} minutes; again with: make chaos MINUTES={minutes} SEED={seed}");
    let control_plane = ControlPlane::start_pair();
    let plan =
        |times, pods| Plan { times, pods: mixed(pods, |_| true), ask_every: Duration::from_millis(20), writers: true };
    let mut plans = vec![plan(QUICK, 5), plan(TIGHT, 3)];
    if minutes >= LONG {
        plans.push(plan(USUAL, 3));
    }
    let world = World::start(&control_plane, &plans, seed);
    let rounds = pulse::during(&world, || play(&world, minutes, seed));
    println!("chaos: seed {seed}, {rounds} rounds in {:.1} minutes", minutes_since(world.journal.began));
    let wrongs = verdict::judge(&world, minutes >= LONG);
    conclude(world, wrongs, &format!("chaos-{seed}"));
}

/// Rounds until the time is over or something is wrong; gives how many.
fn play(world: &World, minutes: f64, seed: u64) -> usize {
    let mut lanes = world.lanes(seed, |lease| if lease == 0 { 2 } else { 1 });
    let mut alone = Hand::new(world, ALONE, seed);
    let mut surgery = Hand::new(world, Deck::Surgery.faults(), seed);
    let until = world.journal.began + Duration::from_secs_f64(minutes * 60.0);
    let mut rounds = 0;
    world.calm();
    while clock::now() < until && verdict::wrongs(world).is_empty() {
        world.storm(&mut lanes, PACE);
        world.calm();
        alone.play(world);
        world.calm();
        surgery.play(world);
        rounds += 1;
    }
    rounds
}

/// What befalls each lease's leader, one fault at a time.
struct Hand {
    of_lease: Vec<Dealer>,
}

impl Hand {
    fn new(world: &World, faults: impl IntoIterator<Item = Fault> + Clone, seed: u64) -> Self {
        let dealer = |lease| Dealer::new(faults.clone(), seed ^ lease as u64);
        Self { of_lease: (0..world.contests.len()).map(dealer).collect() }
    }

    /// One fault of each lease, at the same time; returns when the last is undone.
    fn play(&mut self, world: &World) {
        std::thread::scope(|scope| {
            for (lease, dealer) in self.of_lease.iter_mut().enumerate() {
                let fault = dealer.deal();
                scope.spawn(move || world.strike(lease, fault, Aim::Leader, &mut dealer.rng));
            }
        });
    }
}

/// Ends everything before it fails, so that the logs of every sidecar are in files and not on the screen.
fn conclude(world: World, wrongs: Vec<String>, name: &str) {
    if wrongs.is_empty() {
        return;
    }
    let folder = verdict::keep_logs(&world, name);
    drop(world);
    panic!(
        "{} things are wrong; the fault log and the sidecars' logs are in {}\n\n{}",
        wrongs.len(),
        folder.display(),
        wrongs.join("\n\n")
    );
}

#[test]
fn the_write_whose_answer_a_link_loses_has_landed() {
    let stage = Stage::released(shared(), "lost-answers");
    let link = Proxy::start(stage.control_plane.address());
    // An Event would be a write as well.
    let pod = stage.pod_over("a", Some(link.address())).flag("--events", "off").start();
    pod.wait_leader(SOON);
    link.lose_answers();
    let before = stage.spec()["renewTime"].clone();
    wait_until("an answer to be lost", SOON, || link.answers_lost() > 0);
    let after = stage.spec()["renewTime"].clone();
    assert_ne!(before, after, "the write whose answer was lost is not there");
}

fn number(variable: &str) -> Option<f64> {
    let value = std::env::var(variable).ok().filter(|value| !value.is_empty())?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable}={value} is no number")))
}

/// The nanoseconds within this second: another each time, and short enough to type.
fn any_seed() -> u64 {
    u64::from(clock::now().subsec_nanos())
}

fn minutes_since(began: clock::BootTime) -> f64 {
    (clock::now() - began).as_secs_f64() / 60.0
}
