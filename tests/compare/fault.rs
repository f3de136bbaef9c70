//! What is done to a leader.

use std::sync::Barrier;
use std::thread::sleep;

use rustix::process::Signal;

use crate::round::{LEADER, Round, STANDBY, Times};
use crate::support::clock::{self, BootTime};
use crate::support::control_plane::ControlPlane;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Silent,
    Frozen,
    LateReply,
    Flapping,
    Outage,
    Terminated,
    Killed,
}

impl Fault {
    pub const ALL: [Fault; 7] = [
        Fault::Silent,
        Fault::Frozen,
        Fault::LateReply,
        Fault::Flapping,
        Fault::Outage,
        Fault::Terminated,
        Fault::Killed,
    ];

    /// The one of this word, or all of them where none is asked for.
    pub fn chosen(word: Option<&str>) -> Vec<Fault> {
        let Some(word) = word else { return Fault::ALL.to_vec() };
        let chosen = Fault::ALL.into_iter().find(|fault| fault.word() == word);
        vec![chosen.unwrap_or_else(|| panic!("FAULT={word}: there are {:?}", Fault::ALL.map(Fault::word)))]
    }

    pub fn word(self) -> &'static str {
        match self {
            Fault::Silent => "silent",
            Fault::Frozen => "frozen",
            Fault::LateReply => "late-reply",
            Fault::Flapping => "flapping",
            Fault::Outage => "outage",
            Fault::Terminated => "terminated",
            Fault::Killed => "killed",
        }
    }

    pub fn describe(self, times: Times) -> String {
        let seconds = |share| format!("{:.0} s", times.part(share).as_secs_f64());
        let word = self.word();
        match self {
            Fault::Silent => format!("{word}: the leader's link delivers nothing for {}, then all", seconds(2.0)),
            Fault::Frozen => format!("{word}: SIGSTOP to the leader, SIGCONT after {}", seconds(5.0 / 3.0)),
            Fault::LateReply => format!(
                "{word}: a renewal is committed and answered {} later; nothing else passes until {} after it",
                seconds(8.0 / 15.0),
                seconds(2.0)
            ),
            Fault::Flapping => format!(
                "{word}: the leader's link is cut, silent one way or both, or well, in turns, for {}",
                seconds(4.0)
            ),
            Fault::Outage => format!("{word}: the API server is killed, and started after {}", seconds(2.0)),
            Fault::Terminated => format!("{word}: SIGTERM to the leader"),
            Fault::Killed => format!("{word}: SIGKILL to the leader, and to the app beside it"),
        }
    }

    /// What counts is how soon another leads.
    pub fn is_hand_off(self) -> bool {
        matches!(self, Fault::Terminated | Fault::Killed)
    }

    /// Does it, and ends when what comes of it can be seen. Gives its beginning. `number` is the round's.
    pub fn strike(self, round: &mut Round, control_plane: &ControlPlane, all: &Barrier, number: usize) -> BootTime {
        let times = round.times;
        // Not at the moment of a renewal, and in no two rounds at the same distance from one.
        sleep(times.part(0.02 * number as f64));
        let began = clock::now();
        match self {
            Fault::Silent => {
                round.link.silence();
                sleep(times.part(2.0));
                round.link.heal();
            }
            Fault::Frozen => {
                round.signal(LEADER, Signal::STOP);
                sleep(times.part(5.0 / 3.0));
                round.signal(LEADER, Signal::CONT);
            }
            Fault::LateReply => {
                round.link.silence_replies();
                let committed = round.ledger.wait_renewal(LEADER, clock::now(), times.part(2.0));
                round.link.silence();
                sleep_until(committed + times.part(8.0 / 15.0));
                round.link.silence_requests();
                sleep_until(committed + times.part(2.0));
                round.link.heal();
            }
            Fault::Flapping => flap(round, number, began + times.part(4.0)),
            Fault::Outage => {
                if all.wait().is_leader() {
                    control_plane.kill_apiserver();
                }
                sleep(times.part(2.0));
                if all.wait().is_leader() {
                    control_plane.start_apiserver();
                }
                all.wait();
                sleep(times.part(1.0));
            }
            Fault::Terminated | Fault::Killed => {
                let signal = if self == Fault::Killed { Signal::KILL } else { Signal::TERM };
                round.signal(LEADER, signal);
                round.wait_belief(STANDBY, began, times.part(4.0));
            }
        }
        // A term that ought to be over may last as long as a renew deadline yet.
        sleep(times.part(if self.is_hand_off() { 0.2 } else { 1.0 }));
        began
    }
}

fn sleep_until(moment: BootTime) {
    sleep(moment.saturating_sub(clock::now()));
}

/// The order and the lengths are those of the round's number, for every elector the same.
fn flap(round: &Round, number: usize, until: BootTime) {
    let mut state = number as u64 * 0x9e37_79b9 + 0x2545_f491;
    let mut random = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    while clock::now() < until {
        match random(8) {
            0 | 1 => round.link.cut(),
            2 | 3 => round.link.silence(),
            4 => round.link.silence_replies(),
            5 => round.link.silence_requests(),
            _ => round.link.heal(),
        }
        let share = 0.01 + random(1000) as f64 / 1000.0 * 0.6;
        sleep(round.times.part(share).min(until.saturating_sub(clock::now())));
    }
    round.link.heal();
}
