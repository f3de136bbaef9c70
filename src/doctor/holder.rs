//! Whether somebody living holds the Lease, and whether that is who ought to: what a test of a release asks.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::cluster::Cluster;
use super::{Findings, Task};
use crate::devapi::Labels;
use crate::election::{Record, pod_of};
use crate::kubernetes::{Api, Failure};
use crate::names::dns_subdomain;
use crate::time::{Clock, SystemClock};

/// The Lease is looked at so often while waiting.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Waits for what was asked for, and says why it did not come.
pub async fn examine(task: &Task, cluster: &mut Cluster, lease: &str, findings: &mut Findings) {
    let time = task.holder_within.unwrap_or_default();
    cluster.extend(time);
    let deadline = SystemClock.boot() + time;
    let mut watcher = Watcher { api: cluster.api(lease), first: None, must_live: task.holder_within.is_some() };
    let name = format!("holder {lease}");
    loop {
        let found = watcher.look(cluster, task.holder_selector.as_ref()).await;
        match found {
            Ok(message) => return findings.ok(name, message),
            Err(why) if SystemClock.boot() >= deadline => {
                return findings.failed(name, why, "look at the pods that should contend, and at their sidecars' logs");
            }
            Err(_) => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}

struct Watcher {
    api: Api,
    /// What was seen first: a later record that differs is a sign of life.
    first: Option<Option<Record>>,
    must_live: bool,
}

impl Watcher {
    async fn look(&mut self, cluster: &mut Cluster, labels: Option<&Labels>) -> Result<String, String> {
        let record = self.api.get(cluster.patience()).await.map_err(|failure| cluster.advice(&failure))?;
        let first = self.first.get_or_insert_with(|| record.clone());
        let Some(record) = &record else { return Err("there is no such Lease".into()) };
        let Some(holder) = record.holder() else { return Err("nobody holds it".into()) };
        let pod = pod_of(holder);
        if self.must_live && first.as_ref().is_some_and(|first| first.uid == record.uid && first.spec == record.spec) {
            return Err(format!("{pod} holds it, and gave no sign of life: the Lease was not renewed"));
        }
        let mut message = match self.must_live {
            true => format!("{pod} holds it, and lives"),
            false => format!("{pod} holds it"),
        };
        if let Some(labels) = labels {
            matching_pod(cluster, pod, labels).await?;
            message += "; its pod runs and has the labels";
        }
        Ok(message)
    }
}

async fn matching_pod(cluster: &mut Cluster, name: &str, labels: &Labels) -> Result<(), String> {
    // Anything may stand in a Lease, and this becomes a path.
    dns_subdomain(name).map_err(|_| format!("{name} holds it, which is no name of a pod"))?;
    let path = format!("/api/v1/namespaces/{}/pods/{name}", cluster.namespace);
    let pod = match cluster.get(&path).await {
        Ok(pod) => pod,
        Err(Failure::Status { code: 404, .. }) => {
            return Err(format!(
                "{name} holds it, and there is no pod of that name (does its sidecar run with --identity, or in another cluster?)"
            ));
        }
        Err(Failure::Status { code: 403, message, .. }) => {
            return Err(format!("{name} holds it, and its pod may not be read ({message}): allow get on pods"));
        }
        Err(failure) => return Err(cluster.advice(&failure)),
    };
    if pod["status"]["phase"] != "Running" {
        return Err(format!(
            "{name} holds it, and its pod is {}",
            pod["status"]["phase"].as_str().unwrap_or("in no phase")
        ));
    }
    if !labels.match_all(labels_of(&pod).as_ref()) {
        return Err(format!("{name} holds it, and its pod has not the labels of --holder-selector"));
    }
    Ok(())
}

fn labels_of(pod: &Value) -> Option<BTreeMap<String, String>> {
    let labels = pod["metadata"]["labels"].as_object()?;
    Some(labels.iter().map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned())).collect())
}
