//! docs/http.md, promise by promise, over real sockets.

mod report;

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use leasehold::app::Gone;
use leasehold::report::http::{Address, Command, Course, Listener, Refusal};
use leasehold::time::{Clock, Moment};
use report::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

#[tokio::test]
async fn leader_is_200_with_token_and_validity_while_leading_and_503_otherwise() {
    let server = Server::start().await;
    let no = server.get("/leader").await;
    assert_eq!(no.status, 503);
    assert_eq!(no.header("leasehold-pod"), Some("web-0"));
    assert_eq!(no.header("leasehold-token"), None);
    assert_eq!(no.header("leasehold-valid-for-ms"), Some("0"));

    server.lead(1);
    let yes = server.get("/leader").await;
    assert_eq!(yes.status, 200);
    assert_eq!(yes.header("leasehold-token"), Some("77"));
    assert_eq!(yes.header("leasehold-valid-for-ms"), Some("1000"));
    assert_eq!(yes.header("cache-control"), Some("no-store"));
    assert_eq!(yes.header("content-type"), Some("application/json"));
    assert_eq!(server.get("/leader/web").await.status, 200);
    assert_eq!(server.get("/leader/jobs").await.status, 503);
    assert_eq!(server.get("/leader?pod=web-0").await.status, 200);
}

#[tokio::test]
async fn every_key_is_there_leading_or_not() {
    let server = Server::start().await;
    let keys = |answer: &Answer| answer.json().as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let no = server.get("/v1/leader").await;
    assert_eq!(no.status, 200);
    let body = no.json();
    assert_eq!(body["leader"], false);
    assert_eq!(body["valid_for_ms"], 0);
    assert_eq!(body["reason"], "starting");
    for null in ["fencing_token", "holder", "valid_from_uptime", "valid_until_uptime", "stop_by_uptime", "acquired_at"]
    {
        assert!(body[null].is_null(), "{null}: {body}");
    }

    server.lead(1);
    server.clock.advance(Duration::from_micros(11_500_900));
    let yes = server.get("/v1/leader").await;
    assert_eq!(keys(&no), keys(&yes));
    assert_eq!(keys(&yes).len(), 17);
    let body = yes.json();
    assert_eq!(body["leader"], true);
    assert_eq!(body["pod"], "web-0");
    assert_eq!(body["namespace"], "apps");
    assert_eq!(body["holder"], "web-0");
    assert_eq!(body["fencing_token"], 77);
    // 12 s of validity less 11.5009 s, rounded down.
    assert_eq!(body["valid_for_ms"], 499);
    assert_eq!(body["valid_from_uptime"], 1011.5);
    assert_eq!(body["valid_until_uptime"], 1012.0);
    assert_eq!(body["stop_by_uptime"], 1014.97);
    assert_eq!(body["boot_id"], BOOT_ID);
    assert_eq!(body["lease_remaining_ms"], 3499);
    assert_eq!(body["acquired_at"], WALL);
    assert_eq!(body["transitions"], 4);
}

#[tokio::test]
async fn past_valid_until_the_answer_is_no_whatever_was_published() {
    let server = Server::start().await;
    server.lead(1);
    server.clock.advance(Duration::from_secs(12));
    let late = server.get("/leader").await;
    assert_eq!(late.status, 503);
    assert_eq!(late.json()["reason"], "renew_deadline");
    assert_eq!(server.get("/").await.json()["name"], "", "the old format must not name us either");
}

#[tokio::test]
async fn an_answer_is_a_promise_on_the_board_and_a_no_is_none() {
    let server = Server::start().await;
    let promised = || server.boards[0].promised_until();
    server.get("/v1/leases").await;
    assert_eq!(promised(), leasehold::time::Moment::BOOT);
    server.lead(1);
    for path in ["/leader", "/v1/leader", "/v1/leases", "/v1/leases/web", "/"] {
        server.clock.advance(Duration::from_millis(10));
        server.get(path).await;
        assert_eq!(promised(), server.clock.boot() + TTL, "{path}");
    }
}

#[tokio::test]
async fn another_pods_sidecar_says_so() {
    let server = Server::start().await;
    server.lead(1);
    for path in ["/leader?pod=web-1", "/v1/leader?pod=web-1", "/v1/leases/web?pod=", "/?pod=web-1"] {
        let other = server.get(path).await;
        assert_eq!((other.status, other.code()), (421, "other_pod".into()), "{path}");
    }
}

#[tokio::test]
async fn what_is_not_there_is_404_and_never_200() {
    let server = Server::start().await;
    server.lead(1);
    for path in [
        "/leaders",
        "/leader/",
        "/Leader",
        "//",
        "/v1",
        "/v1/",
        "/v1/leases/",
        "/v1/leases/web/",
        "/v1/session/",
        "/v1/members",
        "/v1/leases/web/watch/x",
        "/livez",
        "/metrics",
        "/leader/../leader",
        "/%6ceader",
        "/sse/",
    ] {
        let answer = server.get(path).await;
        assert_eq!(answer.status, 404, "{path}");
        assert!(!answer.code().is_empty());
    }
    for path in ["/leader/none", "/v1/leases/none", "/v1/leases/none/watch", "/leader/WEB", "/v1/session?lease=none"] {
        assert_eq!(server.get(path).await.code(), "no_such_lease", "{path}");
    }
}

#[tokio::test]
async fn a_wrong_method_is_405_and_says_which_is_right() {
    let server = Server::start().await;
    for (method, path, allowed) in [
        ("POST", "/leader", "GET, HEAD"),
        ("DELETE", "/v1/leases/web", "GET, HEAD"),
        ("OPTIONS", "/", "GET, HEAD"),
        ("PUT", "/v1/leases/web/watch", "GET, HEAD"),
        ("HEAD", "/v1/session", "GET"),
        ("GET", "/v1/leases/web/stepdown", "POST"),
        ("HEAD", "/v1/leases/web/stopped", "POST"),
    ] {
        let answer = server.ask(method, path, "", "").await;
        assert_eq!(answer.status, 405, "{method} {path}");
        assert_eq!(answer.header("allow"), Some(allowed), "{method} {path}");
    }
}

#[tokio::test]
async fn head_is_get_without_the_body() {
    let server = Server::start().await;
    server.lead(1);
    for path in ["/", "/leader", "/leader/jobs", "/v1/leader", "/v1/leases", "/v1/leases/web", "/none"] {
        let (get, head) = (server.get(path).await, server.ask("HEAD", path, "", "").await);
        assert_eq!(head.status, get.status, "{path}");
        for name in ["content-type", "content-length", "leasehold-token", "leasehold-valid-for-ms"] {
            assert_eq!(head.header(name), get.header(name), "{path} {name}");
        }
    }
    for path in ["/sse", "/v1/leases/web/watch"] {
        let head = server.ask("HEAD", path, "", "").await;
        assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")), "{path}");
    }
    // Nothing but heads on one connection: a body would be taken for the next answer.
    let mut stream = server.connect().await;
    for _ in 0..3 {
        stream.write_all(b"HEAD /v1/leases/web/watch HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        assert_eq!(read_answer(&mut stream, true).await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn a_waiting_question_is_answered_when_the_version_differs_and_no_sooner() {
    let server = Server::start().await;
    let version = server.get("/v1/leases/web").await.json()["version"].as_str().unwrap().to_owned();
    let path = format!("/v1/leases/web?wait=30s&version={version}");
    let mut stream = server.connect().await;
    send(&mut stream, &path).await;
    let early = timeout(Duration::from_millis(100), read_answer(&mut stream, false)).await;
    assert!(early.is_err(), "nothing changed: {early:?}");
    server.lead(1);
    let answer = read_answer(&mut stream, false).await.expect("the change");
    assert_eq!(answer.json()["leader"], true);
    assert_ne!(answer.json()["version"], version);
    // The old version differs by now, also one of another start of the sidecar.
    assert_eq!(server.get(&path).await.json()["leader"], true);
    assert_eq!(server.get("/v1/leases/web?wait=30s&version=0badcafe-1").await.status, 200);
    assert_eq!(server.get("/v1/leases/web?wait=30s").await.status, 200);
}

#[tokio::test]
async fn a_waiting_question_ends_with_its_wait_and_its_answer_is_computed_then() {
    let server = Server::start().await;
    server.lead(1);
    let version = server.get("/v1/leases/web").await.json()["version"].as_str().unwrap().to_owned();
    let mut stream = server.connect().await;
    send(&mut stream, &format!("/v1/leases/web?wait=100ms&version={version}")).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    server.clock.advance(Duration::from_secs(5));
    let answer = read_answer(&mut stream, false).await.expect("an answer at the end of the wait");
    assert_eq!(answer.json()["valid_until_uptime"], 1006.0);
    for bad in ["30", "-1s", "soon", ""] {
        let answer = server.get(&format!("/v1/leases/web?version={version}&wait={bad}")).await;
        assert_eq!((answer.status, answer.code()), (400, "bad_wait".into()), "{bad}");
    }
}

#[tokio::test]
async fn a_question_about_all_leases_waits_for_any() {
    let server = Server::start().await;
    let all = server.get("/v1/leases").await.json();
    assert_eq!(all["leases"].as_array().unwrap().len(), 2);
    let mut stream = server.connect().await;
    send(&mut stream, &format!("/v1/leases?wait=30s&version={}", all["version"].as_str().unwrap())).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    publish(&server.boards[1], held_by("other_x", server.clock.boot(), 1));
    let answer = read_answer(&mut stream, false).await.expect("the second lease changed").json();
    assert_eq!(answer["leases"][1]["holder"], "other");
    assert_ne!(answer["version"], all["version"]);
}

#[tokio::test]
async fn a_watch_tells_at_once_on_change_and_again_each_quarter_of_the_ttl() {
    let server = Server::start().await;
    let mut stream = server.connect().await;
    send(&mut stream, "/v1/leases/web/watch").await;
    let head = read_until(&mut stream, "\r\n\r\n").await.unwrap();
    assert!(head.contains("text/event-stream") && head.contains("no-store"), "{head}");
    let event = next_event(&mut stream).await.unwrap();
    assert_eq!(event[0], "event: status");
    assert!(event[1].starts_with("id: ") && event[2].starts_with("data: {"), "{event:?}");
    assert_eq!(event.len(), 3);

    server.lead(1);
    let event = next_event(&mut stream).await.unwrap();
    assert!(event[2].contains("\"leader\":true"), "{event:?}");
    let begun = leasehold::time::SystemClock.boot();
    for _ in 0..4 {
        server.clock.advance(Duration::from_millis(250));
        next_event(&mut stream).await.unwrap();
        assert_eq!(server.boards[0].promised_until(), server.clock.boot() + TTL);
    }
    let took = leasehold::time::SystemClock.boot().since(begun);
    assert!(took > Duration::from_millis(900) && took < Duration::from_secs(3), "four quarters took {took:?}");
}

#[tokio::test]
async fn the_end_of_the_server_ends_streams_and_waits() {
    let server = Server::start().await;
    let (mut watch, mut wait, mut idle) = (server.connect().await, server.connect().await, server.connect().await);
    send(&mut watch, "/v1/leases/web/watch").await;
    read_until(&mut watch, "\r\n\r\n").await.unwrap();
    let version = server.get("/v1/leases/web").await.json()["version"].as_str().unwrap().to_owned();
    send(&mut wait, &format!("/v1/leases/web?wait=5m&version={version}")).await;
    send(&mut idle, "/leader").await;
    read_answer(&mut idle, false).await.unwrap();

    server.stop.send(true).unwrap();
    assert_eq!(read_answer(&mut wait, false).await.expect("the waiting one is answered").status, 200);
    while next_event(&mut watch).await.is_some() {}
    assert_eq!(idle.read(&mut [0; 1]).await.unwrap(), 0);
    drop((watch, wait, idle));
    timeout(Duration::from_secs(3), server.running).await.expect("the server returns").unwrap();
}

#[tokio::test]
async fn a_reader_that_does_not_read_is_ended_and_promised_nothing_meanwhile() {
    // Forty events a second fill the buffers between us in a moment.
    let boards = vec![board_with_ttl("web", Duration::from_millis(100))];
    let server = Server::with(boards, &"127.0.0.1:0".parse().unwrap()).await;
    server.lead(1);
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(2048).unwrap();
    let mut stream = socket.connect(([127, 0, 0, 1], server.port).into()).await.unwrap();
    send(&mut stream, "/v1/leases/web/watch").await;

    let clogged = async {
        let mut last = server.boards[0].promised_until();
        loop {
            server.clock.advance(Duration::from_millis(1));
            tokio::time::sleep(Duration::from_millis(500)).await;
            let promised = server.boards[0].promised_until();
            if promised == last {
                return;
            }
            last = promised;
        }
    };
    timeout(Duration::from_secs(20), clogged).await.expect("promises stop when nobody reads");
    tokio::time::sleep(Duration::from_secs(6)).await;
    let mut rest = Vec::new();
    let ended = timeout(Duration::from_secs(5), stream.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "the stream is still open");
    assert!(!rest.ends_with(b"0\r\n\r\n"), "it was cut, not finished");
}

#[tokio::test]
async fn the_old_sidecars_format_names_the_leader_and_nobody_else() {
    let server = Server::start().await;
    // A client that reads two keys finds them in every answer.
    let nobody = r#"{"name":"","last_update":"2026-07-01T12:00:00Z"}"#;
    assert_eq!(server.get("/").await.body.trim(), nobody);
    let mut stream = server.connect().await;
    send(&mut stream, "/sse").await;
    read_until(&mut stream, "\r\n\r\n").await.unwrap();
    assert_eq!(next_event(&mut stream).await.unwrap(), [format!("data: {nobody}")]);

    publish(&server.boards[0], held_by("web-9_xyz", server.clock.boot(), 1));
    let other = r#"{"name":"web-9","last_update":"2026-07-01T12:00:00Z"}"#;
    assert_eq!(server.get("/").await.body.trim(), other);
    assert_eq!(next_event(&mut stream).await.unwrap(), [format!("data: {other}")]);
    // Another version and the same leader is no event.
    publish(&server.boards[0], held_by("web-9_xyz", server.clock.boot(), 2));
    server.lead(3);
    let event = next_event(&mut stream).await.unwrap();
    assert!(event[0].contains(r#""name":"web-0""#) && event.len() == 1, "{event:?}");
    // The record still names us, and no promise is in force: our name would be a yes.
    publish(&server.boards[0], held_by("web-0_abc", server.clock.boot(), 4));
    assert_eq!(next_event(&mut stream).await.unwrap(), [format!("data: {nobody}")]);
}

#[tokio::test]
async fn commands_reach_the_loop_and_its_word_is_the_answer() {
    let mut server = Server::start().await;
    let json = "Content-Type: application/json\r\n";
    let to_loop = async {
        let Some(Command::StepDown { lease: 0, to: None, reply, .. }) = server.commands.recv().await else { panic!() };
        reply.send(Ok(Course::Done)).unwrap();
        let Some(Command::StepDown { lease: 1, to, wait, reply }) = server.commands.recv().await else { panic!() };
        assert_eq!((to.as_deref(), wait), (Some("web-1"), Duration::from_millis(500)));
        reply.send(Ok(Course::UnderWay)).unwrap();
        let Some(Command::StepDown { lease: 1, reply, .. }) = server.commands.recv().await else { panic!() };
        reply.send(Err(Refusal { code: "not_leader", message: "this pod does not lead".into() })).unwrap();
        let Some(Command::Stopped { lease: 0, token: 77, reply }) = server.commands.recv().await else { panic!() };
        reply.send(Err(Refusal { code: "wrong_token", message: "this term's token is 78".into() })).unwrap();
        let Some(Command::Stopped { lease: 0, token: 78, reply }) = server.commands.recv().await else { panic!() };
        drop(reply);
    };
    let port = server.port;
    let post = |path: &'static str, body: &'static str| async move {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let length = body.len();
        let request =
            format!("POST {path} HTTP/1.1\r\nHost: localhost\r\n{json}Content-Length: {length}\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).await.unwrap();
        read_answer(&mut stream, false).await.unwrap()
    };
    let from_app = async {
        assert_eq!(post("/v1/leases/web/stepdown", "").await.status, 200);
        let under_way = post("/v1/leases/jobs/stepdown?wait=500ms", r#"{"to":"web-1"}"#).await;
        assert_eq!((under_way.status, &under_way.json()["lease"]), (202, &"jobs".into()));
        let refused = post("/v1/leases/jobs/stepdown", r#"{"to":"web-1"}"#).await;
        assert_eq!((refused.status, refused.code()), (409, "not_leader".into()));
        let refused = post("/v1/leases/web/stopped", r#"{"fencing_token":77}"#).await;
        assert_eq!((refused.status, refused.code()), (409, "wrong_token".into()));
        assert_eq!(post("/v1/leases/web/stopped", r#"{"fencing_token":78}"#).await.status, 503);
    };
    tokio::join!(to_loop, from_app);
}

#[tokio::test]
async fn a_command_in_any_other_form_is_refused_and_never_reaches_the_loop() {
    let mut server = Server::start().await;
    let json = "Content-Type: application/json; charset=utf-8\r\n";
    let large = format!("{{\"to\":\"{}\"}}", "x".repeat(5000));
    for (path, headers, body, status) in [
        ("/v1/leases/web/stepdown", "", "{}", 415),
        ("/v1/leases/web/stepdown", "Content-Type: text/plain\r\n", "{}", 415),
        ("/v1/leases/web/stepdown", "Content-Type: application/jsonp\r\n", "{}", 415),
        ("/v1/leases/web/stepdown", json, "{", 400),
        ("/v1/leases/web/stepdown", json, r#"{"too":"web-1"}"#, 400),
        ("/v1/leases/web/stepdown", json, r#"{"to":""}"#, 400),
        ("/v1/leases/web/stepdown", json, r#"{"to":"a/b"}"#, 400),
        ("/v1/leases/web/stepdown?wait=soon", json, "{}", 400),
        ("/v1/leases/web/stepdown", json, &large, 413),
        ("/v1/leases/web/stopped", json, "", 400),
        ("/v1/leases/web/stopped", json, r#"{"fencing_token":-1}"#, 400),
        ("/v1/leases/web/stopped", json, r#"{"fencing_token":"77"}"#, 400),
        ("/v1/leases/none/stopped", json, r#"{"fencing_token":77}"#, 404),
    ] {
        let answer = server.ask("POST", path, headers, body).await;
        assert_eq!(answer.status, status, "{path} {body:.40}");
        answer.code();
    }
    assert!(server.commands.try_recv().is_err());
}

#[tokio::test]
async fn a_foreign_host_is_refused() {
    let server = Server::start().await;
    let with_host = async |version: &str, host: &str| {
        let mut stream = server.connect().await;
        stream.write_all(format!("GET /v1/leader HTTP/{version}\r\n{host}\r\n").as_bytes()).await.unwrap();
        read_answer(&mut stream, false).await.expect("an answer").status
    };
    for host in ["localhost", "127.0.0.1:4040", "[::1]:4040", "sidecar.internal:80"] {
        assert_eq!(with_host("1.1", &format!("Host: {host}\r\n")).await, 200, "{host}");
    }
    for host in ["evil.example", "localhost.evil.example", "10.0.0.1"] {
        assert_eq!(with_host("1.1", &format!("Host: {host}\r\n")).await, 403, "{host}");
    }
    assert_eq!(with_host("1.1", "").await, 400);
    assert_eq!(with_host("1.0", "").await, 200);
}

#[tokio::test]
async fn a_header_of_megabytes_is_431_and_the_client_gets_to_read_it() {
    let server = Server::start().await;
    let mut stream = server.connect().await;
    let request = format!("GET /leader HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(8 << 20)); // More than the buffers between us hold.
    stream.write_all(request.as_bytes()).await.expect("it is read, though not kept");
    assert_eq!(read_answer(&mut stream, false).await.expect("an answer").status, 431);
}

#[tokio::test]
async fn what_is_not_http_is_400_and_harms_nobody() {
    let server = Server::start().await;
    for rubbish in [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"[..], b"GET\r\n\r\n", b"\0\0\0\0\r\n\r\n"] {
        let mut stream = server.connect().await;
        stream.write_all(rubbish).await.unwrap();
        assert_eq!(read_answer(&mut stream, false).await.map(|answer| answer.status), Some(400), "{rubbish:?}");
    }
    assert_eq!(server.get("/v1/leader").await.status, 200);
}

#[tokio::test]
async fn a_slow_head_is_ended_and_an_idle_connection_is_not() {
    let server = Server::start().await;
    let mut idle = server.connect().await;
    send(&mut idle, "/leader").await;
    assert_eq!(read_answer(&mut idle, false).await.unwrap().status, 503);
    let mut slow = server.connect().await;
    let drip = async {
        for byte in b"GET /leader HTTP/1.1\r\nHost: localhost\r\nX: yyyyyyyyyyyyyyyyyyyyyyyy".chunks(2) {
            if slow.write_all(byte).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        panic!("nobody ended it");
    };
    timeout(Duration::from_secs(9), drip).await.expect("ended within its limit");
    send(&mut idle, "/leader").await;
    assert_eq!(read_answer(&mut idle, false).await.expect("still open").status, 503);
}

#[tokio::test]
async fn a_thousand_idle_connections_do_not_keep_a_question_out() {
    let server = Server::start().await;
    let mut watch = server.connect().await;
    send(&mut watch, "/v1/leases/web/watch").await;
    read_until(&mut watch, "\r\n\r\n").await.unwrap();
    let mut crowd = Vec::new();
    for _ in 0..1000 {
        server.clock.advance(Duration::from_millis(1));
        crowd.push(server.connect().await);
    }
    assert_eq!(server.get("/v1/leader").await.status, 200);
    // The longest idle were closed for it, the latest are still there, and who is being answered was never touched.
    assert_eq!(timeout(Duration::from_secs(2), crowd[0].read(&mut [0; 1])).await.expect("closed").unwrap_or(0), 0);
    send(&mut crowd[999], "/v1/leader").await;
    assert_eq!(read_answer(&mut crowd[999], false).await.expect("open").status, 200);
    server.lead(1);
    while !next_event(&mut watch).await.expect("the watch is still open")[2].contains("\"leader\":true") {}
}

#[tokio::test]
async fn more_streams_than_there_is_room_for_are_503_and_questions_are_not() {
    let server = Server::start().await;
    let mut open = Vec::new();
    for _ in 0..64 {
        let mut stream = server.connect().await;
        send(&mut stream, "/v1/leases/web/watch").await;
        assert!(read_until(&mut stream, "\r\n\r\n").await.unwrap().contains(" 200 "));
        open.push(stream);
    }
    let answer = server.get("/v1/leases/web/watch").await;
    assert_eq!((answer.status, answer.code()), (503, "too_many_streams".into()));
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert_eq!(server.get("/v1/leader").await.status, 200);
    open.pop();
    let freed =
        async { while server.ask("GET", "/v1/leases/web/watch", "Connection: close\r\n", "").await.status != 200 {} };
    timeout(Duration::from_secs(3), freed).await.expect("a closed stream gives its place back");
}

#[tokio::test]
async fn a_unix_socket_answers_any_user_and_any_host() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.sock");
    let address = Address::Unix(path.clone());
    // What a killed sidecar left.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let server = Server::with(vec![board("web")], &address).await;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666);
    let mut stream = UnixStream::connect(&path).await.unwrap();
    stream.write_all(b"GET /leader HTTP/1.1\r\nHost: whatever\r\n\r\n").await.unwrap();
    assert_eq!(read_answer(&mut stream, false).await.unwrap().status, 503);

    let error = Listener::bind(&address).err().expect("one sidecar a socket").to_string();
    assert!(error.contains("another process listens"), "{error}");
    server.stop.send(true).unwrap();
    drop(stream);
    server.running.await.unwrap();
    assert!(!path.exists(), "the socket's file goes with it");
    std::fs::write(&path, "precious").unwrap();
    assert!(Listener::bind(&address).err().expect("a file is not ours to remove").to_string().contains("not a socket"));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[tokio::test]
async fn an_address_in_use_is_an_error_that_says_what_to_do() {
    let server = Server::start().await;
    let address = format!("127.0.0.1:{}", server.port).parse().unwrap();
    let error = Listener::bind(&address).err().expect("never two on one port").to_string();
    assert!(error.contains("in use") && error.contains(&server.port.to_string()), "{error}");
}

#[tokio::test]
async fn requests_in_a_row_on_one_connection_are_answered_in_order() {
    let server = Server::start().await;
    let mut stream = server.connect().await;
    let request = "GET /v1/leader HTTP/1.1\r\nHost: localhost\r\n\r\nGET /none HTTP/1.1\r\nHost: localhost\r\n\r\n";
    stream.write_all(request.repeat(20).as_bytes()).await.unwrap();
    for _ in 0..20 {
        assert_eq!(read_answer(&mut stream, false).await.unwrap().status, 200);
        assert_eq!(read_answer(&mut stream, false).await.unwrap().status, 404);
    }
}

#[tokio::test]
async fn localhost_is_both_loopback_addresses_on_one_port_where_there_are_both() {
    let server = Server::with(vec![board("web")], &"localhost:0".parse().unwrap()).await;
    assert_eq!(server.get("/v1/leader").await.status, 200);
    // A machine without IPv6 has nothing to bind here either; the server started all the same.
    if tokio::net::TcpListener::bind("[::1]:0").await.is_ok() {
        let mut stream = TcpStream::connect(("::1", server.port)).await.expect("IPv6 is served");
        send(&mut stream, "/v1/leader").await;
        assert_eq!(read_answer(&mut stream, false).await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn a_session_is_a_stream_that_counts_while_it_is_open_and_its_peers_close_is_known_from_ours() {
    let server = Server::start().await;
    assert_eq!(server.get("/v1/session?exclusive=perhaps").await.code(), "bad_exclusive");
    let now = server.clock.boot();
    assert!(server.sessions.alive(now).is_err());

    let app = stream_of(&server, "/v1/session").await;
    assert_eq!(server.sessions.alive(now), Ok(()));
    // A watch says nothing of the app.
    let _watch = stream_of(&server, "/v1/leases/web/watch").await;
    drop(app);
    let gone = wait_gone(&server, now).await;
    assert!(gone.proved, "the other side closed it");

    let _app = stream_of(&server, "/v1/session").await;
    server.stop.send(true).unwrap();
    let gone = wait_gone(&server, now).await;
    assert!(!gone.proved, "this side closed it");
}

/// An open stream, its first event read.
async fn stream_of(server: &Server, path: &str) -> TcpStream {
    let mut stream = server.connect().await;
    send(&mut stream, path).await;
    read_until(&mut stream, "\r\n\r\n").await.expect("a head");
    assert!(next_event(&mut stream).await.is_some());
    stream
}

async fn wait_gone(server: &Server, now: Moment) -> Gone {
    let wait = async {
        loop {
            server.sessions.changed().await;
            if let Err(gone) = server.sessions.alive(now) {
                return gone;
            }
        }
    };
    timeout(Duration::from_secs(10), wait).await.expect("its end is noticed")
}

#[tokio::test]
async fn of_exclusive_sessions_one_is_told_the_token_and_others_are_told_why_not() {
    let server = Server::start().await;
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(stream_of(&server, "/v1/session?exclusive=true").await);
    }
    server.lead(1);
    let mut leaders = 0;
    for stream in &mut streams {
        let event = loop {
            let event = next_event(stream).await.expect("an event").join("\n");
            if !event.contains("starting") {
                break event;
            }
        };
        leaders += usize::from(event.contains("\"fencing_token\":77"));
        assert!(event.contains("other_session") != event.contains("\"leader\":true"), "{event}");
    }
    assert_eq!(leaders, 1);
    // The pod leads, whoever of it does.
    assert_eq!(server.get("/leader").await.status, 200);
}
