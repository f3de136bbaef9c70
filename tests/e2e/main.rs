//! Scenarios on a real Kubernetes: real pods, a kubelet that kills them, links that are cut.
//!
//! `make e2e` brings the cluster up, runs them and takes it down; `make e2e TEST=NAME` runs those whose names hold
//! NAME. While `make node` has one up, `cargo test --test e2e` runs them there as often as wanted.
//!
//! A scenario takes a [`stage::Stage`], a namespace of its own, and applies manifests whose apps are recorders
//! (`tests/node/apps`): each writes down every promise that its sidecar makes. When the stage goes, it is checked that
//! no two promises overlapped (S1) and that tokens grew (S4), whatever else the scenario looked at; something must have
//! been promised. When it fails, terms, answers, objects, events and logs are printed.
//!
//! Scenarios run side by side. One that disturbs the whole cluster takes [`stage::Stage::alone`]. One that needs a node
//! to cut off or to lose takes [`cluster::Cluster::worker`], on which only pods run that tolerate its taint.
//!
//! | Module | Holds |
//! |---|---|
//! | [`cluster`] | the API, nodes and their daemons, workers, links that are cut, processes of containers |
//! | [`stage`] | a namespace, its pods, what is done to them |
//! | [`records`] | what the recorders wrote, and what follows from it |
//! | [`workload`] | a Deployment in plain YAML with a recorder as its app |
//!
//! Times are the boot clock's. Bounds are those of the design with room for a busy machine: what is measured is
//! reported, not asserted.

// The harness is larger than what the scenarios of one day use.
#![allow(dead_code)]

mod cluster;
mod records;
mod stage;
#[path = "../support/mod.rs"]
mod support;
mod workload;

mod charts;
mod deployment;
mod doctor;
mod injection;
mod leases;
mod life;
mod members;
mod memory;
mod nodes;
mod processes;
mod routing;
mod whole_cluster;
