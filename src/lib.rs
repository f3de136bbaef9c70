//! leasehold: leadership for the workload beside it, by a Kubernetes Lease.

pub mod devapi;
