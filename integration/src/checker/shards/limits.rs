//! What each user has claimed of each template, in all and of a day: the counters count coupons, and neither they nor
//! the coupons are above what the template gives.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;
use tercet_shards::Slot;

use super::reader::list;
use super::{Books, Finding, Suspect};

const DAY_MS: i64 = 86_400_000;
/// A claim that is decided so late in a day may count for the next one, which another had begun by then.
const LATE_MS: i64 = 300_000;

/// The most that any version of a template allows.
#[derive(Clone, Debug, Default)]
pub(super) struct Allowed {
    pub(super) coupons: i64,
    pub(super) cents: i64,
    per_user: i64,
    per_user_day: i64,
    /// How far ahead of UTC the days of its versions are.
    zones_ms: BTreeSet<i64>,
}

impl Books {
    /// Whether the counters of a table count coupons, and none is above its limit.
    pub(super) async fn counters(&mut self, table: usize) -> anyhow::Result<Vec<Finding>> {
        let sql = format!(
            "SELECT user_id, template_id, CAST(SUM(n) AS SIGNED), MAX(claimed), MAX(per_user) FROM (
                SELECT user_id, template_id, claimed AS n, claimed, per_user FROM claimed_{table:03}
                UNION ALL SELECT user_id, template_id, -1, 0, 0 FROM coupon_{table:03} WHERE batch = 0) AS a
             GROUP BY user_id, template_id HAVING SUM(n) <> 0 OR MAX(claimed) > MAX(per_user)"
        );
        let allowed = self.allowed().await?;
        let mut findings = Vec::new();
        let mut open = self.slots_of(table);
        while open.round().await {
            for database in 0..self.coupon.len() {
                let suspect = Suspect::Table(database, table);
                let before = self.seats(database).await?;
                let rows = self.coupon[database].numbers::<5>(sql.clone()).await?;
                let uncounted = self.uncounted(database, table, &allowed).await?;
                // What was read in between is of the slots that it had all the while.
                let seen = self.seen(&mut open, database, &before).await?;
                for row in rows {
                    let [user_id, template_id, off, claimed, per_user] = row.map(Option::unwrap_or_default);
                    if !seen.contains(&Slot::of_user(user_id).number()) {
                        continue;
                    }
                    let text = if off == 0 {
                        format!("user {user_id} has claimed {claimed} of template {template_id}, and may {per_user}")
                    } else {
                        let has = claimed - off;
                        format!("user {user_id} has claimed {claimed} of template {template_id}, and has {has}")
                    };
                    findings.push(Finding { suspect, text });
                }
                let own = uncounted.into_iter().filter(|(user_id, _)| seen.contains(&Slot::of_user(*user_id).number()));
                findings.extend(own.map(|(_, finding)| finding));
                // What is left behind is above no limit either.
                findings.extend(self.above(database, table, &allowed).await?);
            }
        }
        Ok(findings)
    }

    /// Those who have more coupons of their latest day than are counted for it. A coupon of that day is counted for
    /// it, and one of an earlier day may be. Each with its user, whose slot may have moved meanwhile.
    async fn uncounted(
        &mut self,
        database: usize,
        table: usize,
        allowed: &BTreeMap<i64, Allowed>,
    ) -> anyhow::Result<Vec<(i64, Finding)>> {
        let mut findings = Vec::new();
        for (zone_ms, templates) in by_zone(allowed) {
            let sql = format!(
                "SELECT c.user_id, c.template_id, MAX(u.today), COUNT(*) FROM coupon_{table:03} c
                 JOIN claimed_{table:03} u ON u.user_id = c.user_id AND u.template_id = c.template_id
                 WHERE c.batch = 0 AND c.template_id IN ({})
                    AND c.claimed_ms >= u.day * {DAY_MS} - {zone_ms}
                    AND c.claimed_ms < (u.day + 1) * {DAY_MS} - {zone_ms}
                 GROUP BY c.user_id, c.template_id HAVING COUNT(*) > MAX(u.today)",
                list(templates)
            );
            for row in self.coupon[database].numbers::<4>(sql).await? {
                let [user_id, template_id, today, has] = row.map(Option::unwrap_or_default);
                let text = format!(
                    "user {user_id} has claimed {today} of template {template_id} on the latest day, and has {has}"
                );
                findings.push((user_id, Finding { suspect: Suspect::Table(database, table), text }));
            }
        }
        Ok(findings)
    }

    /// What is above the limits of its template.
    async fn above(
        &mut self,
        database: usize,
        table: usize,
        allowed: &BTreeMap<i64, Allowed>,
    ) -> anyhow::Result<Vec<Finding>> {
        let mut findings = Vec::new();
        let mut above = |template_id: i64, has: i64, of: fn(&Allowed) -> i64, when: &str| {
            if let Some(may) = allowed.get(&template_id).map(of).filter(|may| has > *may) {
                let text =
                    format!("a user has claimed {has} of template {template_id}{when}, which gives {may} to each");
                findings.push(Finding { suspect: Suspect::Table(database, table), text });
            }
        };
        let counters =
            format!("SELECT template_id, MAX(claimed), MAX(today) FROM claimed_{table:03} GROUP BY template_id");
        for row in self.coupon[database].numbers::<3>(counters).await? {
            let [template_id, claimed, today] = row.map(Option::unwrap_or_default);
            above(template_id, claimed, |allowed| allowed.per_user, "");
            above(template_id, today, |allowed| allowed.per_user_day, " on a day, by its count");
        }
        for (zone_ms, templates) in by_zone(allowed) {
            let sql = format!(
                "SELECT template_id, MAX(n) FROM (
                    SELECT template_id, COUNT(*) AS n FROM coupon_{table:03}
                    WHERE batch = 0 AND template_id IN ({})
                        AND (claimed_ms + {zone_ms}) % {DAY_MS} < {DAY_MS} - {LATE_MS}
                    GROUP BY user_id, template_id, claimed_ms + {zone_ms} - (claimed_ms + {zone_ms}) % {DAY_MS}) AS d
                 GROUP BY template_id",
                list(templates)
            );
            for row in self.coupon[database].numbers::<2>(sql).await? {
                let [template_id, has] = row.map(Option::unwrap_or_default);
                above(template_id, has, |allowed| allowed.per_user_day, " on a day");
            }
        }
        Ok(findings)
    }

    /// What the templates allow.
    pub(super) async fn allowed(&mut self) -> anyhow::Result<BTreeMap<i64, Allowed>> {
        let sql = "SELECT template_id, rules FROM template_version";
        let mut allowed: BTreeMap<i64, Allowed> = BTreeMap::new();
        for (template_id, rules) in self.template.texts(sql).await? {
            let rules = tercet_rules::decode(&rules).with_context(|| format!("the rules of template {template_id}"))?;
            let most = allowed.entry(template_id).or_default();
            most.coupons = most.coupons.max(rules.budget().coupons());
            most.cents = most.cents.max(rules.budget().cents());
            most.per_user = most.per_user.max(rules.quota().per_user().into());
            most.per_user_day = most.per_user_day.max(rules.quota().per_user_day().into());
            most.zones_ms.insert(i64::from(rules.validity().zone().minutes()) * 60_000);
        }
        Ok(allowed)
    }
}

/// The templates whose days begin at the same time. One whose versions differ in it has days that overlap, and is in
/// none: of each of them alone it could be said what it gives, and not of both.
fn by_zone(allowed: &BTreeMap<i64, Allowed>) -> BTreeMap<i64, Vec<i64>> {
    let mut zones: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
    for (template_id, Allowed { zones_ms, .. }) in allowed {
        if let (Some(zone_ms), 1) = (zones_ms.first(), zones_ms.len()) {
            zones.entry(*zone_ms).or_default().push(*template_id);
        }
    }
    zones
}
