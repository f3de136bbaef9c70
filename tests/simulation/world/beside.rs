//! The app beside a sidecar, and the sidecar's side of what shows that it lives: as `src/sidecar.rs` and `src/app` do
//! it, step by step. Sessions and the joining of evidence are the real code.

use super::*;
use leasehold::report::Promise;

/// The thread that watches the lock tries so soon after the file was opened, and so late where nothing told it.
const LOCK_TRIED: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(100)];
const ENFORCEMENT_RETRY: Duration = Duration::from_millis(10);
/// `--app-timeout`, in answer TTLs.
pub(super) const APP_TIMEOUT: u32 = 3;

impl World {
    // ---- The app ----

    pub(super) fn app_asks(&mut self, pod: usize) {
        let workers = self.pods[pod].app.workers.clone();
        for worker in workers {
            if worker.reads() {
                self.deliver(pod, Work::Answer { worker: worker.id });
            }
        }
        let ttl = self.pods[pod].config.answer_ttl;
        // Before what it was told runs out, by any clock.
        let again = self.rng.duration(ttl / 4, ttl * 99 / 100);
        self.after(again, Event::Ask { pod });
    }

    /// When a process that stands still does this.
    pub(super) fn stands_until(&self, event: &Event) -> Option<Time> {
        let stands_until = match *event {
            Event::Ask { pod } | Event::Connects { pod, .. } | Event::Disconnected { pod, .. } => {
                self.pods[pod].app.stands_until
            }
            // SIGTERM waits for a process that is stopped, as all else does but SIGKILL.
            Event::AppDies { pod, run } | Event::WorkerStarts { pod, run, .. } if self.pods[pod].app.run == run => {
                self.pods[pod].app.stands_until
            }
            Event::ForeignTick | Event::ForeignAnswered { .. } | Event::ForeignTimedOut { .. } => {
                self.foreign_stands_until()?
            }
            Event::Exec { pod, .. } => self.pods[pod].exec.as_ref()?.stands_until,
            _ => return None,
        };
        (stands_until > self.at).then_some(stands_until)
    }

    /// It stands still, and asks and reads nothing. What it was told before is in force for as long as it was, no longer.
    pub(super) fn app_stands(&mut self, pod: usize, until: Time) -> bool {
        let at = self.at;
        let app = &mut self.pods[pod].app;
        if !app.alive || until <= at.max(app.stands_until) {
            return false;
        }
        app.stands_until = until;
        let run = app.run;
        self.trace.note(at, || format!("pod {pod}'s app is stopped until {until}"));
        self.queue_at(until, Event::AppGoesOn { pod, run });
        let noticed = self.rng.millis(100, 500);
        self.look_later(pod, noticed, || Work::LookAtProbe);
        true
    }

    /// It looks at the time before it acts on what it was told; then it reads the file.
    pub(super) fn app_goes_on(&mut self, pod: usize) {
        let at = self.at;
        if !self.pods[pod].app.alive || self.pods[pod].app.stands(at) {
            return;
        }
        self.trace.note(at, || format!("pod {pod}'s app goes on"));
        self.read_file(pod);
        let noticed = self.rng.millis(100, 500);
        self.look_later(pod, noticed, || Work::LookAtProbe);
    }

    /// Each quarter of the answer TTL, while it leads.
    pub(super) fn refresh_later(&mut self, pod: usize) {
        let again = self.pods[pod].file_refresh();
        let Some(process) = &mut self.pods[pod].process else { return };
        let life = process.life;
        if !std::mem::replace(&mut process.refreshes, true) {
            self.after(again, Event::Refresh { pod, life });
        }
    }

    pub(super) fn refresh(&mut self, pod: usize, life: u32) {
        let Some(process) = self.process(pod, life) else { return };
        process.refreshes = false;
        if process.board.leading().is_some() {
            let open: Vec<_> = process.open.keys().copied().collect();
            self.deliver(pod, Work::RefreshFile);
            for worker in open {
                self.deliver(pod, Work::Stream { worker });
            }
            self.refresh_later(pod);
        }
    }

    /// S6: an answer is told to who asked for it.
    pub(super) fn tells(&mut self, pod: usize, worker: u32, identity: &str, promise: Promise, asked: Moment) {
        let mut until = promise.until;
        if self.broken == Some(BrokenRule::PromisePastDeadline) {
            until = asked + self.pods[pod].config.answer_ttl;
        }
        if until > promise.valid_until {
            self.checks.fail("S6", self.at, || {
                format!("pod {pod} promises until {until}, and its term ends at {}", promise.valid_until)
            });
        }
        self.judge_claim(pod, identity, promise.token, promise.valid_until);
        self.told_worker(pod, worker, identity, promise.token, until);
    }

    /// The worker holds a promise, unless it is dead, or has said that it stopped acting on that token.
    pub(super) fn told_worker(&mut self, pod: usize, worker: u32, identity: &str, token: u64, until: Moment) {
        let at = self.at;
        let this = &mut self.pods[pod];
        if this.app.stopped.is_some_and(|(stopped, promised)| stopped == token && until <= promised) {
            return;
        }
        let Some(holder) = this.app.worker(worker).map(Worker::holder) else { return };
        this.app.told = Some(token);
        let end = this.clock.when(until);
        if let Some(ending) = this.process.as_ref().and_then(|process| process.shutting_down)
            && until > ending.end_by
            && !ending.stopped
        {
            self.checks
                .fail("grace", at, || format!("pod {pod} promises until {until}, and ends by {}", ending.end_by));
        }
        self.checks.promised(at, pod, holder, identity, token, end);
    }

    /// Everybody reads the file who may. Also at the very moment of its writing, and of a reader's start.
    fn read_file(&mut self, pod: usize) {
        let this = &self.pods[pod];
        let Some(yes) = this.file.leads.filter(|_| !this.app.stands(self.at)) else { return };
        let identity = this.process.as_ref().map_or("file", |process| &process.identity).to_owned();
        let readers: Vec<_> = this.app.workers.iter().filter(|worker| worker.reads()).map(|worker| worker.id).collect();
        for worker in readers {
            self.told_worker(pod, worker, &identity, yes.token, yes.until);
        }
    }

    /// Some apps acknowledge a loss: those of one process.
    pub(super) fn app_hears_no(&mut self, pod: usize, life: u32, asked: u32) {
        let acknowledges = self.rng.percent(30) && !self.pods[pod].app.stands(self.at);
        let this = &mut self.pods[pod];
        let [worker] = this.app.workers[..] else { return };
        if !this.app.alive || !acknowledges || worker.id != asked {
            return;
        }
        if let Some(token) = this.app.told.take() {
            let promised = this.process.as_ref().map_or(Moment::BOOT, |process| process.board.promised_until());
            this.app.stopped = Some((token, promised));
            self.checks.holder_stopped(pod, worker.holder(), token);
            self.after(Duration::from_millis(1), Event::Deliver { pod, life, work: Work::AppStopped { token } });
        }
    }

    pub(super) fn app_dies(&mut self, pod: usize, back_after: Option<Duration>) {
        let at = self.at;
        if std::mem::replace(&mut self.pods[pod].app.alive, false) {
            self.trace.note(at, || format!("pod {pod}'s app dies"));
            for worker in std::mem::take(&mut self.pods[pod].app.workers) {
                self.worker_is_gone(pod, worker);
            }
            self.lock_let_go(pod);
            let noticed = self.rng.millis(100, 500);
            self.look_later(pod, noticed, || Work::LookAtProbe);
        }
        if let Some(after) = back_after {
            let emptied = self.pods[pod].emptied;
            self.after(after, Event::AppStarts { pod, emptied });
        }
    }

    pub(super) fn app_starts(&mut self, pod: usize) {
        let at = self.at;
        let this = &mut self.pods[pod];
        if this.app.alive || this.dead {
            return;
        }
        if this.plan.has(Evidence::Lock) && this.lock_is_taken() {
            this.app.wants_start = true;
            return;
        }
        this.app = App::started(&this.plan, this.app.run);
        self.trace.note(at, || format!("pod {pod}'s app starts"));
        // It reads the file before anything else, and that may still say yes.
        self.read_file(pod);
        self.lock_taken(pod);
        self.connect_workers(pod);
        let noticed = self.rng.millis(100, 500);
        self.look_later(pod, noticed, || Work::LookAtProbe);
    }

    pub(super) fn start_waiting_app(&mut self, pod: usize) {
        if self.pods[pod].app.wants_start {
            self.app_starts(pod);
        }
    }

    pub(super) fn worker_dies(&mut self, pod: usize, id: u32) {
        let at = self.at;
        let this = &mut self.pods[pod];
        let Some(i) = this.app.workers.iter().position(|worker| worker.id == id) else { return };
        let worker = this.app.workers.remove(i);
        let run = this.app.run;
        self.trace.note(at, || format!("pod {pod}'s worker {id} dies"));
        self.worker_is_gone(pod, worker);
        let soon = self.rng.millis(0, 50);
        self.after(soon, Event::WorkerStarts { pod, run, plan: worker.plan });
    }

    fn worker_is_gone(&mut self, pod: usize, worker: Worker) {
        self.checks.holder_ended(pod, worker.holder());
        if worker.plan != WorkerPlan::Asks {
            let noticed = self.rng.duration(Duration::ZERO, Duration::from_millis(5));
            self.look_later(pod, noticed, || Work::CloseSession { worker: worker.id, by_peer: true });
        }
    }

    pub(super) fn worker_starts(&mut self, pod: usize, plan: WorkerPlan) {
        let app = &mut self.pods[pod].app;
        if !app.alive {
            return;
        }
        let id = app.workers.iter().map(|worker| worker.id).max().unwrap_or(app.run * 1000) + 10;
        app.workers.push(Worker { id, plan, connected: plan == WorkerPlan::Asks });
        self.connect_workers(pod);
    }

    fn look_later(&mut self, pod: usize, after: Duration, work: impl FnOnce() -> Work) {
        if let Some(process) = &self.pods[pod].process {
            let life = process.life;
            self.after(after, Event::Deliver { pod, life, work: work() });
        }
    }

    // ---- Signs of life ----

    /// A new sidecar looks for everything.
    pub(super) fn watch_app(&mut self, pod: usize, life: u32) {
        let tried = self.rng.pick(&LOCK_TRIED);
        self.after(tried, Event::LockTried { pod, life });
        let probed = self.rng.millis(1, 500);
        self.look_later(pod, probed, || Work::LookAtProbe);
    }

    /// The thread and the sessions go with the process.
    pub(super) fn process_is_gone(&mut self, pod: usize) {
        let Some(process) = self.pods[pod].process.take() else { return };
        for worker in process.open.into_keys() {
            self.hears_of_close(pod, worker);
        }
        // What it had not read of them yet is gone as well.
        self.connect_workers(pod);
    }

    fn hears_of_close(&mut self, pod: usize, worker: u32) {
        let after = self.rng.duration(Duration::ZERO, Duration::from_millis(5));
        self.after(after, Event::Disconnected { pod, worker });
    }

    fn sign(&mut self, pod: usize, evidence: Evidence, alive: Result<(), leasehold::app::Gone>) {
        let Some(evidence) = self.pods[pod].number(evidence) else { return };
        let Some(process) = &mut self.pods[pod].process else { return };
        match process.presence.note(leasehold::app::Sign { evidence, alive }) {
            None => {}
            Some(Ok(())) => self.handle(pod, Input::AppAlive),
            Some(Err(gone)) => self.handle(pod, Input::AppGone { proved: gone.proved, why: gone.why }),
        }
    }

    pub(super) fn look_at_probe(&mut self, pod: usize) {
        let well = self.pods[pod].is_well(self.at);
        let Some(process) = &mut self.pods[pod].process else { return };
        if process.probed.replace(well) == Some(well) {
            return;
        }
        self.sign(pod, Evidence::Probe, if well { Ok(()) } else { Err(gone("it fails", false)) });
    }

    /// A question came.
    pub(super) fn asked(&mut self, pod: usize) {
        if !self.pods[pod].plan.has(Evidence::Asking) {
            return;
        }
        let timeout = self.pods[pod].config.answer_ttl * APP_TIMEOUT;
        let Some(process) = &mut self.pods[pod].process else { return };
        if !std::mem::replace(&mut process.asks, true) {
            self.sign(pod, Evidence::Asking, Ok(()));
            self.look_later(pod, timeout, || Work::LookAtAsking);
        }
    }

    pub(super) fn look_at_asking(&mut self, pod: usize) {
        let this = &mut self.pods[pod];
        let (now, timeout) = (this.clock.boot(self.at), this.config.answer_ttl * APP_TIMEOUT);
        let Some(process) = &mut this.process else { return };
        let silent = now.since(process.asked);
        if silent < timeout {
            self.look_later(pod, timeout - silent, || Work::LookAtAsking);
        } else {
            process.asks = false;
            self.sign(pod, Evidence::Asking, Err(gone("it does not ask", false)));
        }
    }

    // ---- The lock ----

    /// Somebody took it: the thread notices the opening of the file, or tries.
    pub(super) fn lock_taken(&mut self, pod: usize) {
        let tried = if self.rng.percent(80) { LOCK_TRIED[0] } else { self.rng.duration(LOCK_TRIED[0], LOCK_TRIED[1]) };
        if let Some(process) = &self.pods[pod].process {
            let life = process.life;
            self.after(tried, Event::LockTried { pod, life });
        }
    }

    pub(super) fn lock_tried(&mut self, pod: usize, life: u32) {
        let (at, held) = (self.at, self.pods[pod].lock_is_held());
        let Some(process) = self.process(pod, life) else { return };
        if process.paused_until > at {
            let later = process.paused_until;
            self.queue_at(later, Event::LockTried { pod, life });
        } else if held && process.lock == LockThread::Watches {
            process.lock = LockThread::Waits;
            self.deliver(pod, Work::Lock { held: true });
        }
    }

    /// The kernel wakes the thread; a newcomer may be first.
    pub(super) fn lock_let_go(&mut self, pod: usize) {
        let woken =
            if self.rng.percent(70) { Duration::ZERO } else { self.rng.duration(Duration::ZERO, LOCK_TRIED[0] * 3) };
        if let Some(process) = &self.pods[pod].process {
            let life = process.life;
            self.after(woken, Event::LockFree { pod, life });
        }
    }

    pub(super) fn lock_free(&mut self, pod: usize, life: u32) {
        let (at, held) = (self.at, self.pods[pod].lock_is_held());
        let not_taken = self.broken == Some(BrokenRule::LockNotTaken);
        let old_counts = self.broken == Some(BrokenRule::OldAppsEndProves);
        let Some(process) = self.process(pod, life) else { return };
        if process.paused_until > at {
            let later = process.paused_until;
            self.queue_at(later, Event::LockFree { pod, life });
        } else if held && old_counts && process.lock == LockThread::Waits {
            self.deliver(pod, Work::Lock { held: false });
        } else if !held && process.lock == LockThread::Waits {
            process.lock = if not_taken { LockThread::Watches } else { LockThread::Holds };
            self.trace.note(at, || format!("pod {pod}'s sidecar holds the app's lock alone"));
            self.deliver(pod, Work::Lock { held: false });
        }
    }

    pub(super) fn lock_says(&mut self, pod: usize, held: bool) {
        if held {
            self.sign(pod, Evidence::Lock, Ok(()));
        } else {
            self.sign(pod, Evidence::Lock, Err(gone("nobody holds its lock", true)));
            if self.broken == Some(BrokenRule::LockLetGoEarly) {
                self.drop_lock(pod);
            }
            self.push_step(pod, Step::Unlock);
        }
    }

    /// By now everything says not-leader, unless the file could not be written: it still says yes.
    pub(super) fn unlock(&mut self, pod: usize) {
        let now = self.pods[pod].clock.boot(self.at);
        let Some(process) = &mut self.pods[pod].process else { return };
        if !process.steps.is_empty() {
            process.steps.push_back(Step::Unlock);
        } else if now < process.old_file_until {
            let until = process.old_file_until;
            process.hold_until = Some(until);
            let (at, life) = (self.at, process.life);
            let when = self.pods[pod].clock.when(until).max(at);
            self.queue_at(when, Event::Deliver { pod, life, work: Work::LetGo });
        } else {
            self.drop_lock(pod);
        }
    }

    pub(super) fn let_go(&mut self, pod: usize) {
        let now = self.pods[pod].clock.boot(self.at);
        let Some(process) = &mut self.pods[pod].process else { return };
        if process.hold_until.take_if(|until| now >= *until).is_some() {
            self.drop_lock(pod);
        }
    }

    fn drop_lock(&mut self, pod: usize) {
        let Some(process) = &mut self.pods[pod].process else { return };
        if process.lock == LockThread::Holds {
            process.lock = LockThread::Watches;
            self.start_waiting_app(pod);
            self.lock_taken(pod);
        }
    }

    // ---- Sessions ----

    pub(super) fn connect_workers(&mut self, pod: usize) {
        let workers: Vec<_> = self.pods[pod].app.workers.iter().filter(|worker| !worker.connected).copied().collect();
        for worker in workers {
            let soon = self.rng.duration(Duration::from_micros(50), Duration::from_millis(3));
            self.after(soon, Event::Connects { pod, worker: worker.id });
        }
    }

    pub(super) fn connects(&mut self, pod: usize, worker: u32) {
        let this = &self.pods[pod];
        if this.app.worker(worker).is_none_or(|worker| worker.connected) {
            return;
        }
        if this.process.is_some() {
            self.deliver(pod, Work::OpenSession { worker });
        } else {
            let again = self.rng.millis(20, 200);
            self.after(again, Event::Connects { pod, worker });
        }
    }

    pub(super) fn disconnected(&mut self, pod: usize, worker: u32) {
        let again = self.rng.millis(0, 300);
        if let Some(worker) = self.pods[pod].app.worker_mut(worker) {
            worker.connected = false;
            let worker = worker.id;
            self.after(again, Event::Connects { pod, worker });
        }
    }

    pub(super) fn open_session(&mut self, pod: usize, worker: u32) {
        let this = &mut self.pods[pod];
        let Some(process) = &mut this.process else { return };
        let plan = this.app.worker(worker).map(|worker| worker.plan);
        if process.open.contains_key(&worker) {
            return;
        }
        let mut session = process.sessions.open(0, None, plan == Some(WorkerPlan::Exclusive));
        process.inbox.push_back(Work::LookAtSessions);
        if plan.is_none() {
            // Who connected is dead by now.
            session.close(true);
            return;
        }
        process.open.insert(worker, session);
        self.stream(pod, worker);
    }

    pub(super) fn close_session(&mut self, pod: usize, worker: u32, by_peer: bool) {
        let at = self.at;
        let Some(process) = &mut self.pods[pod].process else { return };
        let Some(mut session) = process.open.remove(&worker) else { return };
        session.close(by_peer || self.broken == Some(BrokenRule::ClosedByUsProves));
        process.inbox.push_back(Work::LookAtSessions);
        let side = if by_peer { "its own side" } else { "the sidecar" };
        self.trace.note(at, || format!("pod {pod}: worker {worker}'s session is closed by {side}"));
        self.hears_of_close(pod, worker);
    }

    /// One event: a promise, or a no.
    pub(super) fn stream(&mut self, pod: usize, worker: u32) {
        let this = &mut self.pods[pod];
        let now = this.clock.boot(self.at);
        let Some(process) = &mut this.process else { return };
        let (identity, life) = (process.identity.clone(), process.life);
        let Some(session) = process.open.get(&worker) else { return };
        let answer = process.board.answer_to(now, |token| session.may_lead(token, now));
        if answer.reason() == Reason::OtherSession {
            *self.reasons.entry(Reason::OtherSession).or_default() += 1;
        }
        match answer.promise {
            Some(promise) => self.tells(pod, worker, &identity, promise, now),
            None => self.app_hears_no(pod, life, worker),
        }
        if let Some(worker) = self.pods[pod].app.worker_mut(worker)
            && !std::mem::replace(&mut worker.connected, true)
        {
            self.read_file(pod);
        }
    }

    pub(super) fn look_at_sessions(&mut self, pod: usize) {
        let now = self.pods[pod].clock.boot(self.at);
        let Some(process) = &mut self.pods[pod].process else { return };
        process.inbox.push_front(Work::LookAtExclusive);
        let alive = process.sessions.alive(now);
        self.sign(pod, Evidence::Session, alive);
    }

    /// The exclusive session that led is gone: its term ends, and with it what was told.
    pub(super) fn look_at_exclusive(&mut self, pod: usize) {
        let this = &mut self.pods[pod];
        let now = this.clock.boot(self.at);
        let Some(process) = &mut this.process else { return };
        let leading = process.board.leading();
        if let Some(gone) = leading.and_then(|leading| process.sessions.leader_ended(0, leading.token, now)) {
            process.inbox.push_front(Work::GoOn);
            let proved = gone.proved || self.broken == Some(BrokenRule::OneSessionsEndProves);
            self.handle(pod, Input::AppGone { proved, why: gone.why });
        }
    }

    // ---- The file, and who enforces a term's end ----

    pub(super) fn write_file(&mut self, pod: usize) {
        let (at, faulty) = (self.at, self.faulty());
        let unlucky = !self.unstoppable && self.rng.in_10_000(self.odds().file_fails);
        let this = &mut self.pods[pod];
        let now = this.clock.boot(at);
        let full = this.disk_full > at && faulty && !self.unstoppable;
        let Some(process) = &mut this.process else { return };
        let answer = process.board.answer(now);
        if unlucky || full {
            if process.board.leading().is_none() {
                process.old_file_until = process.board.promised_until();
            }
            this.file.stale = true;
            self.count(Fault::FileWriteFailed);
            self.trace.note(at, || format!("pod {pod} cannot write its file"));
            return;
        }
        let leads = answer.promise.map(|p| Yes { token: p.token, until: p.until, stop_by: p.stop_by });
        this.file = File { leads, reason: answer.reason(), written: at, stale: false };
        self.file_written(pod);
    }

    pub(super) fn file_written(&mut self, pod: usize) {
        self.read_file(pod);
        self.exec_hears(pod);
    }

    fn note_enforcers(&mut self, pod: usize, ended: Option<Moment>) {
        let this = &mut self.pods[pod];
        let (now, mut enforced) = (this.clock.boot(self.at), this.is_enforced());
        if self.broken == Some(BrokenRule::ReadBeforeLock) {
            enforced &= this.exec.as_ref().is_some_and(|exec| matches!(exec.state, ExecState::Runs(_)));
        }
        let Some(process) = &mut this.process else { return };
        let until = ended.or(process.enforced_until);
        let old_file = now < process.old_file_until && self.broken != Some(BrokenRule::OldFileForgotten);
        process.enforced_until = until.filter(|until| now < *until && (old_file || enforced));
        if process.enforced_until.is_some() {
            self.look_later(pod, ENFORCEMENT_RETRY, || Work::AwaitEnforcers);
        }
    }

    /// After the file of a status.
    pub(super) fn settle(&mut self, pod: usize, version: u64, leads: bool, ended: Option<Moment>) {
        self.note_enforcers(pod, ended);
        if !leads && let Some(process) = &self.pods[pod].process {
            let withdrawn = process.withdrawn(version);
            self.push_step(pod, Step::Take(Box::new(withdrawn)));
        }
    }

    pub(super) fn await_enforcers(&mut self, pod: usize) {
        if self.pods[pod].process.as_ref().is_none_or(|process| process.enforced_until.is_none()) {
            return;
        }
        self.note_enforcers(pod, None);
        let Some(process) = self.pods[pod].process.as_ref().filter(|process| process.enforced_until.is_none()) else {
            return;
        };
        let withdrawn = process.withdrawn(process.board.status().version);
        self.handle(pod, withdrawn);
    }

    // ---- What is asked of the sidecar ----

    /// `POST .../stepdown`.
    pub(super) fn step_down(&mut self, pod: usize, to: Option<String>) {
        let now = self.pods[pod].clock.boot(self.at);
        let refused = to.as_deref() == Some(&*format!("pod-{pod}"))
            || self.pods[pod].process.as_ref().is_none_or(|p| p.board.status().leading_at(now).is_none());
        if !refused {
            self.handle(pod, Input::StepDown { to });
        }
    }

    /// `POST .../stopped`.
    pub(super) fn app_says_stopped(&mut self, pod: usize, token: u64) {
        use leasehold::election::Acknowledgement::Accepted;
        let accepted = |process: &Process| process.election.acknowledgement(token) == Accepted;
        if self.pods[pod].process.as_ref().is_some_and(accepted) {
            self.handle(pod, Input::AppStopped { token });
        }
    }

    // ---- Laws of the end ----

    /// Whatever it waits for, a process that was told to end is gone in time.
    pub(super) fn must_be_gone(&mut self, pod: usize, life: u32) {
        let at = self.at;
        let Some(process) = self.process(pod, life) else { return };
        let ending = process.shutting_down;
        if let Some(ending) = ending.filter(|ending| !ending.stopped) {
            let since = at.since(ending.since).as_millis();
            self.checks.fail("in time", at, || format!("pod {pod} was told to end {since} ms ago and still runs"));
        }
    }

    pub(super) fn must_still_lead(&mut self, pod: usize, life: u32, token: u64, law: &'static str) {
        let at = self.at;
        let alive = self.pods[pod].app.alive;
        let Some(process) = self.process(pod, life) else { return };
        let status = process.board.status();
        let told_to_end = law != "wait-for-app" && process.shutting_down.is_some();
        // A request that speaks of this term is a reason, but where that is what is doubted.
        let asked = law != "step-down" && status.reason == Reason::SteppedDown;
        if process.presence.gone().is_none()
            && alive
            && !told_to_end
            && !asked
            && status.leading.is_none_or(|leading| leading.token != token)
        {
            self.checks.fail(law, at, || {
                format!("pod {pod} was given no reason to end its term {token}: {} ({})", status.reason, status.message)
            });
        }
    }

    /// How often the pod that a release names is the one that takes.
    pub(super) fn count_named(&mut self, pod: usize, base: &Object) {
        let to = base.record.step_down().and_then(|request| request.to.as_deref()).filter(|_| base.is_released());
        let Some(to) = to else { return };
        let named = self.pods.iter().find(|pod| format!("pod-{}", pod.index) == to && pod.process.is_some());
        match named.map(|named| named.index == pod) {
            Some(true) => self.named.0 += 1,
            Some(false) => self.named.1 += 1,
            None => {}
        }
    }
}
