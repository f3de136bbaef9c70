//! What is fuzzed: one function a target, which takes any bytes and panics when a property does not hold.
//!
//! The engine (`make fuzz`) calls them with inputs of its own making. `tests/fuzz_corpora.rs` calls the very same ones
//! with every input of `fuzz/corpus`, on stable Rust, so what was once found stays found. Each target says at its top
//! which properties it holds the code to; "does not panic" is the least of them.

mod annotations;
mod app_http;
mod app_query;
mod bytes;
mod command_line;
mod election;
mod exchange;
mod kernel_text;
mod lease_api_http;
mod lease_api_patch;
mod lease_api_protobuf;
mod lease_api_selector;
mod lease_object;
mod many_leases;
mod other_answers;
pub mod report_env;
mod report_file;
mod state_file;
mod watch_stream;

/// A target's name, which is its corpus's and its program's, and the function.
pub type Target = (&'static str, fn(&[u8]));

pub const TARGETS: &[Target] = &[
    ("annotations", annotations::run),
    ("app_http", app_http::run),
    ("app_query", app_query::run),
    ("command_line", command_line::run),
    ("election", election::run),
    ("kernel_text", kernel_text::run),
    ("lease_api_http", lease_api_http::run),
    ("lease_api_patch", lease_api_patch::run),
    ("lease_api_protobuf", lease_api_protobuf::run),
    ("lease_api_selector", lease_api_selector::run),
    ("lease_object", lease_object::run),
    ("many_leases", many_leases::run),
    ("other_answers", other_answers::run),
    ("report_env", report_env::run),
    ("report_file", report_file::run),
    ("state_file", state_file::run),
    ("watch_stream", watch_stream::run),
];

/// Runs one target on one input.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|(known, _)| *known == name);
    let (_, target) = target.expect("a program of fuzz_targets/ is in TARGETS");
    target(data);
}
