//! The election, every interleaving within a bound: the real code of `src/election`, some candidates, one API server,
//! and what lies between them, as a state space that is visited whole.
//!
//! A state holds true time, the Lease, each candidate's [`leasehold::election::Election`] and what its app was told,
//! and the messages under way. What may happen next in it is an [`actions::Action`]. Within one instant everything
//! that is due happens, in every order; then time goes to the next moment at which something is due. A fault (a
//! message that is late or lost, a pause, a crash, an edit by hand ...) may happen at every step, and each path has so
//! many of them at most ([`setup::Setup`]). The bound is therefore one of true time and of faults, not of steps.
//!
//! Every state is judged by the invariants of docs/design.md, section 3, with the simulator's own judge where it has
//! one; and from every state in which nobody leads, faults end and somebody has to ([`calm`]).

pub mod actions;
#[allow(dead_code)]
#[path = "../../simulation/api.rs"]
mod api;
pub mod calm;
#[allow(dead_code)]
#[path = "../../simulation/checks.rs"]
mod checks;
mod clock;
mod hashed;
pub mod report;
pub mod rules;
pub mod setup;
#[allow(dead_code)]
#[path = "../../simulation/trace.rs"]
mod trace;
pub mod world;
