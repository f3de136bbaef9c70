//! What follows the question mark in a request of the app's, and durations there and in flags.
//!
//! A value that was percent-encoded comes back whole, whatever else stands beside it. A duration is read exactly when
//! it is a whole number and a unit, and then it is that.

use std::time::Duration;

use leasehold::cli;
use leasehold::report::http::query::{duration, value};

use super::bytes::Bytes;

pub fn run(data: &[u8]) {
    let mut input = Bytes::new(data);
    let wanted = input.text();
    let before = input.text();
    let rest = String::from_utf8_lossy(input.rest()).into_owned();

    // Whatever stands there, reading ends and gives no more than was there; U+FFFD takes three bytes.
    for name in ["pod", "wait", "version", "name", "exclusive", &wanted] {
        if let Some(found) = value(Some(&rest), name) {
            assert!(found.len() <= 3 * rest.len());
        }
    }
    let encoded: String = wanted.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let others = before.split('&').all(|pair| pair.split('=').next() != Some("pod"));
    if others {
        let query = format!("{before}&pod={encoded}&{rest}");
        assert_eq!(value(Some(&query), "pod").as_deref(), Some(wanted.as_str()), "{query:?}");
    }
    for text in [wanted.as_str(), before.as_str(), rest.as_str()] {
        durations(text);
    }
}

fn durations(text: &str) {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let millis = |units: &[(&str, u128)]| {
        let (_, millis) = units.iter().find(|(name, _)| *name == unit)?;
        // More digits than any number of 64 bits has are none.
        let number = number.parse::<u128>().ok().filter(|number| *number <= u64::MAX.into())?;
        Some(number * millis)
    };
    let as_millis = |duration: Duration| duration.as_millis();

    let expected = millis(&[("ms", 1), ("s", 1000), ("m", 60_000)]).filter(|millis| *millis / 1000 <= u64::MAX.into());
    assert_eq!(duration(text).map(as_millis), expected, "{text:?} in a query");
    let units = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)];
    let expected = millis(&units).filter(|millis| *millis <= u64::MAX.into());
    assert_eq!(cli::duration(text).ok().map(as_millis), expected, "{text:?} in a flag");
}
