//! What others write where people read: annotations, identities, names, addresses.
//!
//! A token is read exactly when it is a decimal number up to 2^53 - 1. A request to step down, and an address, are
//! what they print. A pod's name is a short beginning of the identity. A name is what RFC 1123 says. An app's URL is
//! never shown with its query.

use leasehold::app::Evidence;
use leasehold::election::{LARGEST_TOKEN, LONGEST_POD_NAME, StepDown, Token, pod_of};
use leasehold::names::{dns_label, dns_subdomain};
use leasehold::report::http::Address;

pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    tokens(text);
    step_downs(text);
    identities(text);
    names(text);
    addresses(text);
}

fn tokens(text: &str) {
    // The standard library reads a plus sign as well.
    let digits = text.strip_prefix('+').unwrap_or(text);
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let significant = digits.trim_start_matches('0');
    let expected = (is_number && significant.len() <= 16)
        .then(|| significant.bytes().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
        .filter(|value| *value <= LARGEST_TOKEN);
    let read = Token::parse(Some(text));
    assert_eq!(read.value(), expected, "{text:?}");
    assert_eq!(read == Token::Unreadable, expected.is_none(), "{text:?}");
}

fn step_downs(text: &str) {
    let Some(request) = StepDown::parse(text) else { return };
    assert_eq!(StepDown::parse(&request.to_string()), Some(request.clone()));
    assert!(request.to.is_none_or(|to| !to.is_empty() && to.len() <= LONGEST_POD_NAME));
}

fn identities(text: &str) {
    let pod = pod_of(text);
    assert!(text.starts_with(pod) && pod.len() <= LONGEST_POD_NAME && !pod.contains('_'), "{text:?}");
    if dns_subdomain(text).is_ok() {
        assert_eq!(pod_of(&format!("{text}_0f")), text);
    }
}

fn names(text: &str) {
    let part = |part: &str| {
        let alphanumeric = |byte: u8| byte.is_ascii_digit() || byte.is_ascii_lowercase();
        let bytes = part.as_bytes();
        bytes.iter().all(|byte| alphanumeric(*byte) || *byte == b'-')
            && bytes.first().is_some_and(|byte| *byte != b'-')
            && bytes.last().is_some_and(|byte| *byte != b'-')
    };
    assert_eq!(dns_label(text).is_ok(), text.len() <= 63 && part(text), "{text:?}");
    assert_eq!(dns_subdomain(text).is_ok(), text.len() <= 253 && text.split('.').all(part), "{text:?}");
}

fn addresses(text: &str) {
    if let Ok(address) = text.parse::<Address>() {
        assert_eq!(address.to_string().parse(), Ok(address), "{text:?}");
    }
    match text.parse::<Evidence>() {
        Ok(evidence) => {
            let shown = evidence.to_string();
            assert!(!shown.contains('?') && shown.len() <= text.len(), "{text:?} is shown as {shown:?}");
        }
        Err(fault) => assert!(!fault.is_empty()),
    }
}
