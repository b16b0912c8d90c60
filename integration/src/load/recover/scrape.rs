//! What a coordinator's `/metrics` says at one moment.

use std::net::SocketAddr;

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Prometheus' text format.
pub(super) struct Scrape(String);

impl Scrape {
    pub(super) async fn of(address: SocketAddr) -> anyhow::Result<Self> {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut text = Vec::new();
        stream.read_to_end(&mut text).await?;
        Ok(Self(String::from_utf8(text).context("the metrics are no text")?))
    }

    /// Labels and value of each series of this name.
    fn series(&self, name: &str) -> impl Iterator<Item = (&str, f64)> {
        self.0.lines().filter_map(move |line| {
            let (labels, value) = line.strip_prefix(name)?.rsplit_once(' ')?;
            let own = labels.is_empty() || labels.starts_with('{');
            Some((labels, value.parse().ok()?)).filter(|_| own)
        })
    }

    /// Of all series of this name.
    pub(super) fn sum(&self, name: &str) -> f64 {
        self.series(name).map(|(_, value)| value).sum()
    }

    /// The upper end of the bucket in which this quantile of a histogram without labels of its own is.
    pub(super) fn quantile(&self, name: &str, quantile: f64) -> f64 {
        let wanted = quantile * self.sum(&format!("{name}_count"));
        let buckets = format!("{name}_bucket");
        let mut ends = self.series(&buckets).filter(|(_, count)| *count >= wanted).filter_map(|(labels, _)| {
            let (_, end) = labels.split_once("le=\"")?;
            end.split('"').next()?.replace("+Inf", "inf").parse::<f64>().ok()
        });
        ends.by_ref().fold(f64::INFINITY, f64::min)
    }
}
