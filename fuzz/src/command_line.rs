//! Flags and environment.
//!
//! Parsing ends with settings, or with a message. A message about a value names its flag. Settings that `run` would
//! start with are ones that an election can be held with, and every fault is a sentence of its own.
//!
//! Input: arguments with a zero byte after each; one that begins with `@` sets a variable of the environment, as
//! `@POD_NAME=web-0`. (A variable of a flag, LEASEHOLD_..., goes through the flag's own parser; the library that
//! reads it takes it from the process.)

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use clap::Parser;
use clap::error::{ContextKind, ErrorKind};
use leasehold::cli::Cli;
use leasehold::names::{dns_label, dns_subdomain};

pub fn run(data: &[u8]) {
    let mut arguments: Vec<OsString> = vec!["leasehold".into()];
    let mut environment = BTreeMap::new();
    for word in data.split(|byte| *byte == 0) {
        match word.strip_prefix(b"@").map(String::from_utf8_lossy) {
            Some(set) => {
                let (name, value) = set.split_once('=').unwrap_or((&set, ""));
                environment.insert(name.to_owned(), value.to_owned());
            }
            None => arguments.push(OsStr::from_bytes(word).to_owned()),
        }
    }
    match Cli::try_parse_from(&arguments) {
        Ok(cli) => judge(cli, &environment),
        Err(error) => explain(&error),
    }
}

fn explain(error: &clap::Error) {
    let text = error.to_string();
    assert!(!text.trim().is_empty());
    if matches!(error.kind(), ErrorKind::InvalidValue | ErrorKind::ValueValidation) {
        let argument = error.get(ContextKind::InvalidArg).expect("a bad value is some argument's").to_string();
        let name = argument.split([' ', '=']).next().unwrap_or_default();
        assert!(!name.is_empty() && text.contains(name), "{text}");
    }
}

fn judge(cli: Cli, environment: &BTreeMap<String, String>) {
    let Some(settings) = cli.settings(|name| environment.get(name).cloned()) else { return };
    match settings {
        Ok(settings) => {
            assert!(settings.election.faults().is_empty());
            assert!(!settings.leases.is_empty() && !settings.listen.is_empty());
            assert!(settings.leases.iter().all(|lease| dns_subdomain(lease).is_ok()));
            assert!(settings.namespace.as_deref().is_none_or(|namespace| dns_label(namespace).is_ok()));
            assert!(dns_subdomain(&settings.pod).is_ok());
            assert!(!settings.election.identity.contains('_') && !settings.election.identity.is_empty());
            assert!(settings.election.answer_ttl < settings.shutdown_grace);
        }
        Err(faults) => {
            assert!(!faults.is_empty());
            for (index, fault) in faults.iter().enumerate() {
                assert!(!fault.is_empty() && !fault.contains('\n'), "{fault:?} is a sentence");
                assert!(!faults[..index].contains(fault), "{fault:?} is said twice");
            }
        }
    }
}
