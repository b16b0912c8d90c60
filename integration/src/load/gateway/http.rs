//! The least that speaks HTTP/1.1 with a gateway: connections that are kept, and answers that are read to their end. It
//! is written by hand because it shares the processors with what it measures.

use std::cell::RefCell;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::str::FromStr;

use anyhow::Context as _;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

/// Connections at a time. A request past that waits here, and its wait counts.
const CONNECTIONS: usize = 512;

/// Room for an answer's next part.
const PART_BYTES: usize = 8 << 10;

/// The way to one gateway.
pub(super) struct Http {
    address: SocketAddr,
    idle: RefCell<Vec<Connection>>,
    places: Semaphore,
}

/// An answer.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

impl Answer {
    /// The code of an error; empty where it is none of the gateway's own.
    pub(super) fn code(&self) -> String {
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        body["code"].as_str().unwrap_or_default().to_owned()
    }

    /// What was asked for.
    pub(super) fn good(&self) -> anyhow::Result<Value> {
        if !(200..300).contains(&self.status) {
            anyhow::bail!("the gateway answers {}: {}", self.status, String::from_utf8_lossy(&self.body));
        }
        serde_json::from_slice(&self.body).context("the gateway's answer is no JSON")
    }
}

impl Http {
    pub(super) fn new(address: SocketAddr) -> Self {
        Self { address, idle: RefCell::default(), places: Semaphore::new(CONNECTIONS) }
    }

    pub(super) async fn get(&self, path: &str, token: &str) -> anyhow::Result<Answer> {
        self.send(format_args!("GET {path} HTTP/1.1\r\nhost: {}\r\nauthorization: {token}\r\n\r\n", self.address)).await
    }

    /// Posts JSON, under a key where there is one.
    pub(super) async fn post(&self, path: &str, token: &str, key: Option<&str>, body: &str) -> anyhow::Result<Answer> {
        let (name, key) = key.map_or(("", ""), |key| ("\r\nidempotency-key: ", key));
        let (host, length) = (self.address, body.len());
        self.send(format_args!(
            "POST {path} HTTP/1.1\r\nhost: {host}\r\nauthorization: {token}\r\ncontent-type: application/json\
             {name}{key}\r\ncontent-length: {length}\r\n\r\n{body}"
        ))
        .await
    }

    async fn send(&self, request: std::fmt::Arguments<'_>) -> anyhow::Result<Answer> {
        let _place = self.places.acquire().await?;
        let kept = self.idle.borrow_mut().pop();
        let (mut connection, is_kept) = match kept {
            Some(kept) => (kept, true),
            None => (Connection::open(self.address).await?, false),
        };
        connection.write(request);
        let mut answered = connection.exchange().await;
        // The gateway closes what nobody has used for a while: then it has not read the request.
        if is_kept && matches!(&answered, Err(error) if is_closed(error) && connection.read.is_empty()) {
            connection = Connection::open(self.address).await?;
            connection.write(request);
            answered = connection.exchange().await;
        }
        let (answer, is_last) = answered?;
        if !is_last {
            self.idle.borrow_mut().push(connection);
        }
        Ok(answer)
    }
}

fn is_closed(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    [BrokenPipe, ConnectionReset, UnexpectedEof].contains(&error.kind())
}

/// One connection, with what is to be sent, and what has come and was not used yet.
struct Connection {
    socket: TcpStream,
    request: Vec<u8>,
    read: Vec<u8>,
}

impl Connection {
    async fn open(address: SocketAddr) -> anyhow::Result<Self> {
        let socket = TcpStream::connect(address).await.context("the gateway does not listen")?;
        socket.set_nodelay(true)?;
        Ok(Self { socket, request: Vec::new(), read: Vec::new() })
    }

    fn write(&mut self, request: std::fmt::Arguments<'_>) {
        self.request.clear();
        self.request.write_fmt(request).expect("memory can be written");
    }

    /// An answer, and whether the connection ends with it.
    async fn exchange(&mut self) -> io::Result<(Answer, bool)> {
        self.socket.write_all(&self.request).await?;
        let head = loop {
            if let Some(end) = self.read.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break self.take(end + 4);
            }
            self.more().await?;
        };
        let head = Head::read(&head).ok_or(io::ErrorKind::InvalidData)?;
        let body = match head.length {
            Some(length) => {
                while self.read.len() < length {
                    self.more().await?;
                }
                self.take(length)
            }
            None => self.chunks().await?,
        };
        Ok((Answer { status: head.status, body }, head.is_last))
    }

    async fn more(&mut self) -> io::Result<()> {
        self.read.reserve(PART_BYTES);
        match self.socket.read_buf(&mut self.read).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    fn take(&mut self, length: usize) -> Vec<u8> {
        let rest = self.read.split_off(length);
        std::mem::replace(&mut self.read, rest)
    }

    /// A body whose length nobody knew when it began.
    async fn chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let size = loop {
                if let Some(end) = self.read.windows(2).position(|bytes| bytes == b"\r\n") {
                    break self.take(end + 2);
                }
                self.more().await?;
            };
            let size = std::str::from_utf8(&size).ok().and_then(|text| usize::from_str_radix(text.trim(), 16).ok());
            let size = size.ok_or(io::ErrorKind::InvalidData)?;
            while self.read.len() < size + 2 {
                self.more().await?;
            }
            body.extend(self.take(size + 2).drain(..size));
            if size == 0 {
                return Ok(body);
            }
        }
    }
}

/// What an answer's head says that matters here.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    /// `None` where the body comes in chunks.
    length: Option<usize>,
    is_last: bool,
}

impl Head {
    fn read(text: &[u8]) -> Option<Self> {
        let mut lines = std::str::from_utf8(text).ok()?.split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let mut head = Self { status, length: Some(0), is_last: false };
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            let value = value.trim();
            if name.eq_ignore_ascii_case("content-length") {
                head.length = Some(usize::from_str(value).ok()?);
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                head.length = None;
            } else if name.eq_ignore_ascii_case("connection") {
                head.is_last = value.eq_ignore_ascii_case("close");
            }
        }
        Some(head)
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// Answers one request on each connection, and closes it.
    async fn answering(answers: &'static [&'static [u8]]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("it has one");
        tokio::spawn(async move {
            for answer in answers {
                let (mut socket, _) = listener.accept().await.expect("somebody comes");
                let mut request = [0; 1_024];
                assert!(socket.read(&mut request).await.expect("he asks") > 0);
                // Byte by byte: an answer may come in any parts.
                for byte in *answer {
                    socket.write_all(&[*byte]).await.expect("he listens");
                    tokio::task::yield_now().await;
                }
            }
        });
        address
    }

    #[tokio::test]
    async fn answers_of_both_kinds_are_read_to_their_end_and_a_closed_connection_is_opened_again() {
        let http = Http::new(
            answering(&[
                b"HTTP/1.1 201 Created\r\nContent-Length: 5\r\n\r\nhello",
                b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\na\r\n, and more\r\n0\r\n\r\n",
                b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n",
            ])
            .await,
        );
        for (status, body) in [(201, "hello"), (200, "one, and more"), (204, "")] {
            let answer = http.post("/", "Bearer x", Some("key"), "{}").await.expect("it is answered");
            assert_eq!((answer.status, &*answer.body), (status, body.as_bytes()));
        }
        assert!(http.idle.borrow().is_empty(), "the last answer ends its connection");
    }
}
