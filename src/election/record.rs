//! A Lease as the election reads it: the fields that decide, and nothing of the rest.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::config::{LARGEST_TOKEN, LONGEST_LEASE};
use super::status::LONGEST_POD_NAME;

/// One version of a Lease.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Record {
    pub uid: String,
    /// `metadata.resourceVersion`, which the API server lets clients compare (KEP-5504).
    pub version: u64,
    pub spec: Spec,
    /// Annotation `leasehold.dev/token`.
    pub token: Token,
    /// Annotation `leasehold.dev/released`: the renewTime of the release that it proves.
    pub released: Option<Timestamp>,
    /// Annotation `leasehold.dev/step-down`.
    #[serde(default)]
    pub step_down: Option<StepDown>,
    /// Owned by a Pod: the nais format, where a held record without a duration is held until it is deleted.
    pub pod_owned: bool,
}

/// `spec`: a change of it restarts a record's age, a change of anything else does not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Spec {
    /// `holderIdentity`; the empty one is none.
    pub holder: Option<String>,
    /// `leaseDurationSeconds`.
    pub duration_seconds: Option<i32>,
    pub acquire_time: Option<Timestamp>,
    pub renew_time: Option<Timestamp>,
    /// `leaseTransitions`; 0 when absent.
    pub transitions: i32,
    /// `strategy`: coordinated election (KEP-4355).
    pub strategy: Option<String>,
    pub preferred_holder: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Token {
    Absent,
    Value(u64),
    /// No number, or one above [`LARGEST_TOKEN`].
    Unreadable,
}

impl Token {
    pub fn parse(annotation: Option<&str>) -> Token {
        match annotation {
            None => Token::Absent,
            Some(text) => match text.parse::<u64>() {
                Ok(value) if value <= LARGEST_TOKEN => Token::Value(value),
                _ => Token::Unreadable,
            },
        }
    }

    pub fn value(self) -> Option<u64> {
        match self {
            Token::Value(value) => Some(value),
            Token::Absent | Token::Unreadable => None,
        }
    }
}

/// A request to hand over, made of one term: `TOKEN`, or `TOKEN/pod` with the pod that should lead then.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StepDown {
    pub token: u64,
    pub to: Option<String>,
}

impl StepDown {
    /// What is not understood asks for nothing.
    pub fn parse(annotation: &str) -> Option<StepDown> {
        let (token, to) = match annotation.split_once('/') {
            Some((token, to)) if !to.is_empty() && to.len() <= LONGEST_POD_NAME => (token, Some(to.to_owned())),
            Some(_) => return None,
            None => (annotation, None),
        };
        Some(StepDown { token: Token::parse(Some(token)).value()?, to })
    }
}

impl fmt::Display for StepDown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.to {
            Some(to) => write!(f, "{}/{to}", self.token),
            None => write!(f, "{}", self.token),
        }
    }
}

impl Record {
    pub fn holder(&self) -> Option<&str> {
        self.spec.holder.as_deref()
    }

    /// The request to step down that speaks of this record's own term, or of the one that it released.
    pub fn step_down(&self) -> Option<&StepDown> {
        self.step_down.as_ref().filter(|request| self.token == Token::Value(request.token))
    }

    /// The duration that the record claims, if it makes sense.
    pub fn duration(&self) -> Option<Duration> {
        let seconds = u64::try_from(self.spec.duration_seconds?).ok().filter(|seconds| *seconds > 0)?;
        Some(Duration::from_secs(seconds)).filter(|duration| *duration <= LONGEST_LEASE)
    }

    /// A proof must be newer than what it ends: somebody may have emptied the holder and left the rest.
    pub fn is_held_at(&self, renew_time: Option<Timestamp>) -> bool {
        self.spec.holder.is_some() && self.spec.renew_time == renew_time
    }

    /// The next record is a take-over of this one by our rules, which raises token and transitions; client-go raises
    /// the transitions alone.
    pub fn is_taken_over_by(&self, next: &Record) -> bool {
        self.uid == next.uid && next.token.value() > self.token.value() && next.spec.transitions > self.spec.transitions
    }

    /// The holder of this record wrote that it stopped: the proof names this very renewTime, so that an old
    /// annotation under a newer edit proves nothing.
    pub fn is_proved_release(&self) -> bool {
        self.spec.holder.is_none() && self.released.is_some() && self.released == self.spec.renew_time
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_a_whole_number_that_json_holds_exactly() {
        assert_eq!(Token::parse(None), Token::Absent);
        assert_eq!(Token::parse(Some("9007199254740991")), Token::Value(LARGEST_TOKEN));
        for bad in ["9007199254740992", "", "-1", "1.5", "999999999999999999999999999999", " 7", "x"] {
            assert_eq!(Token::parse(Some(bad)), Token::Unreadable, "{bad:?}");
        }
    }

    #[test]
    fn a_duration_makes_sense_up_to_a_day() {
        let claimed = |duration_seconds| {
            let spec = Spec { duration_seconds, ..Spec::default() };
            let record = Record {
                uid: String::new(),
                version: 1,
                spec,
                token: Token::Absent,
                released: None,
                step_down: None,
                pod_owned: false,
            };
            record.duration()
        };
        assert_eq!(claimed(Some(1)), Some(Duration::from_secs(1)));
        assert_eq!(claimed(Some(86_400)), Some(Duration::from_secs(86_400)));
        for absurd in [None, Some(0), Some(-5), Some(86_401)] {
            assert_eq!(claimed(absurd), None, "{absurd:?}");
        }
    }

    #[test]
    fn a_take_over_raises_token_and_transitions_of_the_same_object() {
        let record = |uid: &str, token: u64, transitions: i32| Record {
            uid: uid.into(),
            version: 1,
            spec: Spec { transitions, ..Spec::default() },
            token: Token::Value(token),
            released: None,
            step_down: None,
            pod_owned: false,
        };
        let taken_over_by =
            |uid, token, transitions| record("a", 7, 3).is_taken_over_by(&record(uid, token, transitions));
        assert!(taken_over_by("a", 8, 4));
        for (uid, token, transitions) in [("b", 8, 4), ("a", 7, 4), ("a", 8, 3), ("a", 7, 3), ("b", 7, 3), ("b", 8, 3)]
        {
            assert!(!taken_over_by(uid, token, transitions), "{uid} {token} {transitions}");
        }
    }

    #[test]
    fn a_request_to_step_down_names_a_term_and_perhaps_a_pod() {
        let to = |to: &str| Some(StepDown { token: 7, to: Some(to.into()) });
        assert_eq!(StepDown::parse("7"), Some(StepDown { token: 7, to: None }));
        assert_eq!(StepDown::parse("7/web-1"), to("web-1"));
        for request in ["7", "7/web-1"] {
            assert_eq!(StepDown::parse(request).unwrap().to_string(), request);
        }
        let long = format!("7/{}", "x".repeat(254));
        for bad in ["", "7/", "/web-1", "x/web-1", "-7", "7 ", "9007199254740992", &long] {
            assert_eq!(StepDown::parse(bad), None, "{bad:?}");
        }
    }
}
