//! Between the processes and the API server: requests, answers, and watches.

use super::*;

impl Happening<'_> {
    pub(super) fn send(&mut self, pod: usize, what: What) {
        let Some(process) = self.world.process(pod) else { return };
        let message = Message { pod, life: process.life, late: false, what };
        self.put_under_way(message);
    }

    pub(super) fn put_under_way(&mut self, message: Message) {
        let order = message.order();
        let place = self.world.under_way.partition_point(|other| other.order() <= order);
        self.world.under_way.insert(place, Hashed::new(message));
    }

    /// Nobody waits for it any more.
    pub(super) fn forget(&mut self, pod: usize, awaited: Awaited) {
        self.world.under_way.retain(|message| !message.is_for(pod, awaited));
        self.drop_hopeless();
    }

    /// Writes that can never be committed, and that nobody waits for: whether they arrive changes nothing.
    pub(super) fn drop_hopeless(&mut self) {
        let (object, pods, setup) = (&self.world.server.api.object, &self.world.pods, self.setup);
        self.world.under_way.retain(|message| {
            let What::Put { write, .. } = &message.what else { return true };
            let awaited = pods[message.pod]
                .process
                .as_ref()
                .is_some_and(|process| process.life == message.life && process.is_waiting_for(write.attempt));
            awaited
                || match (&write.base, object) {
                    (Some(base), Some(object)) => {
                        base.uid == object.record.uid && base.version == object.record.version
                    }
                    (Some(_), None) => setup.broken == Some(BrokenRule::UidNotSent),
                    (None, Some(_)) => setup.allows(Fault::Deleted),
                    (None, None) => true,
                }
        });
    }

    /// A request reaches the API server.
    pub fn serve(&mut self, index: usize) {
        let message = self.world.under_way.remove(index);
        let Message { pod, life, .. } = *message;
        match &message.what {
            What::Put { .. } => self.put(&message),
            What::Get { list } => {
                let Some(process) = self.world.process(pod).filter(|process| process.life == life) else { return };
                let sent_at = process.listing.filter(|_| *list).map_or(Moment::BOOT, |listing| listing.sent_at);
                if *list && let Some(process) = self.process(pod) {
                    // The watch goes on from the list's version.
                    process.watch = Watch::On { events: VecDeque::new(), silent: false };
                }
                let version = self.newest();
                self.send(pod, What::Got { list: *list, sent_at, version });
            }
            What::Wrote { .. } | What::Got { .. } => {}
        }
    }

    pub(super) fn newest(&self) -> Version {
        let (record, version) = self.world.server.api.read();
        (record.map(Arc::new), version)
    }

    pub(super) fn put(&mut self, message: &Message) {
        let What::Put { write, token, handed_out, sent, former } = &message.what else { return };
        let (pod, life, token, handed_out) = (message.pod, message.life, *token, *handed_out);
        let (at, before) = (self.world.at, self.newest());
        let base = self.world.server.api.object.clone();
        let mut write = Arc::clone(write);
        if self.setup.broken == Some(BrokenRule::UidNotSent) {
            self.world.server.api.fill_in_uid(Arc::make_mut(&mut write));
        }
        let outcome = match self.world.server.api.put(at, pod, &write) {
            Ok(record) => {
                if matches!(write.kind, Kind::Acquire { .. } | Kind::Renew)
                    && let Some(process) = self.process(pod).filter(|process| process.life == life)
                {
                    process.committed = match process.committed {
                        (known, newest) if known == token => (token, newest.max(handed_out)),
                        known => known.max((token, handed_out)),
                    };
                }
                match (write.kind, base) {
                    (Kind::Acquire { .. }, Some(base)) => self.judge_taking(pod, *sent, *former, &base, &record),
                    (Kind::Acquire { .. }, None) => {
                        self.fail("S3", || format!("pod {pod} took a Lease that was not there, and waited for nobody"));
                    }
                    _ => {}
                }
                self.changed(before);
                Outcome::Committed(Box::new(record))
            }
            Err(_) => {
                if let Some(process) = self.process(pod).filter(|process| process.life == life) {
                    process.release_conflicted = write.kind == Kind::Release;
                }
                Outcome::Conflict
            }
        };
        if self.world.process(pod).is_some_and(|process| process.life == life && process.is_waiting_for(write.attempt))
        {
            self.send(pod, What::Wrote { attempt: write.attempt, outcome });
        } else if matches!(outcome, Outcome::Committed(_)) {
            self.counts.landed_late.add();
        }
        self.drop_hopeless();
    }

    /// S3, S4, S9, and who goes first after a step-down.
    pub(super) fn judge_taking(
        &mut self,
        pod: usize,
        sent: Time,
        former: bool,
        base: &crate::api::Object,
        now: &Record,
    ) {
        let config = self.config(pod);
        let taking = Taking {
            at: self.world.at,
            sent,
            pod,
            base,
            now,
            own_duration: config.lease_duration,
            created_wait: config.answer_ttl + DELETION_NOTICE,
            former,
            trusting: config.trust_unheld,
            on_one_machine: false,
        };
        match taking.right() {
            Some(right) => self.counts.taken(right),
            None => self.fail("S3", || format!("pod {pod} took {:?}, to which it had no right", base.record)),
        }
        let token = now.token.value().unwrap_or(0);
        let floor = self.world.highest_token.max(base.record.token.value().unwrap_or(0));
        if token <= floor {
            self.fail("S4", || format!("pod {pod}'s token {token} is not above {floor}"));
        }
        self.world.highest_token = self.world.highest_token.max(token);
        if now.spec.transitions != base.record.spec.transitions + 1 {
            self.fail("S9", || format!("pod {pod} took {:?} and made {:?} of it", base.record.spec, now.spec));
        }
        if let Some((from, to)) = self.world.stepped_down.take()
            && self.world.faults == 1
        {
            match to {
                Some(to) if to != pod => self.fail("L2 named", || format!("pod {to} was named, and pod {pod} leads")),
                None if from == pod => self.fail("L2", || format!("pod {pod} stepped down, and takes the Lease again")),
                _ => {}
            }
        }
    }

    /// The Lease is another than `before`: every watch hears of it.
    pub(super) fn changed(&mut self, before: Version) {
        let newest = self.newest();
        self.world.server.api.forget_history();
        self.world.server.previous = self.setup.allows(Fault::WatchReplays).then_some(before);
        for pod in 0..self.world.pods.len() {
            let on = |process: &Process| matches!(process.watch, Watch::On { .. });
            if self.world.process(pod).is_some_and(on)
                && let Some(process) = self.process(pod)
                && let Watch::On { events, .. } = &mut process.watch
            {
                events.push_back(newest.clone());
            }
        }
    }

    /// The API server refuses a write, for now.
    pub fn refuse(&mut self, index: usize) {
        let message = self.world.under_way.remove(index);
        if let What::Put { write, .. } = &message.what
            && self.world.process(message.pod).is_some_and(|process| process.is_waiting_for(write.attempt))
        {
            let retry_after = Some(Duration::from_secs(30));
            let outcome = Outcome::Refused { advice: "too many requests".into(), retry_after };
            self.send(message.pod, What::Wrote { attempt: write.attempt, outcome });
        }
    }

    /// An answer reaches its process.
    pub fn deliver(&mut self, index: usize) {
        let message = self.world.under_way.remove(index);
        let pod = message.pod;
        let Some(process) = self.process(pod) else { return };
        match &message.what {
            What::Wrote { attempt, outcome } => {
                process.writing = None;
                if matches!(outcome, Outcome::Conflict) && process.election.status().leading.is_none() {
                    self.counts.conflicts.add();
                }
                self.input(pod, Input::Wrote { attempt: *attempt, outcome: outcome.clone() });
            }
            What::Got { list: false, version: (record, version), .. } => {
                process.reading = None;
                self.input(pod, Input::Read(Some((record.as_deref().cloned(), *version))));
            }
            What::Got { list: true, sent_at, version: (record, version) } => {
                process.listing = None;
                let via = Via::Read { sent_at: *sent_at };
                let record = record.as_deref().cloned();
                self.input(pod, Input::Observed { record, version: *version, via });
            }
            What::Put { .. } | What::Get { .. } => {}
        }
    }

    pub fn give_up(&mut self, pod: usize, awaited: Awaited) {
        let pause = self.config(pod).renew_interval;
        let now = self.boot(pod);
        let Some(process) = self.process(pod) else { return };
        let input = match awaited {
            Awaited::Write => {
                let Some((attempt, _)) = process.writing.take() else { return };
                Input::Wrote { attempt, outcome: Outcome::Unknown }
            }
            Awaited::Read => {
                process.reading = None;
                Input::Read(None)
            }
            Awaited::List => {
                process.listing = None;
                process.watch = Watch::Off;
                process.relist_at = Some(now + pause);
                Input::WatchFailed { advice: "the list was not answered".into() }
            }
        };
        self.forget(pod, awaited);
        self.input(pod, input);
    }

    // ---- Watches ----

    pub fn list(&mut self, pod: usize) {
        let sent_at = self.boot(pod);
        self.forget(pod, Awaited::List);
        let Some(process) = self.process(pod) else { return };
        process.relist_at = None;
        process.watch = Watch::Off;
        process.listing = Some(Listing { sent_at, until: sent_at + ATTEMPT_TIMEOUT });
        self.send(pod, What::Get { list: true });
    }

    pub fn watch_breaks(&mut self, pod: usize) {
        self.list(pod);
        self.input(pod, Input::WatchFailed { advice: "the watch broke".into() });
    }

    pub fn silence(&mut self, pod: usize) {
        if let Some(process) = self.process(pod)
            && let Watch::On { silent, .. } = &mut process.watch
        {
            *silent = true;
        }
    }

    /// It goes on where it was, or says nothing for good.
    pub fn watch_is_well(&mut self, pod: usize, well: bool) {
        if let Some(process) = self.process(pod)
            && let Watch::On { events, silent } = &mut process.watch
        {
            if well {
                *silent = false;
            } else {
                events.clear();
            }
        }
    }

    pub fn replay(&mut self, pod: usize) {
        let Some(previous) = self.world.server.previous.clone() else { return };
        if let Some(process) = self.process(pod)
            && let Watch::On { events, .. } = &mut process.watch
        {
            events.push_back(previous);
        }
    }

    pub fn event(&mut self, pod: usize) {
        if let Some(process) = self.process(pod)
            && let Watch::On { events, .. } = &mut process.watch
            && let Some((record, version)) = events.pop_front()
        {
            let record = record.as_deref().cloned();
            self.input(pod, Input::Observed { record, version, via: Via::Event });
        }
    }
}
