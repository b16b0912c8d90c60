//! What is summed up: the units of templates, and their budgets.
//!
//! A claim reserves a unit and writes a pending coupon before it is decided, and a batch counts as issued from the
//! start. So whatever is under way, at the moment of the stock's row: coupons that were issued before it are reserved
//! or issued there; and what is issued there is a coupon later, or in a batch that still has some to write.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;
use tercet_coupon::store::Status;
use tercet_platform::flows::template_item;
use tercet_shards::{SLOTS, Slot};
use tercet_stock::{candidate_item, candidate_of};

use super::limits::Allowed;
use super::reader::list;
use super::seats::Open;
use super::{Books, Finding, Suspect};

/// The bits of an id that are its slot.
const SLOT: usize = SLOTS - 1;

/// Coupons of a template.
#[derive(Clone, Copy, Default)]
struct Sum {
    rows: i64,
    issued: i64,
    discount_cents: i64,
}

/// An item's row of the stock.
#[derive(Clone, Copy, Default)]
pub(super) struct Units {
    pub(super) total: i64,
    pub(super) free: i64,
    pub(super) reserved: i64,
    pub(super) issued: i64,
}

impl Books {
    /// The units of all templates, or of these.
    pub(super) async fn templates(&mut self, only: Option<&BTreeSet<i64>>) -> anyhow::Result<Vec<Finding>> {
        let before = self.sums(only).await?;
        let units = self.units().await?;
        let unwritten = self.unwritten().await?;
        let after = self.sums(only).await?;
        let allowed = self.allowed().await?;
        let known = before.keys().chain(after.keys()).chain(units.keys()).copied();
        let templates: BTreeSet<i64> = known.filter(|id| only.is_none_or(|only| only.contains(id))).collect();
        let mut findings = Vec::new();
        for template_id in templates {
            let of = |sums: &BTreeMap<i64, Sum>| sums.get(&template_id).copied().unwrap_or_default();
            let (before, after) = (of(&before), of(&after));
            let unwritten = unwritten.get(&template_id).copied().unwrap_or(0);
            let stock = units.get(&template_id).copied().unwrap_or_default();
            let texts = [
                broken_units(&stock),
                broken_sum(&stock, before.issued, after.rows + unwritten),
                allowed.get(&template_id).and_then(|allowed| broken_budget(&stock, &after, allowed)),
            ];
            let finding = |text: String| Finding {
                suspect: Suspect::Template(template_id),
                text: format!("template {template_id}: {text}"),
            };
            findings.extend(texts.into_iter().flatten().map(finding));
        }
        findings.extend(self.candidates(only).await?);
        Ok(findings)
    }

    async fn sums(&mut self, only: Option<&BTreeSet<i64>>) -> anyhow::Result<BTreeMap<i64, Sum>> {
        let only =
            only.map_or_else(String::new, |only| format!("WHERE template_id IN ({})", list(only.iter().copied())));
        let (pending, used) = (Status::Pending as i64, Status::Used as i64);
        let mut sums: BTreeMap<i64, Sum> = BTreeMap::new();
        for table in 0..self.map.tables() {
            let sql = format!(
                "SELECT template_id, slot, COUNT(*),
                    CAST(SUM(CASE WHEN status <> {pending} THEN 1 ELSE 0 END) AS SIGNED),
                    CAST(SUM(CASE WHEN status = {used} THEN discount_cents ELSE 0 END) AS SIGNED)
                 FROM (SELECT template_id, CAST(coupon_id & {SLOT} AS SIGNED) AS slot, status, discount_cents
                    FROM coupon_{table:03} {only}) AS c GROUP BY template_id, slot"
            );
            let mut open = self.slots_of(table);
            while open.round().await {
                for database in 0..self.coupon.len() {
                    let before = self.seats(database).await?;
                    let rows = self.coupon[database].numbers::<5>(sql.clone()).await?;
                    let seen = self.seen(&mut open, database, &before).await?;
                    for row in rows {
                        let [template_id, slot, rows, issued, discount_cents] = row.map(Option::unwrap_or_default);
                        if usize::try_from(slot).is_ok_and(|slot| seen.contains(&slot)) {
                            let sum = sums.entry(template_id).or_default();
                            sum.rows += rows;
                            sum.issued += issued;
                            sum.discount_cents += discount_cents;
                        }
                    }
                }
            }
        }
        Ok(sums)
    }

    /// The stock's rows of templates.
    async fn units(&mut self) -> anyhow::Result<BTreeMap<i64, Units>> {
        let (first, last) = (template_item(0), candidate_item(0, 0));
        let items = self.stocked(&format!("item > {first} AND item < {last}")).await?;
        Ok(items.into_iter().map(|(item, units)| (item - template_item(0), units)).collect())
    }

    /// The budgets of versions that are, or were, tried beside another: what is issued of one is coupons of it.
    async fn candidates(&mut self, only: Option<&BTreeSet<i64>>) -> anyhow::Result<Vec<Finding>> {
        let items = self.stocked(&format!("item > {}", candidate_item(0, 0))).await?;
        let of = |(item, units)| candidate_of(item).map(|version| (version, units));
        let items = items.into_iter().filter_map(of);
        let items: BTreeMap<(i64, i64), Units> =
            items.filter(|((template_id, _), _)| only.is_none_or(|only| only.contains(template_id))).collect();
        if items.is_empty() {
            return Ok(Vec::new());
        }
        let coupons = self.of_versions(&items).await?;
        let mut findings = Vec::new();
        for ((template_id, version), units) in items {
            let sql = format!(
                "SELECT template_id, rules FROM template_version
                 WHERE template_id = {template_id} AND version = {version}"
            );
            let mut budget = 0;
            for (_, rules) in self.template.texts(&sql).await? {
                let rules =
                    tercet_rules::decode(&rules).with_context(|| format!("the rules of template {template_id}"))?;
                budget = rules.budget().coupons();
            }
            let coupons = coupons.get(&(template_id, version)).copied().unwrap_or(0);
            let of_budget = (units.total > budget)
                .then(|| format!("there are {} units, and the budget has {budget} coupons", units.total));
            let of_coupons = (units.issued > coupons)
                .then(|| format!("{} units are issued, and {coupons} coupons exist", units.issued));
            let texts = [broken_units(&units), of_budget, of_coupons];
            let finding = |text: String| Finding {
                suspect: Suspect::Template(template_id),
                text: format!("template {template_id} version {version}: {text}"),
            };
            findings.extend(texts.into_iter().flatten().map(finding));
        }
        Ok(findings)
    }

    /// How many coupons there are of each of these versions.
    async fn of_versions(&mut self, items: &BTreeMap<(i64, i64), Units>) -> anyhow::Result<BTreeMap<(i64, i64), i64>> {
        let templates = list(items.keys().map(|(template_id, _)| *template_id));
        let mut coupons = BTreeMap::new();
        for database in &mut self.coupon {
            for table in 0..self.map.tables() {
                let sql = format!(
                    "SELECT template_id, version, COUNT(*) FROM coupon_{table:03}
                     WHERE template_id IN ({templates}) GROUP BY template_id, version"
                );
                for row in database.numbers::<3>(sql).await? {
                    let [template_id, version, n] = row.map(Option::unwrap_or_default);
                    *coupons.entry((template_id, version)).or_default() += n;
                }
            }
        }
        Ok(coupons)
    }

    /// The stock's rows of some items.
    pub(super) async fn stocked(&mut self, which: &str) -> anyhow::Result<BTreeMap<i64, Units>> {
        let sql = format!("SELECT item, total, free, reserved, issued FROM stock WHERE {which}");
        let rows = self.stock.numbers::<5>(sql).await?;
        let units = |row: [Option<i64>; 5]| {
            let [item, total, free, reserved, issued] = row.map(Option::unwrap_or_default);
            (item, Units { total, free, reserved, issued })
        };
        Ok(rows.into_iter().map(units).collect())
    }

    /// What batches have still to write, by template. Batches first: one that comes later is not in the stock's rows.
    async fn unwritten(&mut self) -> anyhow::Result<BTreeMap<i64, i64>> {
        let sql = "SELECT batch, template_id, coupons FROM issue_batch WHERE state NOT IN (2, 5)";
        let batches = self.coupon[0].numbers::<3>(sql.to_owned()).await?;
        let mut unwritten = BTreeMap::new();
        for batch in batches {
            let [batch, template_id, coupons] = batch.map(Option::unwrap_or_default);
            let sql = format!(
                "SELECT slot, CAST(SUM(coupons) AS SIGNED) FROM (
                    SELECT CAST(chunk & {SLOT} AS SIGNED) AS slot, coupons FROM issue_chunk WHERE batch = {batch}) AS c
                 GROUP BY slot"
            );
            let mut left = coupons;
            let mut open = Open::new(Slot::all());
            while open.round().await {
                for database in 0..self.coupon.len() {
                    let before = self.seats(database).await?;
                    let rows = self.coupon[database].numbers::<2>(sql.clone()).await?;
                    let seen = self.seen(&mut open, database, &before).await?;
                    let rows = rows.into_iter().map(|row| row.map(Option::unwrap_or_default));
                    let held = rows.filter(|[slot, _]| usize::try_from(*slot).is_ok_and(|slot| seen.contains(&slot)));
                    left -= held.map(|[_, written]| written).sum::<i64>();
                }
            }
            *unwritten.entry(template_id).or_default() += left;
        }
        Ok(unwritten)
    }
}

pub(super) fn broken_units(&Units { total, free, reserved, issued }: &Units) -> Option<String> {
    (free + reserved + issued != total)
        .then(|| format!("reserved {reserved} + issued {issued} + free {free} ≠ {total}"))
}

/// `before` were issued before the stock was read, and at most `after` are or will be.
fn broken_sum(&Units { reserved, issued, .. }: &Units, before: i64, after: i64) -> Option<String> {
    if before > reserved + issued {
        Some(format!("{before} coupons exist, and {issued} units are issued and {reserved} reserved"))
    } else if issued > after {
        Some(format!("{issued} units are issued, and {after} coupons exist"))
    } else {
        None
    }
}

fn broken_budget(units: &Units, sum: &Sum, allowed: &Allowed) -> Option<String> {
    let (total, off) = (units.total, sum.discount_cents);
    let &Allowed { coupons, cents, .. } = allowed;
    if total > coupons {
        Some(format!("there are {total} units, and the budget has {coupons} coupons"))
    } else if off > cents {
        Some(format!("{off} cents are taken off, and the budget has {cents}"))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bounds_leave_room_for_what_is_under_way_and_for_nothing_else() {
        let units = |reserved, issued| Units { total: 100, free: 100 - reserved - issued, reserved, issued };
        assert_eq!(broken_units(&units(3, 7)), None);
        assert!(broken_units(&Units { free: 91, ..units(3, 7) }).is_some());
        for (reserved, issued, before, after, sound) in
            [(0, 7, 7, 7, true), (0, 7, 8, 8, false), (0, 7, 6, 6, false), (2, 7, 9, 9, true), (2, 7, 5, 7, true)]
        {
            assert_eq!(broken_sum(&units(reserved, issued), before, after).is_none(), sound);
        }
    }
}
