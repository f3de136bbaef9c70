//! The report files that a sidecar writes, and the `.env` among them: shells execute that.
//!
//! Whatever the lease, the pod, the holder, the reason and the token are: the file is four lines of a known name, an
//! equals sign and digits, so a shell sets four variables and does nothing else. `tests/fuzz_corpora.rs` has a real
//! shell do it. The JSON beside it says the same, and is read as what was told.

use std::fs;
use std::sync::Arc;

use jiff::Timestamp;
use leasehold::election::{Leading, Reason, Status};
use leasehold::names::dns_subdomain;
use leasehold::report::Board;
use leasehold::report::file::{FileReport, Verdict, read};
use leasehold::time::Moment;

use super::bytes::Bytes;
use super::state_file::folder;

/// As docs/file.md has them, in their order.
pub const KEYS: [&str; 4] = ["LEASEHOLD_LEADER", "LEASEHOLD_VALID_FROM", "LEASEHOLD_VALID_UNTIL", "LEASEHOLD_TOKEN"];

pub fn run(data: &[u8]) {
    let (text, told) = written(data);
    let mut lines = text.split('\n');
    for (key, value) in KEYS.iter().zip(told) {
        assert_eq!(lines.next(), Some(format!("{key}={value}").as_str()));
    }
    assert_eq!((lines.next(), lines.next()), (Some(""), None), "and nothing else");
}

/// The file that a sidecar with these names in these circumstances writes, and the four numbers that it is to say.
pub fn written(data: &[u8]) -> (String, [u64; 4]) {
    let mut input = Bytes::new(data);
    let now = Moment::from_nanos(input.u64());
    let ttl = input.duration();
    let token = input.number();
    let until = now + input.duration();
    let stop_by = until + input.duration();
    let leads = input.bit();
    let reason = *input.one_of(&Reason::ALL);
    let lease = Some(input.text()).filter(|name| dns_subdomain(name).is_ok()).unwrap_or_else(|| "web".into());
    let [namespace, pod, boot_id, holder, message] = std::array::from_fn(|_| input.text());

    let board = Arc::new(Board::new(lease.clone(), namespace, pod, boot_id.clone(), ttl));
    let leading = Leading { token, valid_until: until, stop_by, acquired_at: Timestamp::UNIX_EPOCH };
    let status = Status {
        leading: leads.then_some(leading),
        holder: Some(holder),
        expires_at: Some(stop_by),
        version: 1,
        reason,
        message,
        ..Status::starting()
    };
    board.publish(status, Timestamp::UNIX_EPOCH);
    let dir = folder();
    let report = FileReport::open(dir.path(), vec![board]).expect("a temporary folder can be written");
    report.refresh(0, now).expect("a temporary folder can be written");

    let text = |name: String| fs::read_to_string(dir.path().join(name)).expect("it was written");
    let env = text("status.env".into());
    assert_eq!(env, text(format!("{lease}.env")), "the first lease's is also called status");
    let promised = until.min(now + ttl);
    let told =
        if leads && now < until { [1, now.uptime_hundredths(), promised.uptime_hundredths(), token] } else { [0; 4] };
    check_json(&dir.path().join("status.json"), &boot_id, now, told, &lease);
    (env, told)
}

fn check_json(path: &std::path::Path, boot_id: &str, now: Moment, told: [u64; 4], lease: &str) {
    // Past 2^53 hundredths, which is longer than 584 years, a number of seconds would not be exact.
    let verdict = read(path, || now, boot_id).expect("a report is read");
    let [leader, from, until, token] = told;
    match verdict {
        Verdict::Leader(yes) => {
            assert_eq!((1, token, until), (leader, yes.token, yes.until.uptime_hundredths()));
            assert_eq!(lease, yes.lease);
        }
        // A promise of less than a hundredth is none.
        Verdict::NotLeader { .. } => assert!(leader == 0 || from >= until, "a yes that is read as a no: {told:?}"),
    }
}
