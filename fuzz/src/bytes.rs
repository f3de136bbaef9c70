//! Values off the front of an input, for targets that make something of it before they hand it over.

use std::time::Duration;

/// What is left of an input; zeros once nothing is.
pub struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    pub fn new(data: &'a [u8]) -> Self {
        Bytes(data)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    pub fn bit(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|_| self.byte()))
    }

    /// Small ones mostly, and all of them sometimes.
    pub fn number(&mut self) -> u64 {
        match self.byte() {
            255 => self.u64(),
            254 => u64::MAX - u64::from(self.byte()),
            253 => u64::from(self.u16()),
            small => u64::from(small),
        }
    }

    pub fn one_of<'b, T>(&mut self, choices: &'b [T]) -> &'b T {
        &choices[usize::from(self.byte()) % choices.len()]
    }

    /// Up to 255 bytes, of which the first byte says how many.
    pub fn piece(&mut self) -> &'a [u8] {
        let length = usize::from(self.byte()).min(self.0.len());
        let (piece, rest) = self.0.split_at(length);
        self.0 = rest;
        piece
    }

    pub fn text(&mut self) -> String {
        String::from_utf8_lossy(self.piece()).into_owned()
    }

    pub fn rest(self) -> &'a [u8] {
        self.0
    }

    /// From none to 655 s, by the hundredth.
    pub fn duration(&mut self) -> Duration {
        Duration::from_millis(u64::from(self.u16()) * 10)
    }
}
