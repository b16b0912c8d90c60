//! What a move reads and writes: all tables that have rows of slots, on MariaDB and MySQL alone.
//!
//! A row travels as a text, in which numbers are numbers and everything else is hexadecimal digits, so that two rows
//! are equal where their texts are, and a text is what an INSERT takes. Columns are those that the tables have.

use std::collections::HashMap;

use sqlx::{AssertSqlSafe, MySql, MySqlConnection, Pool};
use tercet_shards::{SLOTS, Slot};

use super::seats::State;
use super::statements;

/// How a row says which slot it is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SlotOf {
    /// By the last ten bits of its first key.
    Id,
    /// By a column, which has an index of this name.
    Column(&'static str, &'static str),
    /// By its first key, which is a user's.
    User,
}

/// A table, and how its rows are found and written.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    name: String,
    /// Pages go by it.
    first: &'static str,
    first_text: String,
    slot: SlotOf,
    /// Of the primary key, and all columns: each as a text.
    keys: Vec<String>,
    key_texts: String,
    columns: Vec<String>,
    column_texts: String,
}

/// A part of a table by its first key: above the one, up to the other. They are texts as rows have them.
#[derive(Clone, Debug, Default)]
struct Page {
    after: Option<String>,
    up_to: Option<String>,
}

/// Rows of some slots that are read together.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    slots: Vec<Slot>,
    page: Page,
}

/// Rows by their keys.
pub(crate) type Rows = HashMap<String, String>;

/// Slots that move together: those of one table that go from one database to another.
pub(crate) type Set = [Slot];

/// Slots in sets that have no more than so many rows, by these counts, and those alone that have more. Whether a set
/// has few comes with it.
fn packed(slots: &Set, counts: &HashMap<usize, usize>, rows: usize) -> Vec<(Vec<Slot>, bool)> {
    let (mut sets, mut open, mut sum) = (Vec::new(), Vec::new(), 0);
    for slot in slots {
        let count = counts.get(&slot.number()).copied().unwrap_or(0);
        if count > rows {
            sets.push((vec![*slot], false));
            continue;
        }
        if sum + count > rows {
            sets.push((std::mem::take(&mut open), true));
            sum = 0;
        }
        sum += count;
        open.push(*slot);
    }
    if !open.is_empty() {
        sets.push((open, true));
    }
    sets
}

fn list(slots: &Set) -> String {
    let numbers: Vec<String> = slots.iter().map(|slot| slot.number().to_string()).collect();
    numbers.join(",")
}

fn numbers(states: &[State]) -> String {
    let numbers: Vec<String> = states.iter().map(|state| (*state as i64).to_string()).collect();
    numbers.join(",")
}

/// A column as a text, by its type.
fn text(column: &str, kind: &str) -> String {
    let is_number = kind.ends_with("int");
    if is_number {
        format!("COALESCE(CAST(`{column}` AS CHAR), 'NULL')")
    } else {
        format!("COALESCE(CONCAT('x''', HEX(`{column}`), ''''), 'NULL')")
    }
}

/// The tables that have rows of slots of this table number. The fence and the rest have those of all numbers.
pub(crate) async fn tables(pool: &Pool<MySql>, n: usize) -> sqlx::Result<Vec<Table>> {
    let [coupon, claimed] = statements::tables(n);
    let all = [
        (coupon, "coupon_id", SlotOf::Id),
        (claimed, "user_id", SlotOf::User),
        ("redemption".to_owned(), "redemption_id", SlotOf::Column("slot", "of_slot")),
        ("paid_notice".to_owned(), "order_id", SlotOf::Column("slot", "of_slot")),
        ("issue_chunk".to_owned(), "chunk", SlotOf::Id),
        ("tercet_fence".to_owned(), "xid", SlotOf::Column("part", "of_part")),
    ];
    let mut tables = Vec::with_capacity(all.len());
    for (name, first, slot) in all {
        tables.push(Table::read(pool, name, first, slot).await?);
    }
    Ok(tables)
}

impl Table {
    async fn read(pool: &Pool<MySql>, name: String, first: &'static str, slot: SlotOf) -> sqlx::Result<Self> {
        const SQL: &str = "-- move_columns
            SELECT CAST(COLUMN_NAME AS CHAR), CAST(DATA_TYPE AS CHAR), CAST(COLUMN_KEY AS CHAR)
            FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ?
                AND COALESCE(GENERATION_EXPRESSION, '') = '' ORDER BY ORDINAL_POSITION";
        let found: Vec<(String, String, String)> = sqlx::query_as(SQL).bind(&name).fetch_all(pool).await?;
        let texts = |columns: &[&(String, String, String)]| {
            let texts: Vec<String> = columns.iter().map(|(column, kind, _)| text(column, kind)).collect();
            (
                columns.iter().map(|(column, ..)| column.clone()).collect(),
                format!("CONCAT_WS(',', {})", texts.join(", ")),
            )
        };
        let mut keys: Vec<&(String, String, String)> = found.iter().filter(|(.., key)| key == "PRI").collect();
        // The first key comes first, whatever its place in the table.
        keys.sort_by_key(|(column, ..)| column != first);
        let first_text = keys.first().map_or_else(String::new, |(column, kind, _)| text(column, kind));
        let (keys, key_texts) = texts(&keys);
        let (columns, column_texts) = texts(&found.iter().collect::<Vec<_>>());
        Ok(Self { name, first, first_text, slot, keys, key_texts, columns, column_texts })
    }

    /// Its name, and the index by which the rows of slots are found, where it has one.
    fn source(&self) -> String {
        match self.slot {
            SlotOf::Column(_, index) => format!("{} FORCE INDEX ({index})", self.name),
            SlotOf::Id | SlotOf::User => self.name.clone(),
        }
    }

    fn filter(&self, slots: &Set, page: &Page) -> String {
        let first = self.first;
        let mut filter = match self.slot {
            SlotOf::Id => format!("({first} & {}) IN ({})", SLOTS - 1, list(slots)),
            SlotOf::Column(column, _) => format!("{column} IN ({})", list(slots)),
            SlotOf::User => "1 = 1".to_owned(),
        };
        if let Some(after) = &page.after {
            filter.push_str(&format!(" AND {first} > {after}"));
        }
        if let Some(up_to) = &page.up_to {
            filter.push_str(&format!(" AND {first} <= {up_to}"));
        }
        filter
    }

    /// All rows of these slots in parts of about so many, none of which has a slot in common with another or else a
    /// key. What comes later is in one of them too.
    pub(crate) async fn parts(&self, pool: &Pool<MySql>, slots: &Set, rows: usize) -> sqlx::Result<Vec<Part>> {
        let mut parts = Vec::new();
        for (slots, few) in self.sets(pool, slots, rows).await? {
            let mut page = Page::default();
            loop {
                page.up_to = if few { None } else { self.page_end(pool, &slots, page.after.clone(), rows).await? };
                let next = page.up_to.clone();
                parts.push(Part { slots: slots.clone(), page });
                match next {
                    Some(end) => page = Page { after: Some(end), up_to: None },
                    None => break,
                }
            }
        }
        Ok(parts)
    }

    /// Slots that have no more than so many rows together, and others by themselves; all in one where no index says how
    /// many they have.
    async fn sets(&self, pool: &Pool<MySql>, slots: &Set, rows: usize) -> sqlx::Result<Vec<(Vec<Slot>, bool)>> {
        let SlotOf::Column(column, _) = self.slot else { return Ok(vec![(slots.to_vec(), false)]) };
        let (source, slots_listed) = (self.source(), list(slots));
        let sql = format!(
            "-- move_counts
            SELECT {column}, COUNT(*) FROM {source} WHERE {column} IN ({slots_listed}) GROUP BY {column}"
        );
        let counts: Vec<(i16, i64)> = sqlx::query_as(AssertSqlSafe(sql)).persistent(false).fetch_all(pool).await?;
        let counts: HashMap<usize, usize> = counts
            .into_iter()
            .map(|(slot, count)| (usize::from(slot.unsigned_abs()), usize::try_from(count).unwrap_or(usize::MAX)))
            .collect();
        Ok(packed(slots, &counts, rows))
    }

    /// The first key at which the page of so many rows that begins after this one ends; `None` for the last page.
    async fn page_end(
        &self,
        pool: &Pool<MySql>,
        slots: &Set,
        after: Option<String>,
        rows: usize,
    ) -> sqlx::Result<Option<String>> {
        let filter = self.filter(slots, &Page { after, up_to: None });
        let sql = format!(
            "-- move_page_end\nSELECT {} FROM {} WHERE {filter} ORDER BY {} LIMIT 1 OFFSET {}",
            self.first_text,
            self.source(),
            self.first,
            rows - 1
        );
        let found: Option<(String,)> =
            sqlx::query_as(AssertSqlSafe(sql)).persistent(false).fetch_optional(pool).await?;
        Ok(found.map(|(end,)| end))
    }

    /// The rows of a part.
    pub(crate) async fn rows(&self, pool: &Pool<MySql>, Part { slots, page }: &Part) -> sqlx::Result<Rows> {
        let Self { key_texts, column_texts, .. } = self;
        let (source, filter) = (self.source(), self.filter(slots, page));
        let sql = format!("-- move_rows\nSELECT {key_texts}, {column_texts} FROM {source} WHERE {filter}");
        let rows: Vec<(String, String)> = sqlx::query_as(AssertSqlSafe(sql)).persistent(false).fetch_all(pool).await?;
        let is_here = |(key, _): &(String, String)| match self.slot {
            SlotOf::Id | SlotOf::Column(..) => true,
            SlotOf::User => {
                let user_id = key.split(',').next().and_then(|user_id| user_id.parse().ok());
                user_id.is_some_and(|user_id| slots.contains(&Slot::of_user(user_id)))
            }
        };
        Ok(rows.into_iter().filter(is_here).collect())
    }

    /// Writes rows, whatever was there before.
    pub(crate) async fn put(&self, db_tx: &mut MySqlConnection, rows: &[&str]) -> sqlx::Result<()> {
        let (columns, rows) = (self.columns.join("`, `"), rows.join("), ("));
        let sql = format!("-- move_put\nREPLACE INTO {} (`{columns}`) VALUES ({rows})", self.name);
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(db_tx).await.map(drop)
    }

    /// Deletes rows by their keys.
    pub(crate) async fn delete(&self, db_tx: &mut MySqlConnection, keys: &[&str]) -> sqlx::Result<()> {
        let (own, keys) = (self.keys.join("`, `"), keys.join("), ("));
        let sql = format!("-- move_delete\nDELETE FROM {} WHERE (`{own}`) IN (({keys}))", self.name);
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(db_tx).await.map(drop)
    }
}

/// How many of these slots stand in one of these states here, by this mover where one is named; they stay until the
/// local transaction ends.
pub(crate) async fn standing(
    db_tx: &mut MySqlConnection,
    slots: &Set,
    states: &[State],
    mover: Option<i64>,
) -> sqlx::Result<usize> {
    let (states, slots) = (numbers(states), list(slots));
    let mover = mover.map_or_else(String::new, |mover| format!(" AND mover = {mover}"));
    let sql = format!(
        "-- move_standing\nSELECT slot FROM slot WHERE slot IN ({slots}) AND state IN ({states}){mover} FOR UPDATE"
    );
    let found: Vec<(i64,)> = sqlx::query_as(AssertSqlSafe(sql)).persistent(false).fetch_all(db_tx).await?;
    Ok(found.len())
}

/// Lets this mover bring slots here, whose rows are written from now on; how many, of those that nothing is served of.
pub(crate) async fn arrive(db_tx: &mut MySqlConnection, slots: &Set, mover: i64) -> sqlx::Result<usize> {
    let rows: Vec<String> = slots.iter().map(|slot| format!("({}, 0, {mover})", slot.number())).collect();
    let sql = format!(
        "-- move_arrive\nINSERT INTO slot(slot, state, mover) VALUES {}
         ON DUPLICATE KEY UPDATE mover = IF(state IN (0, 3, 4), VALUES(mover), mover),
            state = IF(state IN (0, 3, 4), 0, state)",
        rows.join(", ")
    );
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *db_tx).await?;
    standing(db_tx, slots, &[State::Arriving], Some(mover)).await
}

/// Puts this mover in the place of another where slots are, which can not freeze them any more; how many.
pub(crate) async fn claim(db_tx: &mut MySqlConnection, slots: &Set, mover: i64) -> sqlx::Result<u64> {
    let sql = format!(
        "-- move_claim\nUPDATE slot SET mover = {mover} WHERE slot IN ({}) AND state IN ({})",
        list(slots),
        numbers(&[State::Served, State::Frozen])
    );
    Ok(sqlx::raw_sql(AssertSqlSafe(sql)).execute(db_tx).await?.rows_affected())
}

/// Moves slots from any of these states to another; how many.
pub(crate) async fn step(
    db_tx: &mut MySqlConnection,
    slots: &Set,
    (from, to): (&[State], State),
    mover: i64,
) -> sqlx::Result<u64> {
    let sql = format!(
        "-- move_step\nUPDATE slot SET state = {}, mover = {mover} WHERE slot IN ({}) AND state IN ({})",
        to as i64,
        list(slots),
        numbers(from)
    );
    Ok(sqlx::raw_sql(AssertSqlSafe(sql)).execute(db_tx).await?.rows_affected())
}

/// Raises the epoch, once all local transactions that serve by the one before have ended, and the floor to this one.
pub(crate) async fn next_epoch(db_tx: &mut MySqlConnection, floor_ms: i64) -> sqlx::Result<()> {
    const SQL: &str = "-- move_next_epoch
        UPDATE tercet_fence_meta SET epoch = epoch + 1, floor_ms = GREATEST(floor_ms, ?)";
    sqlx::query(SQL).bind(floor_ms).execute(db_tx).await.map(drop)
}

/// The floor of the fence.
pub(crate) async fn floor(pool: &Pool<MySql>) -> sqlx::Result<i64> {
    const SQL: &str = "-- move_floor
        SELECT floor_ms FROM tercet_fence_meta";
    sqlx::query_scalar(SQL).fetch_one(pool).await
}

/// Up to where a table is expired.
pub(crate) async fn expired(pool: &Pool<MySql>, n: usize) -> sqlx::Result<(i64, i64)> {
    const SQL: &str = "-- move_expired
        SELECT until_ms, coupon_id FROM expiry WHERE table_n = ?";
    let mark: Option<(i64, i64)> = sqlx::query_as(SQL).bind(n as i64).fetch_optional(pool).await?;
    Ok(mark.unwrap_or_default())
}

/// Lets a table be expired from there on, where it is further.
pub(crate) async fn expire_from(db_tx: &mut MySqlConnection, n: usize, mark: (i64, i64)) -> sqlx::Result<()> {
    // Assignments go left to right, so the time comes last.
    const SQL: &str = "-- move_expire_from
        INSERT INTO expiry(table_n, until_ms, coupon_id) VALUES (?, ?, ?)
        ON DUPLICATE KEY UPDATE coupon_id = CASE
                WHEN VALUES(until_ms) < until_ms THEN VALUES(coupon_id)
                WHEN VALUES(until_ms) = until_ms THEN LEAST(coupon_id, VALUES(coupon_id)) ELSE coupon_id END,
            until_ms = LEAST(until_ms, VALUES(until_ms))";
    sqlx::query(SQL).bind(n as i64).bind(mark.0).bind(mark.1).execute(db_tx).await.map(drop)
}

/// The last event that waits to be published; `None` where there is none, or nobody writes any.
pub(crate) async fn last_event(pool: &Pool<MySql>) -> sqlx::Result<Option<i64>> {
    const THERE: &str = "-- move_has_events
        SELECT COUNT(*) FROM information_schema.TABLES
        WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = 'tercet_outbox'";
    const SQL: &str = "-- move_last_event
        SELECT MAX(id) FROM tercet_outbox";
    let there: i64 = sqlx::query_scalar(THERE).fetch_one(pool).await?;
    if there == 0 {
        return Ok(None);
    }
    sqlx::query_scalar(SQL).fetch_one(pool).await
}

/// Whether events of users of these slots wait, up to the last of that time.
pub(crate) async fn has_events(pool: &Pool<MySql>, slots: &Set, last: i64) -> sqlx::Result<bool> {
    const SQL: &str = "-- move_events
        SELECT DISTINCT record_key FROM tercet_outbox WHERE id <= ?";
    let keys: Vec<(String,)> = sqlx::query_as(SQL).bind(last).fetch_all(pool).await?;
    let here = |(key,): &(String,)| key.parse().map_or(true, |user_id| slots.contains(&Slot::of_user(user_id)));
    Ok(keys.iter().any(here))
}

/// Ends the connections to this database whose local transactions are open and have done nothing for a second: those of
/// a process that is frozen, or far away. Their transactions are rolled back.
pub(crate) async fn end_idle(connection: &mut MySqlConnection) -> sqlx::Result<usize> {
    const SQL: &str = "-- move_idle
        SELECT DISTINCT CAST(p.ID AS SIGNED) FROM information_schema.INNODB_TRX AS t
        JOIN information_schema.PROCESSLIST AS p ON p.ID = t.trx_mysql_thread_id
        WHERE p.DB = DATABASE() AND p.COMMAND = 'Sleep' AND p.TIME >= 1 AND p.ID <> CONNECTION_ID()";
    let idle: Vec<(i64,)> = sqlx::query_as(SQL).fetch_all(&mut *connection).await?;
    for (id,) in &idle {
        // It may have ended by itself.
        let _ = sqlx::raw_sql(AssertSqlSafe(format!("KILL {id}"))).execute(&mut *connection).await;
    }
    Ok(idle.len())
}

/// How long this connection waits for a lock.
pub(crate) async fn wait_for_locks(connection: &mut MySqlConnection, seconds: u32) -> sqlx::Result<()> {
    let sql = format!("SET SESSION innodb_lock_wait_timeout = {seconds}");
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_of_few_rows_are_read_together_and_none_is_left_out() {
        let slots: Vec<Slot> = Slot::all().take(7).collect();
        let counts = HashMap::from([(0, 4), (1, 6), (2, 1), (4, 11), (5, 9)]);
        let sets: Vec<(Vec<usize>, bool)> = packed(&slots, &counts, 10)
            .into_iter()
            .map(|(slots, few)| (slots.into_iter().map(Slot::number).collect(), few))
            .collect();
        assert_eq!(sets, [(vec![0, 1], true), (vec![4], false), (vec![2, 3, 5, 6], true)]);
        assert_eq!(packed(&slots, &HashMap::new(), 10), [(slots.clone(), true)]);
    }
}
