//! The real services, filled with goods and coupons, and the orders and claims that go to them.

use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};

use anyhow::Context as _;
use sqlx::{MySql, Sqlite};
use tercet::fence::Dialect;
use tercet_coupon::Shards;
use tercet_platform::flows::template_item;
use tercet_proto::coupon::v1::Claim;
use tercet_proto::order::v1::Place;

use crate::processes::{Process, Spec};

/// Their names, which are those of their database files too.
pub const SERVICES: [&str; 3] = [tercet_stock::SERVICE, tercet_coupon::SERVICE, tercet_order::SERVICE];

/// What an order costs, in cents.
pub const AMOUNT_CENTS: i64 = 5_000;
/// What a coupon takes off, in cents.
pub const DISCOUNT_CENTS: i64 = 500;

/// Rows of one statement while filling.
const FILL_ROWS: i64 = 20_000;

/// What the services hold at the start.
#[derive(Clone, Copy, Debug)]
pub struct Filling {
    /// Goods have the items 1 to this.
    pub items: i64,
    /// Units of each.
    pub units: i64,
    /// The template 1 has so many coupons to claim.
    pub first_coupons: i64,
    /// And the template 2.
    pub second_coupons: i64,
    /// The coupons of the users 1 to this are issued already, of template 3.
    pub issued: i64,
}

/// Where each of [`SERVICES`] keeps what it has.
pub type Urls = [String; SERVICES.len()];

/// A SQLite file for each in `folder`.
pub fn files(folder: &Path) -> Urls {
    SERVICES.map(|service| format!("sqlite://{}", folder.join(format!("{service}.db")).display()))
}

/// Makes the services' tables, all on SQLite or all on MariaDB, and fills them.
///
/// # Errors
/// The databases'.
pub async fn fill(urls: &Urls, filling: Filling) -> anyhow::Result<()> {
    if urls[0].starts_with("sqlite:") {
        fill_in::<Sqlite>(urls, filling).await
    } else {
        fill_in::<MySql>(urls, filling).await
    }
}

async fn fill_in<Db: tercet_stock::store::Store + tercet_coupon::store::Store + Dialect>(
    urls: &Urls,
    filling: Filling,
) -> anyhow::Result<()> {
    let open = async |at: usize| Db::open(&urls[at]).await.with_context(|| format!("{}'s database", SERVICES[at]));
    let (stock, coupon) = (open(0).await?, open(1).await?);
    // Making a service makes its tables.
    drop(tercet_stock::service(stock.clone(), None).await?);
    let shards = Shards::one(coupon.clone());
    shards.migrate().await?;
    let goods = (1..=filling.items).map(|item| (item, filling.units));
    let coupons = [(template_item(1), filling.first_coupons), (template_item(2), filling.second_coupons)];
    let rows: Vec<_> = goods.chain(coupons).collect();
    tercet_stock::seed(&stock, &rows).await?;
    let mut first = 1;
    while first <= filling.issued {
        let last = filling.issued.min(first + FILL_ROWS - 1);
        let rows: Vec<_> = (first..=last).map(|number| claim(number, 3)).collect();
        tercet_coupon::seed_coupons(&shards, &rows).await?;
        first = last + 1;
    }
    stock.close().await;
    coupon.close().await;
    Ok(())
}

/// Starts the three services on these databases; their logs go to `folder`.
///
/// # Errors
/// When they are not built or the system does not start them.
pub fn start(folder: &Path, urls: &Urls, coordinator: &str) -> anyhow::Result<Vec<Process>> {
    let start = |(service, url): (&&str, &String)| {
        let program = format!("tercet-{service}");
        Spec::new(service, &program, &program, folder)?
            .with("--coordinator", coordinator)
            .with("--database", url)
            .with("--log-filter", "warn")
            .start()
    };
    SERVICES.iter().zip(urls).map(start).collect()
}

/// Hands out orders and claims, each once.
#[derive(Debug, Default)]
pub struct Counter(AtomicI64);

impl Counter {
    /// The next number, from 1.
    pub fn next(&self) -> i64 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The last number that was handed out.
    pub fn last(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// An order of one unit by this user, with his coupon.
pub fn order(order_id: i64, user_id: i64, item: i64) -> Place {
    let (coupon_id, discount_cents) = (claim(user_id, 1).coupon_id, DISCOUNT_CENTS);
    Place { order_id, user_id, item, count: 1, coupon_id, amount_cents: AMOUNT_CENTS, discount_cents }
}

/// The claim of a user's coupon, the only one that he may have.
pub fn claim(user_id: i64, template_id: i64) -> Claim {
    tercet_coupon::claim_by_hand(user_id, user_id, template_id, 1)
}
