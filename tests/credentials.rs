//! A credential plugin of a kubeconfig that takes longer than an attempt, or for ever.

mod support;

use std::fs;
use std::time::Duration;

use serde_json::json;
use support::clock::{self, wait_until};
use support::control_plane::{SIDECAR, shared};
use support::process::Folder;
use support::sidecar::{Builder, Sidecar};
use support::stage::{LEASE, SOON, Stage};

/// A plugin in a folder, which notes there that it runs, and that it runs beside another.
struct Plugin(Folder);

impl Plugin {
    /// Its first runs, those of a start, take no time; then comes `then`. What it gives is good for few seconds: a
    /// minute before its end it is asked for anew.
    fn new(then: &str) -> Self {
        let folder = Folder::new("plugin");
        let script = format!(
            r#"cd "$1" || exit 1
            echo run >>runs
            mkdir running || echo beside >>beside
            [ "$(wc -l <runs)" -le 2 ] || {then}
            rmdir running
            end=$(date -u -d "+64 seconds" +%Y-%m-%dT%H:%M:%SZ)
            printf '{{"kind":"ExecCredential","apiVersion":"client.authentication.k8s.io/v1","status":{{"token":"token-of-%s","expirationTimestamp":"%s"}}}}' {SIDECAR} "$end""#
        );
        fs::write(folder.join("plugin.sh"), script).expect("writes a script");
        Plugin(folder)
    }

    fn pod(&self, stage: &Stage) -> Builder {
        let user = json!({"exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": "sh",
            "args": [self.0.join("plugin.sh"), self.0.path()],
            "interactiveMode": "Never",
        }});
        let kubeconfig = shared().kubeconfig_edited(|config| config["users"][0]["user"] = user);
        Sidecar::of(LEASE, &stage.namespace, &kubeconfig, "a").times("20s", "16s", "1s", "300ms")
    }

    fn runs(&self) -> usize {
        fs::read_to_string(self.0.join("runs")).unwrap_or_default().lines().count()
    }

    fn ran_beside_another(&self) -> bool {
        self.0.join("beside").exists()
    }
}

#[test]
fn a_plugin_that_takes_longer_than_an_attempt_is_waited_for() {
    let stage = Stage::released(shared(), "slow-plugin");
    let plugin = Plugin::new("sleep 3");
    let pod = plugin.pod(&stage).start();
    let token = pod.wait_leader(SOON)["fencing_token"].clone();
    for _ in 0..2 {
        let runs = plugin.runs();
        wait_until("the plugin to run again", Duration::from_secs(40), || plugin.runs() > runs.max(2));
        let renewed = stage.spec()["renewTime"].clone();
        wait_until("a renewal after it", SOON, || stage.spec()["renewTime"] != renewed);
    }
    let status = pod.status();
    assert_eq!((&status["leader"], &status["fencing_token"]), (&true.into(), &token), "{status}");
    assert!(!plugin.ran_beside_another());
}

#[test]
fn a_plugin_that_hangs_is_run_once_and_keeps_no_process_from_its_end() {
    let stage = Stage::released(shared(), "hung-plugin");
    let plugin = Plugin::new("sleep 600");
    let mut pod = plugin.pod(&stage).flag("--shutdown-grace", "5s").start();
    pod.wait_leader(SOON);
    wait_until("the plugin to hang", Duration::from_secs(40), || plugin.runs() > 2);
    let runs = plugin.runs();
    pod.wait_log("why nothing works", SOON, |line| {
        line["message"].as_str().is_some_and(|message| message.contains("plugin of the kubeconfig is still running"))
    });
    std::thread::sleep(Duration::from_secs(15));
    assert_eq!(plugin.runs(), runs, "it was run again");
    assert!(!plugin.ran_beside_another());
    let since = clock::now();
    pod.sigterm();
    assert!(pod.wait(SOON).success());
    assert!(clock::now() - since < Duration::from_secs(6), "after {:?}", clock::now() - since);
}
