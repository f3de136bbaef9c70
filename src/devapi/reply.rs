//! Answers: their bodies, and which form of them the client asked for.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use http_body_util::Full;
use hyper::Response;
use hyper::body::{Body, Bytes, Frame};
use hyper::header::{ACCEPT, HeaderMap, HeaderValue, USER_AGENT};
use serde_json::Value;
use tokio::sync::mpsc;

use super::query::Query;
use super::status::Status;
use super::table::{Form, Include};

/// A whole answer, or a watch's events as they come.
pub enum ReplyBody {
    Whole(Full<Bytes>),
    Events(mpsc::Receiver<Bytes>),
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            ReplyBody::Whole(body) => Pin::new(body).poll_frame(context),
            ReplyBody::Events(events) => {
                events.poll_recv(context).map(|event| event.map(|bytes| Ok(Frame::data(bytes))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            ReplyBody::Whole(body) => body.is_end_stream(),
            ReplyBody::Events(_) => false,
        }
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        match self {
            ReplyBody::Whole(body) => body.size_hint(),
            ReplyBody::Events(_) => hyper::body::SizeHint::default(),
        }
    }
}

pub type Reply = Response<ReplyBody>;

pub fn json(code: u16, value: &Value, pretty: bool) -> Reply {
    let mut text = if pretty { format!("{value:#}") } else { value.to_string() };
    text.push('\n');
    reply(code, "application/json", ReplyBody::Whole(Full::from(text)))
}

pub fn text(code: u16, text: &'static str) -> Reply {
    reply(code, "text/plain; charset=utf-8", ReplyBody::Whole(Full::from(text)))
}

pub fn events(events: mpsc::Receiver<Bytes>) -> Reply {
    reply(200, "application/json", ReplyBody::Events(events))
}

fn reply(code: u16, content_type: &'static str, body: ReplyBody) -> Reply {
    let mut reply = Response::new(body);
    *reply.status_mut() = hyper::StatusCode::from_u16(code).unwrap_or_default();
    let headers = reply.headers_mut();
    headers.insert("content-type", HeaderValue::from_static(content_type));
    headers.insert("cache-control", HeaderValue::from_static("no-cache, private"));
    reply
}

/// Names what was dropped from a body, as `kubectl` and client-go print it.
pub fn add_warnings(reply: &mut Reply, unknown_fields: &[String]) {
    for field in unknown_fields {
        let warning = format!("299 - \"unknown field \\\"{field}\\\"\"");
        // A field name that no header can carry is not worth refusing the write for.
        if let Ok(warning) = HeaderValue::from_str(&warning) {
            reply.headers_mut().append("warning", warning);
        }
    }
}

/// People at a terminal get indented JSON, as from the real server.
pub fn wants_pretty(headers: &HeaderMap, query: &Query) -> bool {
    let agent = headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
    let person = ["curl", "Wget", "Mozilla/5.0"].iter().any(|name| agent.starts_with(name));
    query.flag("pretty").unwrap_or(person)
}

/// The first form in `Accept` that can be given. `includeObject` says what rows carry.
pub fn wanted_form(headers: &HeaderMap, query: &Query) -> Result<Form, Status> {
    let include = match query.text("includeObject") {
        "" | "Metadata" => Include::Metadata,
        "Object" => Include::Object,
        "None" => Include::Nothing,
        other => {
            return Err(Status::bad_request(format!(
                "Unable to convert to Table as requested: includeObject: Invalid value: \"{other}\": \
                 must be 'Metadata', 'Object', 'None', or empty"
            )));
        }
    };
    let accept: Vec<&str> = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    let accept = accept.join(",");
    if accept.trim().is_empty() {
        return Ok(Form::Whole);
    }
    accept.split(',').find_map(|range| acceptable(range, include)).ok_or_else(Status::not_acceptable)
}

fn acceptable(range: &str, include: Include) -> Option<Form> {
    let mut parts = range.split(';').map(str::trim);
    if !matches!(parts.next()?, "application/json" | "application/*" | "*/*") {
        return None;
    }
    let (mut kind, mut group, mut version) = (None, None, None);
    for (name, value) in parts.filter_map(|part| part.split_once('=')) {
        match name.trim() {
            "as" => kind = Some(value.trim()),
            "g" => group = Some(value.trim()),
            "v" => version = Some(value.trim()),
            _ => {}
        }
    }
    match (kind, group, version) {
        (None, _, _) => Some(Form::Whole),
        (Some("Table"), Some("meta.k8s.io"), Some("v1")) => Some(Form::Table(include)),
        (Some("PartialObjectMetadata" | "PartialObjectMetadataList"), Some("meta.k8s.io"), Some("v1")) => {
            Some(Form::Metadata)
        }
        _ => None,
    }
}
