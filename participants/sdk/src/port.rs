//! The service's own port: its routes, gRPC health and reflection.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tercet_secure::server::{self, Tls};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::service::Routes;
use tonic_health::ServingStatus;

use crate::service::{Error, is_set};

/// For the calls under way when the service stops.
const CLOSE_MAX: Duration = Duration::from_secs(5);

/// Serves the port until the service stops.
type Serving = BoxFuture<'static, Result<(), Error>>;

/// Opens the port, so that one in use is an error at once. Returns where it is, and what serves it until `stopped`.
pub(crate) async fn open(
    address: SocketAddr,
    tls: Option<Tls>,
    mut routes: Routes,
    descriptors: &[&'static [u8]],
    mut welcome: watch::Receiver<bool>,
    mut stopped: watch::Receiver<bool>,
) -> Result<(SocketAddr, Serving), Error> {
    let listener = TcpListener::bind(address).await.map_err(|source| Error::Port { address, source })?;
    let address = listener.local_addr().map_err(|source| Error::Port { address, source })?;
    let mut reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
    for set in descriptors {
        reflection = reflection.register_encoded_file_descriptor_set(set);
    }
    let reflection = reflection.build_v1().map_err(|error| Error::Mistake(format!("the descriptors: {error}")))?;
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_service_status("", ServingStatus::NotServing).await;
    routes = routes.add_service(health_service).add_service(reflection);
    let signal = stopped.clone();
    let report = async move {
        tokio::select! {
            biased;
            () = is_set(&mut stopped) => {}
            () = is_set(&mut welcome) => {
                health.set_service_status("", ServingStatus::Serving).await;
                is_set(&mut stopped).await;
                health.set_service_status("", ServingStatus::NotServing).await;
            }
        }
        Ok(())
    };
    let serve = async move {
        let (mut signal, mut last) = (signal.clone(), signal);
        let until = async move { is_set(&mut signal).await };
        let served = server::serve(routes, listener, tls, until.boxed());
        let over = async move {
            is_set(&mut last).await;
            tokio::time::sleep(CLOSE_MAX).await;
        };
        tokio::select! {
            served = served => served.map_err(Error::Server),
            // A client that watches health would keep the process for ever.
            () = over => Ok(()),
        }
    };
    Ok((address, async move { tokio::try_join!(report, serve).map(|_| ()) }.boxed()))
}

#[cfg(test)]
mod tests {
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_check_response::ServingStatus as Status;
    use tonic_health::pb::health_client::HealthClient;

    use super::*;

    #[tokio::test]
    async fn health_follows_the_first_session_and_the_stop() {
        let (registered, welcome) = watch::channel(false);
        let (stop, stopped) = watch::channel(false);
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let (address, serving) = open(any, None, Routes::default(), &[], welcome, stopped.clone()).await.unwrap();
        let in_use = open(address, None, Routes::default(), &[], registered.subscribe(), stopped).await;
        assert!(matches!(in_use, Err(Error::Port { .. })));
        let serving = tokio::spawn(serving);
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
        let mut health = HealthClient::new(endpoint.connect().await.unwrap());
        let mut changes = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
        let mut seen = Vec::new();
        for flag in [None, Some(&registered), Some(&stop)] {
            if let Some(flag) = flag {
                flag.send_replace(true);
            }
            seen.push(changes.message().await.unwrap().unwrap().status());
        }
        assert_eq!(seen, [Status::NotServing, Status::Serving, Status::NotServing]);
        drop((changes, health));
        serving.await.unwrap().unwrap();
    }
}
