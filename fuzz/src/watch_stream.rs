//! The body of a watch: events of a Lease, a line each, in pieces of any size.
//!
//! What is heard does not depend on where the pieces end, and is what the lines say one by one: an object or its end
//! with its version, a bookmark, or a failure, and nothing after a failure. No line is waited for that no etcd could
//! hold.
//!
//! Input: a byte for the sizes of the pieces, then the body.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame};
use leasehold::election::Via;
use leasehold::kubernetes::{Api, Connection, Ended, Failure, One, Source, Watched, hear, record_of};
use serde_json::Value;
use tokio::sync::mpsc;

use super::exchange::block_on;

pub fn run(data: &[u8]) {
    let Some((pieces, body)) = data.split_first() else { return };
    let (whole, from, ended) = heard(body, body.len().max(1));
    let size = usize::from(*pieces) + 1;
    let split = heard(body, size);
    assert_eq!((&split.0, split.1, &split.2), (&whole, from, &ended), "in pieces of {size}");
    let expected = expected(body);
    assert_eq!(whole, expected, "line by line");
}

/// What was told, the version to go on from, and the end.
fn heard(body: &[u8], size: usize) -> (Vec<String>, u64, String) {
    static API: LazyLock<Api> = LazyLock::new(|| {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let config = kube::Config::new(hyper::Uri::from_static("http://127.0.0.1:9"));
        let connection = Connection::new(Source::default(), &config, Box::new(|_, _, _| {}));
        Api::new(Arc::new(connection.expect("plain HTTP needs nothing")), "shop".into(), "web".into())
    });
    let mut from = 1;
    let (told, ended) = block_on(async {
        // More than there can be lines.
        let (tell, mut heard) = mpsc::channel(body.len() + 1);
        let one = One { api: &API, lease: 0, tell };
        let ended = hear(&one, Pieces { body, size }, &mut from).await;
        drop(one);
        let mut told = Vec::new();
        while let Some((_, watched)) = heard.recv().await {
            told.push(in_words(&watched));
        }
        (told, ended)
    });
    let ended = match ended {
        Ok(Some(Ended::NobodyListens)) => panic!("somebody listens"),
        Ok(ended) => format!("{ended:?}"),
        Err(failure) => {
            let text = failure.to_string();
            assert!(text.len() < 4000 && !matches!(failure, Failure::Broken(_)), "{text}");
            text
        }
    };
    (told, from, ended)
}

fn in_words(watched: &Watched) -> String {
    match watched {
        Watched::Seen { record, version, via: Via::Event } => format!("{version} {record:?}"),
        Watched::Heard => "bookmark".into(),
        other => panic!("a watch does not say {other:?}"),
    }
}

/// The same by what Kubernetes documents of a watch, until the first line that is none of it.
fn expected(body: &[u8]) -> Vec<String> {
    let mut told = Vec::new();
    let Some(end) = body.iter().rposition(|byte| *byte == b'\n') else { return told };
    for line in body[..end].split(|byte| *byte == b'\n') {
        let Ok(event) = serde_json::from_slice::<Value>(line) else { break };
        let object = &event["object"];
        let version = object["metadata"]["resourceVersion"].as_str().and_then(|version| version.parse::<u64>().ok());
        let said = match (event["type"].as_str(), version) {
            (Some("ADDED" | "MODIFIED"), Some(version)) => {
                let Ok(record) = record_of(object) else { break };
                format!("{version} {:?}", Some(record))
            }
            (Some("DELETED"), Some(version)) => format!("{version} None"),
            (Some("BOOKMARK"), Some(_)) => "bookmark".into(),
            _ => break,
        };
        told.push(said);
    }
    told
}

pub struct Pieces<'a> {
    pub body: &'a [u8],
    pub size: usize,
}

impl Body for Pieces<'_> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.body.is_empty() {
            return Poll::Ready(None);
        }
        let (piece, rest) = self.body.split_at(self.size.min(self.body.len()));
        self.body = rest;
        Poll::Ready(Some(Ok(Frame::data(Bytes::copy_from_slice(piece)))))
    }
}
