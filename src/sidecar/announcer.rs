//! What the cluster is told of who leads: Events of each term, and the first lease's role as a label on the pod.
//!
//! Whoever tells it only hands over what is so now; tasks of their own do the rest, and no election waits for them.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::Settings;
use crate::election::Election;
use crate::kubernetes::events::{self, Terms};
use crate::kubernetes::pod_label::{Role, keep_role};
use crate::kubernetes::{Connection, Pod};
use crate::report::Board;
use crate::time::{Clock, SystemClock};

pub(super) struct Announcer {
    /// One for each lease, or none with `--events off`.
    terms: Vec<Terms>,
    role: Option<watch::Sender<Role>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Announcer {
    /// From here on the pod is labelled: standby, whatever a former sidecar of it left.
    pub fn new(settings: &Settings, pod: Pod, connection: &Arc<Connection>, boards: &[Arc<Board>]) -> Self {
        let mut announcer = Announcer { terms: Vec::new(), role: None, tasks: Vec::new() };
        if settings.role_label {
            let (role, wanted) = watch::channel(Role::Standby);
            announcer.role = Some(role);
            announcer.tasks.push(tokio::spawn(keep_role(Arc::clone(connection), pod.clone(), wanted)));
        }
        if settings.events {
            let (queue, turns) = events::queue();
            let terms = |board: &Arc<Board>| {
                let (lease, namespace) = (board.lease.clone(), board.namespace.clone());
                Terms::new(lease, namespace, board.identity.clone(), pod.clone(), queue.clone())
            };
            announcer.terms = boards.iter().map(terms).collect();
            announcer.tasks.push(tokio::spawn(events::send(Arc::clone(connection), turns)));
        }
        announcer
    }

    /// What this election has just published.
    pub fn published(&mut self, lease: usize, election: &Election) {
        let status = election.status();
        if let Some(role) = self.role.as_ref().filter(|_| lease == 0) {
            let is = if status.leading.is_some() { Role::Leader } else { Role::Standby };
            role.send_if_modified(|was| std::mem::replace(was, is) != is);
        }
        if let Some(terms) = self.terms.get_mut(lease) {
            let uid = election.seen().record().map(|record| record.uid.as_str());
            terms.published(status, uid, SystemClock.now());
        }
    }

    /// The tasks, which end when the announcer is gone and the rest is told.
    pub fn tasks(&mut self) -> Vec<JoinHandle<()>> {
        std::mem::take(&mut self.tasks)
    }
}
