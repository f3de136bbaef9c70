//! Who asks, and for how long the API server goes on believing it.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kube::config::AuthInfo;
use serde_json::{Value, json};

use super::cluster::Cluster;
use super::{Findings, span};
use crate::kubernetes::Failure;
use crate::time::{Clock, SystemClock};

/// The kubelet replaces a token when a fifth of its time is left, and that is ten minutes at least.
const LATE: Duration = Duration::from_secs(300);

/// The name of who asks, empty where the API server does not tell. `None`: the credentials are not accepted.
pub async fn examine(cluster: &mut Cluster, findings: &mut Findings) -> Option<String> {
    let name = "credentials";
    let answer = cluster.review("authentication.k8s.io", "SelfSubjectReview", json!({})).await;
    let end = token_end(&cluster.auth);
    let left = end.map(|end| end.duration_since(cluster.now().unwrap_or_else(|| SystemClock.wall())));
    match answer {
        Ok(review) => {
            let user = review["status"]["userInfo"]["username"].as_str().unwrap_or_default().to_owned();
            tell_accepted(&user, left, findings);
            Some(user)
        }
        Err(Failure::Status { code: 403, message, .. }) if message.contains("system:anonymous") => {
            let fix = "mount a service account token, or check the user of the kubeconfig's context";
            findings.failed(name, "no credentials are sent: to the API server this is anybody", fix);
            None
        }
        Err(failure @ Failure::Status { code: 401, .. }) => {
            let message = match left {
                Some(left) if left.is_negative() => {
                    format!(
                        "the API server does not accept the token (401), which ended {} ago",
                        span(left.unsigned_abs())
                    )
                }
                _ => cluster.advice(&failure),
            };
            findings.failed(name, message, "in a pod, project a service account token (the kubelet renews it; a copy, or a mount by subPath, stays as it is); elsewhere, log in again");
            None
        }
        // Who asks is not told, and may still be allowed what it needs.
        Err(failure) if failure.is_no_such_question() => {
            findings.skipped(name, "the API server does not say who asks");
            Some(String::new())
        }
        Err(failure) => {
            findings.failed(name, cluster.advice(&failure), "the rest cannot be asked before this works");
            None
        }
    }
}

fn tell_accepted(user: &str, left: Option<SignedDuration>, findings: &mut Findings) {
    let name = "credentials";
    let Some(left) = left else { return findings.ok(name, format!("accepted, as {user}")) };
    if left > SignedDuration::try_from(LATE).unwrap_or_default() {
        return findings
            .ok(name, format!("accepted, as {user}, with a token that ends in {}", span(left.unsigned_abs())));
    }
    let message = match left.is_negative() {
        true => format!("accepted, as {user}, although the token ended {} ago", span(left.unsigned_abs())),
        false => format!("accepted, as {user}, with a token that ends in {}", span(left.unsigned_abs())),
    };
    findings.warning(
        name,
        message,
        "the kubelet should have renewed it by now: a copy, or a mount by subPath, stays as it is",
    );
}

/// When the token ends, if there is one that says so. Nothing else of it is looked at.
fn token_end(auth: &AuthInfo) -> Option<Timestamp> {
    let text = match &auth.token_file {
        Some(path) if auth.token.is_none() => std::fs::read_to_string(path).ok()?,
        // The type hides it from logs, and shows it to whoever writes a kubeconfig.
        _ => serde_json::to_value(auth).ok()?["token"].as_str()?.to_owned(),
    };
    end_of(&text)
}

/// The claim `exp` of a JSON Web Token (RFC 7519).
#[doc(hidden)]
pub fn end_of(token: &str) -> Option<Timestamp> {
    let mut parts = token.trim().split('.');
    let (_, claims, _) = (parts.next()?, parts.next()?, parts.next()?);
    let claims: Value = serde_json::from_slice(&base64url(claims)?).ok()?;
    let seconds = claims["exp"].as_f64()?;
    // A number that is no time becomes the end of time, and that is none either.
    Timestamp::from_second(seconds as i64).ok()
}

/// RFC 4648, section 5, without padding.
fn base64url(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let (mut bits, mut count) = (0_u32, 0);
    for digit in text.bytes() {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'-' => 62,
            b'_' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_says_when_it_ends_and_anything_else_says_nothing() {
        // {"alg":"none"} . {"exp":1700000000,"sub":"x~?"} . signature
        let token = "eyJhbGciOiJub25lIn0.eyJleHAiOjE3MDAwMDAwMDAsInN1YiI6Inh-PyJ9.AAAA";
        assert_eq!(end_of(token), Timestamp::from_second(1_700_000_000).ok());
        assert_eq!(end_of(&format!("{token}\n")), Timestamp::from_second(1_700_000_000).ok());
        // {"exp":"soon"}, {"exp":1e300}
        for claims in ["eyJleHAiOiJzb29uIn0", "eyJleHAiOjFlMzAwfQ", "e", "{}", "", "AAAA"] {
            assert_eq!(end_of(&format!("x.{claims}.x")), None, "{claims}");
        }
        for opaque in ["", "token-of-admin", "a.b"] {
            assert_eq!(end_of(opaque), None, "{opaque}");
        }
    }
}
