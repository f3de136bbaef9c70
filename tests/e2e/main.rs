//! Scenarios on a real Kubernetes: real pods, a kubelet that kills them, links that are cut.
//!
//! `make e2e` brings the cluster up, runs them and takes it down; `make e2e TEST=NAME` runs those whose names hold
//! NAME. While `make node` has one up, `cargo test --test e2e` runs them there as often as wanted.
//!
//! A scenario takes a [`stage::Stage`], a namespace of its own, and applies manifests whose apps are recorders
//! (`tests/node/apps`): each writes down every promise that its sidecar makes. When the stage goes, it is checked that
//! no two promises overlapped (S1), whatever else the scenario looked at.

// The harness is larger than what the scenarios of one day use.
#![allow(dead_code)]

mod cluster;
mod records;
mod stage;
#[path = "../support/mod.rs"]
mod support;
mod workload;

mod deployment;
mod injection;
mod nodes;
mod processes;
mod whole_cluster;
