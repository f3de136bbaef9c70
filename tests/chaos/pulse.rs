//! Whether the control plane keeps up: a write to each API server, twice a second.
//!
//! One that takes as long as a sidecar gives an attempt to renew costs a leader its term, and no sidecar can help it.
//! On a machine that has too much to do that happens by itself, and the journal has to know of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::support::clock;
use crate::support::http::Http;
use crate::world::World;

const EVERY: Duration = Duration::from_millis(500);
/// Less than any sidecar here gives an attempt.
const SLOW: Duration = Duration::from_millis(250);
/// When it is given up, and known to be slow.
const PATIENCE: Duration = Duration::from_secs(1);

/// Beats while `work` is done.
pub fn during<T>(world: &World, work: impl FnOnce() -> T) -> T {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for server in 0..2 {
            let over = &over;
            scope.spawn(move || beat(world, server, over));
        }
        // However the work ends, the scope has to.
        let _stop = Stop(&over);
        work()
    })
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn beat(world: &World, server: usize, over: &AtomicBool) {
    let mut connection: Option<Http> = None;
    let mut number = 0;
    while !over.load(Ordering::SeqCst) {
        let asked = clock::now();
        number += 1;
        let written = connection.take().or_else(|| connect(world, server)).and_then(|mut http| {
            let patch = json!({"metadata": {"annotations": {"pulse": number.to_string()}}}).to_string();
            let kind = [("Content-Type", "application/merge-patch+json")];
            let answer = http.request("PATCH", "/api/v1/namespaces/default", &kind, patch.as_bytes()).ok()?;
            (answer.status == 200).then_some(http)
        });
        let answered = clock::now();
        if written.is_none() || answered - asked > SLOW {
            world.journal.found_slow(format!("API server {server}"), asked, answered);
        }
        connection = written;
        thread::sleep(EVERY);
    }
}

fn connect(world: &World, server: usize) -> Option<Http> {
    world.control_plane.connect_to_server(server).ok()?.with_timeout(PATIENCE).ok()
}
