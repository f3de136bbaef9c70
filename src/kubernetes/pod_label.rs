//! A label on this pod that says whether it leads, for a Service to select: `leasehold.dev/role`.
//!
//! It is kept by level, not by event: [`keep_role`] sets what is wanted now, over and over until that is so, and then
//! looks again from time to time. A failure is said and tried again, and concerns nobody else. The label is for
//! routing; it proves nothing, for a pod that is cut off from the API server keeps the one that it had.

use std::sync::Arc;
use std::time::Duration;

use hyper::header;
use serde_json::json;
use tokio::sync::watch;

use super::advice::label_advice;
use super::{Connection, Failure, Pod, merge_patch};
use crate::complaint::{Ask, Complaints};
use crate::time::{Clock, Moment, SystemClock};

const LABEL: &str = "leasehold.dev/role";

/// What a hand-over hangs on goes first: the release, another pod's taking, and at the start the first look at the
/// Lease. Every pod's label is as late, so one goes before the next one comes.
const HOLD_BACK: Duration = Duration::from_millis(25);
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A label that was right is set again after so long: somebody may have edited it.
const LOOK_AGAIN: Duration = Duration::from_secs(300);
/// An attempt without an answer may still be carried out, over a later one: the API server gives a request a minute.
const IN_DOUBT: Duration = Duration::from_secs(65);

/// What the label says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Leader,
    Standby,
}

impl Role {
    const fn as_str(self) -> &'static str {
        match self {
            Role::Leader => "leader",
            Role::Standby => "standby",
        }
    }
}

/// Keeps the label as `wanted`, until the sender is gone and its last word was tried.
pub async fn keep_role(connection: Arc<Connection>, pod: Pod, mut wanted: watch::Receiver<Role>) {
    let mut complaints = Complaints::default();
    let mut pause = FIRST_PAUSE;
    let mut in_doubt_until = Moment::BOOT;
    loop {
        tokio::time::sleep(HOLD_BACK).await;
        let role = *wanted.borrow_and_update();
        let result = set_role(&connection, &pod, role).await;
        let now = SystemClock.boot();
        match &result {
            Ok(()) => {
                if complaints.worked(Ask::Write).is_some() {
                    tracing::info!("this pod is labelled again");
                }
            }
            // The election says that it cannot reach the API server.
            Err(failure) if failure.may_pass() => {
                in_doubt_until = now + IN_DOUBT;
                tracing::debug!("cannot label this pod {}: {failure}", role.as_str());
            }
            Err(failure) => {
                let text = label_advice(failure, &pod);
                if complaints.failed(Ask::Write, &text, now).is_some() {
                    tracing::warn!("{text}");
                }
            }
        }
        let settled = result.is_ok() && now >= in_doubt_until;
        let wait;
        (wait, pause) = match settled {
            true => (LOOK_AGAIN, FIRST_PAUSE),
            false => (pause, (pause * 2).min(LONGEST_PAUSE)),
        };
        tokio::select! {
            changed = wanted.changed() => match changed {
                Ok(()) => pause = FIRST_PAUSE,
                Err(_) => return,
            },
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Sets the label and nothing else. A pod of the same name and another uid is left alone.
async fn set_role(connection: &Connection, pod: &Pod, role: Role) -> Result<(), Failure> {
    let mut patch = json!({"metadata": {"labels": {LABEL: role.as_str()}}});
    if let Some(uid) = &pod.uid {
        patch["metadata"]["uid"] = uid.as_str().into();
    }
    let mut request = merge_patch(format!("/api/v1/namespaces/{}/pods/{}", pod.namespace, pod.name), &patch);
    // Not the whole Pod, which may be long.
    let metadata = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1, application/json";
    request.headers_mut().insert(header::ACCEPT, header::HeaderValue::from_static(metadata));
    connection.json_aside("patch", request, ATTEMPT_TIMEOUT).await.map(drop)
}
