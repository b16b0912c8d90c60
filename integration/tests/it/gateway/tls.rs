//! The gateway's own port with TLS: only whoever trusts its certificate speaks with it, and only in that way.

use std::time::Duration;

use tercet_secure::fetch::Fetch;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use super::stage::{Gateway, Keys};
use crate::authority::{Authority, write};

#[tokio::test]
async fn a_port_with_tls_is_for_those_who_trust_it_and_takes_a_new_certificate_while_it_runs() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path();
    let (own, other) = (Authority::new(), Authority::new());
    let keys = Keys::new(path.join("jwks.json"), "first");
    let (cert, key) = own.issue(path, "server", false);
    let text = |path: &std::path::Path| path.display().to_string();
    let (jwks, cert_text, key_text) = (text(&keys.path), text(&cert), text(&key));
    let gateway = Gateway::start(&["--jwks", &jwks, "--tls-cert", &cert_text, "--tls-key", &key_text]).await;
    let address = format!("https://127.0.0.1:{}/health", gateway.address.port());
    let (ours, theirs) = (write(path, "own.ca", &own.certificate), write(path, "other.ca", &other.certificate));
    let ask = async |ca: &std::path::Path| {
        let asked = Fetch::new(&address, Some(ca)).expect("it is an address").get(1_024).await;
        asked.map(|body| String::from_utf8_lossy(&body).into_owned())
    };
    assert_eq!(ask(&ours).await.expect("it is trusted"), r#"{"status":"serving"}"#);
    assert!(ask(&theirs).await.is_err(), "somebody else signed it");

    let mut plain = TcpStream::connect(gateway.address).await.expect("it listens");
    plain.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.expect("it reads");
    let mut told = Vec::new();
    // It may be told that this is no TLS, or be hung up on.
    drop(plain.read_to_end(&mut told).await);
    assert!(!told.starts_with(b"HTTP"), "{told:?}");

    // Under the same names, as those who renew certificates do it.
    let (new_cert, new_key) = other.issue(path, "new", false);
    std::fs::copy(new_key, &key).expect("it can be written");
    std::fs::copy(new_cert, &cert).expect("it can be written");
    let until = Instant::now() + Duration::from_secs(20);
    while ask(&theirs).await.is_err() {
        assert!(Instant::now() < until, "the new certificate is not taken");
        sleep(Duration::from_millis(50)).await;
    }
    assert!(ask(&ours).await.is_err(), "the old one is gone");
}

/// As the keys of tokens are read.
#[tokio::test]
async fn a_document_is_read_only_from_whom_a_certificate_in_force_names() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path();
    let (own, other) = (Authority::new(), Authority::new());
    let keys = Keys::new(path.join("jwks.json"), "first");
    let ca = write(path, "own.ca", &own.certificate);
    let at = async |signer: &Authority, host: &str, expired: bool| {
        let (cert, key) = signer.issue_for(&[host], path, "server", expired);
        let [jwks, cert, key] = [&keys.path, &cert, &key].map(|path| path.display().to_string());
        Gateway::start(&["--jwks", &jwks, "--tls-cert", &cert, "--tls-key", &key]).await
    };
    let of = |gateway: &Gateway| format!("https://127.0.0.1:{}/health", gateway.address.port());
    for (host, expired, fault) in [("elsewhere.example", false, "NotValidForName"), ("127.0.0.1", true, "Expired")] {
        let gateway = at(&own, host, expired).await;
        let asked = Fetch::new(&of(&gateway), Some(&ca)).expect("it is an address").get(1_024).await;
        let told = format!("{:?}", asked.expect_err(fault));
        assert!(told.contains(fault), "{told}");
    }
    let gateway = at(&other, "127.0.0.1", false).await;
    assert!(Fetch::new(&of(&gateway), None).is_err(), "nobody is trusted");
    let fetch = Fetch::new(&of(&gateway), Some(&ca)).expect("it is an address");
    fetch.get(1_024).await.expect_err("somebody else signed it");
    write(path, "own.ca", &other.certificate);
    let until = Instant::now() + Duration::from_secs(20);
    while fetch.get(1_024).await.is_err() {
        assert!(Instant::now() < until, "whom to trust is not read again");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn whoever_shows_no_certificate_where_one_is_asked_for_is_not_let_in() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path();
    let own = Authority::new();
    let keys = Keys::new(path.join("jwks.json"), "first");
    let (cert, key) = own.issue(path, "server", false);
    let ca = write(path, "own.ca", &own.certificate);
    let [jwks, cert, key, ca_text] = [&keys.path, &cert, &key, &ca].map(|path| path.display().to_string());
    let flags = ["--jwks", &jwks, "--tls-cert", &cert, "--tls-key", &key];
    for (more, is_let_in) in [(&[][..], true), (&["--tls-client-ca", &ca_text][..], false)] {
        let gateway = Gateway::start(&[&flags[..], more].concat()).await;
        let address = format!("https://127.0.0.1:{}/health", gateway.address.port());
        let asked = Fetch::new(&address, Some(&ca)).expect("it is an address").get(1_024).await;
        assert_eq!(asked.is_ok(), is_let_in, "{asked:?}");
    }
}
