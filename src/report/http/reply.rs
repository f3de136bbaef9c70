//! Answers: a JSON text, or a stream of events.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use http_body_util::Full;
use hyper::body::{Body, Bytes, Frame, SizeHint};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;

use super::events::Events;
use super::socket::InRequest;

pub(crate) type Reply = Response<ReplyBody>;

/// JSON under the given status, never to be stored by anybody on the way.
pub(crate) fn json(status: StatusCode, text: String) -> Reply {
    text_of(status, HeaderValue::from_static("application/json"), text)
}

pub(crate) fn text_of(status: StatusCode, content_type: HeaderValue, mut text: String) -> Reply {
    if !text.ends_with('\n') {
        text.push('\n');
    }
    let mut reply = Response::new(ReplyBody::new(Content::Text(Full::new(text.into()))));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, content_type);
    reply.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    reply
}

/// An error: `code` is stable and for programs, `message` is for people.
pub(crate) fn error(status: StatusCode, code: &str, message: impl Into<String>) -> Reply {
    #[derive(Serialize)]
    struct Error<'a> {
        code: &'a str,
        message: String,
    }
    // Two strings: nothing here can fail.
    json(status, serde_json::to_string(&Error { code, message: message.into() }).unwrap_or_default())
}

pub(crate) fn method_not_allowed(allowed: &'static str) -> Reply {
    let message = format!("this path takes {allowed}");
    let mut reply = error(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message);
    reply.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    reply
}

pub(super) fn events(events: Events) -> Reply {
    let mut reply = Response::new(ReplyBody::new(Content::Events(events)));
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    reply
}

pub(crate) struct ReplyBody {
    content: Content,
    /// Dropped with the body, so after its last byte was taken.
    in_request: Option<InRequest>,
}

enum Content {
    Text(Full<Bytes>),
    Events(Events),
}

impl ReplyBody {
    fn new(content: Content) -> Self {
        ReplyBody { content, in_request: None }
    }

    /// The connection counts as busy until this body is written.
    pub(super) fn hold(&mut self, in_request: InRequest) {
        self.in_request = Some(in_request);
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut self.content {
            Content::Text(text) => Pin::new(text).poll_frame(cx),
            Content::Events(events) => events.poll_next(cx).map(|event| event.map(|bytes| Ok(Frame::data(bytes)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Text(text) => text.is_end_stream(),
            Content::Events(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Text(text) => text.size_hint(),
            Content::Events(_) => SizeHint::default(),
        }
    }
}
