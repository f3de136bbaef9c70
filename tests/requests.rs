//! What ten pods cost the API server. The audit log counts each request by who sent it, which the API server's own
//! metrics do not tell: it renews Leases of its own.

mod support;

use std::fs;
use std::time::Duration;

use serde_json::Value;

use support::clock::{self, wait_until};
use support::control_plane::{ControlPlane, SIDECAR};
use support::process::Folder;
use support::recorder::Recorder;
use support::sidecar::Sidecar;
use support::stage::{LEASE, SOON, Stage};

const STANDBYS: usize = 9;
const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn a_leader_and_nine_standbys_cost_what_the_renewals_cost() {
    let folder = Folder::new("audit");
    let (policy, log) = (folder.join("policy.yaml"), folder.join("audit.log"));
    let rules = "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n\
                 - level: Metadata\n  users: [sidecar]\n- level: None\n";
    fs::write(&policy, rules).expect("writes the policy");
    let flag = |name: &str, path: &std::path::Path| format!("--{name}={}", path.display());
    let flags = [flag("audit-policy-file", &policy), flag("audit-log-path", &log)];
    let control_plane = ControlPlane::start_with(&flags.each_ref().map(String::as_str));
    let stage = Stage::released(&control_plane, "requests");
    // The default times.
    let pod = |name: String| {
        let kubeconfig = control_plane.kubeconfig_for(SIDECAR, None);
        Sidecar::of(LEASE, &stage.namespace, &kubeconfig, &name).start()
    };
    let leader = pod("leader".into());
    leader.wait_leader(SOON);
    let standbys: Vec<_> = (0..STANDBYS).map(|number| pod(format!("standby-{number}"))).collect();
    for standby in &standbys {
        standby.wait_status("a standby", SOON, |status| status["holder"] == "leader");
    }
    let recorder = Recorder::start([&leader, &standbys[0]]);

    let requests = || -> Vec<String> {
        let text = fs::read_to_string(&log).unwrap_or_default();
        let events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        // A watch is begun once and completes an hour later; everything else is counted when it is complete.
        let counted = events.filter(|event| {
            event["stage"] == if event["verb"] == "watch" { "ResponseStarted" } else { "ResponseComplete" }
        });
        counted.map(|event| event["verb"].as_str().unwrap_or_default().to_owned()).collect()
    };
    wait_until("all watches", SOON, || requests().iter().filter(|verb| *verb == "watch").count() > STANDBYS);
    let before = requests().len();
    let began = clock::now();
    wait_until("a minute to pass", MINUTE + SOON, || {
        // Nobody hurries: the count is what is awaited.
        std::thread::sleep(Duration::from_millis(200));
        clock::now() - began >= MINUTE
    });
    let after = requests();
    let cost = &after[before..];
    println!("{} requests in a minute: {cost:?}", cost.len());
    assert!(cost.len() <= 21, "{} requests: {cost:?}", cost.len());
    assert!(cost.iter().filter(|verb| *verb == "update").count() >= 19, "it renews every 3 s: {cost:?}");
    recorder.assert_no_overlap();
}
