//! A small blocking HTTP/1.1 client: one keep-alive connection, plain or TLS, and answers that
//! stream.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use serde_json::Value;

/// What may carry a connection.
trait Carrier: Read + Write + Send {}
impl<T: Read + Write + Send> Carrier for T {}

/// One connection.
pub struct Http {
    reader: BufReader<Box<dyn Carrier>>,
    socket: TcpStream,
    host: String,
    /// Sent with each request.
    headers: Vec<(String, String)>,
}

/// A whole answer.
#[derive(Clone)]
pub struct Answer {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        match serde_json::from_slice(&self.body) {
            Ok(value) => value,
            Err(error) => panic!("not JSON: {error}: {self:?}"),
        }
    }

    /// A header's value; `name` in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}\n{}", self.status, self.headers, self.text())
    }
}

impl Http {
    /// Connects within a second.
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        let socket = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        socket.set_nodelay(true)?;
        Ok(Self {
            reader: BufReader::new(Box::new(socket.try_clone()?)),
            socket,
            host: address.to_string(),
            headers: Vec::new(),
        })
    }

    /// The same with TLS, for a certificate of 127.0.0.1.
    pub fn connect_tls(address: SocketAddr, tls: Arc<ClientConfig>) -> io::Result<Self> {
        let mut plain = Self::connect(address)?;
        let name = ServerName::from(address.ip());
        let session = ClientConnection::new(tls, name).map_err(io::Error::other)?;
        let stream = StreamOwned::new(session, plain.socket.try_clone()?);
        plain.reader = BufReader::new(Box::new(stream));
        Ok(plain)
    }

    /// Adds a header to each request from here on.
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Bounds each read of an answer; without it a read waits for ever.
    pub fn with_timeout(self, timeout: Duration) -> io::Result<Self> {
        self.socket.set_read_timeout(Some(timeout))?;
        Ok(self)
    }

    /// The socket, to end a blocked read from another thread.
    pub fn socket(&self) -> io::Result<TcpStream> {
        self.socket.try_clone()
    }

    /// `GET path`.
    pub fn get(&mut self, path: &str) -> io::Result<Answer> {
        self.request("GET", path, &[], b"")
    }

    /// `POST path` with a JSON body.
    pub fn post(&mut self, path: &str, body: &Value) -> io::Result<Answer> {
        let body = body.to_string();
        self.request("POST", path, &[("Content-Type", "application/json")], body.as_bytes())
    }

    /// One request and its whole answer. Give a `Host` header to replace the connection's own.
    pub fn request(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> io::Result<Answer> {
        let (status, headers) = self.send(method, path, headers, body)?;
        let mut framing = match (method, status) {
            ("HEAD", _) | (_, 204 | 304) => Framing::Rest(0),
            _ => Framing::of(&headers),
        };
        let mut body = Vec::new();
        while let Some(piece) = framing.next(&mut self.reader)? {
            body.extend(piece);
        }
        Ok(Answer { status, headers, body })
    }

    /// `GET path` for an answer that goes on: server-sent events, or a watch.
    pub fn stream(mut self, path: &str) -> io::Result<Stream> {
        let (status, headers) = self.send("GET", path, &[], b"")?;
        Ok(Stream { status, framing: Framing::of(&headers), headers, http: self, pending: Vec::new() })
    }

    fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<(u16, Vec<(String, String)>)> {
        let mut head = format!("{method} {path} HTTP/1.1\r\n");
        let own = self.headers.iter().map(|(n, v)| (n.as_str(), v.as_str()));
        let all: Vec<_> = own.chain(headers.iter().copied()).collect();
        if !all.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            head += &format!("Host: {}\r\n", self.host);
        }
        for (name, value) in all {
            head += &format!("{name}: {value}\r\n");
        }
        if !body.is_empty() || matches!(method, "POST" | "PUT" | "PATCH") {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        head += "\r\n";
        let mut message = head.into_bytes();
        message.extend(body);
        let carrier = self.reader.get_mut();
        carrier.write_all(&message)?;
        carrier.flush()?;

        let first = line(&mut self.reader)?;
        let status = first.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.ok_or_else(|| io::Error::other(format!("not HTTP: {first:?}")))?;
        let mut headers = Vec::new();
        loop {
            let line = line(&mut self.reader)?;
            let Some((name, value)) = line.split_once(':') else {
                return Ok((status, headers));
            };
            headers.push((name.trim().into(), value.trim().into()));
        }
    }
}

/// An answer that goes on.
pub struct Stream {
    pub status: u16,
    headers: Vec<(String, String)>,
    framing: Framing,
    http: Http,
    pending: Vec<u8>,
}

/// One server-sent event.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Event {
    pub event: String,
    pub id: String,
    pub data: String,
}

impl Event {
    /// The data as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_else(|error| panic!("not JSON: {error}: {self:?}"))
    }
}

impl Stream {
    /// A header's value; `name` in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    /// The socket, to end a blocked read from another thread.
    pub fn socket(&self) -> io::Result<TcpStream> {
        self.http.socket()
    }

    /// The next line without its end; nothing at the stream's end.
    pub fn next_line(&mut self) -> io::Result<Option<String>> {
        loop {
            if let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line);
                return Ok(Some(line.trim_end_matches(['\r', '\n']).into()));
            }
            match self.framing.next(&mut self.http.reader)? {
                Some(piece) => self.pending.extend(piece),
                None => return Ok(None),
            }
        }
    }

    /// The next server-sent event; comments are passed over.
    pub fn next_event(&mut self) -> io::Result<Option<Event>> {
        let mut event = Event::default();
        while let Some(line) = self.next_line()? {
            match line.split_once(':') {
                None if line.is_empty() && event != Event::default() => return Ok(Some(event)),
                Some(("event", value)) => event.event = value.trim_start().into(),
                Some(("id", value)) => event.id = value.trim_start().into(),
                Some(("data", value)) => event.data += value.trim_start(),
                _ => {}
            }
        }
        Ok(None)
    }
}

/// How a body's end is told.
enum Framing {
    /// This many bytes are left.
    Rest(usize),
    Chunked,
    /// The connection's end.
    Close,
    Over,
}

impl Framing {
    fn of(headers: &[(String, String)]) -> Self {
        match header(headers, "content-length").and_then(|length| length.parse().ok()) {
            Some(length) => Self::Rest(length),
            None if header(headers, "transfer-encoding").is_some() => Self::Chunked,
            None => Self::Close,
        }
    }

    /// The body's next bytes; nothing at its end.
    fn next(&mut self, reader: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
        match self {
            Self::Over | Self::Rest(0) => Ok(None),
            Self::Rest(left) => {
                let mut body = vec![0; *left];
                reader.read_exact(&mut body)?;
                *self = Self::Over;
                Ok(Some(body))
            }
            Self::Chunked => {
                let size = line(reader)?;
                let size = usize::from_str_radix(size.split(';').next().unwrap_or(""), 16)
                    .map_err(|_| io::Error::other(format!("not a chunk size: {size:?}")))?;
                let mut chunk = vec![0; size + 2];
                reader.read_exact(&mut chunk)?;
                chunk.truncate(size);
                if size == 0 {
                    *self = Self::Over;
                    return Ok(None);
                }
                Ok(Some(chunk))
            }
            Self::Close => {
                let piece = reader.fill_buf()?.to_vec();
                reader.consume(piece.len());
                Ok((!piece.is_empty()).then_some(piece))
            }
        }
    }
}

fn line(reader: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    line.truncate(line.trim_end_matches(['\r', '\n']).len());
    Ok(line)
}

fn header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let mut found = headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
    found.next().map(|(_, value)| value.as_str())
}
