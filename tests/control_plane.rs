//! The harness itself: what other tests stand on must hold.

mod support;

use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use support::clientgo::ClientGo;
use support::clock::{self, wait_until};
use support::control_plane::{ADMIN, ControlPlane, OTHER, SIDECAR, shared};
use support::http::Http;
use support::proxy::Proxy;
use support::recorder::{Promise, fault};

const SECOND: Duration = Duration::from_secs(1);

fn lease(holder: &str) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "it"},
        "spec": {"holderIdentity": holder, "leaseDurationSeconds": 15},
    })
}

fn create_lease(control_plane: &ControlPlane, namespace: &str) {
    let path = format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases");
    let answer = control_plane.api("POST", &path, Some(&lease("me")));
    assert_eq!(answer.expect("answers").status, 201);
}

#[test]
fn kubectl_and_the_api_see_the_same_lease() {
    let control_plane = shared();
    let namespace = control_plane.namespace("kubectl");
    create_lease(control_plane, &namespace);
    let holder =
        control_plane.run_kubectl(&["get", "lease", "it", "-n", &namespace, "-o=jsonpath={.spec.holderIdentity}"]);
    assert_eq!(holder, "me");
    let patched = json!({"spec": {"holderIdentity": "you"}});
    control_plane.patch_lease(&namespace, "it", &patched);
    let seen = control_plane.lease(&namespace, "it").expect("is there");
    assert_eq!(seen["spec"]["holderIdentity"], "you");
    assert!(control_plane.lease(&namespace, "other").is_none());
    assert!(control_plane.metric("apiserver_request_total", &["resource=\"leases\""]) >= 3.0);
    assert!(control_plane.run_kubectl(&["version"]).contains("Server Version: v1.36.3"));
}

#[test]
fn a_user_may_do_what_was_allowed_and_no_more() {
    let control_plane = shared();
    let namespace = control_plane.namespace("rights");
    let path = format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/it");
    let put = |user: &str| {
        let mut http = control_plane.connect_as(user).expect("connects");
        let headers = [("Content-Type", "application/json")];
        let answer = http.request("PUT", &path, &headers, lease("x").to_string().as_bytes());
        answer.expect("answers").status
    };
    assert_eq!(put(SIDECAR), 403);
    control_plane.allow_lease(&namespace, SIDECAR, "it");
    assert_eq!(put(SIDECAR), 201);
    assert_eq!(put(OTHER), 403);
}

#[test]
fn a_service_account_token_is_accepted() {
    let control_plane = shared();
    let namespace = control_plane.namespace("accounts");
    let kubeconfig = control_plane.kubeconfig_for_service_account(&namespace, "app", None);
    let who = control_plane.run_kubectl(&[
        &format!("--kubeconfig={}", kubeconfig.display()),
        "auth",
        "whoami",
        "-o=jsonpath={.status.userInfo.username}",
    ]);
    assert_eq!(who, format!("system:serviceaccount:{namespace}:app"));
}

#[test]
fn a_watch_streams() {
    let control_plane = shared();
    let namespace = control_plane.namespace("watch");
    let path = format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases?watch=1");
    let http = control_plane.connect().expect("connects");
    let mut watch = http.stream(&path).expect("streams");
    assert_eq!(watch.status, 200);
    create_lease(control_plane, &namespace);
    let line = watch.next_line().expect("a line").expect("not the end");
    let event: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(event["type"], "ADDED");
    assert_eq!(event["object"]["metadata"]["name"], "it");
}

/// A server that sends back what it gets.
fn echo() -> std::net::SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut writer = stream.try_clone().expect("a descriptor");
                std::io::copy(&mut &stream, &mut writer)
            });
        }
    });
    address
}

/// Sends one byte and gives what comes back within the time, if anything.
fn ping(mut stream: &TcpStream, byte: u8, within: Duration) -> std::io::Result<Option<u8>> {
    use std::io::Write;
    stream.write_all(&[byte])?;
    receive(stream, within)
}

fn receive(mut stream: &TcpStream, within: Duration) -> std::io::Result<Option<u8>> {
    stream.set_read_timeout(Some(within))?;
    let mut byte = [0];
    match stream.read(&mut byte) {
        Ok(1) => Ok(Some(byte[0])),
        Ok(_) => Err(ErrorKind::UnexpectedEof.into()),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

#[test]
fn a_cut_resets_and_refuses_until_it_heals() {
    let proxy = Proxy::start(echo());
    let stream = TcpStream::connect(proxy.address()).expect("connects");
    assert_eq!(ping(&stream, 1, SECOND).expect("passes"), Some(1));
    proxy.cut();
    let error = receive(&stream, SECOND).expect_err("is cut");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let error = TcpStream::connect(proxy.address()).expect_err("is refused");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    proxy.heal();
    let stream = TcpStream::connect(proxy.address()).expect("connects");
    assert_eq!(ping(&stream, 2, SECOND).expect("passes"), Some(2));
    assert_eq!(proxy.connections(), 2);
}

#[test]
fn silence_keeps_connections_and_what_was_sent() {
    let proxy = Proxy::start(echo());
    let stream = TcpStream::connect(proxy.address()).expect("connects");
    assert_eq!(ping(&stream, 1, SECOND).expect("passes"), Some(1));
    let little = Duration::from_millis(100);
    for (byte, silence) in
        [(2, Proxy::silence as fn(&Proxy)), (3, Proxy::silence_requests), (4, Proxy::silence_replies)]
    {
        silence(&proxy);
        assert_eq!(ping(&stream, byte, little).expect("is kept"), None);
        let late = TcpStream::connect(proxy.address()).expect("is accepted");
        assert_eq!(ping(&late, byte, little).expect("is kept"), None);
        proxy.heal();
        assert_eq!(receive(&stream, SECOND).expect("passes"), Some(byte));
        assert_eq!(receive(&late, SECOND).expect("passes"), Some(byte));
    }
}

#[test]
fn one_silent_way_leaves_the_other_open() {
    let control_plane = shared();
    let namespace = control_plane.namespace("one-way");
    create_lease(control_plane, &namespace);
    let proxy = Proxy::start(control_plane.address());
    let kubeconfig = control_plane.kubeconfig_for(ADMIN, Some(proxy.address()));
    let mut kubectl = support::process::Process::start({
        proxy.silence_replies();
        let folder = support::control_plane::tool_folder(&[]);
        let mut command = std::process::Command::new(folder.join("kubectl"));
        command.arg("--kubeconfig").arg(kubeconfig);
        command.args(["version", "--request-timeout=30s"]);
        command.stdout(std::process::Stdio::null());
        command
    })
    .expect("starts");
    wait_until("kubectl to connect", 10 * SECOND, || proxy.connections() > 0);
    thread::sleep(Duration::from_millis(300));
    assert!(kubectl.ended().is_none());
    proxy.heal();
    assert!(kubectl.wait(10 * SECOND).success());
}

#[test]
fn late_replies_come_late_and_all_at_once_after_healing() {
    let proxy = Proxy::start(echo());
    let stream = TcpStream::connect(proxy.address()).expect("connects");
    let delay = Duration::from_millis(200);
    proxy.delay_replies(delay);
    let sent = clock::now();
    assert_eq!(ping(&stream, 1, SECOND).expect("passes"), Some(1));
    let took = clock::now() - sent;
    assert!(took >= delay, "{took:?}");
    proxy.delay_replies(100 * SECOND);
    assert_eq!(ping(&stream, 2, Duration::from_millis(50)).expect("is kept"), None);
    proxy.heal();
    assert_eq!(receive(&stream, SECOND).expect("passes"), Some(2));
}

#[test]
fn a_control_plane_stops_restarts_and_goes_back() {
    let control_plane = ControlPlane::start();
    let namespace = control_plane.namespace("back");
    create_lease(&control_plane, &namespace);
    let before = control_plane.lease(&namespace, "it").expect("is there");

    // Stopped: it accepts, and says nothing.
    control_plane.stop_apiserver();
    let silent = Http::connect(control_plane.address())
        .and_then(|http| http.with_timeout(Duration::from_millis(200))?.get("/livez"));
    assert_eq!(silent.expect_err("is stopped").kind(), ErrorKind::WouldBlock);
    control_plane.cont_apiserver();
    assert_eq!(control_plane.lease(&namespace, "it"), Some(before.clone()));

    let snapshot = control_plane.snapshot();
    let patch = json!({"spec": {"holderIdentity": "later"}});
    let later = control_plane.patch_lease(&namespace, "it", &patch);
    assert_ne!(later["metadata"]["resourceVersion"], before["metadata"]["resourceVersion"]);

    control_plane.kill_apiserver();
    let refused = control_plane.connect().err().expect("is gone");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    control_plane.start_apiserver();
    assert_eq!(control_plane.lease(&namespace, "it"), Some(later));

    control_plane.restore(&snapshot);
    assert_eq!(control_plane.lease(&namespace, "it"), Some(before));
}

#[test]
fn client_go_leads_renews_and_releases() {
    let control_plane = shared();
    let namespace = control_plane.namespace("clientgo");
    let kubeconfig = control_plane.kubeconfig();
    let flags = ["-lease-duration=3s", "-renew-deadline=2s", "-retry-period=200ms"];
    let flags = [&flags[..], &["-release-on-cancel"]].concat();
    let began = clock::now();
    let mut first = ClientGo::start("it", &namespace, &kubeconfig, "first", &flags);
    first.wait_event("started", began, 10 * SECOND);
    let second = ClientGo::start("it", &namespace, &kubeconfig, "second", &flags);
    second.wait_event("new_leader", began, 10 * SECOND);
    first.wait_event("renewed", clock::now(), 10 * SECOND);
    first.signal(rustix::process::Signal::TERM);
    assert!(first.wait(10 * SECOND).success());
    let taken = second.wait_event("started", began, 10 * SECOND);
    assert!(first.first("released", began).expect("was released") < taken);
    assert_eq!(first.led().len(), 1);
}

#[test]
fn the_recorder_sees_overlaps_and_tokens_that_do_not_grow() {
    let promise = |pod: &str, token, from, until| Promise {
        pod: pod.into(),
        token,
        by: "http",
        from: Duration::from_millis(from),
        until: Duration::from_millis(until),
    };
    let good = [
        promise("a", 5, 0, 1000),
        promise("a", 5, 500, 1100),
        promise("b", 9, 1100, 2000),
        promise("a", 12, 2000, 2100),
    ];
    assert_eq!(fault(&good), None);
    let overlap = [promise("a", 5, 0, 1000), promise("b", 9, 999, 2000)];
    assert!(fault(&overlap).expect("a fault").starts_with("S1"));
    // Behind a promise of its own pod that ends sooner.
    let hidden = [promise("a", 5, 0, 1000), promise("a", 5, 10, 20), promise("b", 9, 500, 600)];
    assert!(fault(&hidden).expect("a fault").starts_with("S1"));
    for tokens in [(5, 5), (5, 4)] {
        let stuck = [promise("a", tokens.0, 0, 10), promise("b", tokens.1, 10, 20)];
        assert!(fault(&stuck).expect("a fault").starts_with("S4"));
    }
}
