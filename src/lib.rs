//! leasehold: holds a workload's Kubernetes `Lease` and tells the app beside it whether this pod leads.
//!
//! The rooms, from the inside out; an inner room never imports an outer one. docs/design.md is the contract.

pub mod alarm;
pub mod app;
pub mod cli;
mod complaint;
pub mod devapi;
pub mod doctor;
pub mod election;
pub mod exec;
pub mod kubernetes;
pub mod names;
pub mod report;
pub mod sidecar;
pub mod state;
pub mod time;
