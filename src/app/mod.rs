//! What the app tells us of itself: the pieces of evidence that `--app-alive` names, each watched by a task of its
//! own that sends a [`Sign`] when what the evidence says has changed, and at no other time.

pub mod asking;
pub mod health;
mod patience;

/// What one piece of evidence says of the app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sign {
    /// Its index in the list of `--app-alive`.
    pub evidence: usize,
    pub alive: Result<(), Gone>,
}

/// The app is not alive by this evidence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gone {
    /// Part of a sentence for people, bounded in length, with nothing secret in it.
    pub why: String,
    /// The app's end is certain, so that what it was promised need not be waited out.
    pub proved: bool,
}
