//! What the app tells the sidecar: that it lives, and that it stopped.
//!
//! `--app-alive` names the evidence; with several, the app is alive while all say so. Each kind watches in its own
//! way and sends a [`Sign`] when it changes its mind; [`Presence`] joins them. Evidence is a state, not an event: an
//! app that is seen to live is alive, whatever happened a moment before.

#[cfg(feature = "program")]
pub mod asking;
#[cfg(feature = "program")]
mod evidence;
#[cfg(feature = "program")]
pub mod health;
#[cfg(feature = "program")]
pub mod lock;
#[cfg(feature = "program")]
mod patience;
pub mod session;

use std::path::{Path, PathBuf};

#[cfg(feature = "program")]
pub use evidence::Evidence;

/// What one piece of evidence says of the app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sign {
    /// Its place in the list of `--app-alive`.
    pub evidence: usize,
    pub alive: Result<(), Gone>,
}

/// The app is not alive by this evidence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gone {
    /// Part of a sentence for people.
    pub why: String,
    /// Nothing acts any more on what was promised.
    pub proved: bool,
}

/// All evidence together.
pub struct Presence {
    /// Why not, for each.
    gone: Vec<Option<String>>,
}

impl Presence {
    /// Nothing was seen yet, so nothing shows that the app lives: why, for each kind of evidence.
    pub fn new(unseen: impl IntoIterator<Item = String>) -> Self {
        Presence { gone: unseen.into_iter().map(Some).collect() }
    }

    /// Why the app is not alive, if it is not.
    pub fn gone(&self) -> Option<&str> {
        self.gone.iter().find_map(|gone| gone.as_deref())
    }

    /// Takes a sign in. What is to be told: that the app is alive now, or that it is not; nothing when that is known.
    pub fn note(&mut self, sign: Sign) -> Option<Result<(), Gone>> {
        let was_alive = self.gone().is_none();
        let known = self.gone.get_mut(sign.evidence)?;
        match sign.alive {
            Ok(()) => {
                *known = None;
                (!was_alive && self.gone().is_none()).then_some(Ok(()))
            }
            Err(gone) => {
                *known = Some(gone.why.clone());
                // Also when it was not alive before: this may be the proof.
                Some(Err(gone))
            }
        }
    }
}

/// The lock by which who enforces a term's end shows that it still works on it.
pub fn enforcement_lock(report_dir: &Path, lease: &str) -> PathBuf {
    report_dir.join(format!("{lease}.lock"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gone(why: &str, proved: bool) -> Result<(), Gone> {
        Err(Gone { why: why.into(), proved })
    }

    #[test]
    fn the_app_is_alive_while_all_evidence_says_so() {
        let mut presence = Presence::new(["no lock".into(), "no session".into()]);
        let mut note = |evidence, alive| presence.note(Sign { evidence, alive });
        assert_eq!(note(0, Ok(())), None);
        assert_eq!(note(1, Ok(())), Some(Ok(())));
        assert_eq!(note(1, Ok(())), None);
        assert_eq!(note(0, gone("a", false)), Some(gone("a", false)));
        // A proof counts also when another kind of evidence was first.
        assert_eq!(note(1, gone("b", true)), Some(gone("b", true)));
        assert_eq!(note(0, Ok(())), None);
        assert_eq!(note(1, Ok(())), Some(Ok(())));
        assert_eq!(note(7, Ok(())), None);
    }
}
