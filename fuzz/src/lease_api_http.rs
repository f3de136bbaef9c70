//! A connection to the embedded Lease API: any requests, over the very code that serves `leasehold dev`.
//!
//! Every answer is whole and JSON (or plain text where the real server has that). Whatever was done, the Leases that
//! are there then have valid names, uids of their own and versions of the past; what is written back as it was read is
//! accepted and changes nothing; and a version that was seen never names another state.

use std::collections::BTreeSet;

use jiff::Timestamp;
use leasehold::devapi::Server;
use leasehold::names::{dns_label, dns_subdomain};
use serde_json::Value;

use super::exchange::{Answer, answers, block_on, exchange};

/// There before anything is asked.
const FIRST: &str = r#"{"metadata":{"name":"web","labels":{"app":"web"},"annotations":{"leasehold.dev/token":"7"}},
    "spec":{"holderIdentity":"web-0_0f","leaseDurationSeconds":15,"acquireTime":"2026-01-01T00:00:00.000000Z",
    "renewTime":"2026-01-01T00:00:00.000000Z","leaseTransitions":1}}"#;
const COLLECTION: &str = "/apis/coordination.k8s.io/v1/namespaces/shop/leases";

pub fn run(data: &[u8]) {
    let server = Server::new(|| Timestamp::UNIX_EPOCH);
    block_on(async {
        let created = ask(&server, &request("POST", COLLECTION, FIRST)).await;
        assert_eq!(created[0].status, 201);
        let version = version_of(&created[0].json());
        for answer in ask(&server, data).await {
            check(&answer);
        }
        check_store(&server, version).await;
    });
}

async fn ask(server: &Server, bytes: &[u8]) -> Vec<Answer> {
    // Dropped when the server waits, as by a client that has gone.
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let (gone, is_gone) = tokio::sync::oneshot::channel::<()>();
    let server = async {
        tokio::select! {
            () = server.converse(theirs) => {}
            _ = is_gone => {}
        }
    };
    answers(&exchange(ours, bytes, server, || drop(gone)).await)
}

fn request(method: &str, path: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}")
        .into_bytes()
}

fn check(answer: &Answer) {
    let known = [100, 200, 201, 400, 404, 405, 406, 409, 410, 413, 414, 415, 422, 431, 500, 504];
    assert!(known.contains(&answer.status), "nobody knows a status {}", answer.status);
    assert_ne!(answer.status, 500, "{}", String::from_utf8_lossy(&answer.body));
    let kind = answer.header("content-type").unwrap_or_default();
    if answer.body.is_empty() || answer.is_stream() || !kind.starts_with("application/json") {
        return;
    }
    let body = answer.json();
    if matches!(answer.status, 400..) && body["kind"] == "Status" {
        assert_eq!(body["code"], answer.status);
        assert_eq!(body["status"], "Failure");
    }
}

async fn check_store(server: &Server, created: u64) {
    let list = ask(server, &request("GET", "/apis/coordination.k8s.io/v1/leases", "")).await;
    assert_eq!(list[0].status, 200);
    let list = list[0].json();
    let newest = version_of(&list);
    assert!(newest >= created);
    let mut uids = BTreeSet::new();
    for lease in list["items"].as_array().expect("a list has items") {
        let metadata = &lease["metadata"];
        let (namespace, name) = (metadata["namespace"].as_str().unwrap(), metadata["name"].as_str().unwrap());
        assert!(dns_label(namespace).is_ok() && dns_subdomain(name).is_ok(), "{namespace}/{name}");
        assert!(uids.insert(metadata["uid"].as_str().unwrap().to_owned()), "a uid is there twice");
        let version = version_of(lease);
        assert!((created..=newest).contains(&version), "{version} is none of {created}..={newest}");

        let path = format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{name}");
        let read = ask(server, &request("GET", &path, "")).await[0].json();
        let written = ask(server, &request("PUT", &path, &read.to_string())).await;
        assert_eq!(written[0].status, 200, "{}", String::from_utf8_lossy(&written[0].body));
        let gone = metadata["deletionTimestamp"].is_string() && metadata["finalizers"].is_null();
        assert!(gone || written[0].json() == read, "written back: {} and not {read}", written[0].json());
    }
}

fn version_of(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().and_then(|version| version.parse().ok()).expect("a version")
}
