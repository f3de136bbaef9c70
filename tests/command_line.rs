//! The command line's promises: what is wrong is said whole, in sentences, before anything is opened, with exit 64;
//! and `check` tells leading, not leading and not knowing apart.

mod support;

use std::process::{Command, Output, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use support::process::Process;

fn leasehold(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_leasehold"))
        .args(arguments)
        .env_clear()
        .envs(environment.iter().copied())
        .output()
        .expect("the binary runs")
}

/// Exit 64, and standard error holds each of `sentences`.
#[track_caller]
fn assert_refused(arguments: &[&str], environment: &[(&str, &str)], sentences: &[&str]) {
    let output = leasehold(arguments, environment);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(64), "{arguments:?}: {errors}");
    for sentence in sentences {
        assert!(errors.contains(sentence), "{arguments:?} should say {sentence:?}, and says:\n{errors}");
    }
}

#[test]
fn every_fault_of_a_configuration_is_said_at_once() {
    assert_refused(
        &[
            "run",
            "--lease=Web_1",
            "--lease=b",
            "--lease=b",
            "--lease-duration=2500ms",
            "--renew-deadline=20s",
            "--probe-listen=x",
            "--pod-name=A",
        ],
        &[],
        &[
            "the lease name \"Web_1\" is no name",
            "the lease \"b\" is given twice",
            "whole seconds",
            "the renew deadline (20s) must be below",
            "--probe-listen \"x\" is no address",
            "the pod name \"A\" is no name",
        ],
    );
}

#[test]
fn each_time_is_judged() {
    let run = |flags: &[&str], sentence: &str| {
        let mut arguments = vec!["run", "--lease=a", "--pod-name=a"];
        arguments.extend(flags);
        assert_refused(&arguments, &[], &[sentence]);
    };
    // D - 2 rho D of 15 s is 14.97 s.
    run(&["--renew-deadline=14970ms"], "must be below 14.97s");
    run(&["--lease-duration=0s"], "between 2 seconds and 1 hour");
    run(&["--lease-duration=2h"], "between 2 seconds and 1 hour");
    run(&["--renew-interval=900ms"], "at least 1 second");
    run(&["--renew-interval=11s", "--retry-period=1s"], "longer than the renew interval and the retry period together");
    run(&["--answer-ttl=13s"], "the answer TTL");
    run(&["--retry-period=1ms"], "the retry period");
    run(&["--shutdown-grace=2s"], "the shutdown grace");
    run(&["--app-timeout=1ms"], "the app timeout");
    run(&["--app-alive=lock", "--report-dir=off"], "the lock is a file");
    run(&["--app-alive=lock,session,lock"], "given twice");
    run(&["--app-alive=http://10.255.255.1:80/"], "not this pod's own address");
    run(&["--app-alive=http://127.0.0.1:4041/livez"], "own port");
    run(&["--app-alive=https://127.0.0.1/"], "https is not probed");
    run(&["--app-alive=sure"], "lock, session, asking");
    run(&["--app-alive=tcp://127.0.0.1:80", "--app-health-interval=1ms"], "the app health interval");
    run(&["--session-name=x"], "needs --app-alive session");
    run(&["--on-sigterm=wait-for-app"], "nothing shows when the app has ended");
    run(&["--lease-duration=15"], "is no duration");
    run(&["--replicas=0"], "at least 1");
}

#[test]
fn usage_faults_exit_64_and_help_fits_a_screen() {
    assert_refused(&["run"], &[], &["give --lease NAME"]);
    assert_refused(&["run", "--member-of=web", "--role-label"], &[], &["--role-label says who leads"]);
    let long = format!("--member-of={}", "x".repeat(64));
    assert_refused(&["run", &long], &[], &["64 characters, and 63 fit"]);
    assert_refused(&["run", "--member-of=web", "--member-renew-interval=30s"], &[], &["half of the member lease"]);
    assert_refused(&["run", "--member-of=web", "--member-annotation=zone"], &[], &["KEY=VALUE"]);
    assert_refused(&["run", "--lease=members", "--member-of=web"], &[], &["no lease may be named"]);
    assert_refused(&["run", "--no-such-flag"], &[], &["--no-such-flag"]);
    assert_refused(&["frobnicate"], &[], &["frobnicate"]);
    assert_refused(&["run", "--lease=a"], &[("LEASEHOLD_LOG", "a=b=c")], &["LEASEHOLD_LOG"]);
    let help = leasehold(&["run", "--help"], &[]);
    assert!(help.status.success());
    let help = String::from_utf8(help.stdout).expect("text");
    assert!(help.lines().count() <= 40, "{} lines", help.lines().count());
    for flag in [
        "--lease",
        "--namespace",
        "--kubeconfig",
        "--context",
        "--listen",
        "--probe-listen",
        "--report-dir",
        "--state-dir",
        "--pod-name",
        "--identity",
        "--lease-duration",
        "--renew-deadline",
        "--renew-interval",
        "--retry-period",
        "--answer-ttl",
        "--on-sigterm",
        "--shutdown-grace",
        "--app-alive",
        "--app-timeout",
        "--app-health-interval",
        "--session-name",
        "--ready-when",
        "--trust-unheld",
        "--log-level",
    ] {
        assert!(help.contains(flag), "{flag} is missing");
    }
}

#[test]
fn flags_come_from_the_environment_and_by_the_old_sidecars_names() {
    assert_refused(&["run"], &[("LEASEHOLD_LEASE", "No"), ("LEASEHOLD_RENEW_DEADLINE", "99s")], &["\"No\"", "99s"]);
    assert_refused(&["run"], &[("ELECTOR_ELECTION", "No")], &["\"No\""]);
    assert_refused(
        &["run", "--election=No", "--election-namespace=No2", "--id=x_y", "--ttl=1ms", "--http=127.0.0.1:0"],
        &[],
        &["\"No\"", "the namespace \"No2\" is", "\"x_y\"", "lease duration"],
    );
    // A Service named leasehold sets these in every pod of its namespace.
    let services = [
        ("LEASEHOLD_PORT", "tcp://10.0.0.1:80"),
        ("LEASEHOLD_SERVICE_HOST", "10.0.0.1"),
        ("LEASEHOLD_SERVICE_PORT", "80"),
    ];
    assert_refused(&["run"], &services, &["give --lease NAME"]);
    assert!(leasehold(&["run", "--help"], &services).status.success());
}

#[test]
fn no_way_to_the_api_server_is_said_with_what_to_do() {
    assert_refused(&["run", "--lease=a", "--pod-name=a"], &[], &["give --kubeconfig FILE"]);
    assert_refused(
        &["run", "--lease=a", "--pod-name=a", "--kubeconfig=/nonexistent/config"],
        &[],
        &["/nonexistent/config"],
    );
}

#[test]
fn completion_is_printed_for_a_shell() {
    let output = leasehold(&["completion", "bash"], &[]);
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains("--renew-deadline"));
}

#[test]
fn check_cannot_tell_without_a_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = leasehold(&["check", "--report-dir", folder.path().to_str().expect("a path")], &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("status.json"));
}

#[test]
fn check_follow_prints_each_change_once_and_ends_when_asked() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("status.json");
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("Linux has one");
    let boot_id = boot_id.trim();
    let not_leader = |reason: &str| format!(r#"{{"leader":false,"boot_id":"{boot_id}","reason":"{reason}"}}"#);
    let leader = format!(
        r#"{{"lease":"web","leader":true,"fencing_token":7,"valid_from_uptime":0.0,"valid_until_uptime":1e9,"stop_by_uptime":1e9,"boot_id":"{boot_id}","reason":"leading"}}"#
    );
    let put = |text: &str| {
        std::fs::write(folder.path().join("aside"), text).expect("writes");
        std::fs::rename(folder.path().join("aside"), &file).expect("renames");
    };
    put(&not_leader("held_by_other"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_leasehold"));
    command.args(["check", "--follow", "--report-dir"]).arg(folder.path()).stdout(Stdio::piped());
    let mut follow = Process::start(command).expect("the binary runs");
    let lines = follow.lines();
    let next = || lines.recv_timeout(Duration::from_secs(10)).expect("a line");
    assert_eq!(next(), "does not lead (held_by_other)");
    // Written again it is no change, however often it is looked at.
    put(&not_leader("held_by_other"));
    assert!(lines.recv_timeout(Duration::from_millis(350)).is_err(), "nothing is printed twice");
    put(&leader);
    assert_eq!(next(), "leads web (fencing token 7)");
    std::fs::remove_file(&file).expect("removes");
    assert!(next().starts_with("cannot tell: "));
    follow.signal(Signal::TERM);
    assert_eq!(follow.wait(Duration::from_secs(10)).code(), Some(0));
    let refused = leasehold(&["check", "--follow", "--wait=1s"], &[]);
    assert_eq!(refused.status.code(), Some(64));
}

#[test]
fn a_probe_without_a_sidecar_fails_and_says_where_it_asked() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|taken| taken.local_addr()).expect("a port");
    for which in ["startup", "live", "ready"] {
        let output = leasehold(&["probe", which, "--probe-listen", &port.to_string()], &[]);
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains(&port.to_string()));
    }
}
