//! A part of a state that many states share: copied when it is changed, and digested once.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, OnceLock};

pub struct Hashed<T>(Arc<Inner<T>>);

struct Inner<T> {
    value: T,
    digest: OnceLock<u64>,
}

impl<T> Hashed<T> {
    pub fn new(value: T) -> Self {
        Hashed(Arc::new(Inner { value, digest: OnceLock::new() }))
    }
}

impl<T: Hash> Hashed<T> {
    pub fn digest(&self) -> u64 {
        *self.0.digest.get_or_init(|| {
            // The same in every run, so that a run can be repeated.
            ahash::RandomState::with_seeds(1, 2, 3, 4).hash_one(&self.0.value)
        })
    }
}

impl<T: Clone> Clone for Inner<T> {
    fn clone(&self) -> Self {
        Inner { value: self.value.clone(), digest: OnceLock::new() }
    }
}

impl<T> Clone for Hashed<T> {
    fn clone(&self) -> Self {
        Hashed(Arc::clone(&self.0))
    }
}

impl<T> Deref for Hashed<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0.value
    }
}

impl<T: Clone> DerefMut for Hashed<T> {
    fn deref_mut(&mut self) -> &mut T {
        let inner = Arc::make_mut(&mut self.0);
        inner.digest = OnceLock::new();
        &mut inner.value
    }
}

impl<T: Hash> Hash for Hashed<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.digest());
    }
}

impl<T: Hash> PartialEq for Hashed<T> {
    fn eq(&self, other: &Self) -> bool {
        self.digest() == other.digest()
    }
}

impl<T: fmt::Debug> fmt::Debug for Hashed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.value.fmt(f)
    }
}
