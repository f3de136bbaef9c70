//! The Lease as it is: who holds it, and what would keep a sidecar from taking it.

use jiff::Timestamp;

use super::cluster::Cluster;
use super::{Findings, span};
use crate::election::{Record, Token, pod_of};
use crate::kubernetes::{Api, FORBIDDEN, Failure, TOKEN, advice};

/// A record that others write at the same time is read again so often.
const REHEARSALS: u32 = 5;
/// Both clocks may be read a second apart, and the API server tells whole ones.
const SLACK_SECONDS: u64 = 3;

pub async fn examine(cluster: &Cluster, api: &Api, seen: Result<Option<Record>, Failure>, findings: &mut Findings) {
    let name = format!("lease {}", api.name);
    match &seen {
        Ok(Some(record)) => {
            tell_holder(&name, record, cluster.now(), findings);
            tell_obstacles(&api.name, &cluster.namespace, record, findings);
        }
        Ok(None) => {
            findings
                .ok(name, format!("there is none in the namespace {}: the first sidecar makes it", cluster.namespace));
        }
        // That is told with the permissions, and how to mend it.
        Err(Failure::Status { code: 403, .. }) => findings.skipped(name, "it may not be read"),
        Err(failure) => findings.failed(name, cluster.advice(failure), "try again when the API server works"),
    }
    if let Ok(record) = seen {
        rehearse(cluster, api, record.map(|record| record.version), findings).await;
    }
}

fn tell_holder(name: &str, record: &Record, now: Option<Timestamp>, findings: &mut Findings) {
    let Some(holder) = record.holder() else { return tell_unheld(name, record, findings) };
    let facts = facts(record, now);
    let foreign = record.token == Token::Absent || record.released.is_some();
    if foreign {
        let message = format!(
            "{} holds it, and not by leasehold, which writes the annotation {TOKEN} and removes the proof of a release ({facts})",
            pod_of(holder)
        );
        return findings.warning(
            name,
            message,
            "let one kind of elector contend: in a mixed fleet, the other kind's overlaps remain (docs/migration.md)",
        );
    }
    let message = format!("{} holds it ({facts})", pod_of(holder));
    match is_overdue(record, now) {
        true => findings.warning(
            name,
            message + ", and has run out by the clock of who wrote it",
            "if no pod takes it, none contends: look at the pods' logs; --holder-within 20s waits for a sign of life",
        ),
        false => findings.ok(name, message),
    }
}

fn tell_unheld(name: &str, record: &Record, findings: &mut Findings) {
    let transitions = record.spec.transitions;
    if record.is_proved_release() {
        return findings.ok(name, format!("nobody holds it: released, and that is proved (transitions {transitions})"));
    }
    if record.spec.renew_time.is_none() && record.token == Token::Absent {
        return findings.ok(name, "nobody has held it yet: the first sidecar waits its lease duration, and takes it");
    }
    let message =
        format!("nobody holds it, and nothing proves that its last holder stopped (transitions {transitions})");
    findings.warning(name, message, "it is taken when a lease duration has passed; if it stays so, something empties it again and again: another elector, or a manifest that is applied");
}

fn facts(record: &Record, now: Option<Timestamp>) -> String {
    let mut facts = Vec::new();
    match record.token {
        Token::Value(token) => facts.push(format!("token {token}")),
        Token::Absent => facts.push("no token".into()),
        Token::Unreadable => {}
    }
    facts.push(format!("transitions {}", record.spec.transitions));
    match record.duration() {
        Some(duration) => facts.push(format!("lease duration {}", span(duration))),
        None => facts.push("no lease duration that makes sense".into()),
    }
    if let (Some(renewed), Some(now)) = (record.spec.renew_time, now) {
        let age = now.duration_since(renewed);
        facts.push(match age.is_negative() {
            true => "renewed just now".into(),
            false => format!("renewed {} ago", span(age.unsigned_abs())),
        });
    }
    if let Some(request) = record.step_down() {
        facts.push(format!("asked to step down: {request}"));
    }
    facts.join(", ")
}

fn is_overdue(record: &Record, now: Option<Timestamp>) -> bool {
    let (Some(renewed), Some(duration), Some(now)) = (record.spec.renew_time, record.duration(), now) else {
        return false;
    };
    now.duration_since(renewed).as_secs() > i64::try_from(duration.as_secs() + SLACK_SECONDS).unwrap_or(i64::MAX)
}

/// What keeps a sidecar from leading, or the Lease from staying.
fn tell_obstacles(lease: &str, namespace: &str, record: &Record, findings: &mut Findings) {
    if record.token == Token::Unreadable {
        let fix = format!(
            "set it to a number above all that were used: kubectl annotate lease {lease} -n {namespace} --overwrite {TOKEN}=NUMBER"
        );
        findings.failed(
            format!("lease-token {lease}"),
            format!("the annotation {TOKEN} is no whole number up to 2^53 - 1: no sidecar leads"),
            fix,
        );
    }
    if let Some(strategy) = &record.spec.strategy {
        findings.failed(
            format!("lease-strategy {lease}"),
            format!("spec.strategy is {strategy}: the control plane elects its holder (coordinated leader election), and no sidecar contends"),
            "give the sidecar a Lease of its own",
        );
    }
    if record.pod_owned {
        findings.warning(
            format!("lease-owner {lease}"),
            "a Pod owns it, as an older sidecar leaves it: it is deleted with that Pod",
            "the first take-over by leasehold removes the owner; until then nothing needs to be done",
        );
    }
    if record.holder().is_some() && record.duration().is_none() {
        findings.warning(
            format!("lease-duration {lease}"),
            "it is held without a duration that makes sense: it is taken when it has stood unchanged for the taker's own",
            "let one kind of elector contend (docs/migration.md)",
        );
    }
}

/// Authorization is one thing; what admission says is only known from a write.
async fn rehearse(cluster: &Cluster, api: &Api, mut version: Option<u64>, findings: &mut Findings) {
    let name = format!("dry-run {}", api.name);
    for _ in 0..REHEARSALS {
        match api.rehearse(version, cluster.patience()).await {
            Ok(()) => {
                let what = if version.is_some() { "an update" } else { "its creation" };
                return findings.ok(name, format!("{what} would be accepted"));
            }
            // Somebody wrote it meanwhile.
            Err(Failure::Status { code: 409, .. }) => match api.get(cluster.patience()).await {
                Ok(record) => version = record.map(|record| record.version),
                Err(_) => break,
            },
            Err(Failure::Status { code: 403, message, .. }) if message.contains(FORBIDDEN) => {
                return findings.skipped(name, "it may not be written, as the permissions say");
            }
            Err(Failure::Status { code: 400, message, .. }) if message.contains("dry run") => {
                return findings.skipped(name, message);
            }
            Err(failure) => {
                let fix = match failure {
                    Failure::Status { code: 404, .. } => "make the namespace, or check --namespace",
                    _ => "what refuses it is named in the message; see admission below",
                };
                return findings.failed(name, advice(&failure, api), fix);
            }
        }
    }
    findings.skipped(name, "others wrote the Lease at each attempt");
}
