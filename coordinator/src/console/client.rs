//! A coordinator, as the command line speaks to it.

use std::io::ErrorKind;
use std::time::Duration;

use tercet_proto::admin::v1::admin_client::AdminClient;
use tercet_secure::client::{Credentials, Target};
use tonic::codegen::InterceptedService;
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::{Common, Error};

/// How long a connection may take.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How long an answer may take, that of a watch excepted.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// A page of transactions with all their results is large.
const MESSAGE_BYTES_MAX: usize = 256 << 20;

/// A connected coordinator's port for operators.
pub(super) struct Client {
    /// What it answers.
    pub admin: AdminClient<InterceptedService<Channel, Credentials>>,
    /// As it was given.
    address: String,
    /// Who asks.
    operator: String,
    /// What may be wrong where something listens and hangs up.
    hint: &'static str,
}

impl Client {
    /// Connects.
    pub(super) async fn connect(common: &Common) -> Result<Self, Error> {
        let credentials = Credentials::load(&common.security)?;
        let target = target(&common.admin, &credentials)?;
        let address = shown(target.uri());
        let hint = hung_up(&address, &common.security);
        let channel = target.connect().await.map_err(|error| {
            let hint = if is_there(&error) { hint } else { "" };
            Error::Unreachable { address: address.clone(), cause: root(&error), hint }
        })?;
        Ok(Self { operator: common.operator.clone(), hint, ..Self::new(channel, credentials, address) })
    }

    /// Over a channel that is connected already.
    pub(super) fn new(channel: Channel, credentials: Credentials, address: String) -> Self {
        let admin = AdminClient::with_interceptor(channel, credentials);
        let admin = admin.max_decoding_message_size(MESSAGE_BYTES_MAX);
        Self { admin, address, operator: String::new(), hint: "" }
    }

    /// A request that says who asks: the audit log must not name another, or nobody.
    pub(super) fn named<T>(&self, message: T) -> Result<tonic::Request<T>, Error> {
        let mut request = request(message);
        let operator = self.operator.parse().map_err(|_| Error::Operator(self.operator.clone()))?;
        request.metadata_mut().insert("x-tercet-operator", operator);
        Ok(request)
    }

    /// What a status of this coordinator means for whoever asked about `what`.
    pub(super) fn blame(&self, what: &str, status: &Status) -> Error {
        let address = self.address.clone();
        let cause = status_text(status);
        // What the connection says has a cause on this side.
        if let Some(source) = std::error::Error::source(status) {
            let hint = if is_there(source) { self.hint } else { "" };
            return Error::Unreachable { address, cause, hint };
        }
        // A coordinator's own answer has details.
        let own = !status.details().is_empty();
        match status.code() {
            Code::NotFound => Error::NotFound(what.to_owned()),
            Code::InvalidArgument => Error::Refused(cause),
            Code::PermissionDenied | Code::Unauthenticated => Error::Denied { address, cause },
            Code::FailedPrecondition if own => Error::Unfit(cause),
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled if !own => {
                Error::Unreachable { address, cause, hint: "" }
            }
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::DeadlineExceeded
            | Code::AlreadyExists
            | Code::ResourceExhausted
            | Code::FailedPrecondition
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss => Error::Failed { address, cause },
        }
    }
}

/// A request that does not wait for ever.
pub(super) fn request<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(CALL_TIMEOUT);
    request
}

/// Reads an address: `http://HOST:PORT`, the same with https, or without the scheme. Of several, the first.
pub(super) fn endpoint(text: &str) -> Result<Endpoint, Error> {
    let refused = |why| Error::Address { address: text.to_owned(), why };
    let first = text.split(',').next().unwrap_or_default().trim();
    let address = if first.contains("://") { first.to_owned() } else { format!("http://{first}") };
    let endpoint = Endpoint::from_shared(address).map_err(|_| refused("is not an address"))?;
    let uri = endpoint.uri();
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(refused("has another scheme than http and https"));
    }
    if uri.host().is_none_or(str::is_empty) {
        return Err(refused("has no host"));
    }
    if uri.port_u16().is_none() {
        return Err(refused("has no port"));
    }
    Ok(endpoint)
}

/// What to connect to, in the time that a connection may take.
pub(super) fn target(text: &str, credentials: &Credentials) -> Result<Target, Error> {
    let target = credentials.target(endpoint(text)?.uri().to_string().trim_end_matches('/'))?;
    Ok(target.with(|endpoint| endpoint.connect_timeout(CONNECT_TIMEOUT)))
}

/// What may be wrong where something listens at an address and hangs up: which flags it may miss.
pub(super) fn hung_up(address: &str, security: &tercet_secure::client::Settings) -> &'static str {
    match (address.starts_with("https://"), &security.client_cert) {
        (false, _) => "; if its port has TLS, name it https://HOST:PORT and give --ca",
        (true, None) => "; if it asks for certificates, give --client-cert and --client-key",
        (true, Some(_)) => "; it may not trust the certificate of --client-cert",
    }
}

/// Whether somebody listened at all.
fn is_there(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    let nobody = |kind| matches!(kind, ErrorKind::ConnectionRefused | ErrorKind::TimedOut);
    !causes.any(|cause| cause.downcast_ref::<std::io::Error>().is_some_and(|error| nobody(error.kind())))
}

/// An address as people write it.
pub(super) fn shown(uri: &Uri) -> String {
    uri.to_string().trim_end_matches('/').to_owned()
}

/// What lies under an error, in one line.
pub(super) fn root(error: &(dyn std::error::Error + 'static)) -> String {
    let last = std::iter::successors(Some(error), |error| error.source()).last().unwrap_or(error);
    last.to_string()
}

/// A status in one line.
pub(super) fn status_text(status: &Status) -> String {
    let cause = std::error::Error::source(status).map_or_else(|| status.message().to_owned(), root);
    if cause.is_empty() { status.code().description().to_owned() } else { cause }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_that_no_header_can_say_is_refused() {
        let channel = Endpoint::from_static("http://a:1").connect_lazy();
        let mut client = Client::new(channel, Credentials::default(), "http://a:1".into());
        client.operator = "ann".into();
        assert!(client.named(()).is_ok());
        client.operator = "x\ny".into();
        let refused = client.named(()).expect_err("it is no header");
        assert_eq!(refused.exit_code(), std::process::ExitCode::from(2));
        assert!(refused.to_string().starts_with("--as \"x\\ny\" "), "{refused}");
    }

    #[tokio::test]
    async fn a_lost_connection_is_told_from_an_answer() {
        let client = Client::new(
            Endpoint::from_static("http://a:1").connect_lazy(),
            Credentials::default(),
            "http://a:1".into(),
        );
        let blame = |status| client.blame("x", &status);
        let lost = Status::from_error(Box::new(std::io::Error::from(ErrorKind::BrokenPipe)));
        assert!(matches!(blame(lost), Error::Unreachable { cause, .. } if cause == "broken pipe"));
        assert!(matches!(blame(Status::deadline_exceeded("late")), Error::Unreachable { .. }));
        let own = crate::api::errors::status(&crate::request::Error::Stopping);
        assert!(matches!(blame(own), Error::Failed { .. }));
        assert!(matches!(blame(Status::internal("broken")), Error::Failed { cause, .. } if cause == "broken"));
    }

    #[test]
    fn addresses_are_read_with_and_without_scheme_and_of_several_the_first() {
        let read = |text| endpoint(text).map(|endpoint| endpoint.uri().to_string()).map_err(|error| error.to_string());
        let hint = "; give one such as http://127.0.0.1:7069";
        assert_eq!(read("http://127.0.0.1:7069"), Ok("http://127.0.0.1:7069/".into()));
        assert_eq!(read("node-1:7069, node-2:7069"), Ok("http://node-1:7069/".into()));
        assert_eq!(read("[::1]:7069"), Ok("http://[::1]:7069/".into()));
        assert_eq!(read("localhost"), Err(format!("--admin \"localhost\" has no port{hint}")));
        assert_eq!(
            read("ftp://a:1"),
            Err(format!("--admin \"ftp://a:1\" has another scheme than http and https{hint}"))
        );
        assert_eq!(read("a b"), Err(format!("--admin \"a b\" is not an address{hint}")));
    }
}
