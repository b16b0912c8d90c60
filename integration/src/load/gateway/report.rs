//! The figures of a run against a gateway.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::site::Site;
use crate::host::{self, Host};
use crate::load::open::Tally;
use crate::load::report::{listed, round};

/// One run. As JSON it is the object that the program prints.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// What was asked for.
    pub load: &'static str,
    /// Where.
    pub place: String,
    /// Requests a second that were due; `None` where clients asked one after another.
    pub offered_per_s: Option<f64>,
    /// Those clients.
    pub clients: Option<usize>,
    /// How long it was measured.
    pub seconds: f64,
    /// Answers a second.
    pub requests_per_s: f64,
    /// Coupons a second that users got.
    pub coupons_per_s: f64,
    /// Requests.
    pub requests: u64,
    /// That were done.
    pub ok: u64,
    /// That were refused, by code.
    pub refused: BTreeMap<String, u64>,
    /// That came to something else.
    pub failed: u64,
    /// The first of these.
    pub failure: Option<String>,
    /// Latency of what was done.
    pub p50_ms: f64,
    /// Latency.
    pub p99_ms: f64,
    /// Latency.
    pub p999_ms: f64,
    /// Latency.
    pub max_ms: f64,
    /// The same of each kind of request.
    pub kinds: BTreeMap<&'static str, OfKind>,
    /// For how long slots could not be written that moved.
    pub frozen: Option<Frozen>,
    /// Processor time of each process, for a request; for a coupon where there is no other.
    pub cpu_us: BTreeMap<String, f64>,
    /// The most memory that each process had.
    pub rss_mib: BTreeMap<String, f64>,
    /// Where it was measured.
    pub host: Option<Host>,
    /// What was asserted and did not hold.
    pub broken: Vec<String>,
}

/// One kind of request.
#[derive(Debug, Serialize)]
pub struct OfKind {
    /// How many there were.
    pub requests: u64,
    /// How many of them were done.
    pub ok: u64,
    /// Latency of these.
    pub p50_ms: f64,
    /// Latency.
    pub p99_ms: f64,
}

/// The freezes of slots that moved, each of those of one table from one database to another.
#[derive(Debug, Serialize)]
pub struct Frozen {
    /// How many.
    pub freezes: usize,
    /// The shortest.
    pub min_ms: u64,
    /// The one in the middle.
    pub median_ms: u64,
    /// The longest.
    pub max_ms: u64,
    /// What was said in the end.
    pub summary: String,
}

/// Processor time that each process has used up to a moment, this one too.
pub(super) struct Used(BTreeMap<String, u64>);

impl Used {
    pub(super) fn take(site: &Site) -> Self {
        Self(pids(site).map(|(name, pid)| (name, host::cpu_us(pid))).collect())
    }

    fn since(&self, before: &Self, each: u64) -> BTreeMap<String, f64> {
        let spent = |(name, used): (&String, &u64)| {
            let spent = used.saturating_sub(before.0.get(name).copied().unwrap_or(0));
            (name.clone(), round(spent as f64 / each.max(1) as f64, 1))
        };
        self.0.iter().map(spent).collect()
    }
}

fn pids(site: &Site) -> impl Iterator<Item = (String, u32)> {
    site.pids().into_iter().chain([("load".to_owned(), std::process::id())])
}

impl Report {
    /// What the processes used for each of so many requests.
    pub(super) fn costs(&mut self, site: &Site, before: &Used, after: &Used, each: u64) {
        self.cpu_us = after.since(before, each);
        self.rss_mib = pids(site).map(|(name, pid)| (name, round(host::rss_peak_mib(pid), 1))).collect();
    }

    /// What the answers came to.
    pub(super) fn answers(&mut self, took: Duration, tallies: &BTreeMap<&'static str, Tally>) {
        let mut latency = Histogram::<u64>::new_with_bounds(1, 600_000_000, 3).expect("valid bounds");
        for (kind, tally) in tallies {
            latency.add(&tally.latency).expect("both have the same bounds");
            self.requests += tally.begun;
            self.ok += tally.confirmed;
            for (code, count) in &tally.refused {
                *self.refused.entry(code.clone()).or_default() += count;
            }
            self.failed += tally.other.values().sum::<u64>();
            self.failure = self.failure.take().or_else(|| tally.other.keys().next().cloned());
            let of_kind = OfKind {
                requests: tally.begun,
                ok: tally.confirmed,
                p50_ms: round(tally.ms(0.5), 2),
                p99_ms: round(tally.ms(0.99), 2),
            };
            self.kinds.insert(kind, of_kind);
        }
        self.seconds = round(took.as_secs_f64(), 3);
        self.requests_per_s = round(self.requests as f64 / took.as_secs_f64(), 1);
        self.latency(&latency);
        if self.failed > 0 {
            self.broken.push(format!("{} requests came to no typed answer", self.failed));
        }
        if self.ok == 0 {
            self.broken.push("nothing was done".into());
        }
    }

    /// How long it took.
    pub(super) fn latency(&mut self, latency: &Histogram<u64>) {
        let ms = |quantile| round(latency.value_at_quantile(quantile) as f64 / 1_000.0, 3);
        (self.p50_ms, self.p99_ms, self.p999_ms) = (ms(0.5), ms(0.99), ms(0.999));
        self.max_ms = ms(1.0);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { load, place, seconds, requests, ok, failed, refused, .. } = self;
        let how = match (self.offered_per_s, self.clients) {
            (Some(rate), _) => format!("{rate:.0} requests a second"),
            (None, Some(clients)) => format!("{clients} clients"),
            (None, None) => "one after another".to_owned(),
        };
        writeln!(f, "{load}, {place}, {how}, {seconds:.1} s")?;
        writeln!(f, "  {:.0} requests/s   {:.0} coupons/s", self.requests_per_s, self.coupons_per_s)?;
        writeln!(f, "  {requests} requests: {ok} done, {failed} failed, refused {refused:?}")?;
        let Self { p50_ms, p99_ms, p999_ms, max_ms, .. } = self;
        writeln!(f, "  p50 {p50_ms:.2} ms   p99 {p99_ms:.2} ms   p99.9 {p999_ms:.2} ms   at most {max_ms:.2} ms")?;
        for (kind, OfKind { ok, p50_ms, p99_ms, .. }) in self.kinds.iter().filter(|_| self.kinds.len() > 1) {
            writeln!(f, "    {kind:<10} {ok:>9} done   p50 {p50_ms:.2} ms   p99 {p99_ms:.2} ms")?;
        }
        if let Some(Frozen { freezes, min_ms, median_ms, max_ms, summary }) = &self.frozen {
            writeln!(f, "  {freezes} freezes, ms: {min_ms} / {median_ms} / {max_ms}")?;
            writeln!(f, "  {summary}")?;
        }
        writeln!(f, "  processor, µs for each: {}", listed(&self.cpu_us))?;
        writeln!(f, "  memory at most, MiB: {}", listed(&self.rss_mib))?;
        if let Some(host) = &self.host {
            writeln!(f, "  {host}")?;
        }
        if let Some(failure) = &self.failure {
            writeln!(f, "  the first failure: {failure}")?;
        }
        self.broken.iter().try_for_each(|broken| writeln!(f, "  BROKEN: {broken}"))
    }
}
