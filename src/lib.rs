//! leasehold: holds a workload's Kubernetes `Lease` and tells the app beside it whether this pod leads.
//!
//! The rooms, from the inside out; an inner room never imports an outer one. docs/design.md is the contract.

#[cfg(feature = "program")]
pub mod alarm;
pub mod app;
#[cfg(feature = "program")]
pub mod cli;
#[cfg(feature = "program")]
mod complaint;
#[cfg(feature = "program")]
pub mod devapi;
#[cfg(feature = "program")]
pub mod doctor;
pub mod election;
#[cfg(feature = "program")]
pub mod exec;
#[cfg(feature = "program")]
pub mod kubernetes;
pub mod membership;
pub mod names;
pub mod report;
#[cfg(feature = "program")]
pub mod sidecar;
#[cfg(feature = "program")]
pub mod state;
#[cfg(feature = "program")]
mod stderr;
pub mod time;
