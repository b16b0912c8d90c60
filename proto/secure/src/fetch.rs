//! Reading a small document over HTTP.

use std::io;
use std::net::IpAddr;
use std::path::Path;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper::http::uri::{Authority, PathAndQuery};
use hyper::{Request, StatusCode, Uri, header};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::files::{Source, Watched};
use crate::{Error, provider, server};

/// A document at `http://HOST[:PORT]/PATH` or `https://HOST[:PORT]/PATH`.
pub struct Fetch {
    uri: Uri,
    tls: Option<(Watched<ClientConfig>, ServerName<'static>)>,
}

impl Fetch {
    /// Reads the certificates to trust, which https needs.
    ///
    /// # Errors
    /// When it is no such address, or https without certificates.
    pub fn new(address: &str, ca: Option<&Path>) -> Result<Self, Error> {
        let refused = |fault| Error::Address { address: address.to_owned(), fault };
        let uri: Uri = address.parse().map_err(|_| refused("it can not be read"))?;
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(|| refused("it has no host"))?;
        let tls = match (uri.scheme_str(), ca) {
            (Some("http"), _) => None,
            (Some("https"), Some(path)) => {
                let source = Source { setting: "jwks_ca", path: path.to_owned() };
                let name = host.trim_matches(['[', ']']).to_owned();
                let name = ServerName::try_from(name).map_err(|_| refused("its host is no name"))?;
                Some((Watched::load(vec![source], config)?, name))
            }
            (Some("https"), None) => return Err(Error::Incomplete { setting: "https", needs: "--jwks-ca" }),
            _ => return Err(refused("its scheme is neither http nor https")),
        };
        Ok(Self { uri, tls })
    }

    /// Whether somebody on the way could change the document: it comes neither over https nor from this machine.
    pub fn is_exposed(&self) -> bool {
        let host = self.uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let is_here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        self.tls.is_none() && !is_here
    }

    /// The document as it is now. The caller bounds the time.
    ///
    /// # Errors
    /// When nobody answers, or not with 200 and at most so many bytes.
    pub async fn get(&self, bytes_max: usize) -> io::Result<Bytes> {
        let host = self.uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let usual = if self.tls.is_some() { 443 } else { 80 };
        let port = self.uri.port_u16().unwrap_or(usual);
        let socket = TcpStream::connect((host, port)).await?;
        match &self.tls {
            Some((config, name)) => {
                let stream = TlsConnector::from(config.current()).connect(name.clone(), socket).await?;
                self.ask(stream, bytes_max).await
            }
            None => self.ask(socket, bytes_max).await,
        }
    }

    async fn ask<S>(&self, stream: S, bytes_max: usize) -> io::Result<Bytes>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        let path = self.uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let authority = self.uri.authority().map(Authority::as_str).unwrap_or_default();
        let request = Request::get(path).header(header::HOST, authority).header(header::ACCEPT, "application/json");
        let request = request.body(Empty::<Bytes>::new()).map_err(io::Error::other)?;
        let answer = async {
            let response = sender.send_request(request).await.map_err(io::Error::other)?;
            if response.status() != StatusCode::OK {
                return Err(io::Error::other(format!("the answer is {}", response.status())));
            }
            let body = Limited::new(response.into_body(), bytes_max).collect().await;
            Ok(body.map_err(|error| io::Error::other(error.to_string()))?.to_bytes())
        };
        tokio::pin!(connection);
        tokio::pin!(answer);
        tokio::select! {
            answer = &mut answer => answer,
            closed = &mut connection => match closed {
                // What came before the end is there to be read.
                Ok(()) => answer.await,
                Err(error) => Err(io::Error::other(error)),
            },
        }
    }
}

fn config(sources: &[Source], bytes: &[Vec<u8>]) -> Result<ClientConfig, Error> {
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| sources[0].invalid(error))?;
    let roots = server::roots(&sources[0], &bytes[0])?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// What comes of an answer with this status and a body of ten bytes.
    async fn told(status: &str, bytes_max: usize) -> Result<Bytes, String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let fetch = Fetch::new(&format!("http://{}/", listener.local_addr().unwrap()), None).unwrap();
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 10\r\nlocation: /\r\n\r\n0123456789");
        let serve = async {
            let (mut socket, _) = listener.accept().await.unwrap();
            let read = socket.read(&mut [0; 1_024]).await.unwrap();
            assert!(read > 0);
            socket.write_all(answer.as_bytes()).await.unwrap();
            socket
        };
        let (told, _socket) = tokio::join!(fetch.get(bytes_max), serve);
        told.map_err(|error| error.to_string())
    }

    #[test]
    fn what_comes_without_https_is_safe_from_this_machine_alone() {
        let is_exposed = |address: &str| Fetch::new(address, None).unwrap().is_exposed();
        for own in ["http://127.0.0.1/", "http://[::1]:8080/keys", "http://localhost/keys"] {
            assert!(!is_exposed(own), "{own}");
        }
        for other in
            ["http://192.0.2.1/", "http://[2001:db8::1]/", "http://localhost.example/", "http://127.0.0.1.example/"]
        {
            assert!(is_exposed(other), "{other}");
        }
    }

    #[tokio::test]
    async fn an_answer_of_another_status_or_of_too_many_bytes_is_no_document() {
        assert_eq!(told("200 OK", 10).await, Ok(Bytes::from_static(b"0123456789")));
        assert_eq!(told("200 OK", 9).await, Err("length limit exceeded".to_owned()));
        for status in ["302 Found", "404 Not Found", "500 Internal Server Error"] {
            assert_eq!(told(status, 10).await, Err(format!("the answer is {status}")));
        }
    }
}
