//! What a real MariaDB does for the statements that services run: a [`Watch`] hears each of them while a test goes on,
//! and then asks for its plan. A statement that leaves its index fails the test; so does one that was never thought of.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use sqlx::{AssertSqlSafe, MySql, Pool, Row as _};
use tracing::field::{Field, Visit};
use tracing::span;
use tracing::subscriber::{DefaultGuard, NoSubscriber};
use tracing::{Dispatch, Event, Metadata, Subscriber};

/// Statements that go by no key, and why they may.
const WITHOUT: [(&str, &str); 13] = [
    ("coupon_totals", "an audit reads everything"),
    ("coupon_used", "an audit reads everything"),
    ("stock_totals", "an audit reads everything"),
    ("order_totals", "an audit reads everything"),
    ("order_coupons", "an audit reads everything"),
    ("stock_low", "it counts over all items, a few times a minute"),
    ("events_oldest", "the first rows of the primary key"),
    ("events_any", "the first row of the primary key"),
    ("events_oldest_at", "the first row of the primary key"),
    ("events_count", "so many rows at most"),
    ("events_dead_count", "so many rows at most"),
    ("shards_nodes", "all nodes, when one is leased"),
    ("coupon_slots", "all slots, when one of them has moved"),
];

/// The table of one row.
const ONE_ROW: &str = "tercet_fence_meta";

type Heard = Arc<Mutex<BTreeMap<String, String>>>;

/// Hears the statements of this thread until it is asked for their plans.
pub(crate) struct Watch {
    heard: Heard,
    pools: Vec<Pool<MySql>>,
    here: DefaultGuard,
    /// While there is but one subscriber, `tracing` asks the thread that comes by a place first whether anybody listens
    /// there: on that of another test nobody does, and then nobody hears it.
    _second: Dispatch,
}

impl Watch {
    /// Of what is run in these databases.
    pub(crate) fn new(pools: impl IntoIterator<Item = Pool<MySql>>) -> Self {
        let heard = Heard::default();
        let here = tracing::subscriber::set_default(Ears(Arc::clone(&heard)));
        let _second = Dispatch::new(NoSubscriber::new());
        Self { heard, pools: pools.into_iter().collect(), here, _second }
    }

    /// Looks at the plan of each.
    pub(crate) async fn check(self) {
        let Self { heard, pools, here, .. } = self;
        drop(here);
        let heard = std::mem::take(&mut *heard.lock().expect("nobody panics"));
        assert!(heard.len() > 3, "nothing was run: {:?}", heard.keys());
        let mut faults = Vec::new();
        for text in heard.values() {
            if let Err(fault) = look(&pools, text).await {
                faults.push(format!("{fault}\n    {text}"));
            }
        }
        assert!(faults.is_empty(), "{}", faults.join("\n"));
    }
}

/// Why the statement's plan is none.
async fn look(pools: &[Pool<MySql>], text: &str) -> Result<(), String> {
    let explain = format!("EXPLAIN {}", filled(text));
    let mut said = String::new();
    for pool in pools {
        let mut connection = pool.acquire().await.expect("it answers");
        // As where there are many rows: a table is not read whole because it is small.
        let many = "SET SESSION max_seeks_for_key = 1";
        sqlx::raw_sql(many).execute(&mut *connection).await.expect("it is a variable");
        let plan = sqlx::raw_sql(AssertSqlSafe(explain.clone())).fetch_all(&mut *connection).await;
        let kept = "SET SESSION max_seeks_for_key = DEFAULT";
        sqlx::raw_sql(kept).execute(&mut *connection).await.expect("it is a variable");
        match plan {
            Ok(rows) => return rows.iter().try_for_each(|row| bounded(row, text)),
            // The table is in another database.
            Err(error) => said = error.to_string(),
        }
    }
    Err(said)
}

/// Whether one line of a plan goes by a key.
fn bounded(row: &sqlx::mysql::MySqlRow, text: &str) -> Result<(), String> {
    let of = |name: &str| row.try_get::<Option<String>, _>(name).expect("EXPLAIN has it").unwrap_or_default();
    let (table, access, key, extra) = (of("table"), of("type"), of("key"), of("Extra"));
    let is_table = !table.is_empty() && !table.starts_with('<') && !extra.contains("Table function");
    if !is_table || table == ONE_ROW || of("select_type") == "INSERT" {
        return Ok(());
    }
    let by_key = ["const", "eq_ref", "ref", "range", "system", "index_subquery", "unique_subquery"];
    if by_key.contains(&access.as_str()) {
        return Ok(());
    }
    Err(format!("{} reads {table} by {access} of {key:?}", name(text)))
}

/// The name in the comment before a statement.
fn name(text: &str) -> &str {
    text.trim_start().strip_prefix("-- ").and_then(|text| text.split_whitespace().next()).unwrap_or_default()
}

/// With something in the places of parameters.
fn filled(text: &str) -> String {
    let (mut filled, mut quoted) = (String::new(), false);
    for one in text.chars() {
        quoted ^= one == '\'';
        if one != '?' || quoted {
            filled.push(one);
            continue;
        }
        let before = filled.trim_end();
        filled.push_str(if before.ends_with("JSON_TABLE(") {
            "'[[7,7,7,7,7,7,7,7]]'"
        } else if before.ends_with(['+', '-']) || before.ends_with("LIMIT") {
            "7"
        } else {
            // As a text it is compared with numbers as a number, and with texts by their index.
            "'7'"
        });
    }
    filled
}

/// Each statement of a service's once, whatever it was about; what changes no rows and reads none is left out.
fn statements(text: &str) -> Vec<(String, String)> {
    let mut all = vec![String::new()];
    let mut quoted = false;
    for one in text.chars() {
        quoted ^= one == '\'';
        if one == ';' && !quoted {
            all.push(String::new());
        } else if let Some(last) = all.last_mut() {
            last.push(one);
        }
    }
    let verbs = ["SELECT", "INSERT", "UPDATE", "DELETE"];
    let is_one = |text: &String| {
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("--"));
        let first = lines.next().and_then(|line| line.split_whitespace().next());
        let begins = first.is_some_and(|word| verbs.contains(&word));
        // What has no name is a test's, or makes tables.
        begins && !name(text).is_empty() && !WITHOUT.iter().any(|(known, _)| name(text) == *known)
    };
    let about_nothing = |text: &str| {
        let parts = text.split('\'').step_by(2);
        parts.flat_map(str::chars).filter(|one| !one.is_ascii_digit()).collect()
    };
    all.into_iter().filter(is_one).map(|text| (about_nothing(&text), text)).collect()
}

/// Hears what sqlx says that it has run.
struct Ears(Heard);

#[derive(Default)]
struct Said {
    summary: String,
    statement: String,
}

impl Visit for Said {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "summary" => value.clone_into(&mut self.summary),
            "db.statement" => value.clone_into(&mut self.statement),
            _ => {}
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn Debug) {}
}

impl Subscriber for Ears {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "sqlx::query"
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut said = Said::default();
        event.record(&mut said);
        // What is short is its own summary.
        let text = if said.statement.is_empty() { said.summary } else { said.statement };
        self.0.lock().expect("nobody panics").extend(statements(&text));
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

#[test]
fn statements_are_told_apart_by_what_they_do() {
    let text = "-- a_b\nUPDATE t SET x = 1 WHERE y = 'a;b';-- c\nSELECT 2;COMMIT;SELECT 3";
    let found: Vec<_> = statements(text).into_iter().map(|(_, text)| text).collect();
    assert_eq!(found, ["-- a_b\nUPDATE t SET x = 1 WHERE y = 'a;b'", "-- c\nSELECT 2"]);
    let same = statements("-- a_b\nUPDATE t SET x = 7 WHERE y = 'other'");
    assert_eq!(same[0].0, "-- a_b\nUPDATE t SET x =  WHERE y = ");
    let text = "SELECT '?' FROM JSON_TABLE(?, '$') WHERE a = ? AND b < c - ? LIMIT ?";
    let wanted = "SELECT '?' FROM JSON_TABLE('[[7,7,7,7,7,7,7,7]]', '$') WHERE a = '7' AND b < c - 7 LIMIT 7";
    assert_eq!(filled(text), wanted);
}

/// What the table has no key for is found.
#[tokio::test]
async fn a_statement_that_reads_a_table_whole_is_found() {
    let Some(url) = tercet_integration::servers::mariadb().await.expect("the server answers") else { return };
    let pool = <MySql as tercet::fence::Dialect>::open(&url).await.expect("the database is there");
    tercet_coupon::Shards::<MySql>::open("1x1".parse().expect("it is a map"), &[url])
        .await
        .expect("the database is there")
        .migrate()
        .await
        .expect("the schema is sound");
    let pools = [pool];
    let by_key = "-- x\nSELECT 1 FROM redemption WHERE redemption_id = ?";
    assert_eq!(look(&pools, by_key).await, Ok(()));
    let scan = "-- x\nSELECT 1 FROM redemption WHERE digest = ?";
    assert_eq!(look(&pools, scan).await, Err("x reads redemption by ALL of \"\"".to_owned()));
    let missing = look(&pools, "-- x\nSELECT 1 FROM nowhere").await.expect_err("there is none");
    assert!(missing.contains("nowhere"), "{missing}");
}
