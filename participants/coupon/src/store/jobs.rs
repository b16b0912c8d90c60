//! What scheduled jobs keep: the SQL, both dialects side by side.

use tercet::participant::DbTx;

use super::{Kind, Status, Store, broken, numbers, statement};

/// Everything that ends before it is done: a time, and a coupon of those that end then.
pub type Mark = (i64, i64);

/// A coupon whose time has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its id.
    pub coupon_id: i64,
    /// When.
    pub valid_until_ms: i64,
    /// Where it stands.
    pub status: Status,
    /// Its user.
    pub user_id: i64,
    /// Its template.
    pub template_id: i64,
    /// Its place in the order of what happens to it.
    pub step: i64,
}

/// Locks and reads the next coupons of a table after this mark whose time ended by then, by their end and id.
pub async fn ended<Db: Store>(
    db_tx: &mut DbTx<Db>,
    table: usize,
    (after_ms, after): Mark,
    (until_ms, limit): (i64, u32),
) -> sqlx::Result<Vec<Ended>> {
    let mut all = Vec::new();
    for kind in [Kind::EndedWith, Kind::EndedAfter] {
        let left = i64::from(limit) - all.len() as i64;
        if left > 0 {
            let ran = Db::run(db_tx, &[statement(kind, table, &[after_ms, after, until_ms, left])]).await?;
            for row in ran.iter().flat_map(|ran| &ran.rows) {
                let [coupon_id, valid_until_ms, status, user_id, template_id, step] = numbers(row)?;
                let status = Status::from_number(status)?;
                all.push(Ended { coupon_id, valid_until_ms, status, user_id, template_id, step });
            }
        }
    }
    Ok(all)
}

/// A database that scheduled jobs can live in.
pub trait Jobs: Store {
    /// Takes or keeps the lease on the jobs for so long; whether this runner has it.
    fn lease_jobs(
        db_tx: &mut DbTx<Self>,
        runner: i64,
        length_ms: i64,
    ) -> impl Future<Output = sqlx::Result<bool>> + Send;

    /// Gives the lease up.
    fn leave_jobs(db_tx: &mut DbTx<Self>, runner: i64) -> impl Future<Output = sqlx::Result<()>> + Send;

    /// Locks and reads how far a table is.
    fn mark(db_tx: &mut DbTx<Self>, table: usize) -> impl Future<Output = sqlx::Result<Mark>> + Send;

    /// Writes how far a table is.
    fn put_mark(db_tx: &mut DbTx<Self>, table: usize, mark: Mark) -> impl Future<Output = sqlx::Result<()>> + Send;

    /// Notes that a template's stock is set, and that of a version that is tried beside another, or 0.
    fn supplied(
        db_tx: &mut DbTx<Self>,
        template_id: i64,
        revision: i64,
        candidate: u32,
    ) -> impl Future<Output = sqlx::Result<()>> + Send;

    /// The version that was noted last.
    fn candidate(db_tx: &mut DbTx<Self>, template_id: i64) -> impl Future<Output = sqlx::Result<u32>> + Send;

    /// The next templates after this whose stock nobody has returned, each with the version that was noted last.
    fn unreturned(
        db_tx: &mut DbTx<Self>,
        after: i64,
        limit: u32,
    ) -> impl Future<Output = sqlx::Result<Vec<(i64, u32)>>> + Send;

    /// Notes that there may be more to return of a template.
    fn unreturn(db_tx: &mut DbTx<Self>, template_id: i64) -> impl Future<Output = sqlx::Result<()>> + Send;

    /// Notes that it is, unless it was set again since.
    fn returned(
        db_tx: &mut DbTx<Self>,
        template_id: i64,
        revision: i64,
    ) -> impl Future<Output = sqlx::Result<()>> + Send;
}

struct Statements {
    lease: &'static str,
    leave: &'static str,
    make_mark: &'static str,
    mark: &'static str,
    put_mark: &'static str,
    supplied: &'static str,
    candidate: &'static str,
    unreturned: &'static str,
    returned: &'static str,
}

#[cfg(feature = "sqlite")]
const SQLITE: Statements = Statements {
    lease: "-- coupon_lease_jobs
        UPDATE job SET lease_ms = CAST(unixepoch('subsec') * 1000 AS INTEGER) + $1, runner = $2
        WHERE name = 'scheduled' AND (runner = $2 OR lease_ms <= CAST(unixepoch('subsec') * 1000 AS INTEGER))",
    leave: "-- coupon_leave_jobs
        UPDATE job SET lease_ms = 0 WHERE name = 'scheduled' AND runner = $1",
    make_mark: "-- coupon_make_mark
        INSERT INTO expiry(table_n, until_ms, coupon_id) VALUES ($1, 0, 0) ON CONFLICT DO NOTHING",
    mark: "-- coupon_mark
        SELECT until_ms, coupon_id FROM expiry WHERE table_n = $1",
    put_mark: "-- coupon_put_mark
        UPDATE expiry SET until_ms = $1, coupon_id = $2 WHERE table_n = $3",
    supplied: "-- coupon_supplied
        INSERT INTO supplied(template_id, revision, candidate, returned) VALUES ($1, $2, $3, 0)
        ON CONFLICT(template_id) DO UPDATE SET returned = iif(excluded.revision > revision, 0, returned),
            candidate = iif(excluded.revision > revision, excluded.candidate, candidate),
            revision = MAX(revision, excluded.revision)",
    candidate: "-- coupon_candidate
        SELECT candidate FROM supplied WHERE template_id = $1",
    unreturned: "-- coupon_unreturned
        SELECT template_id, candidate FROM supplied WHERE returned = 0 AND template_id > $1
        ORDER BY template_id LIMIT $2",
    returned: "-- coupon_returned
        UPDATE supplied SET returned = 1 WHERE template_id = $1 AND revision <= $2",
};

#[cfg(feature = "mysql")]
const MYSQL: Statements = Statements {
    lease: "-- coupon_lease_jobs
        UPDATE job JOIN (SELECT ? AS length_ms, ? AS runner) AS j
        SET job.lease_ms = CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED) + j.length_ms, job.runner = j.runner
        WHERE name = 'scheduled' AND (job.runner = j.runner
            OR lease_ms <= CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED))",
    leave: "-- coupon_leave_jobs
        UPDATE job SET lease_ms = 0 WHERE name = 'scheduled' AND runner = ?",
    make_mark: "-- coupon_make_mark
        INSERT INTO expiry(table_n, until_ms, coupon_id) VALUES (?, 0, 0) ON DUPLICATE KEY UPDATE table_n = table_n",
    mark: "-- coupon_mark
        SELECT until_ms, coupon_id FROM expiry WHERE table_n = ? FOR UPDATE",
    put_mark: "-- coupon_put_mark
        UPDATE expiry SET until_ms = ?, coupon_id = ? WHERE table_n = ?",
    supplied: "-- coupon_supplied
        INSERT INTO supplied(template_id, revision, candidate, returned) VALUES (?, ?, ?, 0)
        ON DUPLICATE KEY UPDATE returned = IF(VALUES(revision) > revision, 0, returned),
            candidate = IF(VALUES(revision) > revision, VALUES(candidate), candidate),
            revision = GREATEST(revision, VALUES(revision))",
    candidate: "-- coupon_candidate
        SELECT candidate FROM supplied WHERE template_id = ?",
    unreturned: "-- coupon_unreturned
        SELECT template_id, candidate FROM supplied WHERE returned = 0 AND template_id > ?
        ORDER BY template_id LIMIT ?",
    returned: "-- coupon_returned
        UPDATE supplied SET returned = 1 WHERE template_id = ? AND revision <= ?",
};

fn version(number: i64) -> sqlx::Result<u32> {
    u32::try_from(number).map_err(|_| broken("a version"))
}

const UNRETURN: &str = "-- coupon_unreturn
    UPDATE supplied SET returned = 0 WHERE template_id = ?";

macro_rules! jobs {
    ($database:ty, $sql:ident) => {
        impl Jobs for $database {
            async fn lease_jobs(db_tx: &mut DbTx<Self>, runner: i64, length_ms: i64) -> sqlx::Result<bool> {
                let query = sqlx::query($sql.lease).bind(length_ms).bind(runner);
                Ok(query.execute(db_tx).await?.rows_affected() == 1)
            }

            async fn leave_jobs(db_tx: &mut DbTx<Self>, runner: i64) -> sqlx::Result<()> {
                sqlx::query($sql.leave).bind(runner).execute(db_tx).await.map(drop)
            }

            async fn mark(db_tx: &mut DbTx<Self>, table: usize) -> sqlx::Result<Mark> {
                sqlx::query($sql.make_mark).bind(table as i64).execute(&mut *db_tx).await?;
                sqlx::query_as($sql.mark).bind(table as i64).fetch_one(db_tx).await
            }

            async fn put_mark(db_tx: &mut DbTx<Self>, table: usize, (until_ms, id): Mark) -> sqlx::Result<()> {
                sqlx::query($sql.put_mark).bind(until_ms).bind(id).bind(table as i64).execute(db_tx).await.map(drop)
            }

            async fn supplied(
                db_tx: &mut DbTx<Self>,
                template_id: i64,
                revision: i64,
                candidate: u32,
            ) -> sqlx::Result<()> {
                let query = sqlx::query($sql.supplied).bind(template_id).bind(revision).bind(i64::from(candidate));
                query.execute(db_tx).await.map(drop)
            }

            async fn candidate(db_tx: &mut DbTx<Self>, template_id: i64) -> sqlx::Result<u32> {
                let found: Option<i64> =
                    sqlx::query_scalar($sql.candidate).bind(template_id).fetch_optional(db_tx).await?;
                version(found.unwrap_or(0))
            }

            async fn unreturned(db_tx: &mut DbTx<Self>, after: i64, limit: u32) -> sqlx::Result<Vec<(i64, u32)>> {
                let query = sqlx::query_as($sql.unreturned).bind(after).bind(i64::from(limit));
                let rows: Vec<(i64, i64)> = query.fetch_all(db_tx).await?;
                rows.into_iter().map(|(template_id, candidate)| Ok((template_id, version(candidate)?))).collect()
            }

            async fn unreturn(db_tx: &mut DbTx<Self>, template_id: i64) -> sqlx::Result<()> {
                sqlx::query(UNRETURN).bind(template_id).execute(db_tx).await.map(drop)
            }

            async fn returned(db_tx: &mut DbTx<Self>, template_id: i64, revision: i64) -> sqlx::Result<()> {
                sqlx::query($sql.returned).bind(template_id).bind(revision).execute(db_tx).await.map(drop)
            }
        }
    };
}

#[cfg(feature = "sqlite")]
jobs!(sqlx::Sqlite, SQLITE);
#[cfg(feature = "mysql")]
jobs!(sqlx::MySql, MYSQL);
