//! A report file, as `leasehold check` and `leasehold exec` read it.
//!
//! It says leader only when it is a whole report of this boot that says so, and only from its one moment to before its
//! other. A run of `exec` under such a yes is over by the time that others may lead, whatever the file says later.
//!
//! Input: eight bytes for the clock, two files with a zero byte between them: what is read first, and what later.

use std::cell::LazyCell;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use leasehold::exec::deadlines::{Due, Run};
use leasehold::report::file::{ReadError, Verdict, read};
use leasehold::time::Moment;
use serde_json::Value;
use tempfile::TempDir;

use super::bytes::Bytes;
use super::state_file::folder;

const BOOT: &str = "0f0f";
const GRACE: Duration = Duration::from_secs(1);

thread_local! {
    static FILE: LazyCell<(TempDir, PathBuf)> = LazyCell::new(|| {
        let dir = folder();
        let path = dir.path().join("status.json");
        (dir, path)
    });
}

pub fn run(data: &[u8]) {
    let mut input = Bytes::new(data);
    // Over all that fits, and close to the deadlines of the seeds.
    let clock = input.u64();
    let now = Moment::from_nanos(if clock & 1 == 0 { clock % 2_000_000_000_000 } else { clock });
    let rest = input.rest();
    let split = rest.iter().position(|byte| *byte == 0).unwrap_or(rest.len());
    let first = verdict(&rest[..split], now);
    let Ok(Verdict::Leader(yes)) = first else { return };

    let mut run = Run::new(yes.clone(), GRACE);
    let later = now + Duration::from_millis(300);
    let said = verdict(rest.get(split + 1..).unwrap_or_default(), later);
    let extended = match &said {
        Ok(Verdict::Leader(again)) if (&again.lease, again.token) == (&yes.lease, yes.token) => Some(again.stop_by),
        _ => None,
    };
    run.hear(later, &said);
    let stop_by = extended.unwrap_or(yes.stop_by);
    assert_eq!(run.due(stop_by), Due::Kill, "nothing runs when others may lead");
    assert!(run.next() <= stop_by);
    if matches!(&said, Ok(Verdict::Leader(_))) && extended.is_none() {
        assert!(run.ends().is_some(), "a run belongs to one term");
    }
}

fn verdict(text: &[u8], now: Moment) -> Result<Verdict, ReadError> {
    let verdict = FILE.with(|file| {
        fs::write(&file.1, text).expect("a temporary folder can be written");
        read(&file.1, || now, BOOT)
    });
    let says_leader = serde_json::from_slice::<Value>(text)
        .ok()
        .filter(|report| report["leader"] == true && report["boot_id"] == BOOT && report["fencing_token"].is_u64());
    match (&verdict, says_leader) {
        (Ok(Verdict::Leader(yes)), Some(report)) => {
            assert_eq!(report["fencing_token"], yes.token);
            assert_eq!(report["lease"], yes.lease.as_str());
            assert!(now < yes.until, "a yes that has run out");
            let hundredth = |key: &str| report[key].as_f64().map(|seconds| (seconds * 100.0).round());
            let now = now.uptime_hundredths() as f64;
            assert!(hundredth("valid_from_uptime").is_some_and(|from| from <= now), "a yes of the future");
            assert!(hundredth("valid_until_uptime").is_some_and(|until| now < until), "a yes that has run out");
        }
        (Ok(Verdict::Leader(_)), None) => panic!("a yes of a file that does not say so"),
        (Ok(Verdict::NotLeader { .. }), _) => {}
        (Err(error), _) => assert!(!error.to_string().is_empty()),
    }
    verdict
}
