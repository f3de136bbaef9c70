//! A process: the real election, and what the sidecar around it does of what it says.

use super::*;

impl Happening<'_> {
    pub fn start(&mut self, pod: usize) {
        let now = self.boot(pod);
        let config = self.config(pod).clone();
        let (ttl, hold_time) = (config.answer_ttl, config.hold_time());
        let broken = self.setup.broken;
        let this = &mut *self.world.pods[pod];
        if std::mem::take(&mut this.replaced) {
            this.state = StateDirectory::default();
            this.app = App::Alive;
        }
        this.lives += 1;
        let identity = format!("pod-{pod}_{}", this.lives);
        let seen = this.state.seen.clone().filter(|_| broken != Some(BrokenRule::SeenForgotten));
        let mut election = Election::new(Config { identity: identity.clone(), ..config }, seen, SEED);
        if !this.state.identities.is_empty() {
            let promised_until =
                if broken == Some(BrokenRule::FormerPromiseForgotten) { Moment::BOOT } else { now + ttl };
            election = election.succeed(this.state.identities.clone(), promised_until);
        }
        #[cfg(debug_assertions)]
        if let Some(rule) = broken {
            election.break_rule(rule);
        }
        #[cfg(not(debug_assertions))]
        assert!(broken.is_none(), "a release build has no rules to break");
        let remembered = !this.state.identities.is_empty() && broken != Some(BrokenRule::FormerEnforcerForgotten);
        let enforced_until = Some(now + hold_time).filter(|_| this.works.is_some() && remembered);
        this.state.identities.push(identity.clone());
        this.process = Some(Process {
            life: this.lives,
            identity,
            election,
            promised_until: Moment::BOOT,
            wake_at: Moment::NEVER,
            paused: false,
            writing: None,
            reading: None,
            listing: None,
            relist_at: None,
            watch: Watch::Off,
            ended: 0,
            token: 0,
            committed: (0, Moment::BOOT),
            shutdown: None,
            release_conflicted: false,
            enforced_until,
            ticks: 0,
        });
        self.list(pod);
        if self.world.pods[pod].app != App::Alive {
            self.input(pod, Input::AppGone { proved: false, why: "not seen".into() });
        }
    }

    /// One call of the real code, what is told to it at once in answer, and the app's next question.
    pub fn input(&mut self, pod: usize, input: Input) {
        let mut next = Some(input);
        while let Some(input) = next.take() {
            next = self.handle(pod, input);
        }
        if self.setup.enforced && self.setup.broken != Some(BrokenRule::ForeignChangeIgnored) {
            self.heed_foreign_change(pod);
        }
        self.ask(pod);
    }

    pub(super) fn handle(&mut self, pod: usize, input: Input) -> Option<Input> {
        let now = self.clock(pod).now(self.world.at);
        let by_request = matches!(input, Input::StepDown { .. });
        let process = self.process(pod)?;
        let before = process.election.status().leading;
        if let Some(leading) = before.filter(|leading| now.boot >= leading.valid_until) {
            process.ended = process.ended.max(leading.token);
        }
        let outputs = process.election.handle(now, input);
        #[cfg(debug_assertions)]
        process.election.reseed(SEED);
        let holder = process.election.seen().record().and_then(Record::holder);
        if process.election.status().leading.is_some() && holder != Some(&process.identity) {
            let holder = holder.map(str::to_owned);
            self.fail("holder rule 6", || format!("pod {pod} leads on, having seen that {holder:?} holds the Lease"));
        }
        let mut next = None;
        for output in outputs {
            match output {
                Output::Remember(seen) => self.world.pods[pod].state.seen = Some(*seen),
                Output::Publish(status) => {
                    self.judge_status(pod, &status, before.map(|leading| leading.token), by_request);
                    self.note_enforcers(pod, before.filter(|_| status.leading.is_none()), status.leading.is_some());
                    next = self.withdrawn(pod, &status);
                }
                Output::Write(write) => self.write(pod, write, now.boot),
                Output::Read { timeout, .. } => {
                    if let Some(process) = self.process(pod) {
                        process.reading = Some(now.boot + timeout);
                    }
                    self.send(pod, What::Get { list: false });
                }
                Output::RestartWatch => self.list(pod),
                Output::WakeAt(moment) => {
                    if let Some(process) = self.process(pod) {
                        process.wake_at = moment;
                    }
                }
                Output::Done => {
                    self.end_process(pod);
                    self.world.pods[pod].replaced = true;
                    return None;
                }
            }
        }
        next
    }

    pub(super) fn withdrawn(&self, pod: usize, status: &Status) -> Option<Input> {
        let process = self.world.process(pod).filter(|_| status.leading.is_none())?;
        Some(Input::Withdrawn {
            version: status.version,
            promised_until: process.promised_until,
            enforced_until: process.enforced_until.unwrap_or(Moment::BOOT),
        })
    }

    /// As the sidecar looks for who may still work in a term that is over.
    pub(super) fn note_enforcers(&mut self, pod: usize, ended: Option<Leading>, leads: bool) {
        let works = self.world.pods[pod].works.is_some();
        let now = self.boot(pod);
        let Some(process) = self.process(pod) else { return };
        let until = ended.map(|leading| leading.stop_by).or(process.enforced_until);
        process.enforced_until = until.filter(|until| !leads && works && now < *until);
    }

    /// Holder rule 6: once it is told that the Lease is another's, what is worked on ends with the promise.
    pub(super) fn heed_foreign_change(&mut self, pod: usize) {
        let clock = self.clock(pod);
        let Some(process) = self.world.process(pod) else { return };
        let seen = process.election.seen();
        let ours = seen.record().and_then(Record::holder).is_some_and(|holder| pod_of(holder) == format!("pod-{pod}"));
        let until = clock.when(process.promised_until);
        if seen.is_known() && !ours && self.world.pods[pod].works.is_some_and(|works| until < works) {
            self.world.pods[pod].works = Some(until).filter(|until| *until > self.world.at);
        }
    }

    /// Who worked has ended, and the sidecar notices.
    pub fn work_ends(&mut self, pod: usize) {
        self.world.pods[pod].works = None;
        self.note_enforcers(pod, None, false);
        let status = self.world.process(pod).map(|process| process.election.status().clone());
        if let Some(input) = status.and_then(|status| self.withdrawn(pod, &status)) {
            self.input(pod, input);
        }
    }

    pub(super) fn judge_status(&mut self, pod: usize, status: &Status, led: Option<u64>, by_request: bool) {
        self.counts.told(status);
        let now = self.boot(pod);
        let Some(process) = self.process(pod) else { return };
        let token = status.leading.map(|leading| leading.token);
        if let Some(led) = led.filter(|led| token != Some(*led)) {
            process.ended = process.ended.max(led);
            let message = status.message.clone();
            let shutdown = process.shutdown;
            let asked = process.election.seen().record().and_then(Record::step_down).is_some_and(|request| {
                request.token == led && request.to.as_deref() != Some(pod_of(&process.identity))
            });
            if status.reason == Reason::SteppedDown && !by_request && !asked {
                self.fail("step-down", || format!("pod {pod} steps down from term {led}, and nobody asked it to"));
            }
            if status.reason == Reason::ShuttingDown
                && shutdown.is_some_and(|shutdown| !shutdown.app_ended && now < shutdown.leave_at)
            {
                self.fail("wait-for-app", || format!("pod {pod} ends term {led}, and its app lives"));
            }
            if self.setup.outlasts_brief_outages && self.world.outages <= 1 {
                self.fail("L3", || format!("pod {pod} ends term {led} for a brief outage: {message}"));
            }
        } else if let Some(token) = token.filter(|_| status.leading_at(now).is_some())
            && token <= process.ended
        {
            self.fail("S8", || format!("pod {pod} leads again in term {token}, which had ended"));
        }
    }

    pub(super) fn write(&mut self, pod: usize, write: Write, handed_out: Moment) {
        let Some(process) = self.process(pod) else { return };
        let judged = process.election.seen().record().map(|record| (&record.uid, record.version));
        let right = write.base.as_ref().map(|base| (&base.uid, base.version)) == judged;
        if let Kind::Acquire { token } = write.kind {
            process.token = token;
        }
        let token = process.token;
        process.writing = Some((write.attempt, handed_out + write.timeout));
        let leads = process.election.status().leading.is_some();
        if !right {
            let write = write.clone();
            self.fail("S5", || format!("pod {pod} writes on another version than the newest judged: {write:?}"));
        }
        if write.kind == Kind::Release {
            self.counts.releases.add();
            if self.process(pod).is_some_and(|process| process.release_conflicted) {
                self.counts.released_after_conflict.add();
            }
            let at = self.world.at;
            if leads || self.world.pods[pod].is_in_force(at) {
                self.fail("S7", || format!("pod {pod} releases, and what it promised is in force"));
            }
        }
        let sent = self.world.at;
        let former = self.is_formers_record(pod);
        self.send(pod, What::Put { write: Arc::new(write), token, handed_out, sent, former });
    }

    /// What this pod judged last is an earlier sidecar's of it, under the state directory that it found.
    pub(super) fn is_formers_record(&self, pod: usize) -> bool {
        let this = &self.world.pods[pod];
        this.process.as_ref().is_some_and(|process| {
            let holder = process.election.seen().record().and_then(Record::holder);
            let known = |holder: &str| this.state.identities.iter().any(|known| known == holder);
            holder.is_some_and(|holder| holder != process.identity && known(holder))
        })
    }

    pub fn tick(&mut self, pod: usize) {
        let now = self.boot(pod);
        if let Some(process) = self.process(pod) {
            process.ticks += 1;
            // A timer goes off once.
            process.wake_at = Moment::NEVER;
        }
        self.input(pod, Input::Tick);
        let busy = |process: &Process| process.ticks > MOST_TICKS && process.wake_at <= now;
        if self.world.process(pod).is_some_and(busy) {
            self.fail("busy", || format!("pod {pod} is called again and again at one instant"));
        }
    }

    pub fn end_process(&mut self, pod: usize) {
        self.world.pods[pod].process = None;
        for awaited in [Awaited::Write, Awaited::Read, Awaited::List] {
            self.forget(pod, awaited);
        }
    }

    /// What must be so when nothing is left to be done at this instant.
    pub fn judge_rest(&mut self) {
        for pod in 0..self.world.pods.len() {
            let now = self.boot(pod);
            let Some(process) = self.world.process(pod).filter(|process| !process.paused) else { continue };
            let Some(shutdown) = process.shutdown else { continue };
            if now >= shutdown.leave_at && process.election.status().leading.is_some() {
                self.fail("grace", || format!("pod {pod} leads on, and its process has to end soon"));
            } else if now >= shutdown.end_by {
                self.fail("in time", || format!("pod {pod} goes on, and its grace is over"));
            }
        }
    }
}
