//! What is to happen, in the order of true time; at one instant, in the order in which it was decided.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::trace::Time;

/// The heap sorts small keys; what they stand for stays where it was put.
pub struct Queue<Event> {
    keys: BinaryHeap<Reverse<(Time, u64, usize)>>,
    order: u64,
    events: Vec<Option<Event>>,
    free: Vec<usize>,
}

impl<Event> Queue<Event> {
    pub fn new() -> Self {
        Queue { keys: BinaryHeap::new(), order: 0, events: Vec::new(), free: Vec::new() }
    }

    pub fn push(&mut self, at: Time, event: Event) {
        self.order += 1;
        let place = self.free.pop().unwrap_or_else(|| {
            self.events.push(None);
            self.events.len() - 1
        });
        self.events[place] = Some(event);
        self.keys.push(Reverse((at, self.order, place)));
    }

    pub fn pop(&mut self) -> Option<(Time, Event)> {
        let Reverse((at, _, place)) = self.keys.pop()?;
        self.free.push(place);
        Some((at, self.events[place].take()?))
    }
}
