//! Says what goes wrong once: a fault that lasts does not fill the log, and one that comes and goes neither.
//!
//! The API server is asked in several ways at once ([`Ask`]), and one may fail while the others work: a missing verb
//! does. So it answers again only when nothing fails any more, and each text is said once a while, however many
//! others come between.

use std::time::Duration;

use crate::time::Moment;

/// How the API server is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// List and watch, which one loop tries again and again.
    Watch,
    Write,
    /// The consistent read after a conflict, or in doubt.
    Read,
}

/// What is to be said now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    Fault,
    /// After a fault was said: nothing fails any more.
    AllWell,
}

/// What was said, and what still fails.
#[derive(Debug, Default)]
pub struct Complaints {
    failing: Vec<Ask>,
    said: Vec<Said>,
    /// A fault was said, and its end was not.
    open: bool,
}

#[derive(Debug)]
struct Said {
    text: String,
    at: Moment,
    pause: Duration,
}

impl Complaints {
    const FIRST_PAUSE: Duration = Duration::from_secs(60);
    const LONGEST_PAUSE: Duration = Duration::from_secs(3600);
    /// One cause shows itself in several ways at once: a broken connection, then a refused one.
    const SAME_CAUSE: Duration = Duration::from_secs(5);
    const KEPT: usize = 8;

    /// This way of asking failed. `text` is the same for the same cause.
    pub fn failed(&mut self, ask: Ask, text: &str, now: Moment) -> Option<News> {
        if !self.failing.contains(&ask) {
            self.failing.push(ask);
        }
        self.is_news(text, now).then_some(News::Fault)
    }

    /// It worked.
    pub fn worked(&mut self, ask: Ask) -> Option<News> {
        self.failing.retain(|failing| *failing != ask);
        // Nobody reads without a reason, and a write settles it.
        self.failing.retain(|failing| *failing != Ask::Read || ask != Ask::Write);
        if !self.failing.is_empty() {
            return None;
        }
        for said in &mut self.said {
            said.pause = Self::FIRST_PAUSE;
        }
        std::mem::take(&mut self.open).then_some(News::AllWell)
    }

    /// Whether a text is to be said now.
    pub fn is_news(&mut self, text: &str, now: Moment) -> bool {
        if let Some(said) = self.said.iter_mut().find(|said| said.text == text) {
            if now.since(said.at) < said.pause {
                return false;
            }
            (said.at, said.pause) = (now, (said.pause * 2).min(Self::LONGEST_PAUSE));
        } else {
            let last = self.said.iter().map(|said| said.at).max();
            if self.open && last.is_some_and(|at| now.since(at) < Self::SAME_CAUSE) {
                return false;
            }
            if self.said.len() == Self::KEPT {
                self.said.remove(0);
            }
            self.said.push(Said { text: text.to_owned(), at: now, pause: Self::FIRST_PAUSE });
        }
        self.open = true;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(n: u64) -> Moment {
        Moment::BOOT + Duration::from_secs(n)
    }

    #[test]
    fn a_fault_that_lasts_is_said_at_growing_intervals() {
        let mut complaints = Complaints::default();
        let times: Vec<u64> =
            (0..1000).filter(|n| complaints.failed(Ask::Watch, "refused", second(*n)).is_some()).collect();
        assert_eq!(times, [0, 60, 180, 420, 900]);
        assert_eq!(complaints.worked(Ask::Watch), Some(News::AllWell));
        assert_eq!(complaints.worked(Ask::Watch), None);
    }

    #[test]
    fn one_way_that_fails_while_another_works_is_said_once() {
        let mut complaints = Complaints::default();
        let mut said = 0;
        for n in 0..50 {
            said += usize::from(complaints.failed(Ask::Watch, "no watch", second(n)).is_some());
            said += usize::from(complaints.worked(Ask::Write).is_some());
        }
        assert_eq!(said, 1);
    }

    #[test]
    fn a_fault_that_comes_and_goes_is_said_once_a_minute() {
        let mut complaints = Complaints::default();
        let mut said = 0;
        for n in 0..60 {
            said += usize::from(complaints.failed(Ask::Read, "no get", second(n)).is_some());
            said += usize::from(complaints.worked(Ask::Write).is_some());
        }
        assert_eq!(said, 2, "the fault and its end");
        assert!(complaints.failed(Ask::Read, "no get", second(60)).is_some());
    }

    #[test]
    fn what_follows_at_once_is_one_cause_and_another_cause_is_said_later() {
        let mut complaints = Complaints::default();
        assert!(complaints.failed(Ask::Watch, "broken", second(0)).is_some());
        assert!(complaints.failed(Ask::Write, "refused", second(1)).is_none());
        assert!(complaints.failed(Ask::Write, "forbidden", second(6)).is_some());
        assert!(complaints.failed(Ask::Watch, "broken", second(7)).is_none());
    }
}
