//! `--app-alive`, as it is written.

use std::fmt;
use std::str::FromStr;

use super::health;

/// What shows that the app lives.
#[derive(Clone, Debug)]
pub enum Evidence {
    /// Somebody holds the lock `alive` in the report directory.
    Lock,
    /// A `GET /v1/session` is open.
    Session,
    /// A port answers.
    Health(Box<health::Target>),
    /// The app asks.
    Asking,
}

impl FromStr for Evidence {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "lock" => Ok(Evidence::Lock),
            "session" => Ok(Evidence::Session),
            "asking" => Ok(Evidence::Asking),
            url if url.contains(':') => url
                .parse()
                .map(|target| Evidence::Health(Box::new(target)))
                .map_err(|fault: health::TargetError| fault.to_string()),
            _ => Err("it is lock, session, asking, http://ADDRESS:PORT/PATH or tcp://ADDRESS:PORT".into()),
        }
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Evidence::Lock => f.write_str("lock"),
            Evidence::Session => f.write_str("session"),
            Evidence::Health(target) => target.fmt(f),
            Evidence::Asking => f.write_str("asking"),
        }
    }
}
