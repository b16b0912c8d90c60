//! What a burst came to: outcomes, speed, and whether everything adds up.

use std::fmt::{self, Write as _};
use std::io;

use tercet_coordinator::store::Error as StoreError;
use tercet_coupon::Shards;
use tercet_order::store::Totals as Orders;
use tercet_stock::store::Totals as Stock;

use crate::burst::Burst;
use crate::process::{Running, open};

/// Whether all that was bought and claimed adds up, read from the databases.
#[derive(Clone, Debug)]
pub struct Audit {
    /// All items together.
    pub stock: Stock,
    /// All coupons.
    pub coupons: tercet_coupon::store::Totals,
    /// All orders.
    pub orders: Orders,
    /// Coupons that are used without an order that says so, or the other way round.
    pub unmatched: usize,
}

impl Audit {
    /// Reads all databases. Only sound while nothing is under way.
    ///
    /// # Errors
    /// When one can not be read.
    pub async fn read(running: &Running) -> anyhow::Result<Self> {
        let stock = open(&running.addresses.database(tercet_stock::SERVICE)).await?;
        let coupon = Shards::one(open(&running.addresses.database(tercet_coupon::SERVICE)).await?);
        let order = open(&running.addresses.database(tercet_order::SERVICE)).await?;
        let mut used = tercet_coupon::used(&coupon).await?;
        let mut placed = tercet_order::coupons(&order).await?;
        used.sort_unstable();
        placed.sort_unstable();
        let unmatched = used.iter().filter(|pair| placed.binary_search(pair).is_err()).count()
            + placed.iter().filter(|pair| used.binary_search(pair).is_err()).count();
        Ok(Self {
            stock: tercet_stock::audit(&stock).await?,
            coupons: tercet_coupon::audit(&coupon).await?,
            orders: tercet_order::audit(&order).await?,
            unmatched,
        })
    }

    /// Whether everything holds.
    pub fn sound(&self) -> bool {
        let Self { stock, coupons, orders, unmatched } = self;
        stock.broken == 0
            && stock.reserved + stock.issued + stock.free == stock.total
            && coupons.miscounted + coupons.over_limit + orders.coupons_twice == 0
            && *unmatched == 0
    }
}

fn verdict(holds: bool) -> &'static str {
    if holds { "ok" } else { "BROKEN" }
}

impl fmt::Display for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stock, coupons, orders, unmatched } = self;
        let adds_up = stock.broken == 0 && stock.reserved + stock.issued + stock.free == stock.total;
        writeln!(
            f,
            "  stock    {} items: reserved {} + issued {} + free {} = total {}   {}",
            stock.items,
            stock.reserved,
            stock.issued,
            stock.free,
            stock.total,
            verdict(adds_up)
        )?;
        let once = orders.coupons_twice == 0 && coupons.miscounted + coupons.over_limit == 0;
        writeln!(
            f,
            "  coupons  {} issued, {} used; used twice {}, over a user's limit {}   {}",
            coupons.issued,
            coupons.used,
            orders.coupons_twice,
            coupons.over_limit,
            verdict(once)
        )?;
        write!(
            f,
            "  orders   {} placed; coupons without their order, or orders without their coupon {}   {}",
            orders.placed,
            unmatched,
            verdict(*unmatched == 0)
        )
    }
}

/// The burst as a table, with the commits of all four databases for each transaction.
pub fn table(burst: &Burst, commits: f64) -> String {
    let mut text = String::new();
    let mut line = |line: fmt::Arguments<'_>| {
        // Writing to a string can not fail.
        text.write_fmt(line).ok();
        text.push('\n');
    };
    line(format_args!("            confirmed    refused  timed out  unknown   p50 ms   p99 ms"));
    for flow in &burst.flows {
        let ms = |quantile: f64| flow.latency.value_at_quantile(quantile) as f64 / 1_000.0;
        line(format_args!(
            "  {:<9} {:>9}  {:>9}  {:>9}  {:>7}  {:>7.1}  {:>7.1}",
            flow.name,
            flow.confirmed,
            flow.refused,
            flow.timed_out,
            flow.unknown,
            ms(0.5),
            ms(0.99)
        ));
    }
    let ended: u64 = burst.flows.iter().map(crate::burst::Flow::ended).sum();
    let rate = ended as f64 / burst.took.as_secs_f64();
    line(format_args!(
        "  {rate:.0} transactions/s, each durable in four databases with {:.2} syncs",
        commits / ended.max(1) as f64
    ));
    text
}

/// The sum of a counter over all its labels, from Prometheus' text format.
pub fn sum(rendered: &str, name: &str) -> f64 {
    let values =
        rendered.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
    values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// One line for a failure to start, with what to do about it where that is known.
pub fn explain(error: &anyhow::Error) -> String {
    let advice = match error.downcast_ref::<tercet_coordinator::Error>() {
        Some(tercet_coordinator::Error::Held { .. }) => "; stop that one, or name another folder with --data",
        Some(tercet_coordinator::Error::Store(StoreError::Unwritable { .. })) => "; --data names another folder",
        Some(tercet_coordinator::Error::Store(StoreError::Damaged { .. })) => "; restore it, or move it away",
        Some(_) | None if is_taken(error) => "; is it running already? Each address has a flag of its own, see --help",
        Some(_) | None => "",
    };
    let mut causes: Vec<String> = Vec::new();
    for cause in error.chain().map(ToString::to_string) {
        if !causes.iter().any(|before| before.contains(&cause)) {
            causes.push(cause);
        }
    }
    causes.join(": ") + advice
}

/// Whether somebody else has a port.
fn is_taken(error: &anyhow::Error) -> bool {
    let kinds = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind);
    kinds.into_iter().any(|kind| kind == io::ErrorKind::AddrInUse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_summed_over_its_labels_and_not_mixed_with_its_neighbours() {
        let rendered = "# TYPE a_count counter\na_count 3\na_count{x=\"1\"} 4\na_counts{x=\"1\"} 100\nb_a_count 9\n";
        assert!((sum(rendered, "a_count") - 7.0).abs() < f64::EPSILON);
    }
}
