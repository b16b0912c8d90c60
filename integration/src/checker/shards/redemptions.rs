//! Redemptions that are done: each has its order, of its user, which stands.
//!
//! A refund moves the order first and the redemption after it, which is looked at again.

use std::collections::{BTreeMap, BTreeSet};

use tercet_coupon::store::redemptions::State;
use tercet_order::store::Key;
use tercet_shards::Slot;

use super::reader::{list, orders};
use super::seats::Open;
use super::{Books, Finding, Suspect, rules};

/// Rows of a page.
const PAGE: usize = 1_000;

const DONE: i64 = State::Done as i64;

/// A redemption's row.
struct Row {
    redemption_id: i64,
    user_id: i64,
    order: Key,
}

impl Books {
    /// What is wrong with those that are done, by pages of their ids.
    pub(super) async fn all_redemptions(&mut self) -> anyhow::Result<Vec<Finding>> {
        let mut findings = Vec::new();
        let mut open = Open::new(Slot::all());
        while open.round().await {
            for database in 0..self.coupon.len() {
                let before = self.seats(database).await?;
                let (mut found, mut after) = (Vec::new(), i64::MIN);
                loop {
                    let rest = format!("AND redemption_id > {after} ORDER BY redemption_id LIMIT {PAGE}");
                    let page = self.redemptions_of(database, &rest).await?;
                    let Some(last) = page.last() else { break };
                    after = last.redemption_id;
                    found.extend(self.check_redemptions(&page).await?);
                }
                let seen = self.seen(&mut open, database, &before).await?;
                let counts = |(id, _): &(i64, Finding)| seen.contains(&Slot::of_id(*id).number());
                findings.extend(found.into_iter().filter(counts).map(|(_, finding)| finding));
            }
        }
        Ok(findings)
    }

    /// What is wrong with those of these that are done.
    pub(super) async fn these_redemptions(&mut self, ids: &[i64]) -> anyhow::Result<Vec<Finding>> {
        let mut places: BTreeMap<usize, BTreeSet<i64>> = BTreeMap::new();
        for id in ids {
            if let Some(database) = self.home(Slot::of_id(*id)) {
                places.entry(database).or_default().insert(*id);
            }
        }
        let mut findings = Vec::new();
        for (database, ids) in places {
            let page = self.redemptions_of(database, &format!("AND redemption_id IN ({})", list(ids))).await?;
            findings.extend(self.check_redemptions(&page).await?.into_iter().map(|(_, finding)| finding));
        }
        Ok(findings)
    }

    async fn redemptions_of(&mut self, database: usize, rest: &str) -> anyhow::Result<Vec<Row>> {
        let sql =
            format!("SELECT redemption_id, user_id, shop_id, order_id FROM redemption WHERE state = {DONE} {rest}");
        let row = |row: [Option<i64>; 4]| {
            let [redemption_id, user_id, shop_id, order_id] = row.map(Option::unwrap_or_default);
            Row { redemption_id, user_id, order: Key { shop_id, order_id } }
        };
        Ok(self.coupon[database].numbers::<4>(sql).await?.into_iter().map(row).collect())
    }

    /// The redemptions first, then their orders: what was done is there.
    async fn check_redemptions(&mut self, page: &[Row]) -> anyhow::Result<Vec<(i64, Finding)>> {
        // Each once: two redemptions may name one order.
        let wanted: BTreeSet<Key> = page.iter().map(|row| row.order).collect();
        let sql = format!(
            "{} SELECT o.shop_id, o.order_id, o.user_id, o.status
             FROM wanted w CROSS JOIN orders o ON o.order_id = w.order_id AND o.shop_id = w.shop_id",
            orders(&wanted)
        );
        let mut found: BTreeMap<Key, (i64, i64)> = BTreeMap::new();
        for row in self.order.numbers::<4>(sql).await? {
            let [shop_id, order_id, user_id, status] = row.map(Option::unwrap_or_default);
            found.insert(Key { shop_id, order_id }, (user_id, status));
        }
        let wrong = |&Row { redemption_id, user_id, order }: &Row| {
            let text = rules::redemption((redemption_id, user_id), order, found.get(&order).copied())?;
            Some((redemption_id, Finding { suspect: Suspect::Redemption(redemption_id), text }))
        };
        Ok(page.iter().filter_map(wrong).collect())
    }
}
