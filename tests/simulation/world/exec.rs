//! `leasehold exec` beside a sidecar: it holds the lease's lock, reads the file, and works until `stop_by`.

use super::*;

/// Between tries of a lock that the sidecar holds alone.
const TRY_EVERY: Duration = Duration::from_millis(5);
/// It looks at its file at least so often.
const NOTICED: Duration = Duration::from_millis(110);

impl World {
    pub(super) fn exec_starts(&mut self, pod: usize) {
        let this = &mut self.pods[pod];
        let Some(exec) = this.exec.as_mut().filter(|exec| !exec.alive && !this.dead) else { return };
        exec.alive = true;
        exec.run += 1;
        exec.state = ExecState::Waits;
        self.exec_later(pod, Duration::ZERO, ExecEvent::Looks);
    }

    /// With all that it started: the kernel lets its locks go.
    pub(super) fn exec_dies(&mut self, pod: usize) {
        let at = self.at;
        let Some(exec) = self.pods[pod].exec.as_mut().filter(|exec| exec.alive) else { return };
        exec.alive = false;
        exec.run += 1;
        exec.holds_alive = false;
        exec.stands_until = Time::START;
        exec.state = ExecState::Waits;
        self.trace.note(at, || format!("pod {pod}'s exec dies"));
        self.checks.holder_ended(pod, Holder::Enforcer);
        self.lock_let_go(pod);
    }

    fn exec_later(&mut self, pod: usize, after: Duration, what: ExecEvent) {
        if let Some(exec) = &self.pods[pod].exec {
            let run = exec.run;
            self.after(after, Event::Exec { pod, run, what });
        }
    }

    /// It looks again then at the latest.
    fn exec_due(&mut self, pod: usize, moment: Moment) {
        let this = &mut self.pods[pod];
        let Some(exec) = this.exec.as_mut().filter(|exec| exec.due.is_none_or(|due| moment < due)) else { return };
        exec.due = Some(moment);
        let when = this.clock.when(moment).max(self.at);
        self.exec_later(pod, when.since(self.at), ExecEvent::Due);
    }

    /// A file was written.
    pub(super) fn exec_hears(&mut self, pod: usize) {
        let leads = self.pods[pod].file.leads.is_some();
        let Some(exec) = self.pods[pod].exec.as_ref().filter(|exec| exec.alive) else { return };
        let what = match exec.state {
            ExecState::Waits if leads => ExecEvent::Looks,
            ExecState::Runs(_) => ExecEvent::Hears,
            _ => return,
        };
        let latest = if self.rng.percent(80) { 3 } else { 100 };
        let noticed = self.rng.millis(0, latest);
        self.exec_later(pod, noticed, what);
    }

    pub(super) fn exec(&mut self, pod: usize, what: ExecEvent) {
        let at = self.at;
        let this = &mut self.pods[pod];
        let (now, file, taken) = (this.clock.boot(at), this.file, this.lock_is_taken());
        let yes = file.leads.filter(|yes| now < yes.until);
        let (read_before, heeds_foreign) =
            (self.broken == Some(BrokenRule::ReadBeforeLock), self.broken != Some(BrokenRule::ForeignChangeIgnored));
        let Some(exec) = &mut this.exec else { return };
        let grace = exec.grace;
        match (what, exec.state) {
            (ExecEvent::Looks, ExecState::Waits) => {
                if !exec.holds_alive {
                    // An app lives before it asks.
                    if taken {
                        self.exec_later(pod, TRY_EVERY, ExecEvent::Looks);
                        return;
                    }
                    exec.holds_alive = true;
                    self.lock_taken(pod);
                }
                if let Some(yes) = yes {
                    self.exec_goes_on(pod, ExecState::Locked(yes));
                    let read = self.exec_dawdles();
                    self.exec_later(pod, read, ExecEvent::Reads);
                }
            }
            (ExecEvent::Reads, ExecState::Locked(_)) if yes.is_some() || read_before => {
                let begins = self.exec_dawdles();
                self.exec_later(pod, begins, ExecEvent::Begins);
            }
            (ExecEvent::Begins, ExecState::Locked(first)) => {
                match yes.or(read_before.then_some(first)).and_then(|yes| Run::new(yes, now, grace)) {
                    Some(run) => {
                        self.enforced += 1;
                        self.exec_goes_on(pod, ExecState::Runs(run));
                        self.exec_promised(pod, &run);
                        self.exec_due(pod, run.next(grace));
                    }
                    None => self.exec_lets_go(pod),
                }
            }
            (ExecEvent::Reads, ExecState::Locked(_)) => self.exec_lets_go(pod),
            (ExecEvent::Hears | ExecEvent::Due, ExecState::Runs(mut run)) => {
                let ended = run.ends();
                run.hear(now, &file, grace, heeds_foreign);
                exec.due = exec.due.filter(|_| what != ExecEvent::Due);
                exec.state = ExecState::Runs(run);
                self.exec_judged(pod, run, ended);
            }
            (ExecEvent::CmdEnds, ExecState::Runs(_)) => self.exec_lets_go(pod),
            _ => {}
        }
    }

    fn exec_judged(&mut self, pod: usize, run: Run, ended: bool) {
        let at = self.at;
        let this = &self.pods[pod];
        let now = this.clock.boot(at);
        let Some(grace) = this.exec.as_ref().map(|exec| exec.grace) else { return };
        let kill_at = run.kill_at(grace);
        if run.ends() && now >= kill_at {
            self.exec_lets_go(pod);
            return;
        }
        if !run.ends() {
            self.exec_promised(pod, &run);
        } else if !ended {
            let takes = self.rng.duration(Duration::ZERO, grace * 3 / 2);
            self.exec_later(pod, takes, ExecEvent::CmdEnds);
        }
        if run.ends() {
            let end = this_end(&self.pods[pod], kill_at, at);
            self.checks.holder_ends(pod, Holder::Enforcer, end);
        }
        self.exec_due(pod, run.next(grace));
    }

    /// Holder rule 6: nothing protects it after a foreign change, beyond what was promised.
    pub(super) fn exec_has_until(&mut self, pod: usize, promised_until: Moment) {
        let Some(exec) = self.pods[pod].exec.as_ref().filter(|exec| exec.alive) else { return };
        if let ExecState::Runs(Run { yes, .. }) = exec.state {
            let run = exec.run;
            let until = promised_until.max(yes.until);
            let when = self.pods[pod].clock.when(until).max(self.at).plus(NOTICED);
            self.queue_at(when, Event::ExecMustHaveEnded { pod, run, until });
        }
    }

    pub(super) fn exec_must_have_ended(&mut self, pod: usize, run: u32, until: Moment) {
        let (at, this) = (self.at, &self.pods[pod]);
        let Some(Exec { state: ExecState::Runs(Run { yes: Yes { token, .. }, .. }), .. }) = this.exec else { return };
        let runs = |exec: &Exec| exec.run == run && matches!(exec.state, ExecState::Runs(_));
        let stopped = this.process.as_ref().is_none_or(|process| process.paused_until > at)
            || this.exec.as_ref().is_some_and(|exec| exec.stands_until.plus(NOTICED) > at);
        if !this.exec.as_ref().is_some_and(runs) || stopped || this.file.stale || this.file.leads.is_some() {
            return;
        }
        // Its pod took the Lease again meanwhile: from then on the lock protects it.
        if this.process.as_ref().is_some_and(|process| process.token > token) {
            return;
        }
        // Its clock may have stood meanwhile.
        let heard = this.file.written.max(this.clock.when(until)).plus(NOTICED);
        if at < heard {
            self.queue_at(heard, Event::ExecMustHaveEnded { pod, run, until });
            return;
        }
        self.checks.fail("holder rule 6", at, || {
            format!("pod {pod}'s exec works on after a foreign change and the end of all promises")
        });
    }

    /// In force until all of it has ended, or `stop_by`.
    fn exec_promised(&mut self, pod: usize, run: &Run) {
        let end = self.pods[pod].clock.when(run.yes.stop_by);
        self.checks.promised(self.at, pod, Holder::Enforcer, "exec", run.yes.token, end);
    }

    fn exec_goes_on(&mut self, pod: usize, state: ExecState) {
        let at = self.at;
        if let Some(exec) = &mut self.pods[pod].exec {
            exec.state = state;
            exec.run += 1;
            exec.due = None;
            self.trace.note(at, || format!("pod {pod}'s exec: {state:?}"));
        }
    }

    /// Nothing of it is left, and the lock is free.
    fn exec_lets_go(&mut self, pod: usize) {
        self.exec_goes_on(pod, ExecState::Waits);
        self.checks.holder_ended(pod, Holder::Enforcer);
        let again = self.rng.millis(1, 100);
        self.exec_later(pod, again, ExecEvent::Looks);
    }

    /// Between two of its steps.
    fn exec_dawdles(&mut self) -> Duration {
        if self.rng.in_10_000(self.odds().exec_late) {
            self.count(Fault::ExecLate);
            self.rng.millis(1, 2000)
        } else {
            self.rng.duration(Duration::ZERO, Duration::from_millis(2))
        }
    }
}

fn this_end(pod: &Pod, kill_at: Moment, at: Time) -> Time {
    pod.clock.when(kill_at).max(at)
}
