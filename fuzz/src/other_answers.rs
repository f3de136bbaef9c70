//! Answers of those who are asked: an API server that refuses, whoever listens where a sidecar should, and the token
//! that a file holds.
//!
//! A refusal keeps its status, it says when to ask again exactly where it names a number of seconds, and what people
//! are shown of it is short. An answer over HTTP has a status of three
//! digits and no more body than came. A token ends when its claim says so.
//!
//! Input: a byte for which of them, then what is read.

use std::io::{self, Read, Write};

use jiff::Timestamp;
use leasehold::doctor::end_of;
use leasehold::kubernetes::{Failure, status_failure};
use leasehold::report::http::ask::ask;

use super::bytes::Bytes;

pub fn run(data: &[u8]) {
    let mut input = Bytes::new(data);
    match input.byte() % 3 {
        0 => refusal(input.u16(), input.rest()),
        1 => probe(input.byte(), input.rest()),
        _ => token(input.bit(), input.rest()),
    }
}

fn refusal(code: u16, body: &[u8]) {
    let failure = status_failure(code, Some(body), body);
    let shown = failure.to_string();
    assert!(shown.len() < 4000, "{} bytes for people", shown.len());
    assert!(!failure.reason().is_empty());
    let Failure::Status { code: kept, fields, retry_after, .. } = failure else { panic!("it is a status") };
    assert_eq!(kept, code);
    let digits = body.strip_prefix(b"+").unwrap_or(body);
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    assert!(is_number || retry_after.is_none());
    // A number of nineteen digits fits into 64 bits.
    assert!(!is_number || digits.len() > 19 || retry_after.is_some());
    assert!(fields.len() <= body.len());
}

struct Peer<'a> {
    answer: &'a [u8],
    size: usize,
    asked: Vec<u8>,
}

impl Read for Peer<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let length = self.size.min(into.len()).min(self.answer.len());
        let (piece, rest) = self.answer.split_at(length);
        into[..length].copy_from_slice(piece);
        self.answer = rest;
        Ok(length)
    }
}

impl Write for Peer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.asked.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn probe(size: u8, answer: &[u8]) {
    let mut peer = Peer { answer, size: usize::from(size) + 1, asked: Vec::new() };
    let read = ask(&mut peer, "/livez");
    assert!(peer.asked.starts_with(b"GET /livez HTTP/1.0\r\n") && peer.asked.ends_with(b"\r\n\r\n"));
    if let Ok((status, body)) = read {
        assert!(answer.starts_with(b"HTTP/1.") && status <= 999, "{status}");
        // U+FFFD takes three bytes.
        assert!(body.len() <= 3 * answer.len());
    }
}

fn token(encode: bool, text: &[u8]) {
    if !encode {
        let Ok(text) = std::str::from_utf8(text) else { return };
        let _ = end_of(text);
        return;
    }
    let claims = serde_json::from_slice::<serde_json::Value>(text).unwrap_or_default();
    let end = end_of(&format!("e30.{}.e30", base64url(text)));
    let expected = claims["exp"].as_f64().and_then(|seconds| Timestamp::from_second(seconds as i64).ok());
    assert_eq!(end, expected);
}

fn base64url(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for digit in 0..=group.len() {
            text.push(char::from(DIGITS[(bits >> (18 - 6 * digit) & 63) as usize]));
        }
    }
    text
}
