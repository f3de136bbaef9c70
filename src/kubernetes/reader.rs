//! Reading many Leases for as long as somebody wants to know: what a watch brings, and what consistent reads show of
//! those whose holders fell silent. A watch that is found silent itself is begun anew.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};

use super::{Failure, Leases, Told};
use crate::alarm::Alarm;
use crate::complaint::Ask;
use crate::membership::{Catalogue, Look};
use crate::time::{Clock, Moment, SystemClock};

/// What a watch has said and nobody took in yet.
const UNHEARD: usize = 256;

/// What happened since the last time.
#[derive(Debug)]
pub enum News {
    /// All there are were listed.
    Listed,
    /// One of them may have changed, or nothing but time has passed.
    Changed,
    Worked(Ask),
    /// It is tried again.
    Failed(Ask, Failure),
}

/// Many Leases, as they are known here.
pub struct Reader {
    leases: Leases,
    /// After a failure, and between two looks at those in doubt.
    pause: Duration,
    /// In 0..1: keeps the watches of many pods from ending together.
    spread: f64,
    catalogue: Catalogue,
    watch: JoinHandle<()>,
    told: mpsc::Receiver<Told>,
    /// One at most.
    looks: JoinSet<(Moment, Result<Look, Failure>)>,
    /// The next one not before then.
    look_at: Moment,
    alarm: Alarm,
}

impl Reader {
    pub fn new(leases: Leases, pause: Duration, spread: f64) -> std::io::Result<Self> {
        let (watch, told) = start_watch(&leases, pause, spread);
        Ok(Reader {
            leases,
            pause,
            spread,
            catalogue: Catalogue::default(),
            watch,
            told,
            looks: JoinSet::new(),
            look_at: Moment::BOOT,
            alarm: Alarm::new()?,
        })
    }

    pub fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    /// Waits for news, `until` then at most. Dropping the future loses nothing.
    pub async fn next(&mut self, until: Moment) -> News {
        // Many at once are told one after the other before anything else is looked at.
        if let Ok(told) = self.told.try_recv() {
            return self.take(told);
        }
        let now = SystemClock.boot();
        self.look(now);
        let mut wake_at = until.min(self.catalogue.next_change(now).unwrap_or(Moment::NEVER));
        if self.looks.is_empty() && now < self.look_at {
            wake_at = wake_at.min(self.look_at);
        }
        tokio::select! {
            biased;
            Some(told) = self.told.recv() => self.take(told),
            Some(Ok((sent_at, result))) = self.looks.join_next() => self.looked(sent_at, result),
            () = self.alarm.until(wake_at) => News::Changed,
        }
    }

    fn take(&mut self, told: Told) -> News {
        let now = SystemClock.boot();
        match told {
            Told::Listed { entries, sent_at, .. } => {
                self.catalogue.listed(now, sent_at, entries);
                return News::Listed;
            }
            Told::Changed(entry) => drop(self.catalogue.changed(now, *entry)),
            Told::Deleted { namespace, name, version, .. } => drop(self.catalogue.deleted(&namespace, &name, version)),
            Told::Heard => {}
            Told::Began => return News::Worked(Ask::Watch),
            Told::Failed(failure) => return News::Failed(Ask::Watch, failure),
        }
        News::Changed
    }

    /// Whoever is silent for its duration is read before it is told dead: the watch may be what is silent.
    fn look(&mut self, now: Moment) {
        if !self.looks.is_empty() || now < self.look_at {
            return;
        }
        let doubted = self.catalogue.in_doubt(now);
        if !doubted.is_empty() {
            let leases = self.leases.clone();
            self.looks.spawn(async move { (now, leases.look(&doubted).await) });
        }
    }

    fn looked(&mut self, sent_at: Moment, result: Result<Look, Failure>) -> News {
        let now = SystemClock.boot();
        self.look_at = now + self.pause;
        match result {
            Ok(look) => {
                if self.catalogue.looked(now, sent_at, look) {
                    self.watch.abort();
                    (self.watch, self.told) = start_watch(&self.leases, self.pause, self.spread);
                }
                News::Worked(Ask::Read)
            }
            Err(failure) => News::Failed(Ask::Read, failure),
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

fn start_watch(leases: &Leases, pause: Duration, spread: f64) -> (JoinHandle<()>, mpsc::Receiver<Told>) {
    let (tell, told) = mpsc::channel(UNHEARD);
    let leases = leases.clone();
    (tokio::spawn(async move { leases.watch(pause, spread, tell).await }), told)
}
