//! The watch of one Lease, for its election.

use std::time::Duration;

use tokio::sync::mpsc;

use super::follow::{self, Event, Later, Subject};
use super::{Api, Connection, Failure};
use crate::election::{Record, Via};
use crate::time::{Clock, SystemClock};

const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);

/// What the watch has to say.
#[derive(Debug)]
pub enum Watched {
    Seen {
        record: Option<Record>,
        version: u64,
        via: Via,
    },
    /// A bookmark: nothing happened, and the watch lives.
    Heard,
    /// Listing or watching failed, and is tried again after a pause.
    Failed(Failure),
    /// A watch began; `again`: it is not the first one.
    Began {
        again: bool,
    },
}

/// Runs until the receiver is gone. `spread` in 0..1 keeps the watches of many pods from ending together; `pause` is
/// waited after a failure; `lease` is told with everything.
pub async fn watch(api: &Api, pause: Duration, spread: f64, lease: usize, tell: mpsc::Sender<(usize, Watched)>) {
    follow::follow(&One { api, lease, tell }, pause, spread).await;
}

/// One Lease, and who is told of it.
#[doc(hidden)]
pub struct One<'a> {
    pub api: &'a Api,
    pub lease: usize,
    pub tell: mpsc::Sender<(usize, Watched)>,
}

impl One<'_> {
    /// False when nobody listens any more.
    async fn send(&self, watched: Watched) -> bool {
        self.tell.send((self.lease, watched)).await.is_ok()
    }
}

impl Subject for One<'_> {
    fn connection(&self) -> &Connection {
        &self.api.connection
    }

    fn timeout(&self) -> Duration {
        ATTEMPT_TIMEOUT
    }

    fn uri(&self) -> String {
        self.api.collection_of_one()
    }

    fn list(&self) -> Later<'_, Result<Option<u64>, Failure>> {
        Box::pin(async {
            let sent_at = SystemClock.boot();
            let ((record, version), from) = self.api.list(ATTEMPT_TIMEOUT).await?;
            let listens = self.send(Watched::Seen { record, version, via: Via::Read { sent_at } }).await;
            Ok(listens.then_some(from))
        })
    }

    fn tell(&self, event: Event) -> Later<'_, Result<bool, Failure>> {
        Box::pin(async {
            let watched = match event {
                Event::Present(object, version) => {
                    let record = Some(self.api.keep(object)?);
                    Watched::Seen { record, version, via: Via::Event }
                }
                Event::Gone(_, version) => Watched::Seen { record: None, version, via: Via::Event },
                Event::Heard => Watched::Heard,
                Event::Failed(failure) => Watched::Failed(failure),
                Event::Began { again } => Watched::Began { again },
            };
            Ok(self.send(watched).await)
        })
    }
}
