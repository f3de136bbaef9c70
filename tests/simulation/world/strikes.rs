//! What strikes a schedule at a planned time, and the client-go candidate.

use super::*;

/// `--on-sigterm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OnSigterm {
    Auto,
    Release,
    WaitForApp,
}

/// Requests that are heeded.
const ASKED: [Fault; 3] = [Fault::StepDownAsked, Fault::StepDownAskedForDead, Fault::StepDownAskedForNobody];
/// Who stepped down lets the others go first for so long.
const HOLD_OFF: Duration = Duration::from_secs(2);

impl World {
    pub(super) fn strike(&mut self, strike: Strike) {
        let at = self.at;
        let target = if strike.at_holder { self.holder_pod().unwrap_or(strike.whom) } else { strike.whom };
        self.trace.note(at, || format!("! {:?} at pod {target}, for {:?}", strike.fault, strike.lasts));
        if self.struck(strike, target) {
            // These are done later, and counted then: when the Lease is deleted, and when the other pod's directory is
            // dealt to a sidecar that starts.
            if !matches!(strike.fault, Fault::DeletedUnderABlindHolder | Fault::CrashedOtherPodsState) {
                self.count(strike.fault);
            }
        } else {
            self.trace.note(at, || "! (not possible now)".into());
        }
    }

    /// Whether the fault could be done now.
    fn struck(&mut self, strike: Strike, pod: usize) -> bool {
        let until = self.until(strike.lasts);
        let back = until.since(self.at);
        match strike.fault {
            Fault::CutOff => self.cut_off(pod, until, true, true),
            Fault::CutOffOneWay => {
                let up = self.rng.percent(50);
                self.cut_off(pod, until, up, !up)
            }
            Fault::ApiDown => {
                self.api_down = until;
                true
            }
            Fault::ApiRefuses => {
                self.api_refuses = until;
                true
            }
            Fault::WatchBroken => {
                let Some(process) = &self.pods[pod].process else { return false };
                let life = process.life;
                self.watch_breaks(pod, life);
                true
            }
            Fault::WatchExpired => {
                let Some(process) = &mut self.pods[pod].process else { return false };
                process.watch_alive = false;
                self.deliver(pod, Work::Relist);
                true
            }
            Fault::ServerLags => {
                self.pods[pod].lags = (self.rng.millis(10, 5000), until);
                true
            }
            Fault::Suspended => self.suspend(pod, until),
            Fault::RolledOut => {
                self.rolled_out = true;
                for pod in 0..self.pods.len() {
                    let later = self.rng.duration(Duration::ZERO, self.longest_duration * 2);
                    self.after(later, Event::Terminated { pod });
                }
                true
            }
            Fault::WatchSilent => {
                self.pods[pod].process.as_mut().is_some_and(|process| std::mem::take(&mut process.watch_alive))
            }
            Fault::Paused => {
                self.pause(pod, strike.lasts);
                self.pods[pod].process.is_some()
            }
            Fault::AppPaused => self.pause_app(pod, until),
            Fault::PodPaused => {
                if self.pods[pod].process.is_none() || !self.app_stands(pod, until) {
                    return false;
                }
                if let Some(exec) = &mut self.pods[pod].exec {
                    exec.stands_until = until;
                }
                self.pause(pod, strike.lasts);
                true
            }
            Fault::Crashed if self.plan.class == Class::Restarts => {
                let back = self.rng.millis(1, 100);
                self.crash(pod, back, StartState::Own)
            }
            Fault::Crashed => self.crash(pod, back / 4, StartState::Own),
            Fault::CrashedStateLost => self.crash(pod, back / 4, StartState::Lost),
            Fault::CrashedOtherPodsState => {
                self.plan.one_machine && self.crash(pod, back / 4, StartState::OtherPods)
            },
            Fault::CrashedAndTerminated => {
                let start = self.rng.millis(1, 50);
                let terminated = start + self.rng.millis(1, 25);
                self.after(terminated, Event::Terminated { pod });
                self.crash(pod, start, StartState::Own)
            }
            Fault::NodeKilled => self.kill_node(pod, back),
            Fault::AppDied => {
                let leads = self.leads(pod);
                if !self.pods[pod].app.alive {
                    return false;
                }
                let soon = if self.rng.percent(50) { self.rng.millis(0, 3) } else { back.min(strike.lasts) };
                self.app_dies(pod, Some(soon));
                let plan = &self.pods[pod].plan;
                // With exec beside it, the lock is still held.
                let by_lock = plan.has(Evidence::Lock) && plan.exec.is_none();
                let proved = by_lock || plan.has(Evidence::Session);
                if leads && soon > Duration::from_millis(600) && (proved || plan.has(Evidence::Probe)) {
                    self.expect_hand_over(pod, proved, true, None);
                }
                true
            }
            Fault::AppDiedAndDeleted => {
                if !self.leads(pod) || !self.pods[pod].app.alive {
                    return false;
                }
                let lasts = self.until(strike.lasts).since(self.at);
                self.app_dies(pod, Some(lasts));
                let soon = self.rng.millis(20, 800);
                self.after(soon, Event::DeletedByHand);
                true
            }
            Fault::DeletedUnderABlindHolder => self.blind_the_holder(),
            Fault::DiskFull => {
                self.pods[pod].disk_full = until;
                true
            }
            Fault::WorkerDied => self.strike_worker(pod, |world, worker| {
                let plan = world.pods[pod].app.worker(worker).map(|worker| worker.plan);
                if world.pods[pod].app.workers.len() < 2 {
                    return false;
                }
                let led = matches!(world.checks.in_force(world.at, pod), Some((Holder::Worker { id, .. }, _)) if id == worker);
                world.worker_dies(pod, worker);
                if led && plan == Some(WorkerPlan::Exclusive) {
                    world.expect_hand_over(pod, false, true, None);
                }
                true
            }),
            Fault::WorkerReconnected => self.strike_worker(pod, |world, worker| {
                // Where a session is evidence, who closes it declares that it has stopped.
                let allowed = !world.pods[pod].plan.has(Evidence::Session) && !world.pods[pod].app.stands(world.at);
                if allowed {
                    world.deliver(pod, Work::CloseSession { worker, by_peer: true });
                }
                allowed
            }),
            Fault::SessionClosed => self.strike_worker(pod, |world, worker| {
                world.deliver(pod, Work::CloseSession { worker, by_peer: false });
                true
            }),
            Fault::ExecKilled => {
                let alive = self.pods[pod].exec.as_ref().is_some_and(|exec| exec.alive);
                if alive {
                    self.exec_ends_within(pod, Duration::ZERO);
                }
                alive
            }
            Fault::AppUnwell => self.app_unwell(pod, until),
            Fault::Terminated => self.terminate(pod, OnSigterm::Auto, strike.lasts),
            Fault::TerminatedAppFirst => self.terminate(pod, OnSigterm::Release, strike.lasts),
            Fault::TerminatedWaiting => self.terminate(pod, OnSigterm::WaitForApp, strike.lasts),
            Fault::SteppedDown => self.told_to_step_down(pod, None),
            Fault::SteppedDownTo | Fault::SteppedDownToDead | Fault::SteppedDownToNobody => {
                if !self.leads(pod) {
                    return false;
                }
                let Some(to) = self.successor(strike, pod) else { return false };
                self.told_to_step_down(pod, Some(to))
            }
            Fault::StepDownAsked if self.rng.percent(30) => self.asked_to_step_down(pod, strike.fault, None),
            Fault::StepDownAsked | Fault::StepDownAskedForDead | Fault::StepDownAskedForNobody => {
                if !self.leads(pod) {
                    return false;
                }
                let Some(to) = self.successor(strike, pod) else { return false };
                self.asked_to_step_down(pod, strike.fault, Some(&to))
            }
            Fault::StepDownAskedOfAnotherTerm => {
                let other = self.rng.pick(&[-1, 1, -1000]);
                self.annotate(pod, strike.fault, |token, _| format!("{}/pod-99", token.saturating_add_signed(other)))
            }
            Fault::StepDownAskedForItself => self.annotate(pod, strike.fault, |token, pod| format!("{token}/pod-{pod}")),
            Fault::StepDownGarbled => {
                let which = self.rng.between(0, 4) as usize;
                self.annotate(pod, strike.fault, |token, _| {
                    [format!("{token}/"), format!(" {token}"), "-1".into(), "yes".into(), String::new()][which].clone()
                })
            }
            Fault::WallClockJumped => {
                self.pods[pod].clock.wall = some_wall(&mut self.rng);
                true
            }
            Fault::ForeignCutOff | Fault::ForeignPaused | Fault::ForeignKilled => {
                self.strike_foreign(strike.fault, until)
            }
            Fault::CutOffAndCut | Fault::CutOffAndBlanked | Fault::CutOffAndDeleted => self.begin_cut(strike, pod),
            hand => self.hand(hand, until),
        }
    }

    fn holder_pod(&self) -> Option<usize> {
        let holder = self.api.object.as_ref()?.record.holder()?;
        self.pods.iter().position(|pod| pod.process.as_ref().is_some_and(|process| process.identity == holder))
    }

    fn leads(&self, pod: usize) -> bool {
        self.checks.leads_now(self.at, pod).is_some()
    }

    fn strike_worker(&mut self, pod: usize, strike: impl FnOnce(&mut World, u32) -> bool) -> bool {
        // Who was told to lead, if it is one of several.
        let told = match self.checks.in_force(self.at, pod) {
            Some((Holder::Worker { id, .. }, _)) if self.rng.percent(70) => Some(id),
            _ => None,
        };
        let Some(process) = &self.pods[pod].process else { return false };
        let open: Vec<u32> = process.open.keys().copied().collect();
        let Some(any) = (!open.is_empty()).then(|| self.rng.pick(&open)) else { return false };
        strike(self, told.filter(|told| open.contains(told)).unwrap_or(any))
    }

    fn exec_ends_within(&mut self, pod: usize, longest: Duration) {
        let after = self.rng.duration(Duration::ZERO, longest);
        self.after(after, Event::ExecDies { pod });
    }

    // ---- Stepping down ----

    /// Who is named: whose sidecar runs, whose does not right then, or no pod.
    fn successor(&mut self, strike: Strike, pod: usize) -> Option<String> {
        let dead = match strike.fault {
            Fault::SteppedDownToNobody | Fault::StepDownAskedForNobody => return Some("pod-99".into()),
            fault => matches!(fault, Fault::SteppedDownToDead | Fault::StepDownAskedForDead),
        };
        let others = self.pods.iter().filter(|other| other.index != pod && (dead || other.process.is_some()));
        let others: Vec<usize> = others.map(|other| other.index).collect();
        let other = (!others.is_empty()).then(|| self.rng.pick(&others))?;
        if dead {
            // It stays away at least until the release.
            let released = self.pods[pod].config.answer_ttl + Duration::from_secs(1);
            let back = self.until(released.max(strike.lasts / 4)).since(self.at);
            self.crash(other, back, StartState::Own);
        }
        Some(format!("pod-{other}"))
    }

    fn asked_to_step_down(&mut self, pod: usize, fault: Fault, to: Option<&str>) -> bool {
        let asked = self.annotate(pod, fault, |token, _| match to {
            Some(to) => format!("{token}/{to}"),
            None => token.to_string(),
        });
        if asked {
            self.expect_step_down(pod, to);
        }
        asked
    }

    fn told_to_step_down(&mut self, pod: usize, to: Option<String>) -> bool {
        if self.pods[pod].process.is_none() {
            return false;
        }
        self.expect_step_down(pod, to.as_deref());
        self.deliver(pod, Work::StepDown { to });
        true
    }

    fn expect_step_down(&mut self, pod: usize, to: Option<&str>) {
        if !self.leads(pod) {
            return;
        }
        let named = self.pods.iter().position(|pod| to == Some(&*format!("pod-{}", pod.index)));
        let named = named.filter(|named| {
            self.pods[*named].process.as_ref().is_some_and(|process| {
                process.presence.gone().is_none() && process.shutting_down.is_none() && process.watch_alive
            })
        });
        let (this, within) = (&self.pods[pod], self.hand_over_within(pod, false));
        let eligible = |process: &Process| process.presence.gone().is_none() && process.shutting_down.is_none();
        let token = this.process.as_ref().filter(|process| eligible(process)).map(|process| process.token);
        if self.somebody_else_can(pod) {
            self.expect_hand_over(pod, false, false, named);
        } else if self.plan.class == Class::HandOver && this.app.alive && token.is_some() {
            // Its successor is dead, and nobody else is there: it leads again, or who comes back meanwhile, which tells
            // an exclusive session nothing for an answer TTL.
            let hold_off = HOLD_OFF.min(this.config.lease_duration);
            let restarted = this.config.answer_ttl + Duration::from_millis(50);
            self.expect("L2", pod, token, within + hold_off + hold_off / 500 + restarted);
        }
    }

    /// By `kubectl annotate`, of the term that the Lease names.
    fn annotate(&mut self, pod: usize, fault: Fault, text: impl FnOnce(u64, usize) -> String) -> bool {
        let Some(record) = self.api.object.as_ref().map(|object| &object.record) else { return false };
        let (Some(_), Some(token)) = (record.holder(), record.token.value()) else { return false };
        let text = text(token, pod);
        let step_down = StepDown::parse(&text);
        let leads = |process: &Process| process.board.leading().is_some_and(|leading| leading.token == token);
        let life = self.pods[pod].process.as_ref().filter(|process| leads(process)).map(|process| process.life);
        if !self.edit(&format!("step-down {text:?}"), |record| record.step_down = step_down) {
            return false;
        }
        if let Some(life) = life
            && !ASKED.contains(&fault)
            && self.plan.class == Class::HandOver
        {
            self.after(Duration::from_secs(1), Event::MustStillLead { pod, life, token, law: "step-down" });
        }
        true
    }

    /// An app that stands still shows that it lives by a lock or a session, not to a probe, and not by asking.
    fn pause_app(&mut self, pod: usize, until: Time) -> bool {
        let leads = self.checks.leads_now(self.at, pod);
        if !self.app_stands(pod, until) {
            return false;
        }
        let lasts = until.since(self.at);
        let (plan, config) = (&self.pods[pod].plan, &self.pods[pod].config);
        let (probed, asks) = (plan.has(Evidence::Probe), plan.has(Evidence::Asking));
        let (timeout, duration) = (config.answer_ttl * beside::APP_TIMEOUT, config.lease_duration);
        let noticed = if probed { Duration::ZERO } else { timeout + timeout / 500 };
        let (Some(token), Some(life)) = (leads, self.pods[pod].process.as_ref().map(|process| process.life)) else {
            return true;
        };
        if probed || asks {
            // Another fault may come a little later than that.
            if lasts > noticed + Duration::from_millis(600) && noticed < duration {
                self.expect_hand_over_after(noticed, pod, false, true, None);
            }
        } else if self.plan.class == Class::HandOver {
            let later = lasts.min(duration);
            self.after(later, Event::MustStillLead { pod, life, token, law: "app stands" });
        }
        true
    }

    fn expect_hand_over(&mut self, pod: usize, proved: bool, may_return: bool, named: Option<usize>) {
        self.expect_hand_over_after(Duration::ZERO, pod, proved, may_return, named);
    }

    /// L2: in two writes, a watch's delivery and the jitter, after the promise where nothing is proved; and after what
    /// it takes to notice.
    fn expect_hand_over_after(
        &mut self,
        noticed: Duration,
        pod: usize,
        proved: bool,
        may_return: bool,
        named: Option<usize>,
    ) {
        if self.plan.class != Class::HandOver {
            return;
        }
        if self.somebody_else_can(pod) {
            let returns = self.pods[pod].process.as_ref().filter(|_| may_return).map(|process| process.token);
            self.expect("L2", pod, returns, noticed + self.hand_over_within(pod, proved));
            self.expected.iter_mut().for_each(|expected| expected.named = named);
        }
    }

    /// Another pod is there to take the Lease.
    fn somebody_else_can(&self, pod: usize) -> bool {
        self.pods.iter().any(|other| {
            other.index != pod
                && other.process.as_ref().is_some_and(|p| p.presence.gone().is_none() && p.shutting_down.is_none())
                && other.app.alive
        })
    }

    fn hand_over_within(&self, pod: usize, proved: bool) -> Duration {
        let config = &self.pods[pod].config;
        let plan = &self.pods[pod].plan;
        let notice = if proved || !plan.has(Evidence::Probe) { 30 } else { 500 };
        // Who enforces is waited for.
        let enforced = plan.exec.map_or(Duration::ZERO, |grace| grace + Duration::from_millis(150));
        let promise = if proved && plan.exec.is_none() { Duration::ZERO } else { config.answer_ttl };
        promise + enforced + Duration::from_millis(notice + 350)
    }

    fn cut_off(&mut self, pod: usize, until: Time, up: bool, down: bool) -> bool {
        let this = &mut self.pods[pod];
        if up {
            this.up_blocked = this.up_blocked.max(until);
        }
        if down {
            this.down_blocked = this.down_blocked.max(until);
        }
        true
    }

    /// A machine sleeps, and its boot clock does not count it: what it told is acted on after it woke (breaks A4).
    fn suspend(&mut self, pod: usize, until: Time) -> bool {
        let (at, slept) = (self.at, until.since(self.at));
        let machine: Vec<usize> = if self.plan.one_machine { (0..self.pods.len()).collect() } else { vec![pod] };
        let mut sleeps = false;
        for pod in machine {
            if self.pods[pod].clock.stand(at, until) {
                sleeps = true;
                self.checks.last_longer(at, pod, slept);
                self.pause(pod, slept);
            }
        }
        sleeps
    }

    fn crash(&mut self, pod: usize, back: Duration, state: StartState) -> bool {
        if self.pods[pod].process.is_none() {
            return false;
        }
        let ending = self.pods[pod].process.as_ref().is_some_and(|process| process.shutting_down.is_some());
        self.ends_process(pod, "crashed");
        if ending {
            self.replace_later(pod);
        } else {
            self.after(back, Event::Starts { pod, state });
        }
        true
    }

    fn kill_node(&mut self, pod: usize, back: Duration) -> bool {
        let for_good = matches!(self.plan.class, Class::Killed | Class::Restarts);
        if for_good && self.pods.iter().filter(|pod| !pod.dead).count() < 2 {
            return false;
        }
        let leads = self.leads(pod);
        if for_good
            && leads
            && let Some(object) = &self.api.object
        {
            // L1: after the last committed renewal and the taker's sight of it, by a clock that may be slow.
            let last = object.spec_since;
            let d = self.pods.iter().map(|pod| pod.config.lease_duration).max().unwrap_or_default();
            // Who takes over may just be restarting, and then has to find its app again, which has to ask.
            let restarts = match self.plan.class {
                Class::Restarts => Duration::from_millis(2500) + self.pods[pod].config.answer_ttl,
                _ => Duration::ZERO,
            };
            let after_renewal = d + d / 999 + Duration::from_millis(300 + 20 + 150) + restarts;
            let within = last.plus(after_renewal).since(self.at);
            self.expect("L1", pod, None, within);
            self.expected.iter_mut().for_each(|expected| expected.after_renewal = after_renewal);
        }
        self.process_is_gone(pod);
        self.pods[pod].dead = for_good;
        self.app_dies(pod, None);
        self.exec_dies(pod);
        if !for_good {
            self.starts_later(pod, back, true);
            self.after(back, Event::Starts { pod, state: StartState::Lost });
        }
        true
    }

    fn app_unwell(&mut self, pod: usize, until: Time) -> bool {
        let Some(process) = &self.pods[pod].process else { return false };
        let life = process.life;
        if !self.pods[pod].plan.has(Evidence::Probe) {
            return false;
        }
        self.pods[pod].unwell_until = until;
        self.deliver(pod, Work::LookAtProbe);
        self.queue_at(until, Event::Deliver { pod, life, work: Work::LookAtProbe });
        true
    }

    /// SIGTERM, and SIGKILL after the grace. The app gets its own SIGTERM at the same time, and takes its time.
    pub(super) fn terminate(&mut self, pod: usize, mode: OnSigterm, grace: Duration) -> bool {
        let (at, leads) = (self.at, self.leads(pod));
        let app_first = mode == OnSigterm::Release;
        let plan = self.pods[pod].plan.clone();
        if self.pods[pod].process.is_none() || mode == OnSigterm::WaitForApp && plan.evidence.is_empty() {
            return false;
        }
        if self.pods[pod].process.as_ref().is_some_and(|process| process.shutting_down.is_some()) {
            self.ends_process(pod, "a second signal");
            self.replace_later(pod);
            return true;
        }
        if app_first {
            self.app_dies(pod, None);
            self.exec_dies(pod);
            // Who ends a pod starts nothing in it again, also not what died before.
            self.pods[pod].emptied += 1;
            self.pods[pod].app.wants_start = false;
        } else if self.rng.percent(80) {
            let later = self.rng.millis(0, 3000);
            let run = self.pods[pod].app.run;
            self.after(later, Event::AppDies { pod, run });
            self.exec_ends_within(pod, later);
        }
        let ttl = self.pods[pod].config.answer_ttl;
        let enforced = plan.exec.unwrap_or_default();
        let grace = self.until(grace).since(at).max(ttl + Duration::from_secs(2) + enforced);
        let now = self.pods[pod].clock.boot(at);
        let end_by = now + grace - Duration::from_secs(1);
        let leave_at = match mode {
            OnSigterm::WaitForApp => (end_by - ttl - Duration::from_secs(1)).max(now),
            OnSigterm::Auto | OnSigterm::Release => now,
        };
        let (gone_by, leaves) = (self.pods[pod].clock.when(end_by), self.pods[pod].clock.when(leave_at));
        let alive = self.pods[pod].app.alive;
        let Some(process) = &mut self.pods[pod].process else { return false };
        let stopped = process.paused_until > at;
        process.shutting_down = Some(Ending { since: at, end_by, stopped });
        let (life, token) = (process.life, process.token);
        self.queue_at(gone_by.plus(Duration::from_millis(20)), Event::MustBeGone { pod, life });
        self.queue_at(gone_by.plus(Duration::from_secs(1)), Event::Killed { pod, life });
        if leads && self.plan.class == Class::HandOver {
            if mode != OnSigterm::WaitForApp {
                self.expect_hand_over(pod, app_first, false, None);
            } else if alive && leaves.since(at) > Duration::from_millis(1) {
                let just_before = Time(leaves.0 - 1_000_000);
                self.queue_at(just_before, Event::MustStillLead { pod, life, token, law: "wait-for-app" });
            }
        }
        self.take(pod, Input::Shutdown(Shutdown { app_ended: app_first, leave_at, end_by }));
        true
    }

    // ---- By hand ----

    /// The holder's watch breaks, and is begun anew after a renew interval at the earliest: it has to look by itself.
    fn blind_the_holder(&mut self) -> bool {
        let at = self.at;
        let Some(pod) = self.holder_pod() else { return false };
        let newcomer = (0..self.pods.len()).find(|other| *other != pod && self.pods[*other].process.is_some());
        let Some(newcomer) = newcomer else { return false };
        // Who trusts an unheld Lease trusts its absence too.
        if !self.leads(pod) || !self.pods[pod].hears(at) || self.plan.configs[0].trust_unheld {
            return false;
        }
        let Some(process) = &self.pods[pod].process else { return false };
        let (life, interval) = (process.life, self.pods[pod].config.renew_interval);
        self.watch_breaks_for(pod, life, interval);
        let later = self.rng.duration(Duration::from_millis(30), interval.saturating_sub(DELETION_NOTICE));
        self.after(later, Event::DeletedUnderABlindHolder { pod, newcomer });
        true
    }

    pub(super) fn delete_under_a_blind_holder(&mut self, pod: usize, newcomer: usize) {
        let at = self.at;
        let api_works = self.api_down <= at && self.api_refuses <= at;
        // `exec` hears by the file (A3); no disk fills up while it does, for whoever hears is spared.
        let hears = self.pods[pod].hears_by_reading(at) && self.pods[pod].disk_full <= at;
        if !api_works || self.holder_pod() != Some(pod) || !self.leads(pod) || !hears {
            return;
        }
        // Of a pod that comes just now.
        let comes = self.rng.millis(1, 20);
        if self.crash(newcomer, comes, StartState::Lost) && self.delete() {
            self.count(Fault::DeletedUnderABlindHolder);
            self.spared_until = at.plus(DELETION_NOTICE);
        }
    }

    /// A3: whoever the record names, and whoever leads, hears at once of what a person does to the Lease.
    fn all_hear(&self) -> bool {
        let named = self.holder_pod();
        self.pods.iter().all(|pod| {
            let concerned = Some(pod.index) == named || self.checks.in_force(self.at, pod.index).is_some();
            !concerned || pod.hears(self.at)
        })
    }

    /// One that has not seen the newest term takes its pod's old record for its own.
    fn all_have_seen_all(&self) -> bool {
        let (_, newest) = self.api.read();
        self.pods
            .iter()
            .all(|pod| pod.process.as_ref().is_some_and(|process| process.election.seen().version() == newest))
    }

    pub(super) fn edit(&mut self, what: &str, edit: impl FnOnce(&mut Record)) -> bool {
        let at = self.at;
        if !self.api.edit(at, edit) {
            return false;
        }
        self.edited(what);
        true
    }

    fn edited(&mut self, what: &str) {
        let at = self.at;
        let (record, version) = self.api.read();
        self.trace.note(at, || format!("API: {what} by hand: {}", brief(record.as_ref(), version)));
        // Before the news goes out, for a watch may just break with it.
        let hears = |pod: &usize| self.pods[*pod].hears(at) && (self.holder_before(*pod) || self.leads(*pod));
        let concerned: Vec<usize> = (0..self.pods.len()).filter(hears).collect();
        self.broadcast();
        self.unstoppable = true;
        for pod in concerned {
            // A watch skips nothing, however quick it is.
            let known = self.pods[pod].process.as_ref().map_or(0, |process| process.election.seen().version());
            let news: Vec<_> = self.api.history.iter().filter(|(version, _)| *version > known).cloned().collect();
            for (version, record) in news {
                let input = Input::Observed { record, version, via: Via::Event };
                self.take(pod, input);
            }
        }
        self.unstoppable = false;
    }

    /// The record before the newest named this pod's process.
    fn holder_before(&self, pod: usize) -> bool {
        let before = self.api.history.iter().rev().nth(1).and_then(|(_, record)| record.as_ref());
        let Some(process) = &self.pods[pod].process else { return false };
        before.is_some_and(|record| record.holder() == Some(&process.identity))
    }

    fn delete(&mut self) -> bool {
        let existed = self.api.delete(self.at);
        if existed {
            self.checks.foreign_lease_gone();
            self.edited("deletion");
        }
        existed
    }

    pub(super) fn hand(&mut self, fault: Fault, until: Time) -> bool {
        if fault == Fault::LabelStorm {
            self.queue_at(self.at, Event::Storm { until });
            return true;
        }
        if fault == Fault::RolledBack {
            return self.roll_back();
        }
        if !self.all_hear() {
            return false;
        }
        let seconds = self.longest_duration.as_secs() as i32;
        let (a, b) = (self.rng.between(0, 3), self.rng.next());
        match fault {
            Fault::HolderEdited => self.edit("holder", |record| record.spec.holder = Some("somebody".into())),
            Fault::HolderEditedToCandidate => {
                let Some(identity) = self.some_identity(b) else { return false };
                self.edit("holder", |record| record.spec.holder = Some(identity))
            }
            Fault::DurationEdited => self.edit("duration", |record| {
                record.spec.duration_seconds = [Some(1), None, Some(seconds * 2), Some(-5)][a as usize];
            }),
            Fault::TimesEdited => self.edit("times", |record| {
                record.spec.renew_time =
                    [None, Some(some_time(0)), Some(some_time(253_402_207_000_000_000)), record.spec.renew_time]
                        [a as usize];
                record.spec.acquire_time = None;
            }),
            Fault::TransitionsEdited => self.edit("transitions", |record| {
                record.spec.transitions = [i32::MAX, i32::MAX - 1, 0, record.spec.transitions / 2][a as usize];
            }),
            Fault::TokenRaised => self.edit("token", |record| {
                record.token = Token::Value(record.token.value().unwrap_or(0).max(record.version) + 1_000_000);
            }),
            Fault::TokenGarbled => {
                self.queue_at(until, Event::Undo(fault));
                self.edit("token", |record| record.token = Token::Unreadable)
            }
            Fault::Blanked => self.edit("empty holder", |record| record.spec.holder = None),
            Fault::Wiped => self.edit("no spec", |record| {
                record.spec = Spec::default();
                record.token = Token::Absent;
                record.released = None;
                record.step_down = None;
            }),
            Fault::Deleted => self.delete(),
            Fault::Recreated => {
                if !self.delete() {
                    return false;
                }
                let at = self.at;
                let holder = (a < 2).then(|| "somebody".to_owned());
                self.api.create(at, By::Hand, Spec { holder, duration_seconds: Some(seconds), ..Spec::default() });
                self.edited("re-creation");
                true
            }
            Fault::Coordinated => {
                self.queue_at(until, Event::Undo(fault));
                self.edit("strategy", |record| record.spec.strategy = Some("OldestEmulationVersion".into()))
            }
            Fault::PodOwned => {
                self.queue_at(until, Event::Undo(fault));
                self.edit("nais format", |record| {
                    record.pod_owned = true;
                    record.spec = Spec {
                        holder: Some("nais-pod".into()),
                        transitions: record.spec.transitions,
                        ..Spec::default()
                    };
                })
            }
            Fault::OldPutBack => {
                let (_, Some(old)) = self.rng_history() else { return false };
                if self.plan.class == Class::HeldPutBack && (old.spec.holder.is_none() || !self.all_have_seen_all()) {
                    return false;
                }
                self.edit("an older record", |record| {
                    record.spec = old.spec;
                    record.token = old.token;
                    record.released = old.released;
                })
            }
            _ => false,
        }
    }

    fn some_identity(&self, which: u64) -> Option<String> {
        let all: Vec<_> = self.pods.iter().filter_map(|pod| pod.process.as_ref()).map(|p| p.identity.clone()).collect();
        (!all.is_empty()).then(|| all[which as usize % all.len()].clone())
    }

    pub(super) fn undo(&mut self, fault: Fault) {
        match fault {
            Fault::Coordinated => {
                self.edit("no strategy", |record| record.spec.strategy = None);
            }
            Fault::TokenGarbled => {
                let highest = self.checks.highest_token();
                self.edit("readable token", |record| record.token = Token::Value(highest));
            }
            Fault::PodOwned if self.api.object.as_ref().is_some_and(|object| object.record.pod_owned) => {
                self.delete();
            }
            _ => {}
        }
    }

    fn roll_back(&mut self) -> bool {
        let (at, steps) = (self.at, self.rng.between(1, 12) as usize);
        if !self.api.roll_back(at, steps) {
            return false;
        }
        let (record, version) = self.api.read();
        self.trace.note(at, || format!("API: history rolled back to {}", brief(record.as_ref(), version)));
        self.note_duration();
        for pod in 0..self.pods.len() {
            if let Some(process) = &self.pods[pod].process {
                let life = process.life;
                self.watch_breaks(pod, life);
            }
        }
        true
    }

    // ---- A holder that is cut off, and whose Lease is edited all the same ----

    fn begin_cut(&mut self, strike: Strike, pod: usize) -> bool {
        if !self.leads(pod) {
            return false;
        }
        let until = self.until(strike.lasts.max(self.longest_duration));
        if self.rng.percent(50) {
            self.cut_off(pod, until, true, true);
        } else {
            self.pause(pod, until.since(self.at));
        }
        let later = self.rng.millis(0, 1500);
        self.after(later, Event::Cut { pod, fault: strike.fault });
        true
    }

    /// Breaks A3, in ways that still harm nobody: whoever saw the Lease held, or has the same duration, waits. Only
    /// the deletion harms, and only with a candidate that never saw the Lease or trusts: S1 is then excused.
    pub(super) fn cut(&mut self, pod: usize, fault: Fault) {
        let Some(record) = self.api.object.as_ref().map(|object| object.record.clone()) else { return };
        let Some(identity) = self.pods[pod].process.as_ref().map(|process| process.identity.clone()) else { return };
        if record.holder() != Some(&identity) {
            return;
        }
        let others_saw = self.plan.nobody_forgets
            && self.pods.iter().filter(|other| other.index != pod).all(|other| {
                other.process.as_ref().is_some_and(|process| {
                    process.watch_alive
                        && process.election.seen().record().is_some_and(|seen| seen.holder() == Some(&identity))
                })
            });
        let trusting = self.plan.configs[0].trust_unheld;
        match fault {
            Fault::CutOffAndDeleted => {
                // Who trusts an unheld Lease trusts its absence too.
                if !others_saw || trusting {
                    self.checks.excuse("S1");
                }
                self.delete();
            }
            _ if self.plan.class == Class::Durations && !others_saw => {}
            Fault::CutOffAndCut => {
                self.edit("duration of a holder that is cut off", |record| record.spec.duration_seconds = Some(1));
            }
            _ => {
                self.edit("empty holder of one that is cut off", |record| {
                    record.spec.holder = None;
                    record.spec.duration_seconds = Some(1);
                });
            }
        }
    }

    // ---- The client-go candidate ----

    fn strike_foreign(&mut self, fault: Fault, until: Time) -> bool {
        let Some(foreign) = &mut self.foreign else { return false };
        match fault {
            Fault::ForeignCutOff => foreign.cut_off_until = foreign.cut_off_until.max(until),
            Fault::ForeignPaused => foreign.stands_until = foreign.stands_until.max(until),
            _ => {
                foreign.killed(until);
                // The new one waits for no answer to the old one's request, which may still land.
                if foreign.awaited.take().is_some() {
                    self.queue_at(until, Event::ForeignTick);
                }
            }
        }
        true
    }

    pub(super) fn foreign_stands_until(&self) -> Option<Time> {
        self.foreign.as_ref().map(|foreign| foreign.stands_until)
    }

    pub(super) fn foreign_tick(&mut self) {
        let cancelled = self.faulty() && self.rng.percent(10);
        let Some(foreign) = &mut self.foreign else { return };
        let next = foreign.tick(self.at, cancelled);
        self.foreign_goes_on(next);
    }

    fn foreign_goes_on(&mut self, next: Next) {
        match next {
            Next::Wait(duration) => {
                let jitter = self.rng.duration(Duration::ZERO, duration / 5);
                self.after(duration + jitter, Event::ForeignTick);
            }
            Next::Send(ask) => {
                self.next_request += 1;
                let id = self.next_request;
                let Some(foreign) = &mut self.foreign else { return };
                foreign.awaited = Some(id);
                let (timeout, cut_off) = (foreign.duration, foreign.cut_off_until);
                self.after(timeout, Event::ForeignTimedOut { id, ask: Box::new(ask.clone()) });
                if let Some(arrives) = self.hop(cut_off, self.odds().request, Fault::RequestLost, Fault::RequestLate) {
                    self.queue_at(arrives, Event::ForeignArrives { id, ask: Box::new(ask) });
                }
            }
        }
    }

    pub(super) fn foreign_arrives(&mut self, id: u64, ask: Ask) {
        let at = self.at;
        let down = self.api_down > at || self.api_refuses > at;
        let told = match &ask {
            _ if down => Told::Failed,
            Ask::Get { .. } => Told::Got(self.api.read().0),
            Ask::Put { version, spec, .. } => {
                let base = self.api.object.clone();
                match self.api.put_foreign(at, *version, spec.clone()) {
                    Ok(record) => {
                        self.trace.note(at, || {
                            format!("API: client-go writes version {}, {:?}", record.version, record.spec)
                        });
                        self.foreign_wrote(base.as_ref(), &record);
                        self.broadcast();
                        Told::Written(record)
                    }
                    Err(_) => Told::Failed,
                }
            }
        };
        let cut_off = self.foreign.as_ref().map_or(Time::START, |foreign| foreign.cut_off_until);
        if let Some(arrives) = self.hop(cut_off, self.odds().answer, Fault::AnswerLost, Fault::AnswerLate) {
            self.queue_at(arrives, Event::ForeignAnswered { id, ask: Box::new(ask), told: Box::new(told) });
        }
    }

    fn foreign_wrote(&mut self, base: Option<&Object>, record: &Record) {
        let Some(duration) = record.duration().filter(|_| record.spec.holder.is_some()) else {
            // Its release may blank the valid lease of a successor, also when other faults are over.
            self.settled = self.settled.max(self.at.plus(self.room));
            self.ends = self.ends.max(self.settled.plus(self.room));
            return;
        };
        let takes = base.filter(|object| object.record.spec.holder != record.spec.holder);
        self.checks.foreign_wrote(self.at, duration, takes);
    }

    pub(super) fn foreign_answered(&mut self, id: u64, ask: &Ask, told: Told) {
        let at = self.at;
        let Some(foreign) = &mut self.foreign else { return };
        if foreign.awaited != Some(id) {
            return;
        }
        foreign.awaited = None;
        let next = foreign.told(at, ask, told);
        self.foreign_goes_on(next);
    }
}
