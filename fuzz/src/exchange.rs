//! One connection in memory: bytes in, and what a server makes of them out, as whole HTTP answers.

use std::cell::{Cell, LazyCell};
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Once;
use std::task::Poll;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::runtime::Runtime;
use tokio::task::yield_now;
use tokio::time::timeout;

/// Everything is in memory: after so many turns without a byte there is nothing to come.
const IDLE: usize = 16;
/// A server that says nothing for so long waits for something that does not come.
const QUIET: Duration = Duration::from_millis(50);
/// No server takes so long to end a connection, whatever was sent.
const PATIENCE: Duration = Duration::from_secs(20);

thread_local! {
    static RUNTIME: LazyCell<Runtime> = LazyCell::new(|| {
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
    });
}

pub fn block_on<F: Future>(work: F) -> F::Output {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let _ = signal_hook::flag::register(signal_hook::consts::SIGPIPE, Default::default());
    });
    RUNTIME.with(|runtime| runtime.block_on(work))
}

/// Sends `bytes` to `server` from the other end of `stream`, ends the sending when no more answers come, and gives all
/// that came back. `quiet` is called when the server waits even then.
pub async fn exchange<S>(stream: S, bytes: &[u8], server: impl Future<Output = ()>, quiet: impl FnOnce()) -> Vec<u8>
where
    S: AsyncRead + AsyncWrite,
{
    let (mut reads, mut writes) = tokio::io::split(stream);
    let (sent, answered) = (Cell::new(false), Cell::new(false));
    let send = async {
        // A server may close before it has read everything.
        let _ = writes.write_all(bytes).await;
        sent.set(true);
        // hyper drops what it has not answered when the other side ends its half.
        while !answered.get() {
            yield_now().await;
        }
        let _ = writes.shutdown().await;
    };
    let receive = async {
        let mut answer = Vec::new();
        let mut idle = 0;
        while idle < IDLE {
            match once(reads.read_buf(&mut answer)).await {
                Some(Ok(1..)) => idle = 0,
                Some(_) => break,
                None if sent.get() => idle += 1,
                None => {}
            }
            yield_now().await;
        }
        answered.set(true);
        let mut quiet = Some(quiet);
        loop {
            match timeout(QUIET, reads.read_buf(&mut answer)).await {
                Ok(Ok(1..)) => {}
                Ok(_) => return answer,
                Err(_) => {
                    if let Some(quiet) = quiet.take() {
                        quiet();
                    }
                }
            }
        }
    };
    let all = async { tokio::join!(server, send, receive).2 };
    timeout(PATIENCE, pin!(all)).await.expect("the server ends the connection")
}

/// What a future comes to at once, if it does.
async fn once<F: Future>(future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// One answer of a connection.
pub struct Answer {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    /// The value of a header that is there once at most.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(known, _)| known == name);
        let value = values.next().map(|(_, value)| value.as_str());
        assert!(values.next().is_none(), "{name} is there twice");
        value
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|wrong| panic!("{wrong}: {}", String::from_utf8_lossy(&self.body)))
    }

    pub fn is_stream(&self) -> bool {
        self.header("transfer-encoding").is_some() || self.header("content-length").is_none()
    }
}

/// Takes a connection's bytes apart. Every answer must be whole but a stream, which ends with the connection. What was
/// asked by HEAD has no body, whatever its length says.
pub fn answers(mut bytes: &[u8]) -> Vec<Answer> {
    let mut answers = Vec::new();
    while !bytes.is_empty() {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("a head ends");
        let head = std::str::from_utf8(&bytes[..end]).expect("a head is text");
        bytes = &bytes[end + 4..];
        let mut lines = head.split("\r\n");
        let first = lines.next().unwrap_or_default();
        let version = first.starts_with("HTTP/1.1 ") || first.starts_with("HTTP/1.0 ");
        let status = first.get(9..12).and_then(|status| status.parse().ok()).filter(|_| version);
        let status = status.unwrap_or_else(|| panic!("{first:?} begins no answer"));
        let headers = lines
            .map(|line| line.split_once(": ").unwrap_or_else(|| panic!("{line:?} is no header")))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let mut answer = Answer { status, headers, body: Vec::new() };
        let bodyless = status == 100 || bytes.is_empty() || bytes.starts_with(b"HTTP/1.");
        if !bodyless {
            let length = answer.header("content-length").map(|length| length.parse::<usize>().expect("a length"));
            let length = length.unwrap_or(bytes.len());
            let (body, rest) = bytes.split_at_checked(length).expect("a body is as long as it says");
            answer.body = body.to_vec();
            bytes = rest;
        }
        answers.push(answer);
    }
    answers
}
