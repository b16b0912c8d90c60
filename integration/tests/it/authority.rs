//! Certificates for tests, and who signs them.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};

/// Somebody who signs certificates.
pub(crate) struct Authority {
    /// To be trusted, PEM.
    pub(crate) certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut parameters = CertificateParams::new(Vec::new()).expect("no names");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = parameters.self_signed(&key).expect("it signs").pem();
        Self { certificate, issuer: Issuer::new(parameters, key) }
    }

    /// Writes a certificate of this machine and its key under this name.
    pub(crate) fn issue(&self, folder: &Path, name: &str, expired: bool) -> (PathBuf, PathBuf) {
        self.issue_for(&["localhost", "127.0.0.1"], folder, name, expired)
    }

    /// The same of these hosts.
    pub(crate) fn issue_for(&self, hosts: &[&str], folder: &Path, name: &str, expired: bool) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().expect("a key");
        let hosts: Vec<_> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut parameters = CertificateParams::new(hosts).expect("they are names");
        if expired {
            parameters.not_after = date_time_ymd(2020, 1, 1);
        }
        let certificate = parameters.signed_by(&key, &self.issuer).expect("it signs");
        (
            write(folder, &format!("{name}.pem"), &certificate.pem()),
            write(folder, &format!("{name}.key"), &key.serialize_pem()),
        )
    }
}

/// A file of this name with this text.
pub(crate) fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).expect("the folder is there");
    path
}
