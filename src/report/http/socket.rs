//! A connection's socket, with an end to every wait for the other side.
//!
//! A reader that does not read, a request head that never ends, a close that nobody answers: each has a limit here.
//! An idle connection has none; the table in `server.rs` closes the longest idle one when room is needed.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Sleep;

use crate::time::Moment;

/// How long the other side may take nothing of what is written to it.
const WRITE_PATIENCE: Duration = Duration::from_secs(5);
/// How long a request's head may take from its first byte to its last.
const HEAD_PATIENCE: Duration = Duration::from_secs(5);
/// How long what still arrives is read after the last answer, so that it is not lost to a reset.
const LINGER: Duration = Duration::from_secs(1);

pub(super) struct Socket {
    stream: Stream,
    activity: Arc<Activity>,
    write_limit: Option<Pin<Box<Sleep>>>,
    head_limit: Option<Pin<Box<Sleep>>>,
    linger_limit: Option<Pin<Box<Sleep>>>,
}

impl Socket {
    pub fn new(stream: Stream, activity: Arc<Activity>) -> Self {
        Socket { stream, activity, write_limit: None, head_limit: None, linger_limit: None }
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let room = buf.remaining();
        let read = this.stream.poll_read(cx, buf);
        match &read {
            Poll::Ready(Ok(())) if room > 0 && buf.remaining() == room => this.activity.closed_by_peer(),
            Poll::Ready(Err(error)) => this.activity.failed(error),
            _ => {}
        }
        if this.activity.in_request() {
            this.head_limit = None;
        } else if read.is_ready() {
            this.head_limit.get_or_insert_with(|| Box::pin(tokio::time::sleep(HEAD_PATIENCE)));
        }
        if read.is_pending() && elapsed(&mut this.head_limit, cx) {
            return Poll::Ready(Err(timed_out("the request's head did not end in time")));
        }
        read
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = self.stream.poll_write(cx, bytes);
        self.limit_write(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = self.stream.poll_write_vectored(cx, slices);
        self.limit_write(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Ends our half, then reads what still arrives until the other side ends its own. A socket closed with unread
    /// bytes is reset, and a reset can overtake the answer (RFC 9112, section 9.6).
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.linger_limit.is_none() {
            ready!(this.stream.poll_shutdown(cx))?;
            this.linger_limit = Some(Box::pin(tokio::time::sleep(LINGER)));
        }
        loop {
            if elapsed(&mut this.linger_limit, cx) {
                return Poll::Ready(Ok(()));
            }
            let mut discarded = [0; 4096];
            let mut buf = ReadBuf::new(&mut discarded);
            match this.stream.poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => {}
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl Socket {
    fn limit_write(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.activity.set_clogged(written.is_pending());
        if let Poll::Ready(Err(error)) = &written {
            self.activity.failed(error);
        }
        if written.is_ready() {
            self.write_limit = None;
        } else {
            self.write_limit.get_or_insert_with(|| Box::pin(tokio::time::sleep(WRITE_PATIENCE)));
            if elapsed(&mut self.write_limit, cx) {
                return Poll::Ready(Err(timed_out("the answer was not read in time")));
            }
        }
        written
    }
}

fn elapsed(limit: &mut Option<Pin<Box<Sleep>>>, cx: &mut Context<'_>) -> bool {
    limit.as_mut().is_some_and(|limit| limit.as_mut().poll(cx).is_ready())
}

fn timed_out(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, what)
}

/// What one connection is doing, as the table of connections and the event streams see it.
#[derive(Default)]
pub(super) struct Activity {
    requests: AtomicUsize,
    idle_since: AtomicU64,
    clogged: AtomicBool,
    left: AtomicBool,
}

impl Activity {
    pub fn new(now: Moment) -> Self {
        Activity { idle_since: AtomicU64::new(now.as_nanos()), ..Activity::default() }
    }

    /// Since when no request is being answered; none if one is.
    pub fn idle_since(&self) -> Option<Moment> {
        (!self.in_request()).then(|| Moment::from_nanos(self.idle_since.load(Ordering::Relaxed)))
    }

    pub fn in_request(&self) -> bool {
        self.requests.load(Ordering::Relaxed) > 0
    }

    fn closed_by_peer(&self) {
        self.left.store(true, Ordering::Relaxed);
    }

    /// A connection that times out, or that somebody in between ends, says nothing of the other side.
    fn failed(&self, error: &io::Error) {
        if matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) {
            self.closed_by_peer();
        }
    }

    /// The other side ended the connection, not this one.
    pub fn is_closed_by_peer(&self) -> bool {
        self.left.load(Ordering::Relaxed)
    }

    pub fn set_clogged(&self, clogged: bool) {
        self.clogged.store(clogged, Ordering::Relaxed);
    }

    /// The socket takes no more for now: nothing should be computed for it.
    pub fn is_clogged(&self) -> bool {
        self.clogged.load(Ordering::Relaxed)
    }
}

/// Held from a request's arrival until its answer's last byte is handed to the socket.
pub(super) struct InRequest {
    activity: Arc<Activity>,
    arrived: Moment,
}

impl InRequest {
    pub fn new(activity: Arc<Activity>, arrived: Moment) -> Self {
        activity.requests.fetch_add(1, Ordering::Relaxed);
        InRequest { activity, arrived }
    }
}

impl Drop for InRequest {
    fn drop(&mut self) {
        // The arrival is exact enough to order idle connections, and saves a look at the clock.
        self.activity.idle_since.store(self.arrived.as_nanos(), Ordering::Relaxed);
        self.activity.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    /// Writes what the socket takes at once, and drops the rest.
    pub fn write_now(&self, bytes: &[u8]) {
        // Only ever a last word to somebody who is turned away.
        let _ = match self {
            Stream::Tcp(stream) => stream.try_write(bytes),
            Stream::Unix(stream) => stream.try_write(bytes),
        };
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(&mut self, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self {
            Stream::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Stream::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
