//! What the integration tests stand on: a real control plane, a link to it that can be cut, the
//! real binary, and a recorder of everything that the binary promises.
//!
//! Each test file says `mod support;`. Nothing here sleeps and hopes: waits have a deadline and
//! name what they waited for. Everything that is started ends with the test process, however that
//! ends.
//!
//! | Module | Holds |
//! |---|---|
//! | [`clock`] | the boot clock, and waiting with a deadline |
//! | [`process`] | child processes that cannot outlive the test process; folders that vanish with it |
//! | [`http`] | a small blocking HTTP/1.1 client with keep-alive and streams |
//! | [`control_plane`] | etcd and kube-apiserver, one for all tests of a file or one's own |
//! | [`proxy`] | a TCP link that a test cuts, silences, delays and heals |
//! | [`sidecar`] | the leasehold binary as a pod would run it |
//! | [`recorder`] | every promise that sidecars make, and the check that no two overlap |
//! | [`stage`] | a Lease in a namespace of its own, and the pods that contend for it |
//! | [`front`] | a door before the API server that answers in its place where a test says so |
//! | [`app`] | an app beside a sidecar, as far as the sidecar sees one |
//! | [`helm`] | the charts, rendered |
//! | [`clientgo`] | client-go's own elector, for company and for comparison |

// A test file uses a part of this only.
#![allow(dead_code)]

pub mod app;
pub mod clientgo;
pub mod clock;
pub mod control_plane;
pub mod front;
pub mod helm;
pub mod http;
pub mod process;
pub mod proxy;
pub mod recorder;
pub mod sidecar;
pub mod stage;
