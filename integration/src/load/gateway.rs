//! Users and operators of the HTTP API: how much the platform does behind its gateway, and what each request costs.
//!
//! Requests that come at a rate are counted from when they were due, so that a slow answer delays none that should have
//! been measured meanwhile (Tene's coordinated omission).

mod http;
mod moving;
mod report;
mod sharded;
mod site;
mod traffic;

use std::time::Duration;

use clap::Args;
use hdrhistogram::Histogram;
use indicatif::ProgressBar;
use serde_json::json;

pub use self::moving::{MoveConfig, moving};
use self::report::Used;
pub use self::report::{Frozen, OfKind, Report};
pub use self::site::Place;
use self::site::{Held, Site};
use self::traffic::{Claims, End, Mix, Pace, Traffic, unexpected};
use super::report::round;
use crate::host::Host;

/// Coupons of a template that no run exhausts, and of each user.
const MANY: u64 = 1_000_000_000;
const MANY_PER_USER: u64 = 1_000;

/// Coupons that each user has before the mixed plan begins.
const OWNED: u64 = 3;

/// Coupons of each user that are tried on an order.
const TRIED: u64 = 20;

/// Claims, the mixed plan, or orders on which coupons are tried.
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// Where the requests go.
    #[command(flatten)]
    pub place: Place,
    /// Requests a second, whether or not those before were answered; else clients ask one after another
    #[arg(long)]
    pub rate: Option<f64>,
    /// Clients, each with one request at a time
    #[arg(long, default_value_t = 64, conflicts_with = "rate")]
    pub clients: usize,
    /// How long it is measured
    #[arg(long, default_value_t = 10)]
    pub seconds: u64,
    /// How long it runs before that
    #[arg(long, default_value_t = 2)]
    pub warmup: u64,
    /// Users, who take turns
    #[arg(long, default_value_t = 20_000)]
    pub users: u64,
    /// One JSON object on standard output
    #[arg(long)]
    pub json: bool,
}

/// Many users want one of few coupons, each once.
#[derive(Args, Clone, Debug)]
pub struct HotConfig {
    /// Where the requests go.
    #[command(flatten)]
    pub place: Place,
    /// Claims a second, whether or not those before were answered; else clients ask one after another
    #[arg(long)]
    pub rate: Option<f64>,
    /// Clients, each with one claim at a time
    #[arg(long, default_value_t = 256, conflicts_with = "rate")]
    pub clients: usize,
    /// Users
    #[arg(long, default_value_t = 200_000)]
    pub users: u64,
    /// Coupons that there are
    #[arg(long, default_value_t = 100_000)]
    pub coupons: u64,
    /// One JSON object on standard output
    #[arg(long)]
    pub json: bool,
}

/// An operator issues coupons to many users.
#[derive(Args, Clone, Debug)]
pub struct BatchConfig {
    /// Where the requests go.
    #[command(flatten)]
    pub place: Place,
    /// Users
    #[arg(long, default_value_t = 50_000)]
    pub users: u64,
    /// Coupons for each of them, at most 100
    #[arg(long, default_value_t = 4)]
    pub each: u64,
    /// One JSON object on standard output
    #[arg(long)]
    pub json: bool,
}

fn pace(rate: Option<f64>, clients: usize) -> Pace {
    rate.map_or(Pace::Clients(clients), Pace::Rate)
}

fn spinner() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// Users claim coupons of one template of which there are enough.
///
/// # Errors
/// When a server does not start, or ends by itself.
pub async fn claims(config: &Config) -> anyhow::Result<Report> {
    on(&config.place, async |site, bar, report| steady("claims", Mix::Claims, config, site, bar, report).await).await
}

/// Users look at their coupons (70 %) and at a template (20 %), and claim coupons of it (10 %).
///
/// # Errors
/// When a server does not start, or ends by itself.
pub async fn mixed(config: &Config) -> anyhow::Result<Report> {
    on(&config.place, async |site, bar, report| steady("mixed", Mix::Browsing, config, site, bar, report).await).await
}

/// The coupons of users are tried on an order: of each user [`TRIED`], of which some are used together.
///
/// # Errors
/// When a server does not start, or ends by itself.
pub async fn validate(config: &Config) -> anyhow::Result<Report> {
    on(&config.place, async |site, bar, report| validations(config, site, bar, report).await).await
}

/// Many users want one of few coupons: all of these are given, and none twice.
///
/// # Errors
/// When a server does not start, or ends by itself.
pub async fn hot_template(config: &HotConfig) -> anyhow::Result<Report> {
    on(&config.place, async |site, bar, report| hot(config, site, bar, report).await).await
}

/// An operator issues coupons to many users by batches.
///
/// # Errors
/// When a server does not start or ends by itself, or a batch does not come to its end.
pub async fn batch(config: &BatchConfig) -> anyhow::Result<Report> {
    on(&config.place, async |site, bar, report| batches(config, site, bar, report).await).await
}

/// Starts what the run needs, and takes it away afterwards, however it ends.
async fn on(
    place: &Place,
    run: impl AsyncFnOnce(&Site, &ProgressBar, &mut Report) -> anyhow::Result<()>,
) -> anyhow::Result<Report> {
    let bar = spinner();
    bar.set_message("measuring the disk");
    let host = Host::measure(tempfile::tempdir()?.path())?;
    bar.set_message("starting the servers");
    let mut site = Site::start(place).await?;
    let mut report = Report { place: site.name(place), host: Some(host), ..Report::default() };
    let ran = run(&site, &bar, &mut report).await;
    let checked = site.check();
    bar.finish_and_clear();
    site.end().await?;
    // A server that has ended says why; those who spoke with it only that it has.
    checked.and(ran)?;
    Ok(report)
}

async fn steady(
    name: &'static str,
    mix: Mix,
    config: &Config,
    site: &Site,
    bar: &ProgressBar,
    report: &mut Report,
) -> anyhow::Result<()> {
    bar.set_message("signing tokens");
    let template = site.publish(name, MANY, MANY_PER_USER).await?;
    let traffic = Traffic::new(site, mix, &template, config.users)?;
    let mut issued = 0;
    if mix == Mix::Browsing {
        bar.set_message("giving the users coupons");
        site.issue(&template, config.users, OWNED).await?;
        issued = config.users * OWNED;
    }
    let pace = pace(config.rate, config.clients);
    let mut claims = Claims::default();
    traffic.run(pace, End::After(Duration::from_secs(config.warmup)), bar).await?;
    claims.add(&traffic.tallies());
    let before = Used::take(site);
    let took = traffic.run(pace, End::After(Duration::from_secs(config.seconds)), bar).await?;
    let after = Used::take(site);
    let tallies = traffic.tallies();
    claims.add(&tallies);
    report.load = name;
    report.offered_per_s = config.rate;
    report.clients = config.rate.is_none().then_some(config.clients);
    report.answers(took, &tallies);
    report.coupons_per_s = round(report.kinds.get("claim").map_or(0, |of| of.ok) as f64 / took.as_secs_f64(), 1);
    report.costs(site, &before, &after, report.requests);
    report.broken.extend(unexpected(&tallies, &[]));
    if let Some(held) = site.held().await? {
        report.broken.extend(sums(&held, issued, claims));
    }
    Ok(())
}

async fn validations(config: &Config, site: &Site, bar: &ProgressBar, report: &mut Report) -> anyhow::Result<()> {
    bar.set_message("giving the users coupons");
    let kinds = [
        (json!({ "universal": { "off_cents": 100 } }), json!({ "together": { "group": "a", "most": 3 } })),
        (
            json!({ "full_reduction": { "steps": [
                { "threshold_cents": 10_000, "off_cents": 1_500 }, { "threshold_cents": 30_000, "off_cents": 6_000 }
            ] } }),
            json!({ "together": { "group": "b", "most": 1 } }),
        ),
        (
            json!({ "percentage": { "off_basis_points": 1_000, "cap_cents": 3_000 } }),
            json!({ "together": { "group": "c", "most": 2 } }),
        ),
        (json!({ "universal": { "off_cents": 300 } }), json!({ "alone": {} })),
    ];
    let each = TRIED / kinds.len() as u64;
    let mut template = String::new();
    for (at, (discount, stacking)) in kinds.iter().enumerate() {
        let (name, limits) = (format!("validate {at}"), [config.users * each, each]);
        template = site.publish_as(&name, limits, discount, stacking).await?;
        site.issue(&template, config.users, each).await?;
    }
    bar.set_message("signing tokens");
    let traffic = Traffic::new(site, Mix::Validating, &template, config.users)?;
    let verdict = traffic.verdict().await?;
    let (tried, used) = (verdict["coupons"].as_array(), verdict["best"]["deductions"].as_array());
    if tried.map(Vec::len) != Some(TRIED as usize) || used.is_none_or(|used| used.len() < 2) {
        report.broken.push(format!("{TRIED} coupons are not tried, or no two of them used together: {verdict}"));
    }
    let pace = pace(config.rate, config.clients);
    traffic.run(pace, End::After(Duration::from_secs(config.warmup)), bar).await?;
    let before = Used::take(site);
    let took = traffic.run(pace, End::After(Duration::from_secs(config.seconds)), bar).await?;
    let after = Used::take(site);
    let tallies = traffic.tallies();
    report.load = "validate";
    report.offered_per_s = config.rate;
    report.clients = config.rate.is_none().then_some(config.clients);
    report.answers(took, &tallies);
    report.costs(site, &before, &after, report.requests);
    report.broken.extend(unexpected(&tallies, &[]));
    if let Some(held) = site.held().await? {
        report.broken.extend(sums(&held, config.users * TRIED, Claims::default()));
    }
    Ok(())
}

async fn hot(config: &HotConfig, site: &Site, bar: &ProgressBar, report: &mut Report) -> anyhow::Result<()> {
    bar.set_message("signing tokens");
    let template = site.publish("hot", config.coupons, 1).await?;
    let traffic = Traffic::new(site, Mix::Claims, &template, config.users)?;
    let mut claims = Claims::default();
    let before = Used::take(site);
    let took = traffic.run(pace(config.rate, config.clients), End::Count(config.users), bar).await?;
    let after = Used::take(site);
    let tallies = traffic.tallies();
    claims.add(&tallies);
    report.load = "hot-template";
    report.offered_per_s = config.rate;
    report.clients = config.rate.is_none().then_some(config.clients);
    report.answers(took, &tallies);
    report.coupons_per_s = round(report.ok as f64 / took.as_secs_f64(), 1);
    report.costs(site, &before, &after, report.requests);
    report.broken.extend(unexpected(&tallies, &["SOLD_OUT"]));
    let there = config.coupons.min(config.users);
    if claims.made > there {
        report.broken.push(format!("oversold: {} of {there}", claims.made));
    }
    if claims.made + claims.unknown < there {
        report.broken.push(format!("undersold: {} of {there}", claims.made));
    }
    if let Some(held) = site.held().await? {
        report.broken.extend(sums(&held, 0, claims));
        let issued = held.stock.issued.unsigned_abs();
        if issued > there || (issued < there && claims.unknown == 0) {
            report.broken.push(format!("{issued} coupons of {there} are issued"));
        }
    }
    Ok(())
}

async fn batches(config: &BatchConfig, site: &Site, bar: &ProgressBar, report: &mut Report) -> anyhow::Result<()> {
    let template = site.publish("batch", MANY, MANY_PER_USER).await?;
    bar.set_message("issuing");
    let before = Used::take(site);
    let took = site.issue(&template, config.users, config.each).await?;
    let after = Used::take(site);
    let coupons = config.users * config.each;
    let seconds = took.iter().sum::<Duration>().as_secs_f64();
    let mut latency = Histogram::<u64>::new_with_bounds(1, 600_000_000, 3)?;
    for each in &took {
        latency.saturating_record(each.as_micros() as u64);
    }
    report.load = "batch";
    (report.requests, report.ok) = (took.len() as u64, took.len() as u64);
    report.seconds = round(seconds, 3);
    report.requests_per_s = round(took.len() as f64 / seconds, 2);
    report.coupons_per_s = round(coupons as f64 / seconds, 1);
    report.latency(&latency);
    report.costs(site, &before, &after, coupons);
    if let Some(held) = site.held().await? {
        report.broken.extend(sums(&held, coupons, Claims::default()));
    }
    Ok(())
}

/// What is wrong with what the services hold, after batches of so many coupons and these claims.
fn sums(held: &Held, batches: u64, claims: Claims) -> Vec<String> {
    let Held { stock, coupons } = held;
    let mut wrong = Vec::new();
    if stock.broken != 0 || stock.reserved != 0 || stock.issued + stock.free != stock.total {
        wrong.push(format!("stock does not add up: {stock:?}"));
    }
    if coupons.pending + coupons.miscounted + coupons.over_limit != 0 {
        wrong.push(format!("coupons do not add up: {coupons:?}"));
    }
    if coupons.issued != stock.issued {
        wrong.push(format!("users have {} coupons, and {} are gone from stock", coupons.issued, stock.issued));
    }
    let least = batches + claims.made;
    if !(least..=least + claims.unknown).contains(&coupons.issued.unsigned_abs()) {
        wrong.push(format!(
            "users have {} coupons and were told of {least}, {} unknown",
            coupons.issued, claims.unknown
        ));
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_and_what_is_held_have_to_agree() {
        let held = |issued, reserved, of_users, pending| {
            let stock =
                tercet_stock::store::Totals { items: 1, total: 10, free: 10 - issued, reserved, issued, broken: 0 };
            let coupons = tercet_coupon::store::Totals { issued: of_users, pending, ..Default::default() };
            Held { stock, coupons }
        };
        let told = |made, unknown| Claims { made, unknown };
        assert!(sums(&held(5, 0, 5, 0), 2, told(3, 0)).is_empty());
        assert!(sums(&held(5, 0, 5, 0), 2, told(2, 1)).is_empty(), "one of which nothing was known was done");
        for (held, told) in [
            (held(5, 1, 5, 0), told(3, 0)),
            (held(5, 0, 4, 0), told(2, 0)),
            (held(5, 0, 5, 1), told(3, 0)),
            (held(5, 0, 5, 0), told(4, 0)),
            (held(5, 0, 5, 0), told(1, 1)),
        ] {
            assert_eq!(sums(&held, 2, told).len(), 1);
        }
    }
}
