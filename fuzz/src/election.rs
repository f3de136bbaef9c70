//! The election itself, told anything in any order at any time.
//!
//! Whatever it is told, contradictions and forgeries too: it publishes no yes at or after its `valid_until`; each
//! deadline counts from the sending of an own write (S2); a term's token is above those of all terms before it, and a
//! term does not come back (S4, S8); a write replaces what was judged last (S5), one is under way at a time, and each
//! has a renewTime of its own; a release waits for what was promised (S7); transitions grow by one a term (S9). It asks
//! for one thing at a time, and never to be called again at once without end.
//!
//! Input: a few bytes for the times, then steps. A step is told by its first byte; a little API server, where writes
//! land, keeps what is told likely enough to lead anywhere.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use leasehold::election::{
    ATTEMPT_TIMEOUT, Base, Config, Election, Input, Kind, LARGEST_TOKEN, Outcome, Output, Record, Seen, Shutdown, Spec,
    Status, StepDown, Token, Via, Write,
};
use leasehold::report::Board;
use leasehold::time::{Moment, Now};

use super::bytes::Bytes;

const IDENTITY: &str = "web-0_0f";
const FORMER: &str = "web-0_0e";
/// As often may the election ask to be called again at the same moment.
const AT_ONCE: usize = 4;
/// Enough for several terms; a longer input says nothing new.
const STEPS: usize = 400;

pub fn run(data: &[u8]) {
    let mut input = Bytes::new(data);
    let mut world = World::new(&mut input);
    for _ in 0..STEPS {
        if input.is_empty() || world.done {
            break;
        }
        world.step(&mut input);
    }
    check_memory(world.election.seen());
}

struct World {
    election: Election,
    board: Arc<Board>,
    now: Moment,
    wall: Timestamp,
    wake_at: Moment,
    done: bool,
    /// The Lease on the server, and the server's version.
    lease: Option<Record>,
    version: u64,
    in_flight: Option<Write>,
    /// Without an answer, and perhaps still on their way.
    late: Vec<Write>,
    reading: Option<Moment>,
    sent: BTreeSet<Moment>,
    last_renew_time: Option<Timestamp>,
    /// Of the terms so far, the last one's last.
    tokens: Vec<u64>,
    leads: bool,
    /// Something proved or said that nobody acts on the last term any more.
    excused: bool,
}

impl World {
    fn new(input: &mut Bytes) -> Self {
        let lease_duration = Duration::from_secs(u64::from(input.byte() % 20) + 5);
        let config = Config {
            identity: IDENTITY.into(),
            lease_duration,
            renew_deadline: lease_duration * 4 / 5,
            renew_interval: lease_duration / 5,
            retry_period: Duration::from_millis(200),
            answer_ttl: Duration::from_millis(500 + 100 * u64::from(input.byte() % 20)),
            trust_unheld: input.byte() % 8 == 1,
            replicas: Some(u32::from(input.byte() % 8)).filter(|replicas| *replicas > 0),
        };
        assert!(config.faults().is_empty(), "{:?}", config.faults());
        let now = Moment::BOOT + Duration::from_secs(1000);
        let ttl = config.answer_ttl;
        let mut election = Election::new(config, None, input.u64());
        if input.bit() {
            election = election.succeed(vec![FORMER.into()], now + ttl);
        }
        World {
            election,
            board: Arc::new(Board::new("web".into(), "shop".into(), "web-0".into(), "boot".into(), ttl)),
            now,
            wall: Timestamp::UNIX_EPOCH + Duration::from_secs(u64::from(input.u16()) * 1_000_000),
            wake_at: now,
            done: false,
            lease: None,
            version: 100,
            in_flight: None,
            late: Vec::new(),
            reading: None,
            sent: BTreeSet::new(),
            last_renew_time: None,
            tokens: Vec::new(),
            leads: false,
            excused: false,
        }
    }

    fn step(&mut self, input: &mut Bytes) {
        match input.byte() % 24 {
            0..=2 => {
                self.pass(self.wake_at.since(self.now).min(Duration::from_secs(3600)));
                self.tell(Input::Tick);
            }
            3 => {
                self.pass(input.duration() / 8);
                self.tell(Input::Tick);
            }
            4 => self.pass(Duration::from_millis(u64::from(input.byte()))),
            5 => self.wall = Timestamp::from_second(input.u64().cast_signed() >> 27).unwrap_or(Timestamp::MAX),
            6..=8 => self.answer(true, true),
            9 => self.answer(true, false),
            10 => self.answer(false, false),
            11 => self.answer_with(Outcome::Conflict),
            12 => {
                let retry_after = input.bit().then(|| input.duration());
                self.answer_with(Outcome::Refused { advice: "wait".into(), retry_after });
            }
            13 => {
                if let Some(write) = self.late.pop() {
                    self.land(&write);
                }
            }
            14 | 15 => self.observe(self.lease.clone(), self.version, Via::Event),
            16 => {
                let record = self.forged(input);
                let via = if input.bit() { Via::Event } else { Via::Read { sent_at: self.now - input.duration() } };
                let version = record.as_ref().map_or(input.number(), |record| record.version);
                self.observe(record, version, via);
            }
            17 => self.edit(input),
            18 => self.answer_read(input),
            19 => self.tell(if input.bit() { Input::Heard } else { Input::WatchFailed { advice: "grant".into() } }),
            20 => self.app(input),
            21 => {
                let to = [None, Some("web-1".to_owned()), Some("web-0".to_owned())];
                self.tell(Input::StepDown { to: input.one_of(&to).clone() });
            }
            22 => {
                // Asked, and believed for as long as that says.
                let _ = self.board.answer(self.now);
            }
            _ => {
                if input.byte().is_multiple_of(8) {
                    let app_ended = input.bit();
                    let (leave_at, end_by) = (self.now + input.duration(), self.now + input.duration());
                    self.excused |= app_ended;
                    self.tell(Input::Shutdown(Shutdown { app_ended, leave_at, end_by }));
                }
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        self.wall = self.wall.checked_add(time).unwrap_or(Timestamp::MAX);
    }

    fn observe(&mut self, record: Option<Record>, version: u64, via: Via) {
        self.tell(Input::Observed { record, version, via });
    }

    fn app(&mut self, input: &mut Bytes) {
        match input.byte() % 4 {
            0 => self.tell(Input::AppAlive),
            1 | 2 => {
                let proved = input.bit();
                self.excused |= proved;
                self.tell(Input::AppGone { proved, why: "it ended".into() });
            }
            _ => {
                let token = self.tokens.last().copied().unwrap_or_default() + u64::from(input.byte() % 8 == 7);
                self.excused |= self.tokens.last() == Some(&token);
                self.tell(Input::AppStopped { token });
            }
        }
    }

    // ---- The API server ----

    fn answer(&mut self, lands: bool, is_told: bool) {
        let Some(write) = self.in_flight.clone() else { return };
        let landed = lands && self.land(&write);
        if !lands {
            self.late.push(write);
        }
        let outcome = match &self.lease {
            _ if !is_told => Outcome::Unknown,
            Some(record) if landed => Outcome::Committed(Box::new(record.clone())),
            _ => Outcome::Conflict,
        };
        self.answer_with(outcome);
    }

    fn answer_with(&mut self, outcome: Outcome) {
        if let Some(write) = self.in_flight.take() {
            self.tell(Input::Wrote { attempt: write.attempt, outcome });
        }
    }

    /// A compare-and-swap.
    fn land(&mut self, write: &Write) -> bool {
        let found = self.lease.as_ref().map(|lease| Base { uid: lease.uid.clone(), version: lease.version });
        if found != write.base {
            return false;
        }
        self.version += 1;
        let before = self.lease.take();
        let (token, step_down) = match (write.kind, &before) {
            (Kind::Acquire { token }, _) => (Token::Value(token), None),
            (_, before) => (before.as_ref().map_or(Token::Absent, |before| before.token), write.step_down.clone()),
        };
        self.lease = Some(Record {
            uid: before.map_or(format!("uid-{}", self.version), |before| before.uid),
            version: self.version,
            spec: write.spec.clone(),
            token,
            released: write.spec.renew_time.filter(|_| write.kind == Kind::Release),
            step_down,
            pod_owned: false,
        });
        true
    }

    /// By somebody else.
    fn edit(&mut self, input: &mut Bytes) {
        self.version += 1 + u64::from(input.byte() % 4);
        self.lease = match input.byte() % 4 {
            0 => None,
            1 => self.forged(input),
            _ => self.lease.clone(),
        };
        let version = self.version;
        if let Some(lease) = &mut self.lease {
            lease.version = version;
            match input.byte() % 8 {
                0 => lease.spec.holder = None,
                1 => lease.spec.holder = Some("web-1_0f".into()),
                2 => lease.token = Token::Value(input.number().min(LARGEST_TOKEN)),
                3 => lease.spec.duration_seconds = Some(i32::from(input.byte()) - 5),
                4 => lease.spec.renew_time = Some(self.wall),
                5 => lease.spec.transitions = lease.spec.transitions.wrapping_add(i32::from(input.byte()) - 5),
                _ => {}
            }
        }
    }

    fn answer_read(&mut self, input: &mut Bytes) {
        if self.reading.take().is_none() {
            return;
        }
        let answer = match input.byte() % 8 {
            0 => None,
            1 => {
                let record = self.forged(input);
                let version = record.as_ref().map_or(input.number(), |record| record.version);
                Some((record, version))
            }
            _ => Some((self.lease.clone(), self.lease.as_ref().map_or(self.version, |lease| lease.version))),
        };
        self.tell(Input::Read(answer));
    }

    fn forged(&self, input: &mut Bytes) -> Option<Record> {
        if input.byte().is_multiple_of(8) {
            return None;
        }
        let time = |input: &mut Bytes| match input.byte() % 4 {
            0 => None,
            1 => self.last_renew_time,
            _ => Timestamp::from_second(i64::from(input.u16())).ok(),
        };
        let (acquire_time, renew_time) = (time(input), time(input));
        let last_token = self.tokens.last().copied().unwrap_or_default();
        Some(Record {
            uid: format!("uid-{}", input.byte() % 2 + 101),
            version: match input.byte() % 4 {
                0 => input.number(),
                _ => self.version.saturating_add(u64::from(input.byte() % 4)).saturating_sub(1),
            },
            spec: Spec {
                holder: input
                    .one_of(&[None, Some(IDENTITY), Some(FORMER), Some("web-1_0f"), Some("x")])
                    .map(Into::into),
                duration_seconds: *input.one_of(&[
                    None,
                    Some(15),
                    Some(1),
                    Some(0),
                    Some(-5),
                    Some(i32::MAX),
                    Some(40),
                ]),
                acquire_time,
                renew_time,
                transitions: *input.one_of(&[0, 1, 2, 7, -1, i32::MAX, i32::MIN]),
                strategy: (input.byte() % 16 == 1).then(|| "OldestEmulationVersion".into()),
                preferred_holder: None,
            },
            token: *input.one_of(&[
                Token::Absent,
                Token::Value(last_token),
                Token::Value(last_token.saturating_add(1).min(LARGEST_TOKEN)),
                Token::Value(LARGEST_TOKEN),
                Token::Value(LARGEST_TOKEN - 1),
                Token::Unreadable,
            ]),
            released: input.bit().then_some(renew_time).flatten(),
            step_down: input.bit().then(|| StepDown { token: last_token, to: Some("web-1".into()) }),
            pod_owned: input.byte() % 8 == 1,
        })
    }

    // ---- What it does ----

    fn tell(&mut self, told: Input) {
        self.handle(told);
        let mut at_once = 0;
        while !self.done && self.wake_at <= self.now {
            at_once += 1;
            assert!(at_once <= AT_ONCE, "it asks to be called again at once, for ever");
            self.handle(Input::Tick);
        }
    }

    fn handle(&mut self, told: Input) {
        if self.done {
            return;
        }
        let outputs = self.election.handle(Now { boot: self.now, wall: self.wall }, told);
        assert!(outputs.len() <= 5, "{outputs:?}");
        let rank = |output: &Output| match output {
            Output::Remember(_) => 0,
            Output::Publish(_) => 1,
            Output::RestartWatch => 2,
            Output::Write(_) | Output::Read { .. } => 3,
            Output::WakeAt(_) | Output::Done => 4,
        };
        assert!(outputs.windows(2).all(|pair| rank(&pair[0]) < rank(&pair[1])), "each once, in order: {outputs:?}");
        assert!(outputs.last().is_some_and(|last| rank(last) == 4), "{outputs:?}");
        let mut withdrawn = None;
        for output in outputs {
            match output {
                Output::Remember(seen) => assert_eq!(*seen, *self.election.seen()),
                Output::Publish(status) => {
                    withdrawn = status.leading.is_none().then_some(status.version);
                    self.publish(status);
                }
                Output::RestartWatch => {}
                Output::Write(write) => self.write(write),
                Output::Read { timeout, .. } => {
                    assert!(self.reading.is_none() && timeout <= ATTEMPT_TIMEOUT && !timeout.is_zero());
                    self.reading = Some(self.now);
                }
                Output::WakeAt(at) => self.wake_at = at,
                Output::Done => self.done = true,
            }
        }
        // S6.
        assert!(self.election.status().leading.is_none_or(|leading| self.now < leading.valid_until));
        if let Some(version) = withdrawn.filter(|_| !self.done) {
            let promised_until = self.board.promised_until();
            self.tell(Input::Withdrawn { version, promised_until, enforced_until: Moment::BOOT });
        }
    }

    fn publish(&mut self, status: Status) {
        if let Some(leading) = &status.leading {
            let config = self.election.config();
            // S2.
            let sent_at = leading.valid_until - config.renew_deadline;
            assert!(self.sent.contains(&sent_at), "a deadline counts from no write: {leading:?}");
            assert_eq!(leading.stop_by, sent_at + config.hold_time());
            assert!(leading.token <= LARGEST_TOKEN);
            let last = self.tokens.last().copied();
            if !self.leads || last != Some(leading.token) {
                // S4, S8. The last number of all is more likely a mistake than a term: see `Seen`.
                let above = last.is_none_or(|last| leading.token > last || last == LARGEST_TOKEN);
                assert!(above, "a term under token {} after {:?}", leading.token, self.tokens);
                self.tokens.push(leading.token);
                self.excused = false;
            }
        }
        self.leads = status.leading.is_some();
        self.board.publish(status, self.wall);
    }

    fn write(&mut self, write: Write) {
        assert!(self.in_flight.is_none(), "two writes at once");
        assert!(write.timeout <= ATTEMPT_TIMEOUT && !write.timeout.is_zero());
        // S5.
        let judged = self.election.seen().record();
        let base = judged.map(|record| Base { uid: record.uid.clone(), version: record.version });
        assert_eq!(write.base, base, "{:?}", write.kind);
        assert!(write.spec.renew_time.is_some() && write.spec.renew_time != self.last_renew_time, "an old renewTime");
        assert_ne!(write.spec.renew_time, judged.and_then(|record| record.spec.renew_time), "the record's renewTime");
        match write.kind {
            Kind::Create => assert_eq!(write.spec.holder, None),
            Kind::Renew => assert_eq!(write.spec.holder.as_deref(), Some(IDENTITY)),
            Kind::Acquire { token } => {
                let judged = judged.expect("something is taken");
                assert_eq!(write.spec.holder.as_deref(), Some(IDENTITY));
                assert_eq!(write.spec.transitions, judged.spec.transitions.saturating_add(1));
                assert!(token > judged.version && token <= LARGEST_TOKEN && judged.token < Token::Value(token));
            }
            Kind::Release => {
                assert_eq!(write.spec.holder, None);
                // S7.
                let promised_until = self.board.promised_until();
                let free = self.now >= promised_until || self.excused;
                assert!(free, "released at {} with a promise until {promised_until}", self.now);
            }
        }
        self.sent.insert(self.now);
        self.last_renew_time = write.spec.renew_time;
        self.in_flight = Some(write);
    }
}

/// It survives a restart, and does not grow without end.
fn check_memory(seen: &Seen) {
    let text = serde_json::to_string(seen).expect("what was seen is JSON");
    assert!(text.len() < 16 * 1024, "{} bytes", text.len());
    assert_eq!(&serde_json::from_str::<Seen>(&text).expect("what was kept is read"), seen);
}
