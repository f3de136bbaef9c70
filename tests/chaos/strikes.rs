//! Each fault, done and undone.

use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::candidate::{Body, Candidate, Evidence, Link};
use crate::contest::{Contest, LENGTHENED_BY};
use crate::fault::{Deck, Fault};
use crate::rng::Rng;
use crate::support::http::Http;
use crate::support::proxy::Proxy;
use crate::world::{Aim, World};

impl World<'_> {
    /// A fault of one lease, from its beginning to its end.
    pub fn strike(&self, lease: usize, fault: Fault, aim: Aim, rng: &mut Rng) {
        match fault.deck() {
            Deck::Link if fault == Fault::CutEverybody => self.cut_everybody(lease, rng),
            Deck::Link if matches!(fault, Fault::Late | Fault::Doze) => {
                self.delay_the_last_answer(lease, fault, aim, rng)
            }
            Deck::Link => self.strike_link(lease, fault, aim, rng),
            Deck::Process => self.strike_process(lease, fault, aim, rng),
            Deck::Edit => self.edit(lease, fault, rng),
            Deck::Surgery => self.operate(lease, fault),
            Deck::Control => self.strike_control(fault, rng),
            Deck::Machine => unreachable!("nobody does it"),
        }
    }

    // --- Links ---

    fn strike_link(&self, lease: usize, fault: Fault, aim: Aim, rng: &mut Rng) {
        let contest = &self.contests[lease];
        let Some((index, candidate, mut link)) = contest.pick(aim, rng, Candidate::try_link) else { return };
        let length = aim.lasts(rng, contest.times.duration());
        let open = self.journal.begin(fault, Some(lease), Some(index), candidate.name.clone());
        let proxy = &link.proxy;
        match fault {
            Fault::Cut => proxy.cut(),
            Fault::Silence => proxy.silence(),
            Fault::SilenceRequests => proxy.silence_requests(),
            Fault::SilenceReplies => proxy.silence_replies(),
            Fault::DelayRequests => proxy.delay_requests(rng.millis(50, 3000)),
            Fault::DelayReplies => proxy.delay_replies(rng.millis(50, 3000)),
            Fault::Throttle => proxy.throttle(rng.between(300, 6000) as u32),
            Fault::LoseAnswers => proxy.lose_answers(),
            Fault::ConnectLate => {
                proxy.cut();
                proxy.connect_late(rng.millis(100, 3000));
            }
            Fault::Switch | Fault::SwitchLater => self.switch(&mut link, fault == Fault::Switch),
            _ => flap(proxy, length, rng),
        }
        if !matches!(fault, Fault::Switch | Fault::SwitchLater | Fault::Flap) {
            thread::sleep(length);
            link.proxy.heal();
        }
        self.journal.end(open);
    }

    fn switch(&self, link: &mut Link, at_once: bool) {
        link.server = 1 - link.server;
        link.proxy.lead_to(self.control_plane.address_of(link.server));
        if at_once {
            link.proxy.cut();
            link.proxy.heal();
        }
    }

    /// The links that are not in use otherwise; then no candidate is free.
    fn cut_everybody(&self, lease: usize, rng: &mut Rng) {
        let contest = &self.contests[lease];
        let length = Aim::Wide.lasts(rng, contest.times.duration());
        let links: Vec<_> = contest.candidates.iter().filter_map(Candidate::try_link).collect();
        let open = self.journal.begin(Fault::CutEverybody, Some(lease), None, format!("lease {}", contest.name));
        links.iter().for_each(|link| link.proxy.cut());
        thread::sleep(length);
        links.iter().for_each(|link| link.proxy.heal());
        self.journal.end(open);
    }

    /// The answer to a renewal comes late, or while its process stands still, and afterwards nothing that it sends
    /// arrives: who counts from the answer believes longer than it has the right to.
    fn delay_the_last_answer(&self, lease: usize, fault: Fault, aim: Aim, rng: &mut Rng) {
        let contest = &self.contests[lease];
        let both = |candidate| Some((Candidate::try_link(candidate)?, Candidate::try_body(candidate)?));
        let Some((index, candidate, (link, body))) = contest.pick(aim, rng, both) else { return };
        let open = self.journal.begin(fault, Some(lease), Some(index), candidate.name.clone());
        let late = contest.times.attempt_timeout() * 3 / 4;
        link.proxy.delay_replies(late);
        contest.wait_renewal();
        if fault == Fault::Doze {
            body.sidecar.sigstop();
            link.proxy.silence_requests();
            // What it knew of before holds until it wakes.
            thread::sleep((contest.times.renew_deadline() - contest.times.renew_interval()) * 4 / 5);
            body.sidecar.sigcont();
        } else {
            link.proxy.silence_requests_with_late_replies(late);
        }
        thread::sleep(contest.times.duration() * 6 / 5);
        link.proxy.heal();
        self.journal.end(open);
    }

    // --- Processes ---

    fn strike_process(&self, lease: usize, fault: Fault, aim: Aim, rng: &mut Rng) {
        let contest = &self.contests[lease];
        let suits = |candidate: &Candidate| match fault {
            Fault::Freeze => true,
            Fault::Kill | Fault::KillAndForget | Fault::ReplacePod => candidate.kind.mortal,
            Fault::Terminate => candidate.kind.mortal && candidate.kind.on_sigterm == "auto",
            Fault::TerminateAfterApp => candidate.kind.mortal && candidate.kind.on_sigterm == "release",
            Fault::TerminateBeforeApp => candidate.kind.mortal && candidate.kind.on_sigterm == "wait-for-app",
            Fault::KillLockingApp => candidate.kind.evidence == Evidence::Lock,
            Fault::KillSessionApp => candidate.kind.evidence == Evidence::Session,
            _ => candidate.kind.evidence == Evidence::None,
        };
        let take = |candidate| Candidate::try_body(candidate).filter(|_| suits(candidate));
        let Some((index, candidate, mut body)) = contest.pick(aim, rng, take) else { return };
        let open = self.journal.begin(fault, Some(lease), Some(index), candidate.name.clone());
        let body = &mut *body;
        match fault {
            Fault::Freeze => {
                body.sidecar.sigstop();
                thread::sleep(aim.lasts(rng, contest.times.duration()));
                body.sidecar.sigcont();
            }
            Fault::KillLockingApp | Fault::KillSessionApp => {
                candidate.end_app(body, &contest.recorder);
                thread::sleep(rng.millis(0, 3000));
                candidate.begin_app(body, &contest.recorder);
            }
            Fault::KillSilentApp => candidate.replace_silent_app(),
            _ => self.end_and_restart(contest, candidate, body, fault, rng),
        }
        self.journal.end(open);
    }

    fn end_and_restart(&self, contest: &Contest, candidate: &Candidate, body: &mut Body, fault: Fault, rng: &mut Rng) {
        match fault {
            Fault::Kill => body.sidecar.kill9(),
            Fault::KillAndForget => {
                body.sidecar.kill9();
                body.forget(false).expect("its folder can be emptied");
            }
            Fault::ReplacePod => {
                candidate.end_app(body, &contest.recorder);
                body.sidecar.kill9();
                body.forget(true).expect("its folders can be emptied");
            }
            _ => {
                let app_after = rng.millis(0, 4000);
                if let Err(wrong) = candidate.terminate(body, &contest.recorder, app_after) {
                    self.wrong(wrong);
                }
            }
        }
        thread::sleep(rng.millis(0, 2500));
        match fault {
            Fault::ReplacePod => {
                let uid = format!("uid-{:016x}", rng.next());
                body.sidecar.restart_with_env("POD_UID", Some(&uid));
            }
            _ => body.sidecar.restart(),
        }
        if !candidate.has_app() {
            candidate.begin_app(body, &contest.recorder);
        }
    }

    // --- The control plane ---

    pub fn strike_control(&self, fault: Fault, rng: &mut Rng) {
        let control_plane = self.control_plane;
        let (server, length) = (rng.between(0, 1) as usize, rng.millis(300, 6000));
        let what = match fault {
            Fault::StopServer | Fault::KillServer | Fault::CompactUnseen => format!("API server {server}"),
            _ => "control plane".into(),
        };
        let open = self.journal.begin(fault, None, None, what);
        match fault {
            Fault::StopServer => {
                control_plane.stop_server(server);
                thread::sleep(length);
                control_plane.cont_server(server);
            }
            Fault::KillServer => {
                control_plane.kill_server(server);
                if rng.percent(50) {
                    self.leave(server);
                }
                thread::sleep(length / 3);
                control_plane.start_server(server);
            }
            Fault::StopBoth => {
                (0..2).for_each(|server| control_plane.stop_server(server));
                thread::sleep(length);
                (0..2).for_each(|server| control_plane.cont_server(server));
            }
            Fault::KillBoth => {
                (0..2).for_each(|server| control_plane.kill_server(server));
                thread::sleep(length / 3);
                (0..2).for_each(|server| control_plane.start_server(server));
            }
            Fault::StopEtcd => {
                control_plane.stop_etcd();
                thread::sleep(length);
                control_plane.cont_etcd();
            }
            Fault::KillEtcd => {
                control_plane.kill_etcd();
                thread::sleep(length / 3);
                control_plane.restart_etcd();
            }
            Fault::CompactUnseen => {
                control_plane.stop_server(server);
                thread::sleep(length);
                self.compact();
                control_plane.cont_server(server);
            }
            _ => self.compact(),
        }
        self.journal.end(open);
    }

    fn compact(&self) {
        if let Err(error) = self.control_plane.compact_etcd() {
            self.wrong(format!("etcd was not compacted: {error}"));
        }
    }

    /// As a load balancer does: new connections go to the server that lives.
    fn leave(&self, server: usize) {
        for candidate in self.contests.iter().flat_map(|contest| &contest.candidates) {
            if let Some(mut link) = candidate.try_link().filter(|link| link.server == server) {
                self.switch(&mut link, false);
            }
        }
    }

    // --- Edits ---

    /// An edit that may come at any time.
    fn edit(&self, lease: usize, fault: Fault, rng: &mut Rng) {
        let contest = &self.contests[lease];
        let number = rng.next().to_string();
        let (first, named) = (rng.next() as usize, rng.percent(50));
        let another = |leader: usize| {
            let others = contest.candidates.len() - 1;
            contest.candidates[(leader + 1 + first % others) % contest.candidates.len()].name.clone()
        };
        let done = match fault {
            Fault::Label => contest.edit(&json!({"metadata": {"labels": {"chaos": number}}})),
            Fault::Annotate => contest.edit(&json!({"metadata": {"annotations": {"chaos": number}}})),
            _ => contest.leader().is_some_and(|(leader, token)| match fault {
                Fault::StepDown => step_down(&contest.candidates[leader], &json!({})),
                Fault::StepDownTo => step_down(&contest.candidates[leader], &json!({"to": another(leader)})),
                _ => {
                    let to = if named { format!("/{}", another(leader)) } else { String::new() };
                    let request = json!({"leasehold.dev/step-down": format!("{token}{to}")});
                    contest.edit(&json!({"metadata": {"annotations": request}}))
                }
            }),
        };
        if done {
            self.journal.note(fault, Some(lease), None, format!("lease {}", contest.name));
        }
        thread::sleep(Duration::from_secs(1));
    }

    /// An edit that A3 allows while the holder is connected and runs: it comes when nothing else does. The leader's
    /// term is over then, and another begins.
    pub fn operate(&self, lease: usize, fault: Fault) {
        let contest = &self.contests[lease];
        let Some((leader, token)) = contest.leader() else { return };
        let holder = contest.lease().and_then(|lease| Some(lease["spec"]["holderIdentity"].as_str()?.to_owned()));
        let leads = format!("{}_", contest.candidates[leader].name);
        if !holder.is_some_and(|holder| holder.starts_with(&leads)) {
            return;
        }
        let longer = (contest.times.duration() + LENGTHENED_BY).as_secs();
        let open = self.journal.begin(fault, Some(lease), None, format!("lease {}", contest.name));
        let done = match fault {
            Fault::Delete => contest.delete(),
            Fault::Lengthen => contest.edit(&json!({"spec": {"leaseDurationSeconds": longer}})),
            Fault::GiveAway => contest.edit(&json!({"spec": {"holderIdentity": "somebody-else"}})),
            _ => contest.edit(&json!({"spec": {"holderIdentity": ""}})),
        };
        self.journal.end(open);
        if !done {
            return self.wrong(format!("lease {}: {} failed on a calm control plane", contest.name, fault.text()));
        }
        self.wait_leader(contest, token, fault.text());
    }
}

/// Cut and healed again and again.
fn flap(proxy: &Proxy, length: Duration, rng: &mut Rng) {
    let mut left = length;
    while !left.is_zero() {
        let (cut, whole) = (rng.millis(20, 800), rng.millis(20, 800));
        proxy.cut();
        thread::sleep(cut);
        proxy.heal();
        thread::sleep(whole);
        left = left.saturating_sub(cut + whole);
    }
}

/// Asks a leader's sidecar to let go; true when it said that it does.
fn step_down(leader: &Candidate, body: &serde_json::Value) -> bool {
    let Some(address) = leader.shared.listener("http") else { return false };
    let path = format!("/v1/leases/{}/stepdown?wait=500ms", crate::support::stage::LEASE);
    let http = Http::connect(address).and_then(|http| http.with_timeout(Duration::from_secs(2)));
    let answer = http.and_then(|mut http| http.post(&path, body));
    answer.is_ok_and(|answer| matches!(answer.status, 200 | 202))
}
