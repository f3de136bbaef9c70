//! The embedded API server answers as kube-apiserver does.
//!
//! Each case is one conversation. It is held with both servers and written down, and the two
//! records must be the same: no expectation is written by hand, so none can be wrong.

mod support;
#[path = "lease_api/talk.rs"]
mod talk;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use jiff::Timestamp;
use leasehold::devapi::{Server, kubeconfig};
use serde_json::{Value, json};
use support::clientgo::ClientGo;
use support::clock;
use support::control_plane::{ControlPlane, shared, tool_folder};
use support::http::Http;
use support::process::Folder;
use talk::Talk;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// An embedded server of the test's own; it ends with this.
struct Embedded {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Embedded {
    fn start() -> Embedded {
        let (announce, announced) = std::sync::mpsc::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime starts").block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
                announce.send(listener.local_addr().expect("it listens")).expect("awaited");
                let stopped = async {
                    let _ = stopped.await;
                };
                Server::new(a_fixed_time).serve(listener, stopped).await.expect("it serves");
            });
        });
        let address = announced.recv().expect("the server starts");
        Embedded { address, stop: Some(stop), thread: Some(thread) }
    }

    fn talk(&self, namespace: &str) -> Talk {
        let address = self.address;
        Talk::new(namespace.to_owned(), move || {
            let http = Http::connect(address).expect("the embedded server accepts");
            http.with_timeout(Duration::from_secs(20)).expect("a timeout can be set")
        })
    }

    fn kubeconfig(&self, folder: &Folder) -> PathBuf {
        let path = folder.join("kubeconfig");
        std::fs::write(&path, kubeconfig(self.address)).expect("writes a kubeconfig");
        path
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().map(thread::JoinHandle::join);
        assert!(matches!(ended, Some(Ok(()))), "the embedded server failed");
    }
}

fn a_fixed_time() -> Timestamp {
    Timestamp::constant(1_750_000_000, 0)
}

fn real(control_plane: &'static ControlPlane, namespace: &str) -> Talk {
    Talk::new(namespace.to_owned(), move || {
        let http = control_plane.connect().expect("kube-apiserver accepts");
        http.with_timeout(Duration::from_secs(20)).expect("a timeout can be set")
    })
}

/// Holds the conversation with both servers and compares.
fn compare(name: &str, case: impl Fn(&mut Talk)) {
    let namespace = shared().namespace(name);
    let mut theirs = real(shared(), &namespace);
    case(&mut theirs);
    let embedded = Embedded::start();
    let mut ours = embedded.talk(&namespace);
    case(&mut ours);
    assert_same(&theirs.record(), &ours.record());
}

fn assert_same(theirs: &str, ours: &str) {
    assert!(theirs.contains("\n> "), "nothing was compared");
    let (mut theirs, mut ours) = (theirs.split("\n> "), ours.split("\n> "));
    loop {
        match (theirs.next(), ours.next()) {
            (None, None) => return,
            (theirs, ours) if theirs == ours => {}
            (theirs, ours) => panic!(
                "kube-apiserver:\n> {}\n\nthe embedded server:\n> {}",
                theirs.unwrap_or("(nothing)"),
                ours.unwrap_or("(nothing)")
            ),
        }
    }
}

fn lease(name: &str) -> Value {
    json!({ "metadata": { "name": name } })
}

fn held(name: &str, holder: &str) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": { "name": name },
        "spec": {
            "holderIdentity": holder,
            "leaseDurationSeconds": 15,
            "leaseTransitions": 0,
            "acquireTime": "2026-01-02T03:04:05.000000Z",
            "renewTime": "2026-01-02T03:04:05.123456+01:00",
        },
    })
}

fn uid(lease: &Value) -> &str {
    lease["metadata"]["uid"].as_str().expect("a Lease has a uid")
}

fn version(object: &Value) -> &str {
    object["metadata"]["resourceVersion"].as_str().expect("there is a version")
}

#[test]
fn a_lease_is_created_and_read() {
    compare("create", |talk| {
        talk.post("", held("a", "me"));
        talk.get("/a");
        talk.post("", held("a", "you"));
        talk.put("/b", held("b", "me"));
        talk.post("", lease("c"));
        talk.get("");
        talk.get("/absent");
        talk.get("?limit=-1");
        let mut versioned = lease("d");
        versioned["metadata"]["resourceVersion"] = json!("5");
        talk.post("", versioned);
        let mut with_system_fields = lease("e");
        with_system_fields["metadata"]["uid"] = json!("chosen");
        with_system_fields["metadata"]["creationTimestamp"] = json!("2001-01-01T00:00:00Z");
        with_system_fields["metadata"]["generation"] = json!(7);
        talk.post("", with_system_fields);
        talk.post("", json!({ "metadata": { "generateName": "made-" } }));
    });
}

#[test]
fn the_beta_fields_of_coordinated_election_are_dropped() {
    compare("strategy", |talk| {
        let spec = json!({ "strategy": "no such strategy", "preferredHolder": "me" });
        talk.post("", json!({ "metadata": { "name": "a" }, "spec": spec }));
        talk.merge("/a", json!({ "spec": { "strategy": "OldestEmulationVersion" } }));
    });
}

#[test]
fn an_update_needs_the_newest_version_and_the_right_uid() {
    compare("update", |talk| {
        let first = talk.post("", held("a", "me"));
        talk.put("/a", held("a", "no version"));
        let mut record = held("a", "you");
        record["metadata"]["resourceVersion"] = json!(version(&first));
        let second = talk.put("/a", record.clone());
        assert_ne!(version(&first), version(&second));
        talk.put("/a", record.clone());
        record["metadata"]["resourceVersion"] = json!(version(&second));
        let unchanged = talk.put("/a", record.clone());
        assert_eq!(version(&second), version(&unchanged));
        record["metadata"]["uid"] = json!("11111111-2222-3333-4444-555555555555");
        talk.put("/a", record.clone());
        record["metadata"]["uid"] = json!(uid(&first));
        record["metadata"]["labels"] = json!({ "a": "b" });
        talk.put("/a", record.clone());
        for strange in ["0", "zz", "1"] {
            record["metadata"]["resourceVersion"] = json!(strange);
            talk.put("/a", record.clone());
        }
        talk.get("/a");
    });
}

#[test]
fn a_put_to_a_deleted_lease_creates_only_without_a_uid() {
    compare("deleted", |talk| {
        let gone = talk.post("", held("a", "me"));
        talk.delete("/a", Value::Null);
        let mut record = held("a", "you");
        record["metadata"]["resourceVersion"] = json!(version(&gone));
        record["metadata"]["uid"] = json!(uid(&gone));
        talk.put("/a", record.clone());
        talk.get("/a");
        record["metadata"]["resourceVersion"] = json!("zz");
        talk.put("/a", record.clone());
        record["metadata"]["resourceVersion"] = json!(version(&gone));
        record["metadata"].as_object_mut().expect("an object").remove("uid");
        let again = talk.put("/a", record);
        assert_ne!(uid(&gone), uid(&again));
    });
}

#[test]
fn patches_are_applied() {
    compare("patch", |talk| {
        let first = talk.post("", held("a", "me"));
        let annotate = json!({ "metadata": { "annotations": { "x/y": "1", "z": "2" } } });
        talk.merge("/a", annotate.clone());
        talk.merge("/a", annotate);
        talk.merge("/a", json!({ "metadata": { "annotations": { "z": null } } }));
        talk.merge("/a", json!({ "metadata": { "annotations": null } }));
        talk.merge("/a", json!({ "spec": { "renewTime": null, "holderIdentity": "" } }));
        talk.merge("/a", json!({ "metadata": { "resourceVersion": version(&first) } }));
        talk.merge("/a", json!({ "metadata": { "resourceVersion": null } }));
        talk.merge("/a", json!({ "metadata": { "uid": "other" } }));
        talk.merge("/a", json!({ "metadata": { "name": "b" } }));
        talk.merge("/a", json!({ "metadata": { "namespace": "elsewhere" } }));
        talk.merge("/a", json!({ "metadata": { "labels": { "bad key": "-" } } }));
        talk.merge("/a", json!({ "spec": { "leaseDurationSeconds": 0 } }));
        talk.merge("/absent", json!({}));
        talk.merge("/a", json!([]));
        talk.send("PATCH", "/a", "application/json", json!({}));
        let strategic = "application/strategic-merge-patch+json";
        talk.send("PATCH", "/a", strategic, json!({ "spec": { "leaseTransitions": 3 } }));
        let owner = |uid: &str, name: &str| json!({ "apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid });
        for owners in [
            json!([owner("u1", "p1")]),
            json!([owner("u2", "p2")]),
            json!([owner("u1", "renamed")]),
            json!([{ "$patch": "delete", "uid": "u2" }]),
        ] {
            let patch = json!({ "metadata": { "ownerReferences": owners } });
            talk.send("PATCH", "/a", strategic, patch);
        }
        for operations in [
            json!([{ "op": "test", "path": "/spec/leaseTransitions", "value": 3 },
                   { "op": "replace", "path": "/spec/holderIdentity", "value": "you" }]),
            json!([{ "op": "test", "path": "/spec/leaseTransitions", "value": 4 }]),
            json!([{ "op": "add", "path": "/metadata/annotations", "value": {} },
                   { "op": "add", "path": "/metadata/annotations/x~1y", "value": "1" }]),
            json!([{ "op": "copy", "from": "/metadata/annotations/x~1y", "path": "/metadata/annotations/z" },
                   { "op": "move", "from": "/metadata/annotations/z", "path": "/metadata/annotations/w" }]),
            json!([{ "op": "remove", "path": "/spec/absent" }]),
            json!([{ "op": "replace", "path": "/metadata/labels/absent", "value": "x" }]),
            json!({}),
        ] {
            talk.send("PATCH", "/a", "application/json-patch+json", operations);
        }
    });
}

#[test]
fn a_delete_keeps_its_preconditions() {
    compare("delete", |talk| {
        let first = talk.post("", held("a", "me"));
        let precondition = |name: &str, value: &str| json!({ "preconditions": { name: value } });
        talk.delete("/a", precondition("uid", "other"));
        talk.delete("/a", precondition("resourceVersion", "1"));
        talk.delete("/a", json!({ "propagationPolicy": "Sideways" }));
        talk.delete("/a?dryRun=All", Value::Null);
        talk.delete("/a", json!({ "dryRun": ["All"] }));
        talk.delete(
            "/a",
            json!({ "kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {
                "uid": uid(&first), "resourceVersion": version(&first),
            }}),
        );
        talk.delete("/a", Value::Null);
        talk.post("", lease("b"));
        talk.delete("/b?propagationPolicy=Background", Value::Null);
        for (name, colour) in [("c", "red"), ("d", "red"), ("e", "blue")] {
            talk.post("", json!({ "metadata": { "name": name, "labels": { "colour": colour } } }));
        }
        talk.delete("?labelSelector=colour=red", Value::Null);
        talk.get("");
        talk.delete("", Value::Null);
        talk.get("");
    });
}

#[test]
fn finalizers_hold_a_delete_up() {
    compare("finalizers", |talk| {
        talk.post("", json!({ "metadata": { "name": "a", "finalizers": ["x/y"] } }));
        talk.delete("/a", Value::Null);
        talk.delete("/a", Value::Null);
        talk.post("", lease("a"));
        talk.merge("/a", json!({ "metadata": { "finalizers": ["x/y", "x/z"] } }));
        talk.merge("/a", json!({ "metadata": { "finalizers": null } }));
        talk.get("/a");
    });
}

#[test]
fn selectors_choose() {
    compare("selectors", |talk| {
        let labels = [
            ("a", json!({ "colour": "red", "size": "3" })),
            ("b", json!({ "colour": "blue", "size": "5" })),
            ("c", json!({ "size": "x" })),
            ("d", Value::Null),
        ];
        for (name, labels) in labels {
            talk.post("", json!({ "metadata": { "name": name, "labels": labels } }));
        }
        let mine = talk.namespace();
        for fields in [
            "metadata.name=a",
            "metadata.name==b",
            "metadata.name!=a",
            "metadata.name=a,metadata.name=b",
            "metadata.namespace=elsewhere",
            &format!("metadata.namespace={mine},metadata.name=c"),
            "spec.holderIdentity=me",
            "metadata.name",
        ] {
            talk.get(&format!("?fieldSelector={fields}"));
        }
        for labels in [
            "colour=red",
            "colour==red,size=3",
            "colour!=red",
            "colour",
            "!colour",
            "colour%20in%20(red,%20blue)",
            "colour%20notin%20(red)",
            "size%3E3",
            "size%3C5",
            "colour=",
            "colour%20in%20(red",
            "colour%20in%20red",
            "colour=red,",
            "colour=-x",
            "a/b/c",
            "size%3Ex",
        ] {
            talk.get(&format!("?labelSelector={labels}"));
        }
        let all = format!("/apis/coordination.k8s.io/v1/leases?fieldSelector=metadata.namespace={mine}");
        talk.raw("GET", &all, &[], b"");
    });
}

#[test]
fn a_watch_tells_each_change_from_its_version_on() {
    compare("watch", |talk| {
        talk.post("", held("a", "me"));
        let list = talk.get("");
        let red = json!({ "metadata": { "labels": { "colour": "red" } } });
        let from_list = format!("&resourceVersion={}", version(&list));
        talk.merge("/a", red);
        talk.post("", lease("b"));
        talk.merge("/a", json!({ "metadata": { "labels": null } }));
        talk.delete("/a", Value::Null);
        talk.watch(&from_list);
        talk.watch(&format!("{from_list}&labelSelector=colour=red"));
        talk.watch(&format!("{from_list}&labelSelector=!colour"));
        talk.watch(&format!("{from_list}&fieldSelector=metadata.name=a"));
        talk.watch("");
        talk.watch("&resourceVersion=0");
        talk.watch_while("&fieldSelector=metadata.name=c&timeoutSeconds=2", |talk| {
            talk.post("", lease("c"));
            talk.post("", lease("d"));
            talk.delete("/c", Value::Null);
        });
        let metadata = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
        talk.watch_as(&from_list, metadata);
        talk.watch_as(&from_list, "application/json;as=Table;v=v1;g=meta.k8s.io");
    });
}

#[test]
fn a_watch_sends_bookmarks() {
    compare("bookmarks", |talk| {
        let first = talk.post("", held("a", "me"));
        let streamed = "&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
        talk.watch(streamed);
        talk.watch("&allowWatchBookmarks=true");
        talk.watch("&sendInitialEvents=true&resourceVersionMatch=NotOlderThan");
        talk.watch(&format!(
            "&sendInitialEvents=false&resourceVersionMatch=NotOlderThan&resourceVersion={}",
            version(&first)
        ));
        // One comes two seconds before the end.
        let from_first = format!("&resourceVersion={}", version(&first));
        talk.watch_while(&format!("{from_first}&allowWatchBookmarks=true&timeoutSeconds=4"), |talk| {
            talk.merge("/a", json!({ "spec": { "holderIdentity": "you" } }));
        });
        for refused in [
            "?watch=1&sendInitialEvents=true",
            "?watch=1&resourceVersionMatch=NotOlderThan",
            "?watch=1&resourceVersionMatch=Exact&sendInitialEvents=true",
            "?watch=1&resourceVersion=zz",
            "?watch=1&timeoutSeconds=x",
            "?sendInitialEvents=true",
            "?resourceVersionMatch=Exact",
            "?resourceVersionMatch=Foo&resourceVersion=1",
            "?resourceVersionMatch=Exact&resourceVersion=0",
            "?resourceVersion=zz",
            "?limit=x",
        ] {
            talk.get(refused);
        }
    });
}

#[test]
fn a_version_of_the_future_is_refused_to_reads_and_waited_for_by_watches() {
    compare("future", |talk| {
        talk.post("", lease("a"));
        talk.get("/a?resourceVersion=9007199254740000");
        talk.get("?resourceVersion=9007199254740000");
        talk.watch("&resourceVersion=9007199254740000");
    });
}

/// The real server forgets at a restart, the embedded one after a thousand changes.
#[test]
fn a_watch_from_a_forgotten_version_ends_in_an_error_event() {
    let old_watch = |talk: &mut Talk, version: &str| {
        let events = talk.watch(&format!("&resourceVersion={version}"));
        assert_eq!(events.len(), 1, "{events:?}");
        assert_eq!(events[0]["object"]["code"], 410);
    };
    let control_plane: &'static ControlPlane = Box::leak(Box::new(ControlPlane::start()));
    let namespace = control_plane.namespace("forgotten");
    let first = real(control_plane, &namespace).post("", lease("a"));
    real(control_plane, &namespace).post("", lease("b"));
    control_plane.restart_apiserver();
    let mut theirs = real(control_plane, &namespace);
    old_watch(&mut theirs, version(&first));

    let embedded = Embedded::start();
    let mut chatter = embedded.talk(&namespace);
    let first = chatter.post("", lease("a"));
    for count in 0..1001 {
        chatter.merge("/a", json!({ "spec": { "leaseTransitions": count } }));
    }
    let mut ours = embedded.talk(&namespace);
    old_watch(&mut ours, version(&first));
    assert_same(&without_versions(&theirs.record()), &without_versions(&ours.record()));
    control_plane.kill_apiserver();
}

fn without_versions(record: &str) -> String {
    let lines = record.lines().map(|line| match line.split_once("resourceVersion=") {
        Some((before, _)) => before,
        None => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn invalid_leases_are_refused_for_the_same_reasons() {
    compare("invalid", |talk| {
        let long = "n".repeat(254);
        let long_label = "l".repeat(64);
        for metadata in [
            json!({}),
            json!({ "name": "Upper_case" }),
            json!({ "name": "-dash" }),
            json!({ "name": "a..b" }),
            json!({ "name": "a/b" }),
            json!({ "name": long }),
            json!({ "name": &long[1..] }),
            json!({ "name": "a", "namespace": "elsewhere" }),
            json!({ "name": "a", "labels": { "-key": "fine" } }),
            json!({ "name": "a", "labels": { "key": "-value" } }),
            json!({ "name": "a", "labels": { &long_label: &long_label } }),
            json!({ "name": "a", "labels": { "Bad.Prefix/key": "" } }),
            json!({ "name": "a", "labels": { "/key": "" } }),
            json!({ "name": "a", "labels": { "prefix/": "" } }),
            json!({ "name": "a", "annotations": { "bad key": "any value" } }),
            json!({ "name": "a", "annotations": { "UPPER.example/Key": "fine" } }),
            json!({ "name": "b", "annotations": { "a/b/c": "" } }),
            json!({ "name": "b", "annotations": { "a": "x".repeat(256 * 1024 - 1) } }),
            json!({ "name": "c", "annotations": { "a": "x".repeat(256 * 1024) } }),
            json!({ "name": "c", "finalizers": ["bad name"] }),
            json!({ "name": "c", "finalizers": ["orphan", "foregroundDeletion"] }),
            json!({ "name": "c", "generation": -1 }),
            json!({ "name": "c", "ownerReferences": [{}] }),
            json!({ "name": "c", "ownerReferences": [{ "apiVersion": "apps/", "kind": "A", "name": "a", "uid": "u" }] }),
        ] {
            talk.post("", json!({ "metadata": metadata }));
        }
        for spec in [
            json!({ "leaseDurationSeconds": 0 }),
            json!({ "leaseDurationSeconds": -1, "leaseTransitions": -1 }),
            json!({ "leaseDurationSeconds": "15" }),
            json!({ "leaseDurationSeconds": 15.5 }),
            json!({ "leaseDurationSeconds": 3_000_000_000_u64 }),
            json!({ "holderIdentity": 1 }),
            json!({ "renewTime": 1 }),
            json!({ "renewTime": "2026-01-02T03:04:05Z" }),
            json!({ "renewTime": "2026-01-02T03:04:05.123Z" }),
            json!({ "renewTime": "2026-01-02T03:04:05.1234567Z" }),
            json!({ "renewTime": "2026-01-02 03:04:05.123456Z" }),
            json!({ "renewTime": "2026-13-02T03:04:05.123456Z" }),
            json!({ "renewTime": "" }),
            json!([]),
            json!("text"),
            json!(null),
        ] {
            talk.post("", json!({ "metadata": { "name": "s" }, "spec": spec }));
        }
        talk.put("/url", lease("body"));
        talk.put("/url", json!({ "metadata": {} }));
        talk.put("/url", json!({ "metadata": { "name": "url", "namespace": "elsewhere" } }));
        talk.put("/UPPER", lease("UPPER"));
    });
}

#[test]
fn bodies_that_are_no_lease_are_refused() {
    compare("bodies", |talk| {
        let leases = talk.leases("");
        let kind = [("Content-Type", "application/json")];
        for body in ["", "text", "[]", "null", "1", "{", r#"{"metadata":[]}"#] {
            talk.raw("POST", &leases, &kind, body.as_bytes());
        }
        for (kind, version) in [("Pod", "v1"), ("Pod", ""), ("Lease", "coordination.k8s.io/v9"), ("Lease", "v1")] {
            let body = json!({ "kind": kind, "apiVersion": version, "metadata": { "name": "a" } });
            talk.post("", body);
        }
        talk.raw("POST", &leases, &[("Content-Type", "text/plain")], b"{}");
        talk.raw("POST", &leases, &[("Content-Type", "application/vnd.kubernetes.protobuf")], b"{}");
        let charset = [("Content-Type", "application/json; charset=utf-8")];
        talk.raw("POST", &leases, &charset, br#"{"metadata":{"name":"charset"}}"#);
        talk.raw("POST", &leases, &[], br#"{"metadata":{"name":"untyped"}}"#);
        let too_large = vec![b' '; 3 * 1024 * 1024 + 1];
        talk.raw("POST", &leases, &kind, &too_large);
    });
}

#[test]
fn a_protobuf_body_says_the_same_as_a_json_one() {
    compare("protobuf", |talk| {
        let leases = talk.leases("");
        let kind = [("Content-Type", "application/vnd.kubernetes.protobuf"), ("Accept", "application/json")];
        talk.raw("POST", &leases, &kind, &protobuf_lease("a", "me", 15));
        talk.raw("POST", &leases, &kind, &protobuf_lease("b", "", -1));
        talk.raw("POST", &leases, &kind, &protobuf_lease("c", "me", 15)[..20]);
    });
}

/// A Lease in Kubernetes' protobuf envelope, written by hand.
fn protobuf_lease(name: &str, holder: &str, seconds: i64) -> Vec<u8> {
    let bytes = |number: u8, bytes: &[u8]| {
        let mut field = vec![number << 3 | 2, u8::try_from(bytes.len()).expect("it is short")];
        field.extend(bytes);
        field
    };
    let varint = |number: u8, value: i64| {
        let (mut field, mut left) = (vec![number << 3], value.cast_unsigned());
        while left >= 0x80 {
            field.push(u8::try_from(left & 0x7f).expect("seven bits") | 0x80);
            left >>= 7;
        }
        field.push(u8::try_from(left).expect("seven bits"));
        field
    };
    let label = bytes(11, &[bytes(1, b"app"), bytes(2, b"web")].concat());
    // As gogo writes them: also the empty strings, the zero time and the zero generation.
    let metadata = [
        bytes(1, name.as_bytes()),
        bytes(2, b""),
        bytes(3, b""),
        bytes(4, b""),
        bytes(5, b""),
        bytes(6, b""),
        varint(7, 0),
        bytes(8, b""),
        label,
    ]
    .concat();
    let time = [varint(1, 1_700_000_000), varint(2, 123_456_000)].concat();
    let spec = [bytes(1, holder.as_bytes()), varint(2, seconds), bytes(4, &time), varint(5, 0)].concat();
    let lease = [bytes(1, &metadata), bytes(2, &spec)].concat();
    let type_meta = [bytes(1, b"coordination.k8s.io/v1"), bytes(2, b"Lease")].concat();
    [b"k8s\0".to_vec(), bytes(1, &type_meta), bytes(2, &lease), bytes(3, b""), bytes(4, b"")].concat()
}

#[test]
fn a_dry_run_changes_nothing_and_unknown_fields_are_named() {
    compare("options", |talk| {
        talk.post("?dryRun=All", held("a", "me"));
        talk.get("/a");
        let first = talk.post("", held("a", "me"));
        talk.post("?dryRun=All", held("a", "me"));
        let mut record = held("a", "you");
        record["metadata"]["resourceVersion"] = json!(version(&first));
        talk.put("/a?dryRun=All", record);
        talk.merge("/a?dryRun=All", json!({ "spec": { "holderIdentity": "you" } }));
        talk.get("/a");
        talk.post("?dryRun=Some", lease("b"));
        talk.post("?fieldValidation=Sometimes", lease("b"));
        let odd = json!({ "metadata": { "name": "b" }, "spec": { "foo": 1 } });
        talk.post("?fieldValidation=Strict", odd.clone());
        talk.post("?fieldValidation=Ignore", odd.clone());
        talk.put("/c", json!({ "metadata": { "name": "c", "bar": 1 } }));
        talk.merge("/b", json!({ "spec": { "foo": 1 } }));
    });
}

#[test]
fn leases_come_as_rows_and_as_metadata() {
    compare("tables", |talk| {
        talk.post("", held("a", "me"));
        talk.post("", lease("b"));
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io, application/json";
        talk.get_as("", table);
        talk.get_as("/a", table);
        talk.get_as("?includeObject=Object", table);
        talk.get_as("?includeObject=None", table);
        talk.get_as("?includeObject=Foo", table);
        talk.get_as("", "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io");
        talk.get_as("/a", "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io");
        talk.get_as("/a", "text/plain");
        talk.get_as("/a", "*/*");
        talk.get_as("/a", "application/vnd.unheard-of, application/json;q=0.9");
    });
}

#[test]
fn discovery_and_refusals_of_paths_and_methods() {
    compare("discovery", |talk| {
        for path in [
            "/apis/coordination.k8s.io/v1",
            "/apis/coordination.k8s.io",
            "/apis/coordination.k8s.io/v2",
            "/apis/coordination.k8s.io/v1/absent",
            "/apis/coordination.k8s.io/v1/namespaces/default/absent/a",
            "/apis/absent.example/v1",
            "/absent",
            "/healthz",
            "/livez",
            "/readyz",
        ] {
            talk.raw("GET", path, &[], b"");
        }
        talk.get("/a/status");
        talk.put("", lease("a"));
        talk.post("/a", lease("a"));
        talk.raw("DELETE", "/apis/coordination.k8s.io/v1/leases", &[], b"");
        let kind = [("Content-Type", "application/json")];
        talk.raw("POST", "/apis/coordination.k8s.io/v1/leases", &kind, b"{}");
        talk.raw("POST", "/version", &kind, b"{}");
    });
}

/// The real server closes such a watch too; when depends on sizes that differ.
#[test]
fn a_watch_that_is_not_read_ends_and_is_not_kept_for() {
    let embedded = Embedded::start();
    let mut talk = embedded.talk("default");
    talk.post("", lease("a"));
    let watch = Http::connect(embedded.address).expect("it accepts");
    let watch = watch.with_timeout(Duration::from_secs(20)).expect("a timeout can be set");
    let mut watch = watch.stream(&talk.leases("?watch=1")).expect("the watch begins");
    let changes = 1500;
    for count in 0..changes {
        // Larger in all than what two sockets hold.
        let text = format!("{count}{}", "x".repeat(20_000));
        talk.merge("/a", json!({ "metadata": { "annotations": { "text": text } } }));
    }
    let mut told = 0;
    while watch.next_line().expect("the watch ends in good order").is_some() {
        told += 1;
    }
    assert!((1..changes).contains(&told), "{told} of {changes} events");
}

fn kubectl(kubeconfig: &std::path::Path, folder: &Folder, arguments: &[&str]) -> Output {
    Command::new(tool_folder(&["kubectl"]).join("kubectl"))
        .arg("--kubeconfig")
        .arg(kubeconfig)
        .args(arguments)
        .env("HOME", folder.path())
        .stdin(Stdio::null())
        .output()
        .expect("kubectl can be started")
}

#[test]
fn kubectl_works_with_the_embedded_server() {
    let embedded = Embedded::start();
    let folder = Folder::new("kubectl");
    let config = embedded.kubeconfig(&folder);
    let run = |arguments: &[&str]| {
        let output = kubectl(&config, &folder, arguments);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "kubectl {arguments:?}: {error}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let manifest = |holder: &str| {
        let path = folder.join(&format!("{holder}.yaml"));
        let text = format!(
            "apiVersion: coordination.k8s.io/v1\nkind: Lease\nmetadata: {{name: web}}\nspec: {{holderIdentity: {holder}, leaseDurationSeconds: 15}}\n"
        );
        std::fs::write(&path, text).expect("writes a manifest");
        path.to_str().expect("a plain path").to_owned()
    };
    run(&["apply", "-f", &manifest("first")]);
    assert!(run(&["apply", "-f", &manifest("first")]).contains("unchanged"));
    assert!(run(&["apply", "-f", &manifest("second")]).contains("configured"));
    let table = run(&["get", "leases"]);
    assert!(table.starts_with("NAME   HOLDER   AGE\nweb    second   "), "{table}");
    assert!(run(&["get", "leases", "-A", "-o", "wide"]).contains("default"));
    run(&["annotate", "lease", "web", "example.com/a=b"]);
    run(&["label", "lease", "web", "colour=red"]);
    run(&["patch", "lease", "web", "-p", r#"{"spec":{"leaseTransitions":3}}"#]);
    let yaml = run(&["get", "lease", "web", "-o", "yaml"]);
    for line in ["example.com/a: b", "colour: red", "leaseTransitions: 3", "holderIdentity: second"] {
        assert!(yaml.contains(line), "{line} in\n{yaml}");
    }
    std::fs::write(folder.join("edited.yaml"), yaml.replace("second", "third")).expect("writes");
    run(&["replace", "-f", folder.join("edited.yaml").to_str().expect("a plain path")]);
    run(&["wait", "--for=jsonpath={.spec.holderIdentity}=third", "lease/web", "--timeout=5s"]);
    assert!(run(&["get", "leases", "-l", "colour=red", "-o", "name"]).contains("/web"));
    assert!(run(&["explain", "lease.spec"]).contains("renewTime"));
    let watched = run(&["get", "leases", "-w", "--request-timeout=2s", "--output-watch-events"]);
    assert!(watched.contains("ADDED      web"), "{watched}");
    run(&["delete", "lease", "web"]);
    let refused = kubectl(&config, &folder, &["get", "lease", "web"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("(NotFound)"));
    let odd = folder.join("odd.yaml");
    let text = "apiVersion: coordination.k8s.io/v1\nkind: Lease\nmetadata: {name: odd}\nspec: {foo: 1}\n";
    std::fs::write(&odd, text).expect("writes a manifest");
    let refused = kubectl(&config, &folder, &["create", "-f", odd.to_str().expect("a plain path")]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("unknown field \"spec.foo\""));
}

#[test]
fn client_go_elects_with_the_embedded_server() {
    let embedded = Embedded::start();
    let folder = Folder::new("client-go");
    let config = embedded.kubeconfig(&folder);
    let began = clock::now();
    let flags = ["-lease-duration=4s", "-renew-deadline=3s", "-retry-period=500ms", "-release-on-cancel"];
    let within = Duration::from_secs(15);
    let mut first = ClientGo::start("web", "default", &config, "first", &flags);
    first.wait_event("started", began, within);
    let second = ClientGo::start("web", "default", &config, "second", &flags);
    second.wait_event("new_leader", began, within);
    assert!(second.first("started", began).is_none());
    first.signal(rustix::process::Signal::TERM);
    first.wait(within);
    second.wait_event("started", began, within);
    let lease = embedded.talk("default").get("/web");
    assert_eq!(lease["spec"]["holderIdentity"], "second");
    assert_eq!(lease["spec"]["leaseTransitions"], 1);
}
