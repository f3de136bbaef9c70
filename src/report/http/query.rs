//! What follows the question mark.

use std::time::Duration;

/// The first value of `name`, percent-decoded.
pub fn value(query: Option<&str>, name: &str) -> Option<String> {
    let pairs = query?.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| decode(value))
}

/// `500ms`, `30s`, `5m`: a whole number with its unit, so that nobody guesses one.
pub fn duration(text: &str) -> Option<Duration> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(unit_at);
    let number = number.parse::<u64>().ok()?;
    match unit {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_secs(number.checked_mul(60)?)),
        _ => None,
    }
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        match (first, tail) {
            (b'%', [high, low, after @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                let digit = |byte: &u8| (*byte as char).to_digit(16).unwrap_or_default() as u8;
                bytes.push(digit(high) * 16 + digit(low));
                rest = after;
            }
            (b'+', _) => bytes.push(b' '),
            _ => bytes.push(*first),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_by_their_whole_name_and_decoded() {
        let query = Some("xpod=no&pod=web%2d0&pod=second&empty&bad=%4&plus=a+b&high=%ff");
        assert_eq!(value(query, "pod").as_deref(), Some("web-0"));
        assert_eq!(value(query, "empty").as_deref(), Some(""));
        assert_eq!(value(query, "bad").as_deref(), Some("%4"));
        assert_eq!(value(query, "plus").as_deref(), Some("a b"));
        assert_eq!(value(query, "high").as_deref(), Some("\u{fffd}"));
        assert_eq!(value(query, "po"), None);
        assert_eq!(value(None, "pod"), None);
    }

    #[test]
    fn durations_have_a_whole_number_and_a_unit() {
        assert_eq!(duration("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(duration("30s"), Some(Duration::from_secs(30)));
        assert_eq!(duration("5m"), Some(Duration::from_secs(300)));
        for bad in ["", "30", "s", "-1s", "1.5s", "1h", "30 s", "1é", "99999999999999999999s", "999999999999999999m"] {
            assert_eq!(duration(bad), None, "{bad:?}");
        }
    }
}
