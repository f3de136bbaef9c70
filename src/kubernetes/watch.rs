//! The watch of one Lease: lists, watches from the list's version, and says what it sees.
//!
//! It watches from the list's version and not from the object's: an object that nobody writes is soon older than
//! what the API server remembers (410). It asks for half an hour to an hour, so that an idle watch costs a request or
//! two an hour, and for bookmarks, so that it can go on from where it was. How long it may be silent is the
//! election's matter, which asks for a new one when in doubt.

use std::fmt::Display;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::Method;
use hyper::body::{Body, Bytes};
use serde_json::Value;
use tokio::sync::mpsc;

use super::{Api, Failure, lease, request};
use crate::election::{Record, Via};
use crate::time::{Clock, Moment, SystemClock};

/// A line of a watch holds one object, which etcd limits to 1.5 MiB and JSON may escape.
const LONGEST_LINE: usize = 8 << 20;
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);
/// A watch that ends sooner has not begun.
const LIVED: Duration = Duration::from_secs(1);

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
    let tell = Tell { lease, tell };
    let lifetime = 1800 + (1800.0 * spread) as u64;
    let mut again = false;
    loop {
        let mut began = None;
        let ended = follow(api, lifetime, again, &mut began, &tell).await;
        again |= began.is_some();
        // A watch that lived and broke is begun anew at once: a deletion seen late is a leader told late. One that
        // did not is tried again after a pause.
        let lived = began.is_some_and(|began| SystemClock.boot().since(began) >= LIVED);
        match ended {
            Ok(Ended::NobodyListens) => return,
            Ok(Ended::Expired) => {}
            Err(failure) => {
                if !tell.send(Watched::Failed(failure)).await {
                    return;
                }
            }
        }
        if !lived {
            tokio::time::sleep(pause).await;
        }
    }
}

/// Who is told of one lease.
#[doc(hidden)]
pub struct Tell {
    pub lease: usize,
    pub tell: mpsc::Sender<(usize, Watched)>,
}

impl Tell {
    /// False when nobody listens any more.
    async fn send(&self, watched: Watched) -> bool {
        self.tell.send((self.lease, watched)).await.is_ok()
    }
}

/// How a watch ended that did not fail.
#[doc(hidden)]
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    NobodyListens,
    /// The version to go on from is too old: list again.
    Expired,
}

/// Lists, then watches, and watches again from where it was, until something fails. `watching` is when the last watch
/// began, if one did.
async fn follow(
    api: &Api,
    lifetime: u64,
    mut again: bool,
    watching: &mut Option<Moment>,
    tell: &Tell,
) -> Result<Ended, Failure> {
    let sent_at = SystemClock.boot();
    let ((record, version), mut from) = api.list(ATTEMPT_TIMEOUT).await?;
    if !tell.send(Watched::Seen { record, version, via: Via::Read { sent_at } }).await {
        return Ok(Ended::NobodyListens);
    }
    loop {
        let uri = format!(
            "{}?watch=1&allowWatchBookmarks=true&fieldSelector=metadata.name%3D{}&resourceVersion={from}&timeoutSeconds={lifetime}",
            api.collection(),
            api.name
        );
        let stream = api.connection.stream("watch", request(Method::GET, uri, None), ATTEMPT_TIMEOUT).await;
        let body = match stream {
            Err(Failure::Status { code: 410, .. }) => return Ok(Ended::Expired),
            other => other?,
        };
        if !tell.send(Watched::Began { again: std::mem::replace(&mut again, true) }).await {
            return Ok(Ended::NobodyListens);
        }
        let began = SystemClock.boot();
        *watching = Some(began);
        if let Some(ended) = hear(api, body, &mut from, tell).await? {
            return Ok(ended);
        }
        // A server that ends watches as soon as they begin is not to be asked without a pause.
        if SystemClock.boot().since(began) < LIVED {
            return Err(Failure::Broken("the watch ended as soon as it began".into()));
        }
    }
}

/// The events of one watch until it ends; `None`: because its time was over. `from` is the version to go on from.
#[doc(hidden)]
pub async fn hear<B>(api: &Api, body: B, from: &mut u64, tell: &Tell) -> Result<Option<Ended>, Failure>
where
    B: Body<Data = Bytes, Error: Display> + Unpin,
{
    let mut lines = Lines { body, buffer: Vec::new(), searched: 0 };
    while let Some(line) = lines.next().await? {
        let event: Value = serde_json::from_slice(&line).map_err(|_| Failure::NotUnderstood("watch event"))?;
        match understand(api, event, from)? {
            Some(watched) => {
                if !tell.send(watched).await {
                    return Ok(Some(Ended::NobodyListens));
                }
            }
            None => return Ok(Some(Ended::Expired)),
        }
    }
    Ok(None)
}

/// One event; `None`: the version is too old.
fn understand(api: &Api, mut event: Value, from: &mut u64) -> Result<Option<Watched>, Failure> {
    let object = event.get_mut("object").map(Value::take).unwrap_or_default();
    let version = || lease::version_of(&object).map_err(|_| Failure::NotUnderstood("watch event"));
    match event["type"].as_str() {
        Some("ADDED" | "MODIFIED") => {
            *from = version()?;
            let record = api.keep(object)?;
            Ok(Some(Watched::Seen { version: *from, record: Some(record), via: Via::Event }))
        }
        Some("DELETED") => {
            *from = version()?;
            Ok(Some(Watched::Seen { version: *from, record: None, via: Via::Event }))
        }
        Some("BOOKMARK") => {
            *from = version()?;
            Ok(Some(Watched::Heard))
        }
        Some("ERROR") if object["code"] == 410 => Ok(None),
        Some("ERROR") => Err(Failure::Status {
            code: object["code"].as_u64().and_then(|code| u16::try_from(code).ok()).unwrap_or(500),
            reason: object["reason"].as_str().unwrap_or_default().into(),
            message: object["message"].as_str().unwrap_or_default().chars().take(400).collect(),
            retry_after: None,
            fields: Vec::new(),
        }),
        _ => Err(Failure::NotUnderstood("watch event")),
    }
}

/// A body, line by line.
struct Lines<B> {
    body: B,
    buffer: Vec<u8>,
    searched: usize,
}

impl<B: Body<Data = Bytes, Error: Display> + Unpin> Lines<B> {
    async fn next(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        loop {
            if let Some(end) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
                let rest = self.buffer.split_off(self.searched + end + 1);
                self.searched = 0;
                return Ok(Some(std::mem::replace(&mut self.buffer, rest)));
            }
            self.searched = self.buffer.len();
            if self.buffer.len() > LONGEST_LINE {
                return Err(Failure::NotUnderstood("watch event of a size that etcd could hold"));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(Failure::Broken(error.to_string())),
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.buffer.extend_from_slice(data);
                    }
                }
            }
        }
    }
}
