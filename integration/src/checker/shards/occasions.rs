//! Occasions: their counts are those of their runs, a run has its users, and one that is done has its batch. Of those
//! that were stopped long ago nothing is left to compare.
//!
//! All of it is in the first database of the coupons, and each question is one statement there: what it compares is of
//! one moment, also while issuing works.

use super::{Books, Finding, Suspect};

/// Rows of a page.
const PAGE: i64 = 1_000;

impl Books {
    /// All occasions, or this one.
    pub(super) async fn occasions(&mut self, only: Option<i64>) -> anyhow::Result<Vec<Finding>> {
        let mut findings = self.occasion_counts(only).await?;
        findings.extend(self.run_users(only).await?);
        findings.extend(self.run_batches(only).await?);
        Ok(findings)
    }

    async fn occasion_counts(&mut self, only: Option<i64>) -> anyhow::Result<Vec<Finding>> {
        let only = only.map_or_else(String::new, |id| format!("AND o.occasion_id = {id}"));
        let sql = format!(
            "SELECT occasion_id, users, given, refused, told, done, not_done FROM (
                SELECT o.occasion_id, o.users, o.given, o.refused, CAST(COALESCE(SUM(r.users), 0) AS SIGNED) AS told,
                    CAST(COALESCE(SUM(CASE r.state WHEN 1 THEN r.users ELSE 0 END), 0) AS SIGNED) AS done,
                    CAST(COALESCE(SUM(CASE r.state WHEN 2 THEN r.users ELSE 0 END), 0) AS SIGNED) AS not_done
                FROM occasion o LEFT JOIN occasion_run r ON r.occasion_id = o.occasion_id
                WHERE o.runs_kept = 1 {only}
                GROUP BY o.occasion_id, o.users, o.given, o.refused) AS a
             WHERE users <> told OR given <> done OR refused <> not_done"
        );
        let finding = |row: [Option<i64>; 7]| {
            let [occasion_id, users, given, refused, told, done, not_done] = row.map(Option::unwrap_or_default);
            let text = format!(
                "occasion {occasion_id} counts {users} users, {given} given and {refused} refused, and its runs have \
                 {told}, {done} and {not_done}"
            );
            Finding { suspect: Suspect::Occasion(occasion_id), text }
        };
        Ok(self.coupon[0].numbers::<7>(sql).await?.into_iter().map(finding).collect())
    }

    async fn run_users(&mut self, only: Option<i64>) -> anyhow::Result<Vec<Finding>> {
        let only = only.map_or_else(String::new, |id| format!("AND r.occasion_id = {id}"));
        let (mut findings, mut after) = (Vec::new(), 0);
        loop {
            let sql = format!(
                "SELECT r.run, r.occasion_id, r.users, (SELECT COUNT(*) FROM occasion_user u WHERE u.run = r.run)
                 FROM occasion_run r JOIN occasion o ON o.occasion_id = r.occasion_id
                 WHERE o.runs_kept = 1 AND r.run > {after} {only} ORDER BY r.run LIMIT {PAGE}"
            );
            let page = self.coupon[0].numbers::<4>(sql).await?;
            let Some(&[Some(last), ..]) = page.last() else { return Ok(findings) };
            after = last;
            for row in page {
                let [run, occasion_id, users, found] = row.map(Option::unwrap_or_default);
                if users != found {
                    let text = format!("run {run} of occasion {occasion_id} is for {users} users, and has {found}");
                    findings.push(Finding { suspect: Suspect::Occasion(occasion_id), text });
                }
            }
        }
    }

    async fn run_batches(&mut self, only: Option<i64>) -> anyhow::Result<Vec<Finding>> {
        let only = only.map_or_else(String::new, |id| format!("AND r.occasion_id = {id}"));
        let (mut findings, mut after) = (Vec::new(), 0);
        loop {
            let sql = format!(
                "SELECT r.run, r.occasion_id, r.users * o.coupons_per_user,
                    (SELECT b.coupons FROM issue_batch b WHERE b.batch_id = CONCAT('occasion/', r.run) AND b.state = 2)
                 FROM occasion_run r JOIN occasion o ON o.occasion_id = r.occasion_id
                 WHERE o.runs_kept = 1 AND r.state = 1 AND r.run > {after} {only} ORDER BY r.run LIMIT {PAGE}"
            );
            let page = self.coupon[0].numbers::<4>(sql).await?;
            let Some(&[Some(last), ..]) = page.last() else { return Ok(findings) };
            after = last;
            for row in page {
                let [run, occasion_id, due, given] = row.map(Option::unwrap_or_default);
                if due != given {
                    let text = format!("run {run} of occasion {occasion_id} gave {given} coupons of {due}");
                    findings.push(Finding { suspect: Suspect::Occasion(occasion_id), text });
                }
            }
        }
    }
}
