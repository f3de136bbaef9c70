//! What strikes a pod, and what is done to the Lease by hand.

use super::*;

impl Happening<'_> {
    pub fn pause(&mut self, pod: usize, paused: bool) {
        if let Some(process) = self.process(pod) {
            process.paused = paused;
        }
        self.ask(pod);
    }

    pub fn crash(&mut self, pod: usize, state_lost: bool) {
        self.end_process(pod);
        if state_lost {
            self.world.pods[pod].state = StateDirectory::default();
        }
    }

    pub fn app_is(&mut self, pod: usize, app: App) {
        let this = &mut *self.world.pods[pod];
        this.app = app;
        if app == App::Dead {
            (this.promise, this.works) = (None, None);
        }
        let why = || "it ended".into();
        self.input(
            pod,
            match app {
                App::Alive => Input::AppAlive,
                App::Unwell => Input::AppGone { proved: false, why: why() },
                App::Dead => Input::AppGone { proved: true, why: why() },
            },
        );
    }

    pub fn terminate(&mut self, pod: usize, how: Fault) {
        let now = self.boot(pod);
        let app_ended = how == Fault::TerminatedAppFirst;
        let waits = if how == Fault::TerminatedWaiting { WAITS_FOR_APP } else { Duration::ZERO };
        let leave_at = now + waits;
        let shutdown = Shutdown { app_ended, leave_at, end_by: leave_at + GRACE };
        let this = &mut *self.world.pods[pod];
        if app_ended {
            this.app = App::Dead;
            (this.promise, this.works) = (None, None);
        }
        if let Some(process) = &mut this.process {
            process.shutdown = Some(shutdown);
        }
        self.input(pod, Input::Shutdown(shutdown));
    }

    pub fn step_down(&mut self, pod: usize, to: Option<usize>) {
        self.world.stepped_down = Some((pod, to));
        self.input(pod, Input::StepDown { to: to.map(|to| format!("pod-{to}")) });
    }

    // ---- What is done by hand ----

    pub fn edit(&mut self, edit: &Edit) {
        let (at, before, (named, _)) = (self.world.at, self.newest(), self.world.named());
        let api = &mut self.world.server.api;
        let done = match edit {
            Edit::Label => api.edit(at, |_| {}),
            Edit::Blank => api.edit(at, |record| record.spec.holder = None),
            Edit::Delete => api.delete(at),
            Edit::Holder => api.edit(at, |record| {
                record.spec.holder = Some("somebody".into());
                record.spec.renew_time = Some(some_time(at.0 as i64));
            }),
            Edit::HolderTo(identity) => api.edit(at, |record| record.spec.holder = Some(identity.clone())),
            Edit::RaiseToken => {
                api.edit(at, |record| record.token = Token::Value(record.token.value().unwrap_or(0) + 1000))
            }
            Edit::CutDuration => api.edit(at, |record| record.spec.duration_seconds = Some(1)),
            Edit::AskToStepDown { token, to } => {
                api.edit(at, |record| record.step_down = Some(StepDown { token: *token, to: to.clone() }))
            }
        };
        if !done {
            return;
        }
        self.changed(before);
        self.drop_hopeless();
        // A3: at once. What only asks may be heard of late.
        let only_asks = matches!(edit, Edit::Label | Edit::RaiseToken | Edit::AskToStepDown { .. } | Edit::CutDuration);
        if let Some(pod) = named.filter(|_| !only_asks) {
            while self.world.process(pod).is_some_and(Process::has_event) {
                self.event(pod);
            }
        }
    }
}
