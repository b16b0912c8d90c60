//! Where messages end, and which of them run a statement.

use std::collections::HashMap;

use bytes::{Buf as _, Bytes, BytesMut};

/// How a client speaks to its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// MariaDB and MySQL. A command is the first packet of its sequence.
    #[cfg(feature = "mysql")]
    MySql,
    /// PostgreSQL, version 3.
    #[cfg(feature = "postgres")]
    Postgres,
}

/// What one connection has said so far.
pub(super) struct Reader {
    protocol: Protocol,
    /// PostgreSQL's first message has no type.
    #[cfg(feature = "postgres")]
    started: bool,
    /// The texts of prepared statements, by the name that the client (PostgreSQL) or the server (MariaDB) gave them.
    texts: HashMap<Vec<u8>, String>,
    /// Prepared, and not named by the server yet.
    #[cfg(feature = "mysql")]
    preparing: Option<String>,
    /// Of the statement that is bound.
    #[cfg(feature = "postgres")]
    bound: String,
}

impl Reader {
    pub(super) fn new(protocol: Protocol) -> Self {
        Self {
            protocol,
            #[cfg(feature = "postgres")]
            started: false,
            texts: HashMap::new(),
            #[cfg(feature = "mysql")]
            preparing: None,
            #[cfg(feature = "postgres")]
            bound: String::new(),
        }
    }

    /// The next whole message of the client, and the statement that it runs.
    pub(super) fn next(&mut self, bytes: &mut BytesMut) -> Option<(Bytes, Option<String>)> {
        match self.protocol {
            #[cfg(feature = "mysql")]
            Protocol::MySql => {
                let length = bytes.get(..4)?;
                let length =
                    4 + usize::from(length[0]) + (usize::from(length[1]) << 8) + (usize::from(length[2]) << 16);
                let message = take(bytes, length)?;
                let statement = self.mysql(&message);
                Some((message, statement))
            }
            #[cfg(feature = "postgres")]
            Protocol::Postgres => {
                let head = usize::from(self.started);
                let mut length = bytes.get(head..head + 4)?;
                let message = take(bytes, head + length.get_u32() as usize)?;
                let statement = if self.started { self.postgres(&message) } else { None };
                self.started = true;
                Some((message, statement))
            }
        }
    }

    #[cfg(feature = "mysql")]
    fn mysql(&mut self, message: &[u8]) -> Option<String> {
        let [_, _, _, 0, command, rest @ ..] = message else { return None };
        match command {
            3 => Some(text(rest)),
            0x16 => {
                self.preparing = Some(text(rest));
                None
            }
            0x17 => Some(self.texts.get(rest.get(..4)?).cloned().unwrap_or_default()),
            _ => None,
        }
    }

    #[cfg(feature = "postgres")]
    fn postgres(&mut self, message: &[u8]) -> Option<String> {
        let mut parts = message.get(5..)?.split(|byte| *byte == 0);
        match message[0] {
            b'Q' => Some(text(parts.next()?)),
            b'P' => {
                let name = parts.next()?.to_vec();
                self.texts.insert(name, text(parts.next()?));
                None
            }
            b'B' => {
                self.bound = self.texts.get(parts.nth(1)?).cloned().unwrap_or_default();
                None
            }
            b'E' => Some(self.bound.clone()),
            _ => None,
        }
    }

    /// Reads what the server says.
    pub(super) fn answered(&mut self, bytes: &[u8]) {
        match self.protocol {
            #[cfg(feature = "mysql")]
            Protocol::MySql => {
                if let (Some(text), [_, _, _, _, 0, id @ ..]) = (self.preparing.take(), bytes)
                    && let Some(id) = id.get(..4)
                {
                    self.texts.insert(id.to_vec(), text);
                }
            }
            #[cfg(feature = "postgres")]
            Protocol::Postgres => {
                let _ = bytes;
            }
        }
    }
}

fn take(bytes: &mut BytesMut, length: usize) -> Option<Bytes> {
    (bytes.len() >= length).then(|| bytes.split_to(length).freeze())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The statements that these bytes run when they come in pieces of this size.
    fn statements(reader: &mut Reader, bytes: &[u8], piece: usize) -> Vec<String> {
        let mut buffer = BytesMut::new();
        let mut statements = Vec::new();
        let mut through = Vec::new();
        for piece in bytes.chunks(piece) {
            buffer.extend_from_slice(piece);
            while let Some((message, statement)) = reader.next(&mut buffer) {
                through.extend_from_slice(&message);
                statements.extend(statement);
            }
        }
        assert_eq!(through, bytes, "everything goes through");
        statements
    }

    #[cfg(feature = "mysql")]
    #[test]
    fn mariadb_s_commands_are_told_from_its_log_in() {
        let packet = |sequence: u8, payload: &[u8]| [&[payload.len() as u8, 0, 0, sequence], payload].concat();
        let bytes =
            [packet(1, b"\x03 a log-in"), packet(0, b"\x03BEGIN"), packet(0, b"\x16SELECT\n ?"), packet(0, b"\x0e")];
        for piece in [1, 7, 1_000] {
            let mut reader = Reader::new(Protocol::MySql);
            assert_eq!(statements(&mut reader, &bytes.concat(), piece), ["BEGIN"]);
            reader.answered(b"\x0c\0\0\x01\0\x05\0\0\0rest");
            assert_eq!(statements(&mut reader, &packet(0, b"\x17\x05\0\0\0\0"), piece), ["SELECT ?"]);
        }
    }

    #[cfg(feature = "postgres")]
    #[test]
    fn postgresql_s_statements_are_queries_and_executions() {
        let message = |kind: u8, body: &[u8]| [&[kind], &(body.len() as u32 + 4).to_be_bytes()[..], body].concat();
        let bytes = [
            b"\0\0\0\x08Qabc".to_vec(),
            message(b'p', b"secret\0"),
            message(b'Q', b"BEGIN\0"),
            message(b'P', b"s1\0SELECT\n $1\0\0\0"),
            message(b'S', b""),
            message(b'B', b"\0s1\0\0\0"),
            message(b'E', b"\0\0\0\0\0"),
            message(b'S', b""),
        ];
        for piece in [1, 7, 1_000] {
            let mut reader = Reader::new(Protocol::Postgres);
            assert_eq!(statements(&mut reader, &bytes.concat(), piece), ["BEGIN", "SELECT $1"]);
        }
    }
}
