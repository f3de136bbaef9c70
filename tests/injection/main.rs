//! charts/leasehold-injector on a real API server: what it makes of pods, what it refuses and with which sentence, and
//! that its guards keep candidates and members from each other's Leases and pods.
//!
//! No kubelet runs here: a pod is what the API server would store. Pods that really start are the node's suite's.

mod candidates;
mod cluster;
mod injected;
mod members;
mod other_ways;
mod refused;
mod role_label;
#[path = "../support/mod.rs"]
mod support;
