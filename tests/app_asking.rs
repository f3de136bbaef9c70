//! `--app-alive asking`: the app lives while it asks.

mod support;

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use leasehold::app::asking::{Asking, watch};
use leasehold::app::{Gone, Sign};
use leasehold::time::{Clock, SystemClock};
use rustix::process::Signal;
use support::clock;
use support::process::Process;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::task::JoinHandle;

const EVIDENCE: usize = 3;
/// Long enough for a busy machine; a test that waits for it has failed.
const SOON: Duration = Duration::from_secs(20);
const NEVER: Duration = Duration::from_secs(3600);

struct Watch {
    asking: Arc<Asking>,
    signs: mpsc::Receiver<Sign>,
    running: JoinHandle<()>,
}

impl Watch {
    fn start(timeout: Duration) -> Watch {
        let asking = Arc::new(Asking::default());
        let (tell, signs) = mpsc::channel(1);
        let running = tokio::spawn(watch(asking.clone(), timeout, Arc::new(SystemClock), EVIDENCE, tell));
        Watch { asking, signs, running }
    }

    fn ask(&self) {
        self.asking.asked(SystemClock.boot());
    }

    async fn next(&mut self) -> Result<(), Gone> {
        let sign =
            tokio::time::timeout(SOON, self.signs.recv()).await.expect("a sign in time").expect("still watching");
        assert_eq!(sign.evidence, EVIDENCE);
        sign.alive
    }
}

#[tokio::test]
async fn before_the_first_question_nothing_is_told_and_at_it_the_app_is_alive() {
    let mut watch = Watch::start(Duration::from_millis(20));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(watch.signs.try_recv(), Err(TryRecvError::Empty));
    watch.ask();
    assert_eq!(watch.next().await, Ok(()));
    // At once, that is without any timer: with a wait of an hour to look after in between.
    let mut watch = Watch::start(NEVER);
    watch.ask();
    assert_eq!(watch.next().await, Ok(()));
}

#[tokio::test]
async fn a_silence_of_the_timeout_ends_it_and_the_next_question_begins_it_again() {
    let timeout = Duration::from_millis(200);
    let mut watch = Watch::start(timeout);
    for _ in 0..2 {
        watch.ask();
        let asked = clock::now();
        assert_eq!(watch.next().await, Ok(()));
        let gone = Gone { why: "the app has not asked for 200ms".into(), proved: false };
        assert_eq!(watch.next().await, Err(gone));
        assert!(clock::now() - asked >= timeout - Duration::from_millis(1));
        tokio::time::sleep(timeout).await;
        assert_eq!(watch.signs.try_recv(), Err(TryRecvError::Empty));
    }
}

#[tokio::test]
async fn while_it_asks_it_lives_and_nothing_more_is_told() {
    let timeout = Duration::from_secs(1);
    let mut watch = Watch::start(timeout);
    watch.ask();
    assert_eq!(watch.next().await, Ok(()));
    for _ in 0..15 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        watch.ask();
        assert_eq!(watch.signs.try_recv(), Err(TryRecvError::Empty));
    }
    let asked = clock::now();
    assert!(watch.next().await.is_err());
    assert!(clock::now() - asked >= timeout - Duration::from_millis(1), "counted from the last question");
}

#[tokio::test]
async fn it_ends_when_nobody_listens() {
    for asked in [false, true] {
        let mut watch = Watch::start(NEVER);
        if asked {
            watch.ask();
            watch.next().await.unwrap();
        }
        drop(watch.signs);
        tokio::time::timeout(SOON, watch.running).await.expect("it ends").unwrap();
    }
}

/// Questions from many threads come while the silence is judged, thousands of times: a question is never lost between
/// the two, and alive and gone are told in turn.
#[test]
fn no_question_is_lost_at_the_end_of_a_silence() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut watch = Watch::start(Duration::from_millis(1));
        let done = Arc::new(AtomicBool::new(false));
        let askers: Vec<_> = (0..2)
            .map(|asker| {
                let (asking, done) = (watch.asking.clone(), done.clone());
                std::thread::spawn(move || {
                    for question in 0.. {
                        if done.load(Ordering::Relaxed) {
                            return;
                        }
                        asking.asked(SystemClock.boot());
                        std::thread::sleep(Duration::from_micros(500 + (question * (7 + asker)) % 3000));
                    }
                })
            })
            .collect();
        for turn in 0..400 {
            assert_eq!(watch.next().await.is_ok(), turn % 2 == 0, "turn {turn}");
        }
        done.store(true, Ordering::Relaxed);
        for asker in askers {
            asker.join().unwrap();
        }
        watch.ask();
        while watch.next().await.is_ok() {}
        watch.ask();
        assert_eq!(watch.next().await, Ok(()));
    });
}

/// Run again as a child, which can be stopped: it counts a line of its standard input as a question.
#[test]
fn a_sidecar_that_was_stopped_itself_does_not_blame_the_app() {
    const CHILD: &str = "LEASEHOLD_TEST_ASKING";
    let timeout = Duration::from_secs(2);
    if std::env::var_os(CHILD).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        return runtime.block_on(async {
            let mut watch = Watch::start(timeout);
            let asking = watch.asking.clone();
            std::thread::spawn(move || {
                for _ in std::io::stdin().lines() {
                    asking.asked(SystemClock.boot());
                }
            });
            loop {
                let alive = watch.next().await.is_ok();
                println!("sign: {alive} {}", clock::now().as_millis());
            }
        });
    }
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "--nocapture", "a_sidecar_that_was_stopped_itself_does_not_blame_the_app"]);
    child.env(CHILD, "1").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = Process::start(child).unwrap();
    let mut questions = child.streams().stdin.take().unwrap();
    let lines = child.lines();
    let sign = || loop {
        let line = lines.recv_timeout(SOON).expect("a sign in time");
        if let Some((alive, at)) = line.strip_prefix("sign: ").and_then(|sign| sign.split_once(' ')) {
            return (alive == "true", Duration::from_millis(at.parse().unwrap()));
        }
    };
    let mut ask = || questions.write_all(b"\n").unwrap();
    ask();
    assert!(sign().0);
    // The timeout passes while the sidecar stands still. The app, as if it had been stopped too, asks after that.
    child.signal(Signal::STOP);
    std::thread::sleep(timeout * 2);
    child.signal(Signal::CONT);
    std::thread::sleep(Duration::from_millis(500));
    let asked = clock::now();
    ask();
    // The one change that is told is the silence after that question.
    let (alive, at) = sign();
    assert!(!alive && at + Duration::from_millis(2) >= asked + timeout, "told {at:?}, asked {asked:?}");
    ask();
    assert!(sign().0);
}
