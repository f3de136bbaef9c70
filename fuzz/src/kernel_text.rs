//! What the kernel prints, where a process may have put its name between.
//!
//! `/proc/uptime` is read exactly when it begins with seconds, a dot and two digits. Of `/proc/PID/stat` the fields
//! after the name are read, whatever the name holds.
//!
//! Input: an even byte and any text, or an odd one, a process's name and its fields.

use leasehold::exec::descendants::Process;
use leasehold::time::parse_uptime;

use super::bytes::Bytes;

pub fn run(data: &[u8]) {
    let mut input = Bytes::new(data);
    if input.bit() {
        let (id, parent, started) = (i32::from(input.byte()), input.u64() as i32, input.u64());
        let state = char::from(input.one_of(b"RSDZTXx").to_owned());
        let mut stat = format!("{id} (").into_bytes();
        stat.extend_from_slice(input.rest());
        stat.extend_from_slice(format!(") {state} {parent}{} {started} 0 0\n", " 0".repeat(17)).as_bytes());
        let expected = Process { id, parent, ended: matches!(state, 'Z' | 'X' | 'x'), started };
        assert_eq!(Process::parse(id, &stat), Some(expected));
        return;
    }
    let text = input.rest();
    let _ = Process::parse(1, text);
    let Ok(text) = std::str::from_utf8(text) else { return };
    let read = parse_uptime(text);
    let first = text.split_whitespace().next().unwrap_or_default();
    let plain = first.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    match (read, first.split_once('.')) {
        (Some(moment), Some((seconds, hundredths))) => {
            let hundredths = hundredths.parse::<u128>().expect("it was read");
            let nanos = (seconds.parse::<u128>().expect("it was read") * 100 + hundredths) * 10_000_000;
            assert_eq!(u128::from(moment.as_nanos()), nanos, "{text:?}");
            assert_eq!(parse_uptime(&format!("{first} 1.00\n")), Some(moment));
        }
        (Some(_), None) => panic!("{text:?} has no hundredths"),
        (None, Some((seconds, hundredths))) if plain && hundredths.len() == 2 && !hundredths.contains('.') => {
            let fits = seconds.parse::<u128>().is_ok_and(|seconds| seconds < u128::from(u64::MAX) / 1_000_000_001);
            assert!(!fits, "{text:?} is an uptime");
        }
        (None, _) => {}
    }
}
