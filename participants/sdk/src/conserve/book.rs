//! The book's SQL, one text for all dialects but for a few words.
//!
//! Names of invariants and the author's query are constants of the program, all else is numbers and xids: so the values
//! stand in the text, and the statements of a batch go in one round trip.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{Change, Invariant, MISFITS_MAX, PAGE_RESOURCES};
use crate::fence::{Dialect, Sql};
use crate::participant::DbTx;
use crate::xid::Xid;

/// The mark of what was changed outside any transaction.
const OUTSIDE: &str = "outside";
/// Resources that one statement enters as it finds them.
const FILL_RESOURCES: u32 = 5_000;

/// Where rows and book differ, or the rows do not add up.
const DIFFER: &str = "(COALESCE(a.reserved, 0) <> b.reserved OR COALESCE(a.issued, 0) <> b.issued
    OR COALESCE(a.free, 0) <> b.free OR COALESCE(a.reserved + a.issued + a.free, 0) <> COALESCE(a.total, 0))";

/// What the operations of one local transaction did to a resource.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Entry {
    change: Change,
    operations: u32,
    /// The last transaction that had a part in it.
    xid: Option<Xid>,
}

impl Entry {
    pub(crate) fn add(&mut self, change: Change, xid: Option<Xid>) {
        self.change.add(change);
        self.operations += 1;
        self.xid = xid.or(self.xid);
    }
}

/// A resource whose rows and book differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Misfit {
    pub(crate) resource: i64,
    /// In the rows, and their total.
    pub(crate) found: (Change, i64),
    /// In the book.
    pub(crate) booked: Change,
    /// The last transaction after which both agreed.
    pub(crate) after: Option<Xid>,
    /// The transaction that broke it; `None`: none did.
    pub(crate) by: Option<Xid>,
}

/// A page of the scan: all sums are of one snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Page {
    /// It goes on after this one; `None`: that was the last page.
    pub(crate) next: Option<i64>,
    pub(crate) resources: i64,
    pub(crate) found: (Change, i64),
    /// Of the resources that the book has.
    pub(crate) booked: Change,
    /// How many it has.
    pub(crate) entered: i64,
    /// How many operations are in the book.
    pub(crate) watermark: i64,
    /// The first few.
    pub(crate) misfits: Vec<Misfit>,
}

/// Enters what operations did, in their local transaction, and tells which resources differ that did not before.
pub(crate) async fn enter<Db: Dialect>(
    db_tx: &mut DbTx<Db>,
    invariant: &Invariant,
    entries: &BTreeMap<i64, Entry>,
) -> Result<Vec<i64>, sqlx::Error> {
    if entries.is_empty() {
        return Ok(Vec::new());
    }
    let mut sql = String::from(
        "-- book_enter
        INSERT INTO tercet_book (invariant, resource, reserved, issued, free, operations, xid, broken, fresh) VALUES ",
    );
    for (at, (resource, entry)) in entries.iter().enumerate() {
        let Entry { change: Change { reserved, issued, free }, operations, xid } = *entry;
        let xid = xid.map_or_else(String::new, |xid| xid.to_string());
        let (comma, name) = (if at > 0 { "," } else { "" }, invariant.name);
        // Writing to a String never fails.
        let _ = write!(sql, "{comma}('{name}',{resource},{reserved},{issued},{free},{operations},'{xid}','',1)");
    }
    let resources = list(entries.keys());
    let _ = write!(sql, " {};\n{}", Db::BOOK_ADD, compare::<Db>(invariant, &resources));
    let rows = Db::fetch(db_tx, sql, 2).await?;
    let of = |fresh: bool| {
        let rows = rows.iter().filter(move |(numbers, _)| (numbers[1] != 0) == fresh);
        rows.map(|(numbers, _)| numbers[0]).collect::<Vec<i64>>()
    };
    let fresh = of(true);
    if !fresh.is_empty() {
        fill::<Db>(db_tx, invariant, &fresh).await?;
    }
    Ok(of(false))
}

/// How a resource stood before a local transaction that is open: whether it differed already, and the last transaction
/// after which it did not. The connection is another one.
pub(crate) async fn standing<Db: Dialect>(
    connection: &mut DbTx<Db>,
    invariant: &Invariant,
    resource: i64,
) -> Result<(bool, Option<Xid>), sqlx::Error> {
    let (Invariant { name, levels, .. }, integer) = (invariant, Db::INTEGER);
    let sql = format!(
        "-- book_standing
        SELECT CAST(CASE WHEN {DIFFER} THEN 1 ELSE 0 END AS {integer}), b.xid
        FROM tercet_book AS b LEFT JOIN ({levels}) AS a ON a.resource = b.resource
        WHERE b.invariant = '{name}' AND b.resource = {resource}"
    );
    let row = Db::fetch(connection, sql, 1).await?.into_iter().next();
    let row = row.map(|(numbers, texts)| (numbers[0] != 0, texts.first().and_then(|xid| xid.parse().ok())));
    Ok(row.unwrap_or_default())
}

fn compare<Db: Sql>(invariant: &Invariant, resources: &str) -> String {
    let (Invariant { name, levels, .. }, integer) = (invariant, Db::INTEGER);
    format!(
        "-- book_compare
        SELECT CAST(b.resource AS {integer}), CAST(b.fresh AS {integer})
        FROM tercet_book AS b LEFT JOIN ({levels}) AS a ON a.resource = b.resource
        WHERE b.invariant = '{name}' AND b.resource IN ({resources}) AND b.broken = '' AND (b.fresh = 1 OR {DIFFER})"
    )
}

/// Resources that the book did not have are taken as they are.
async fn fill<Db: Dialect>(db_tx: &mut DbTx<Db>, invariant: &Invariant, resources: &[i64]) -> Result<(), sqlx::Error> {
    let Invariant { name, levels, .. } = invariant;
    let now = |column: &str| {
        format!("COALESCE((SELECT a.{column} FROM ({levels}) AS a WHERE a.resource = tercet_book.resource), 0)")
    };
    let (reserved, issued, free, resources) = (now("reserved"), now("issued"), now("free"), list(resources));
    let sql = format!(
        "-- book_fill
        UPDATE tercet_book SET reserved = {reserved}, issued = {issued}, free = {free}, fresh = 0
        WHERE invariant = '{name}' AND resource IN ({resources})"
    );
    Db::fetch(db_tx, sql, 0).await.map(drop)
}

/// Marks a resource with the transaction that broke it, or as changed outside any; and with the last one before that.
pub(crate) async fn mark<Db: Dialect>(
    db_tx: &mut DbTx<Db>,
    invariant: &Invariant,
    resource: i64,
    (by, after): (Option<Xid>, Option<Xid>),
) -> Result<(), sqlx::Error> {
    let text = |xid: Option<Xid>, none: &str| xid.map_or_else(|| none.to_owned(), |xid| xid.to_string());
    let (name, by, after) = (invariant.name, text(by, OUTSIDE), text(after, ""));
    let sql = format!(
        "-- book_mark
        UPDATE tercet_book SET broken = '{by}', xid = '{after}'
        WHERE invariant = '{name}' AND resource = {resource} AND broken = ''"
    );
    Db::fetch(db_tx, sql, 0).await.map(drop)
}

/// One page of the scan, beginning after this resource, and what it found to be written.
pub(crate) async fn page<Db: Dialect>(
    connection: &mut DbTx<Db>,
    invariant: &Invariant,
    after: i64,
) -> Result<(Page, Repair), sqlx::Error> {
    let (Invariant { name, levels, .. }, integer) = (invariant, Db::INTEGER);
    let sum = |column: &str| format!("CAST(COALESCE(SUM({column}), 0) AS {integer})");
    let columns = ["r", "i", "f", "t", "br", "bi", "bf", "n", "marked", "odd"].map(sum).join(", ");
    let sql = format!(
        "-- book_page
        SELECT CAST(COUNT(*) AS {integer}), CAST(COUNT(br) AS {integer}),
            CAST(COALESCE(MAX(resource), 0) AS {integer}), {columns}
        FROM (
            SELECT a.resource, a.reserved AS r, a.issued AS i, a.free AS f, a.total AS t, b.reserved AS br,
                b.issued AS bi, b.free AS bf, b.operations AS n, CASE WHEN b.broken <> '' THEN 1 ELSE 0 END AS marked,
                CASE WHEN {DIFFER} THEN 1 ELSE 0 END AS odd
            FROM ({levels}) AS a LEFT JOIN tercet_book AS b ON b.invariant = '{name}' AND b.resource = a.resource
            WHERE a.resource > {after} ORDER BY a.resource LIMIT {PAGE_RESOURCES}) AS p"
    );
    let row = Db::fetch(connection, sql, 13).await?.into_iter().next();
    let row = row.ok_or(sqlx::Error::RowNotFound)?.0;
    let (resources, entered) = (row[0], row[1]);
    let last = resources < i64::from(PAGE_RESOURCES);
    let until = if last { i64::MAX } else { row[2] };
    let sql = format!(
        "-- book_count
        SELECT CAST(COUNT(*) AS {integer}) FROM tercet_book
        WHERE invariant = '{name}' AND resource > {after} AND resource <= {until}"
    );
    let booked = Db::fetch(connection, sql, 1).await?.first().map_or(0, |row| row.0[0]);
    let mut page = Page {
        next: (!last).then_some(until),
        resources,
        found: (Change { reserved: row[3], issued: row[4], free: row[5] }, row[6]),
        booked: Change { reserved: row[7], issued: row[8], free: row[9] },
        entered,
        watermark: row[10],
        misfits: Vec::new(),
    };
    let mut repair = Repair { after, until, ..Repair::default() };
    (repair.missing, repair.gone) = (resources > entered, booked > entered);
    if row[11] > 0 || row[12] > 0 || repair.gone {
        misfits::<Db>(connection, invariant, &mut page, &mut repair).await?;
    }
    Ok((page, repair))
}

/// What a page found to be written.
#[derive(Debug, Default)]
pub(crate) struct Repair {
    after: i64,
    until: i64,
    /// Resources that the book does not have.
    missing: bool,
    /// Rows of the book whose resource is not there.
    gone: bool,
    /// To be marked as changed outside any transaction.
    outside: Vec<i64>,
    /// To be marked no more.
    mended: Vec<i64>,
}

impl Repair {
    pub(crate) fn is_needed(&self) -> bool {
        self.missing || self.gone || !self.outside.is_empty() || !self.mended.is_empty()
    }

    /// Writes it. All of it may be done again, or be late: each statement looks for itself.
    pub(crate) async fn write<Db: Dialect>(
        &self,
        connection: &mut DbTx<Db>,
        invariant: &Invariant,
    ) -> Result<(), sqlx::Error> {
        let (Invariant { name, levels, .. }, keep) = (invariant, Db::BOOK_KEEP);
        let Self { after, until, .. } = self;
        let range = format!("a.resource > {after} AND a.resource <= {until}");
        let there = format!("SELECT 1 FROM ({levels}) AS a WHERE a.resource = tercet_book.resource");
        if self.missing {
            let sql = format!(
                "-- book_take
                INSERT INTO tercet_book (invariant, resource, reserved, issued, free, operations, xid, broken, fresh)
                SELECT '{name}', a.resource, a.reserved, a.issued, a.free, 0, '', '', 0 FROM ({levels}) AS a
                WHERE {range} AND NOT EXISTS (
                    SELECT 1 FROM tercet_book AS b WHERE b.invariant = '{name}' AND b.resource = a.resource)
                ORDER BY a.resource LIMIT {FILL_RESOURCES} {keep}"
            );
            Db::fetch(connection, sql, 0).await?;
        }
        if self.gone {
            let sql = format!(
                "-- book_sweep
                DELETE FROM tercet_book WHERE invariant = '{name}' AND resource > {after} AND resource <= {until}
                    AND reserved = 0 AND issued = 0 AND free = 0 AND broken = '' AND NOT EXISTS ({there})"
            );
            Db::fetch(connection, sql, 0).await?;
        }
        if !self.outside.is_empty() {
            let outside = list(&self.outside);
            let sql = format!(
                "-- book_mark_outside
                UPDATE tercet_book SET broken = '{OUTSIDE}'
                WHERE invariant = '{name}' AND resource IN ({outside}) AND broken = ''"
            );
            Db::fetch(connection, sql, 0).await?;
        }
        if !self.mended.is_empty() {
            let mended = list(&self.mended);
            let sql = format!(
                "-- book_unmark
                UPDATE tercet_book SET broken = '' WHERE invariant = '{name}' AND resource IN ({mended})"
            );
            Db::fetch(connection, sql, 0).await?;
        }
        Ok(())
    }
}

async fn misfits<Db: Dialect>(
    connection: &mut DbTx<Db>,
    invariant: &Invariant,
    page: &mut Page,
    repair: &mut Repair,
) -> Result<(), sqlx::Error> {
    let (Invariant { name, levels, .. }, integer) = (invariant, Db::INTEGER);
    let Repair { after, until, .. } = *repair;
    let columns = ["a.reserved", "a.issued", "a.free", "a.total", "b.reserved", "b.issued", "b.free"];
    let columns = columns.map(|column| format!("CAST(COALESCE({column}, 0) AS {integer})")).join(", ");
    let sql = format!(
        "-- book_misfits
        SELECT CAST(b.resource AS {integer}), {columns},
            CAST(CASE WHEN {DIFFER} THEN 1 ELSE 0 END AS {integer}), b.xid, b.broken
        FROM tercet_book AS b LEFT JOIN ({levels}) AS a ON a.resource = b.resource
        WHERE b.invariant = '{name}' AND b.resource > {after} AND b.resource <= {until} AND b.fresh = 0
            AND (b.broken <> '' OR {DIFFER})
        ORDER BY b.resource LIMIT {MISFITS_MAX}"
    );
    for (row, texts) in Db::fetch(connection, sql, 9).await? {
        let [after, broken] = &texts[..] else { continue };
        let resource = row[0];
        if row[8] == 0 {
            repair.mended.push(resource);
            continue;
        }
        if broken.is_empty() {
            repair.outside.push(resource);
        }
        page.misfits.push(Misfit {
            resource,
            found: (Change { reserved: row[1], issued: row[2], free: row[3] }, row[4]),
            booked: Change { reserved: row[5], issued: row[6], free: row[7] },
            after: after.parse().ok(),
            by: broken.parse().ok(),
        });
    }
    Ok(())
}

/// `1,2,3`
fn list<'a>(resources: impl IntoIterator<Item = &'a i64>) -> String {
    let mut text = String::new();
    for resource in resources {
        let comma = if text.is_empty() { "" } else { "," };
        let _ = write!(text, "{comma}{resource}");
    }
    text
}
