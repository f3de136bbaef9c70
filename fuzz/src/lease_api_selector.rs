//! Label selectors, as the embedded Lease API takes them and the doctor applies them.
//!
//! A selector that was written from its terms selects what the terms say. Any other text is read or refused with a
//! reason, and whitespace around it changes nothing.
//!
//! Input: an even byte and a selector with labels, or an odd one and what terms are made of.

use std::collections::BTreeMap;

use leasehold::devapi::Labels;

use super::bytes::Bytes;

const KEYS: [&str; 4] = ["app", "team", "example.com/tier", "n"];
const VALUES: [&str; 7] = ["", "a", "b", "web-0", "7", "8", "A_b.c"];

pub fn run(data: &[u8]) {
    let mut input = Bytes::new(data);
    if input.bit() { by_terms(&mut input) } else { any(&mut input) }
}

fn any(input: &mut Bytes) {
    let labels = labels(input);
    let text = input.text();
    match text.parse::<Labels>() {
        Ok(selector) => {
            let padded = format!("  {text}\t");
            let same = padded.parse::<Labels>().unwrap_or_else(|why| panic!("{text:?} is one and {padded:?}: {why}"));
            assert_eq!(selector.match_all(Some(&labels)), same.match_all(Some(&labels)), "{text:?}");
            assert_eq!(selector.match_all(None), selector.match_all(Some(&BTreeMap::new())), "{text:?}");
        }
        Err(why) => assert!(!why.is_empty() && why.len() < 2000),
    }
}

fn labels(input: &mut Bytes) -> BTreeMap<String, String> {
    (0..input.byte() % 4).map(|_| (input.one_of(&KEYS).to_string(), input.one_of(&VALUES).to_string())).collect()
}

fn by_terms(input: &mut Bytes) {
    let labels = labels(input);
    let mut terms = Vec::new();
    let mut expected = true;
    for _ in 0..input.byte() % 5 {
        let key = *input.one_of(&KEYS);
        let value = labels.get(key).map(String::as_str);
        let values: Vec<&str> = (0..=input.byte() % 3).map(|_| *input.one_of(&VALUES)).collect();
        let among = value.is_some_and(|value| values.contains(&value));
        let bound = i64::from(input.byte() % 10);
        let number = value.and_then(|value| value.parse::<i64>().ok());
        let space = if input.bit() { " " } else { "" };
        let set = values.join(&format!(",{space}"));
        let equal = value == Some(values[0]);
        let (text, holds) = match input.byte() % 8 {
            0 => (key.to_owned(), value.is_some()),
            1 => (format!("!{key}"), value.is_none()),
            2 => (format!("{key}{space}={space}{}", values[0]), equal),
            3 => (format!("{key}=={}", values[0]), equal),
            4 => (format!("{key}{space}!={}", values[0]), !equal),
            5 => (format!("{key} in {space}({space}{set})"), among),
            6 => (format!("{key} notin ({set}{space})"), !among),
            _ if input.bit() => (format!("{key}>{space}{bound}"), number.is_some_and(|number| number > bound)),
            _ => (format!("{key}<{bound}"), number.is_some_and(|number| number < bound)),
        };
        terms.push(text);
        expected &= holds;
    }
    let text = terms.join(if input.bit() { ", " } else { "," });
    let selector = text.parse::<Labels>().unwrap_or_else(|why| panic!("{text:?} is a selector: {why}"));
    assert_eq!(selector.match_all(Some(&labels)), expected, "{text:?} of {labels:?}");
}
