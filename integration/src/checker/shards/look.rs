//! Coupons, orders and log entries, page by page, with what belongs to each page.

use std::collections::{BTreeMap, BTreeSet};

use tercet_order::store::Key;
use tercet_shards::Slot;

use super::reader::{list, orders};
use super::rules::{self, Coupon, LOCKED, NO_ORDER, Order, Step, Told, USED};
use super::seats::Seats;
use super::{Books, Finding, Report, Suspect};

/// Rows of a page.
const PAGE: usize = 1_000;

const COUPON: &str = "SELECT coupon_id, user_id, status, shop_id, order_id, discount_cents, claimed_ms FROM";

/// Coupons of a slot.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    coupons: u64,
    discount_cents: i64,
}

/// By the slot's number.
type Tallies = BTreeMap<usize, Tally>;

impl Books {
    pub(super) async fn all_coupons(&mut self, report: &mut Report) -> anyhow::Result<Vec<Finding>> {
        let mut findings = Vec::new();
        for table in 0..self.map.tables() {
            let mut open = self.slots_of(table);
            while open.round().await {
                for database in 0..self.coupon.len() {
                    let before = self.seats(database).await?;
                    let (found, tallies) = self.coupons_in(database, table, &before).await?;
                    let seen = self.seen(&mut open, database, &before).await?;
                    for (_, tally) in tallies.into_iter().filter(|(slot, _)| seen.contains(slot)) {
                        report.coupons += tally.coupons;
                        report.discount_cents += tally.discount_cents;
                    }
                    let counts = |finding: &Finding| {
                        let Suspect::Coupon(id) = finding.suspect else { return true };
                        seen.contains(&Slot::of_id(id).number())
                    };
                    findings.extend(found.into_iter().filter(counts));
                }
            }
        }
        Ok(findings)
    }

    /// All coupons of a table in a database that says this of its slots; what is wrong with them, and how many there
    /// are of each slot.
    async fn coupons_in(
        &mut self,
        database: usize,
        table: usize,
        seats: &Seats,
    ) -> anyhow::Result<(Vec<Finding>, Tallies)> {
        let (mut findings, mut tallies, mut after) = (Vec::new(), Tallies::new(), i64::MIN);
        loop {
            let rest = format!("WHERE coupon_id > {after} ORDER BY coupon_id LIMIT {PAGE}");
            let mut page = self.coupons_of(database, table, &rest).await?;
            let Some(last) = page.last() else { return Ok((findings, tallies)) };
            after = last.coupon_id;
            findings.extend(self.misplaced(database, table, &page, seats));
            page.retain(|coupon| seats.holds(Slot::of_id(coupon.coupon_id)));
            for coupon in &page {
                let tally = tallies.entry(Slot::of_id(coupon.coupon_id).number()).or_default();
                tally.coupons += 1;
                tally.discount_cents += coupon.discount_cents.filter(|_| coupon.status == USED).unwrap_or(0);
            }
            findings.extend(self.check_coupons(&page).await?);
        }
    }

    pub(super) async fn these_coupons(&mut self, ids: &[i64]) -> anyhow::Result<Vec<Finding>> {
        let mut findings = Vec::new();
        for (database, table, ids) in self.by_table(ids) {
            let page = self.coupons_of(database, table, &format!("WHERE coupon_id IN ({})", list(ids))).await?;
            findings.extend(self.check_coupons(&page).await?);
        }
        Ok(findings)
    }

    /// Whether a coupon is there, where nobody would find it.
    pub(super) async fn still_misplaced(
        &mut self,
        id: i64,
        database: usize,
        table: usize,
    ) -> anyhow::Result<Vec<Finding>> {
        let seats = self.seats(database).await?;
        let page = self.coupons_of(database, table, &format!("WHERE coupon_id = {id}")).await?;
        Ok(self.misplaced(database, table, &page, &seats))
    }

    pub(super) async fn all_orders(&mut self, report: &mut Report) -> anyhow::Result<Vec<Finding>> {
        let (mut findings, mut after) = (Vec::new(), Key { shop_id: i64::MIN, order_id: i64::MIN });
        loop {
            let Key { shop_id, order_id } = after;
            // Each half goes by the key from where it begins, however many shops have an order of one number.
            let sql = format!(
                "SELECT shop_id, order_id FROM (
                     SELECT shop_id, order_id FROM orders WHERE order_id = {order_id} AND shop_id > {shop_id}
                     ORDER BY shop_id LIMIT {PAGE}) same
                 UNION ALL SELECT shop_id, order_id FROM (
                     SELECT shop_id, order_id FROM orders WHERE order_id > {order_id}
                     ORDER BY order_id, shop_id LIMIT {PAGE}) higher
                 ORDER BY order_id, shop_id LIMIT {PAGE}"
            );
            let keys: Vec<Key> = self.order.numbers::<2>(sql).await?.into_iter().filter_map(key).collect();
            let Some(last) = keys.last() else { return Ok(findings) };
            after = *last;
            let page = self.orders(&keys).await?;
            report.orders += page.len() as u64;
            findings.extend(self.check_orders(&page).await?);
        }
    }

    pub(super) async fn these_orders(&mut self, keys: &[Key]) -> anyhow::Result<Vec<Finding>> {
        let page = self.orders(keys).await?;
        self.check_orders(&page).await
    }

    /// Whether every coupon that was issued, as the log says, is there.
    pub(super) async fn all_logged(&mut self, report: &mut Report) -> anyhow::Result<Vec<Finding>> {
        let (mut findings, mut after) = (Vec::new(), i64::MIN);
        loop {
            let sql = format!(
                "SELECT log_id, CASE WHEN action = 'coupon issued' THEN coupon_id END FROM business_log
                 WHERE log_id > {after} ORDER BY log_id LIMIT {PAGE}"
            );
            let page = self.log.numbers::<2>(sql).await?;
            let Some(&[Some(last), _]) = page.last() else { return Ok(findings) };
            after = last;
            let ids: Vec<i64> = page.iter().filter_map(|row| row[1]).collect();
            report.entries += ids.len() as u64;
            findings.extend(self.these_logged(&ids).await?);
        }
    }

    pub(super) async fn these_logged(&mut self, ids: &[i64]) -> anyhow::Result<Vec<Finding>> {
        let found = self.coupons(ids).await?;
        let missing = ids.iter().filter(|id| !found.contains_key(id));
        let finding = |id: &i64| Finding {
            suspect: Suspect::Logged(*id),
            text: format!("the log says that coupon {id} was issued, and it does not exist"),
        };
        Ok(missing.map(finding).collect())
    }

    /// Coupons that nobody would find: in another place than their ids and their users say. What arrives, or was left
    /// behind, is nobody's.
    fn misplaced(&self, database: usize, table: usize, page: &[Coupon], seats: &Seats) -> Vec<Finding> {
        let wrong = |coupon: &&Coupon| {
            let slot = Slot::of_id(coupon.coupon_id);
            slot != Slot::of_user(coupon.user_id) || self.map.table(slot) != table || seats.is_strange(slot)
        };
        let finding = |&Coupon { coupon_id, user_id, .. }: &Coupon| Finding {
            suspect: Suspect::Misplaced(coupon_id, database, table),
            text: format!("coupon {coupon_id} of user {user_id} is in database {database}, table {table}"),
        };
        page.iter().filter(wrong).map(finding).collect()
    }

    /// The coupons first, then what came after them: what was done is there.
    async fn check_coupons(&mut self, page: &[Coupon]) -> anyhow::Result<Vec<Finding>> {
        let held = page.iter().filter(|coupon| [LOCKED, USED].contains(&coupon.status));
        let orders = self.orders(&held.filter_map(|coupon| coupon.order).collect::<Vec<_>>()).await?;
        let key = |order: &Order| (order.key, order.coupon_id);
        let orders: BTreeMap<(Key, i64), Order> = orders.into_iter().map(|order| (key(&order), order)).collect();
        let log = self.steps(page).await?;
        let begin = self.log.numbers::<1>("SELECT MIN(at_ms) FROM business_log".to_owned()).await?;
        let begin_ms = begin.first().and_then(|row| row[0]);
        let wrong = |coupon: &Coupon| {
            let order = coupon.order.and_then(|own| orders.get(&(own, coupon.coupon_id)));
            let log = log.get(&coupon.coupon_id).map_or(&[][..], Vec::as_slice);
            let text = rules::coupon(coupon, order, log, begin_ms)?;
            Some(Finding { suspect: Suspect::Coupon(coupon.coupon_id), text })
        };
        Ok(page.iter().filter_map(wrong).collect())
    }

    async fn check_orders(&mut self, page: &[Order]) -> anyhow::Result<Vec<Finding>> {
        let ids: Vec<i64> = page.iter().map(|order| order.coupon_id).collect();
        let coupons = self.coupons(&ids).await?;
        let told = self.told(page).await?;
        let wrong = |order: &Order| {
            let told = told.get(&order.key).copied().unwrap_or_default();
            let text = rules::order(order, coupons.get(&order.coupon_id), told)?;
            Some(Finding { suspect: Suspect::Order(order.key), text })
        };
        let mut findings: Vec<Finding> = page.iter().filter_map(wrong).collect();
        for coupons in page.chunk_by(|one, other| one.key == other.key) {
            let suspect = Suspect::Order(coupons[0].key);
            findings.extend(rules::money(coupons).map(|text| Finding { suspect, text }));
        }
        Ok(findings)
    }

    /// What the log says of coupons, each in the order in which it happened: an entry may be written late.
    async fn steps(&mut self, page: &[Coupon]) -> anyhow::Result<BTreeMap<i64, Vec<Step>>> {
        let sql = format!(
            "SELECT coupon_id, CASE action WHEN 'coupon issued' THEN 1 WHEN 'coupon used' THEN 2
                WHEN 'coupon given back' THEN 3 WHEN 'coupon voided' THEN 5 ELSE 4 END, shop_id, order_id,
                CASE WHEN action = 'coupon used' THEN CAST(JSON_EXTRACT(state_after, '$.discount_cents') AS SIGNED) END
             FROM business_log WHERE coupon_id IN ({})
                AND action IN ('coupon issued', 'coupon used', 'coupon given back', 'coupon expired', 'coupon voided')
             ORDER BY coupon_step, log_id",
            list(page.iter().map(|coupon| coupon.coupon_id))
        );
        let mut all: BTreeMap<i64, Vec<Step>> = BTreeMap::new();
        for [coupon_id, action, shop_id, order_id, discount_cents] in self.log.numbers::<5>(sql).await? {
            let discount_cents = discount_cents.unwrap_or(0);
            let order = key([shop_id, order_id]).unwrap_or(NO_ORDER);
            let step = match action {
                Some(1) => Step::Issued,
                Some(2) => Step::Used { order, discount_cents },
                Some(3) => Step::GivenBack,
                Some(5) => Step::Voided,
                Some(_) | None => Step::Expired,
            };
            all.entry(coupon_id.unwrap_or(0)).or_default().push(step);
        }
        Ok(all)
    }

    /// What the log says of orders.
    async fn told(&mut self, page: &[Order]) -> anyhow::Result<BTreeMap<Key, Told>> {
        let wanted: BTreeSet<Key> = page.iter().map(|order| order.key).collect();
        let sql = format!(
            "{} SELECT l.shop_id, l.order_id, CAST(MAX(CASE action WHEN 'coupon used' THEN 1 ELSE 0 END) AS SIGNED),
                CAST(MAX(CASE action WHEN 'coupon given back' THEN 1 ELSE 0 END) AS SIGNED),
                MAX(CASE WHEN action IN ('order refunded', 'order closed')
                    THEN CAST(JSON_EXTRACT(state_after, '$.refunded_cents') AS SIGNED) END)
             FROM wanted w CROSS JOIN business_log l ON l.order_id = w.order_id AND l.shop_id = w.shop_id
             GROUP BY l.shop_id, l.order_id",
            orders(&wanted)
        );
        let told = |[shop_id, order_id, used, given_back, refunded]: [Option<i64>; 5]| {
            let told = Told { used: used == Some(1), given_back: given_back == Some(1), refunded };
            Some((key([shop_id, order_id])?, told))
        };
        Ok(self.log.numbers::<5>(sql).await?.into_iter().filter_map(told).collect())
    }

    /// Coupons by their ids. They may have moved since slots were looked for.
    async fn coupons(&mut self, ids: &[i64]) -> anyhow::Result<BTreeMap<i64, Coupon>> {
        let mut all = BTreeMap::new();
        let mut missing = ids.to_vec();
        loop {
            for (database, table, ids) in self.by_table(&missing) {
                let found = self.coupons_of(database, table, &format!("WHERE coupon_id IN ({})", list(ids))).await?;
                all.extend(found.into_iter().map(|coupon| (coupon.coupon_id, coupon)));
            }
            missing.retain(|id| !all.contains_key(id));
            if missing.is_empty() || !self.look_round().await? {
                return Ok(all);
            }
        }
    }

    /// Ids by where they are; without those of slots that are nowhere.
    fn by_table(&self, ids: &[i64]) -> Vec<(usize, usize, BTreeSet<i64>)> {
        let mut tables: BTreeMap<(usize, usize), BTreeSet<i64>> = BTreeMap::new();
        for id in ids {
            let slot = Slot::of_id(*id);
            if let Some(database) = self.home(slot) {
                tables.entry((database, self.map.table(slot))).or_default().insert(*id);
            }
        }
        tables.into_iter().map(|((database, table), ids)| (database, table, ids)).collect()
    }

    async fn coupons_of(&mut self, database: usize, table: usize, rest: &str) -> anyhow::Result<Vec<Coupon>> {
        let rows = self.coupon[database].numbers::<7>(format!("{COUPON} coupon_{table:03} {rest}")).await?;
        let coupon = |row: [Option<i64>; 7]| {
            let [coupon_id, user_id, status, shop_id, order_id, discount_cents, claimed_ms] = row;
            Coupon {
                coupon_id: coupon_id.unwrap_or(0),
                user_id: user_id.unwrap_or(0),
                status: status.unwrap_or(0),
                order: key([shop_id, order_id]),
                discount_cents,
                claimed_ms: claimed_ms.unwrap_or(0),
            }
        };
        Ok(rows.into_iter().map(coupon).collect())
    }

    /// Orders with each of their coupons, by order.
    async fn orders(&mut self, keys: &[Key]) -> anyhow::Result<Vec<Order>> {
        // Each once: a coupon's order may be another coupon's.
        let keys: BTreeSet<Key> = keys.iter().copied().collect();
        let sql = format!(
            "{} SELECT o.shop_id, o.order_id, o.user_id, o.coupon_id, o.amount_cents, o.discount_cents,
                o.discount_cents, o.status, o.coupon_use, o.refunded_from
             FROM wanted w CROSS JOIN orders o ON o.order_id = w.order_id AND o.shop_id = w.shop_id
             WHERE o.coupon_id IS NOT NULL
             UNION ALL
             SELECT o.shop_id, o.order_id, o.user_id, b.coupon_id, o.amount_cents, b.discount_cents,
                o.discount_cents, o.status, b.coupon_use, o.refunded_from
             FROM wanted w CROSS JOIN orders o ON o.order_id = w.order_id AND o.shop_id = w.shop_id
             CROSS JOIN basket_coupon b ON b.order_id = o.order_id AND b.shop_id = o.shop_id
             ORDER BY 2, 1, 4",
            orders(&keys)
        );
        let order = |row: [Option<i64>; 10]| {
            let [shop_id, order_id, user_id, coupon_id, amount_cents, rest @ ..] = row.map(Option::unwrap_or_default);
            let [discount_cents, off_cents, status, coupon_use, refunded_from] = rest;
            let key = Key { shop_id, order_id };
            Order {
                key,
                user_id,
                coupon_id,
                amount_cents,
                discount_cents,
                off_cents,
                status,
                coupon_use,
                refunded_from,
            }
        };
        Ok(self.order.numbers::<10>(sql).await?.into_iter().map(order).collect())
    }
}

/// An order's, where it is about one.
fn key([shop_id, order_id]: [Option<i64>; 2]) -> Option<Key> {
    Some(Key { shop_id: shop_id?, order_id: order_id? })
}
