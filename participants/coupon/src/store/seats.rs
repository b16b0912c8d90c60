//! What each database has of each slot: the SQL, both dialects side by side.

use sqlx::Pool;
use tercet_events::store::Store as EventStore;
use tercet_shards::{SLOTS, Slot};

use super::broken;

/// What a database has of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// A move writes its rows here, which nobody else may touch.
    Arriving = 0,
    /// Its rows are here, and are written here.
    Served = 1,
    /// As served, and nobody may write: they are about to leave.
    Frozen = 2,
    /// They are elsewhere, and those here are to be deleted.
    Left = 3,
    /// Nothing is left of them.
    Empty = 4,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Arriving, Self::Served, Self::Frozen, Self::Left, Self::Empty];

    fn from_number(number: i64) -> sqlx::Result<Self> {
        Self::ALL.into_iter().find(|state| *state as i64 == number).ok_or_else(|| broken("a slot's state"))
    }
}

/// What a database says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Counts what it began and ceased to serve.
    pub epoch: i64,
    /// Of each slot.
    pub states: Vec<Option<State>>,
}

/// A database that says which slots it serves.
pub trait Seats: EventStore {
    /// What it says of itself, of one moment; `None` where it is still at this epoch.
    fn said(pool: &Pool<Self>, but: Option<i64>) -> impl Future<Output = sqlx::Result<Option<Said>>> + Send;

    /// The map by which slots are spread at first, which is this one unless there is one; and whether that was done.
    fn first_map(pool: &Pool<Self>, map: &str) -> impl Future<Output = sqlx::Result<(String, bool)>> + Send;

    /// Serves these slots, unless something is said of them.
    fn serve(pool: &Pool<Self>, slots: &[Slot]) -> impl Future<Output = sqlx::Result<()>> + Send;

    /// Notes that slots were spread.
    fn first_made(pool: &Pool<Self>) -> impl Future<Output = sqlx::Result<()>> + Send;
}

struct Statements {
    first: &'static str,
    serve: &'static str,
}

const EPOCH: &str = "-- coupon_epoch
    SELECT epoch FROM tercet_fence_meta";
// One statement sees one moment.
const SAID: &str = "-- coupon_slots
    SELECT m.epoch, s.slot, s.state FROM tercet_fence_meta AS m LEFT JOIN slot AS s ON 1 = 1";
const FIRST: &str = "-- coupon_first_map
    SELECT map, made FROM first_map WHERE id = 1";
const MADE: &str = "-- coupon_first_map_made
    UPDATE first_map SET made = 1 WHERE id = 1";

#[cfg(feature = "sqlite")]
const SQLITE: Statements = Statements {
    first: "-- coupon_put_first_map
        INSERT INTO first_map(id, map, made) VALUES (1, $1, 0) ON CONFLICT DO NOTHING",
    serve: "-- coupon_serve_slots
        INSERT INTO slot(slot, state) SELECT value, 1 FROM json_each($1) WHERE true ON CONFLICT DO NOTHING",
};

#[cfg(feature = "mysql")]
const MYSQL: Statements = Statements {
    first: "-- coupon_put_first_map
        INSERT INTO first_map(id, map, made) VALUES (1, ?, 0) ON DUPLICATE KEY UPDATE id = 1",
    serve: "-- coupon_serve_slots
        INSERT INTO slot(slot, state)
        SELECT j.slot, 1 FROM JSON_TABLE(?, '$[*]' COLUMNS (slot SMALLINT PATH '$')) AS j
        ON DUPLICATE KEY UPDATE slot.slot = slot.slot",
};

macro_rules! seats {
    ($database:ty, $sql:ident) => {
        impl Seats for $database {
            async fn said(pool: &Pool<Self>, but: Option<i64>) -> sqlx::Result<Option<Said>> {
                let mut connection = pool.acquire().await?;
                let epoch: i64 = sqlx::query_scalar(EPOCH).fetch_one(&mut *connection).await?;
                if but == Some(epoch) {
                    return Ok(None);
                }
                let rows: Vec<Row> = sqlx::query_as(SAID).fetch_all(&mut *connection).await?;
                said(&rows).map(Some)
            }

            async fn first_map(pool: &Pool<Self>, map: &str) -> sqlx::Result<(String, bool)> {
                sqlx::query($sql.first).bind(map).execute(pool).await?;
                let (map, made): (String, i64) = sqlx::query_as(FIRST).fetch_one(pool).await?;
                Ok((map, made != 0))
            }

            async fn serve(pool: &Pool<Self>, slots: &[Slot]) -> sqlx::Result<()> {
                let numbers: Vec<usize> = slots.iter().map(|slot| slot.number()).collect();
                let numbers = serde_json::to_string(&numbers).expect("numbers have a form in JSON");
                sqlx::query($sql.serve).bind(numbers).execute(pool).await.map(drop)
            }

            async fn first_made(pool: &Pool<Self>) -> sqlx::Result<()> {
                sqlx::query(MADE).execute(pool).await.map(drop)
            }
        }
    };
}

#[cfg(feature = "sqlite")]
seats!(sqlx::Sqlite, SQLITE);
#[cfg(feature = "mysql")]
seats!(sqlx::MySql, MYSQL);

/// The epoch, a slot and its state; without the last two where nothing is said of any.
type Row = (i64, Option<i64>, Option<i64>);

fn said(rows: &[Row]) -> sqlx::Result<Said> {
    let (epoch, ..) = *rows.first().ok_or_else(|| broken("the fence's row"))?;
    let mut states = vec![None; SLOTS];
    for (slot, state) in rows.iter().filter_map(|(_, slot, state)| slot.zip(*state)) {
        let own = usize::try_from(slot).ok().and_then(|slot| states.get_mut(slot)).ok_or_else(|| broken("a slot"))?;
        *own = Some(State::from_number(state)?);
    }
    Ok(Said { epoch, states })
}
