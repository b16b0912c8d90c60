//! What the suite asks a database: its business tables as text, as they were at first, and with writes that fail.

use std::fmt;
use std::future::Future;

use sqlx::{AssertSqlSafe, Pool, Row as _};
use tercet::fence::Dialect;

/// What a write says that the suite lets fail.
const FAILS: &str = "the conformance suite lets this write fail";

/// A database that the suite knows: `sqlx::Sqlite`, `sqlx::Postgres` or `sqlx::MySql` (MariaDB too), by feature.
pub trait Database: Dialect {
    /// Runs statements without parameters.
    #[doc(hidden)]
    fn run(pool: &Pool<Self>, sql: String) -> impl Future<Output = sqlx::Result<()>>;

    /// The rows that a query gives, whose columns are all text.
    #[doc(hidden)]
    fn rows(pool: &Pool<Self>, sql: String, columns: usize) -> impl Future<Output = sqlx::Result<Vec<Vec<String>>>>;

    /// How this database says what the suite needs.
    #[doc(hidden)]
    fn words() -> Words;
}

/// One database's way of saying things. `{t}` stands for a table, `{c}` for a column, `{verb}` for a kind of write.
#[doc(hidden)]
#[derive(Clone, Copy)]
pub struct Words {
    /// Gives names and kinds of a table's columns, generated ones left out; the kind is 1 for bytes.
    columns: &'static str,
    name: &'static str,
    value: &'static str,
    bytes: &'static str,
    insert: &'static str,
    begin: &'static str,
    fail: &'static str,
    heal: &'static str,
    /// How its connections speak; `None` where a thread of this process owns them.
    #[cfg(any(feature = "postgres", feature = "mysql"))]
    pub(crate) protocol: Option<crate::crash::wire::Protocol>,
}

macro_rules! database {
    ($database:ty, $words:expr) => {
        impl Database for $database {
            async fn run(pool: &Pool<Self>, sql: String) -> sqlx::Result<()> {
                sqlx::raw_sql(AssertSqlSafe(sql)).execute(pool).await.map(|_| ())
            }

            async fn rows(pool: &Pool<Self>, sql: String, columns: usize) -> sqlx::Result<Vec<Vec<String>>> {
                let rows = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(pool).await?;
                rows.iter().map(|row| (0..columns).map(|at| row.try_get(at)).collect()).collect()
            }

            fn words() -> Words {
                $words
            }
        }
    };
}

database!(
    sqlx::Sqlite,
    Words {
        columns: "SELECT name, '0' FROM pragma_table_xinfo('{t}') WHERE hidden = 0",
        name: "\"{c}\"",
        value: "quote({c})",
        bytes: "quote({c})",
        insert: "INSERT INTO {t} ({c})",
        begin: "BEGIN IMMEDIATE",
        fail: "CREATE TRIGGER tercet_fails BEFORE {verb} ON {t} BEGIN SELECT RAISE(ABORT, '{fails}'); END",
        heal: "DROP TRIGGER tercet_fails",
        #[cfg(any(feature = "postgres", feature = "mysql"))]
        protocol: None,
    }
);

#[cfg(feature = "mysql")]
database!(
    sqlx::MySql,
    Words {
        columns: "SELECT CAST(column_name AS CHAR), CAST(data_type LIKE '%binary' OR data_type LIKE '%blob' \
            OR data_type = 'bit' AS CHAR) FROM information_schema.columns WHERE table_schema = DATABASE() \
            AND table_name = '{t}' AND COALESCE(generation_expression, '') = '' ORDER BY ordinal_position",
        name: "`{c}`",
        value: "COALESCE(CAST({c} AS CHAR), 'NULL')",
        bytes: "COALESCE(CONCAT('0x', HEX({c})), 'NULL')",
        insert: "INSERT INTO {t} ({c})",
        begin: "START TRANSACTION",
        fail: "CREATE TRIGGER tercet_fails BEFORE {verb} ON {t} FOR EACH ROW \
            SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = '{fails}'",
        heal: "DROP TRIGGER tercet_fails",
        protocol: Some(crate::crash::wire::Protocol::MySql),
    }
);

#[cfg(feature = "postgres")]
database!(
    sqlx::Postgres,
    Words {
        columns: "SELECT column_name::text, '0' FROM information_schema.columns WHERE table_schema = current_schema() \
            AND table_name = '{t}' AND is_generated = 'NEVER' ORDER BY ordinal_position",
        name: "\"{c}\"",
        value: "COALESCE({c}::text, 'NULL')",
        bytes: "COALESCE({c}::text, 'NULL')",
        insert: "INSERT INTO {t} ({c}) OVERRIDING SYSTEM VALUE",
        begin: "BEGIN",
        fail: "CREATE FUNCTION tercet_fails() RETURNS trigger LANGUAGE plpgsql AS \
            $$ BEGIN RAISE EXCEPTION '{fails}'; END $$; \
            CREATE TRIGGER tercet_fails BEFORE {verb} ON {t} FOR EACH ROW EXECUTE FUNCTION tercet_fails()",
        heal: "DROP FUNCTION tercet_fails CASCADE",
        protocol: Some(crate::crash::wire::Protocol::Postgres),
    }
);

/// A kind of write.
pub(crate) const VERBS: [&str; 3] = ["INSERT", "UPDATE", "DELETE"];

/// The business tables.
pub(crate) struct Tables(Vec<Table>);

struct Table {
    name: String,
    /// As SQL writes them, and whether they are compared.
    columns: Vec<(String, bool)>,
    /// Gives all rows as text, in their order.
    all: String,
}

impl Tables {
    /// Looks at these tables, and keeps their rows. Columns named in `ignored` are not compared.
    pub(crate) async fn keep<Db: Database>(
        pool: &Pool<Db>,
        names: &[String],
        ignored: &[&'static str],
    ) -> sqlx::Result<Self> {
        let words = Db::words();
        let mut tables = Vec::new();
        for name in names {
            let found = Db::rows(pool, words.columns.replace("{t}", name), 2).await?;
            let mut columns = Vec::new();
            let mut texts = Vec::new();
            for column in &found {
                let quoted = words.name.replace("{c}", &column[0]);
                let compared = !ignored.contains(&column[0].as_str());
                if compared {
                    let text = if column[1] == "1" { words.bytes } else { words.value };
                    texts.push(text.replace("{c}", &quoted));
                }
                columns.push((quoted, compared));
            }
            let order: Vec<String> = (1..=texts.len()).map(|at| at.to_string()).collect();
            let all = format!("SELECT {} FROM {name} ORDER BY {}", texts.join(", "), order.join(", "));
            Db::run(pool, format!("CREATE TABLE tercet_kept_{name} AS SELECT * FROM {name}")).await?;
            tables.push(Table { name: name.clone(), columns, all });
        }
        Ok(Self(tables))
    }

    /// Puts the rows back that were kept.
    pub(crate) async fn put_back<Db: Database>(&self, pool: &Pool<Db>) -> sqlx::Result<()> {
        let words = Db::words();
        let mut sql = vec![words.begin.to_owned()];
        sql.extend(self.0.iter().rev().map(|table| format!("DELETE FROM {}", table.name)));
        sql.extend(self.0.iter().map(|Table { name, columns, .. }| {
            let columns: Vec<&str> = columns.iter().map(|(column, _)| column.as_str()).collect();
            let columns = columns.join(", ");
            let insert = words.insert.replace("{t}", name).replace("{c}", &columns);
            format!("{insert} SELECT {columns} FROM tercet_kept_{name}")
        }));
        sql.push("COMMIT".to_owned());
        Db::run(pool, sql.join("; ")).await
    }

    /// All rows.
    pub(crate) async fn read<Db: Database>(&self, pool: &Pool<Db>) -> sqlx::Result<Rows> {
        let mut all = Vec::new();
        for table in &self.0 {
            let columns: Vec<String> =
                table.columns.iter().filter(|(_, compared)| *compared).map(|(column, _)| column.clone()).collect();
            let rows = Db::rows(pool, table.all.clone(), columns.len()).await?;
            all.push(TableRows { table: table.name.clone(), columns, rows });
        }
        Ok(Rows(all))
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|table| table.name.as_str())
    }
}

/// Lets every write of this kind to this table fail, until [`heal`].
pub(crate) async fn fail<Db: Database>(pool: &Pool<Db>, table: &str, verb: &str) -> sqlx::Result<()> {
    let sql = Db::words().fail.replace("{t}", table).replace("{verb}", verb).replace("{fails}", FAILS);
    Db::run(pool, sql).await
}

/// Lets writes succeed again.
pub(crate) async fn heal<Db: Database>(pool: &Pool<Db>) -> sqlx::Result<()> {
    Db::run(pool, Db::words().heal.to_owned()).await
}

/// The rows of all business tables at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rows(Vec<TableRows>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct TableRows {
    table: String,
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Rows {
    /// The same without these tables.
    pub(crate) fn without(&self, tables: &[&str]) -> Self {
        Self(self.0.iter().filter(|rows| !tables.contains(&rows.table.as_str())).cloned().collect())
    }

    /// What `found` has and this has not, and the other way round, line by line; empty when they are equal.
    pub(crate) fn difference(&self, found: &Self) -> String {
        let mut lines = Vec::new();
        for (expected, found) in self.0.iter().zip(&found.0) {
            let only = |these: &TableRows, those: &TableRows, word: &str| -> Vec<String> {
                let rows = these.rows.iter().filter(|row| !those.rows.contains(row));
                rows.map(|row| format!("    table {}: {word} {}", these.table, Shown(&these.columns, row))).collect()
            };
            let before = lines.len();
            lines.extend(only(expected, found, "expected"));
            lines.extend(only(found, expected, "found   "));
            if lines.len() == before && expected.rows.len() != found.rows.len() {
                let (table, expected, found) = (&expected.table, expected.rows.len(), found.rows.len());
                lines.push(format!("    table {table}: expected {expected} rows, found {found}, some of them twice"));
            }
        }
        lines.join("\n")
    }
}

struct Shown<'a>(&'a [String], &'a [String]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (column, value)) in self.0.iter().zip(self.1).enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}{}={value}", column.trim_matches(['"', '`']))?;
        }
        Ok(())
    }
}
