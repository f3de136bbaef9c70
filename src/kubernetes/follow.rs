//! Following Leases, one or many: lists, watches from the list's version, and begins anew when that ends.
//!
//! It watches from the list's version and not from an object's: an object that nobody writes is soon older than
//! what the API server remembers (410). It asks for half an hour to an hour, so that an idle watch costs a request or
//! two an hour, and for bookmarks, so that it can go on from where it was. How long it may be silent is its reader's
//! matter, who asks for a new one when in doubt.

use std::fmt::Display;
use std::pin::Pin;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::Method;
use hyper::body::{Body, Bytes};
use serde_json::Value;

use super::connection::LARGEST_ANSWER;
use super::{Connection, Failure, lease, request};
use crate::time::{Clock, Moment, SystemClock};

/// A line of a watch holds one object.
const LONGEST_LINE: usize = LARGEST_ANSWER;
/// After a first failure; it doubles with each that follows.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// A watch that ends sooner has not begun.
const LIVED: Duration = Duration::from_secs(1);

/// What is followed, and who is told. Boxed futures: there is one machine for all of them, not one each.
pub trait Subject: Sync {
    fn connection(&self) -> &Connection;
    /// For the head of the watch's answer.
    fn timeout(&self) -> Duration;
    /// What is watched: a URI with a query.
    fn uri(&self) -> String;
    /// Lists, tells, and gives the version to watch from; `None`: nobody listens any more.
    fn list(&self) -> Later<'_, Result<Option<u64>, Failure>>;
    /// False: nobody listens any more.
    fn tell(&self, event: Event) -> Later<'_, Result<bool, Failure>>;
}

pub type Later<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What a watch has to say.
#[derive(Debug)]
pub enum Event {
    /// A watch began; `again`: it is not the first one.
    Began { again: bool },
    /// An object as it is since this version.
    Present(Value, u64),
    /// An object as it last was, and no more since this version.
    Gone(Value, u64),
    /// A bookmark: nothing happened, and the watch lives.
    Heard,
    /// Listing or watching failed, and is tried again after a pause.
    Failed(Failure),
}

/// Runs until nobody listens. `spread` in 0..1 keeps the watches of many pods from ending together; `pause` is the
/// longest that is waited after a failure.
pub async fn follow(subject: &dyn Subject, pause: Duration, spread: f64) {
    let lifetime = 1800 + (1800.0 * spread) as u64;
    let (mut again, mut failures) = (false, 0);
    loop {
        let mut began = None;
        let ended = list_and_watch(subject, lifetime, again, &mut began).await;
        again |= began.is_some();
        // A watch that lived and broke is begun anew at once: a deletion seen late is a leader told late. One that
        // did not is tried again after a pause.
        let lived = began.is_some_and(|began| SystemClock.boot().since(began) >= LIVED);
        match ended {
            Ok(Ended::NobodyListens) => return,
            Ok(Ended::Expired | Ended::GivenUp) => {}
            Err(failure) => {
                if !subject.tell(Event::Failed(failure)).await.is_ok_and(|listens| listens) {
                    return;
                }
            }
        }
        if lived {
            failures = 0;
        } else {
            tokio::time::sleep(pause_after(failures, pause, spread)).await;
            failures += 1;
        }
    }
}

/// An API server that restarts is soon back, and one that stays away is not to be asked all the time.
fn pause_after(failures: u32, longest: Duration, spread: f64) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(1 << failures.min(10));
    doubled.mul_f64(0.5 + spread).min(longest)
}

/// How a watch ended that did not fail.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    NobodyListens,
    /// The version to go on from is too old: list again.
    Expired,
    /// Its connection is given up, for a reason that is told elsewhere.
    GivenUp,
}

/// Lists, then watches, and watches again from where it was, until something fails. `watching` is when the last watch
/// began, if one did.
async fn list_and_watch(
    subject: &dyn Subject,
    lifetime: u64,
    mut again: bool,
    watching: &mut Option<Moment>,
) -> Result<Ended, Failure> {
    let mut from = match subject.list().await {
        Ok(Some(version)) => version,
        Ok(None) => return Ok(Ended::NobodyListens),
        // A list of several pages took too long for what the API server remembers.
        Err(Failure::Status { code: 410, .. }) => return Ok(Ended::Expired),
        Err(failure) => return Err(failure),
    };
    loop {
        let uri = format!(
            "{}&watch=1&allowWatchBookmarks=true&resourceVersion={from}&timeoutSeconds={lifetime}",
            subject.uri()
        );
        let stream = subject.connection().stream("watch", request(Method::GET, uri, None), subject.timeout()).await;
        let (body, given_up) = match stream {
            Err(Failure::Status { code: 410, .. }) => return Ok(Ended::Expired),
            other => other?,
        };
        if !subject.tell(Event::Began { again: std::mem::replace(&mut again, true) }).await? {
            return Ok(Ended::NobodyListens);
        }
        let began = SystemClock.boot();
        *watching = Some(began);
        let ended = tokio::select! {
            ended = hear(subject, body, &mut from) => ended?,
            // A leader that renews over another connection must not go on by a watch that may bring nothing any more.
            () = given_up.wait() => Some(Ended::GivenUp),
        };
        if let Some(ended) = ended {
            return Ok(ended);
        }
        // A server that ends watches as soon as they begin is not to be asked without a pause.
        if SystemClock.boot().since(began) < LIVED {
            return Err(Failure::Broken("the watch ended as soon as it began".into()));
        }
    }
}

/// The events of one watch until it ends; `None`: because its time was over. `from` is the version to go on from.
pub async fn hear<B>(subject: &dyn Subject, body: B, from: &mut u64) -> Result<Option<Ended>, Failure>
where
    B: Body<Data = Bytes, Error: Display> + Unpin,
{
    let mut lines = Lines { body, buffer: Vec::new(), searched: 0 };
    while let Some(line) = lines.next().await? {
        let event: Value = serde_json::from_slice(&line).map_err(|_| Failure::NotUnderstood("watch event"))?;
        match understand(event, from)? {
            Some(event) => {
                if !subject.tell(event).await? {
                    return Ok(Some(Ended::NobodyListens));
                }
            }
            None => return Ok(Some(Ended::Expired)),
        }
    }
    Ok(None)
}

/// One event; `None`: the version is too old.
fn understand(mut event: Value, from: &mut u64) -> Result<Option<Event>, Failure> {
    let object = event.get_mut("object").map(Value::take).unwrap_or_default();
    let version = || lease::version_of(&object).map_err(|_| Failure::NotUnderstood("watch event"));
    match event["type"].as_str() {
        Some("ADDED" | "MODIFIED") => {
            *from = version()?;
            Ok(Some(Event::Present(object, *from)))
        }
        Some("DELETED") => {
            *from = version()?;
            Ok(Some(Event::Gone(object, *from)))
        }
        Some("BOOKMARK") => {
            *from = version()?;
            Ok(Some(Event::Heard))
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
                return Err(Failure::TooLarge(LONGEST_LINE));
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
