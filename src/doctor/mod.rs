//! What a sidecar needs, looked at one thing after the other: the API server and the credentials, permissions, the
//! Lease, who else has a say in its writes, and the place that the sidecar runs in.
//!
//! It only looks, for it may be run beside a sidecar that works. It takes no lock of the sidecar's or the app's,
//! replaces no file, listens nowhere, asks the sidecar nothing that it would take for a question of the app, and
//! writes nothing to the API server: its one write is a dry run. Every request has a time limit, and all of them
//! together have one.

mod admission;
mod cluster;
mod credentials;
mod holder;
mod lease;
mod permissions;
mod place;

use std::time::Duration;

use serde::Serialize;

use crate::devapi::Labels;
use crate::sidecar::Settings;
use cluster::Cluster;
#[doc(hidden)]
pub use credentials::end_of;
pub use place::Beside;

/// What is to be looked at.
#[derive(Debug)]
pub struct Task {
    /// What the sidecar runs with.
    pub settings: Settings,
    /// The sidecar's pod, if it is known.
    pub pod: Option<String>,
    pub beside: Beside,
    /// Within this time somebody living holds each Lease.
    pub holder_within: Option<Duration>,
    /// The holder's pod has these labels.
    pub holder_selector: Option<Labels>,
}

/// What came of looking at one thing.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// Its first word is what was looked at, and the rest which one.
    pub name: String,
    pub status: Status,
    /// What was found.
    pub message: String,
    /// What to do about it.
    pub fix: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Ok,
    /// It works, and not as well as it could; or it may fail some day.
    Warning,
    /// A sidecar could not do its work.
    Failed,
    /// It could not be looked at, or there is nothing to look at.
    Skipped,
}

impl Status {
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Warning => "warning",
            Status::Failed => "failed",
            Status::Skipped => "skipped",
        }
    }
}

/// All that was found, each told as soon as it is known.
pub struct Findings {
    pub checks: Vec<Check>,
    tell: Box<dyn FnMut(&Check)>,
}

impl Findings {
    pub fn new(tell: impl FnMut(&Check) + 'static) -> Self {
        Findings { checks: Vec::new(), tell: Box::new(tell) }
    }

    pub fn any_failed(&self) -> bool {
        self.checks.iter().any(|check| check.status == Status::Failed)
    }

    fn add(&mut self, check: Check) {
        (self.tell)(&check);
        self.checks.push(check);
    }

    fn ok(&mut self, name: impl Into<String>, message: impl Into<String>) {
        self.note(Status::Ok, name, message, None);
    }

    fn warning(&mut self, name: impl Into<String>, message: impl Into<String>, fix: impl Into<String>) {
        self.note(Status::Warning, name, message, Some(fix.into()));
    }

    fn failed(&mut self, name: impl Into<String>, message: impl Into<String>, fix: impl Into<String>) {
        self.note(Status::Failed, name, message, Some(fix.into()));
    }

    fn skipped(&mut self, name: impl Into<String>, message: impl Into<String>) {
        self.note(Status::Skipped, name, message, None);
    }

    fn note(&mut self, status: Status, name: impl Into<String>, message: impl Into<String>, fix: Option<String>) {
        self.add(Check { name: name.into(), status, message: message.into(), fix });
    }
}

/// Looks at everything. What may have to be waited for comes last.
pub async fn examine(task: &Task, findings: &mut Findings) {
    place::tell_beside(task.beside, findings);
    let mut cluster = Cluster::reach(task, findings).await;
    let asked = match &mut cluster {
        Some(cluster) => examine_cluster(task, cluster, findings).await,
        None => {
            let why = "the API server was not reached";
            findings.skipped("credentials", why);
            Err(why)
        }
    };
    if let Err(why) = asked {
        for name in &task.settings.leases {
            findings.skipped(format!("permissions leases/{name}"), why);
            findings.skipped(format!("lease {name}"), why);
        }
        if let Some(member) = &task.settings.member {
            findings.skipped(format!("permissions members/{}", member.group), why);
        }
        findings.skipped("admission", why);
    }
    place::examine(task, findings);
    if task.holder_within.is_some() || task.holder_selector.is_some() {
        for name in &task.settings.leases {
            match (&mut cluster, asked) {
                (Some(cluster), Ok(())) => holder::examine(task, cluster, name, findings).await,
                // It was asked for, so not to know is to fail.
                (_, asked) => {
                    findings.failed(format!("holder {name}"), asked.err().unwrap_or_default(), "mend that first");
                }
            }
        }
    }
}

/// All that the API server can be asked, or why it cannot.
async fn examine_cluster(task: &Task, cluster: &mut Cluster, findings: &mut Findings) -> Result<(), &'static str> {
    let accepted = credentials::examine(cluster, findings).await;
    cluster.tell_wall_clock(findings);
    let Some(user) = accepted else { return Err("the credentials are not accepted") };
    for name in &task.settings.leases {
        let api = cluster.api(name);
        let seen = api.get(cluster.patience()).await;
        permissions::examine_lease(cluster, &user, &api, &seen, findings).await;
        lease::examine(cluster, &api, seen, findings).await;
    }
    permissions::examine_member(task, cluster, &user, findings).await;
    permissions::examine_events(task, cluster, &user, findings).await;
    permissions::examine_pod(task, cluster, &user, findings).await;
    admission::examine(task, cluster, findings).await;
    Ok(())
}

/// A time for people.
fn span(time: Duration) -> String {
    match time.as_secs() {
        0..120 => format!("{} s", time.as_secs()),
        120..7200 => format!("{} min", time.as_secs() / 60),
        7200..172_800 => format!("{} h", time.as_secs() / 3600),
        _ => format!("{} days", time.as_secs() / 86_400),
    }
}
