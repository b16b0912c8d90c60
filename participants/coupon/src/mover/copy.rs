//! The rows of a move: compared, copied, and deleted in the end.

use std::collections::BTreeSet;
use std::pin::pin;
use std::time::Duration;

use futures_util::future::try_join;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use sqlx::MySqlConnection;
use tercet_shards::Slot;
use tokio::time::sleep;

use super::limits::{AT_ONCE, PAGE, WRITE_BYTES, WRITE_ROWS};
use super::{Error, Group, Mover};
use crate::store::moves::{self, Part, Table};
use crate::store::seats::State;

/// What a pass found.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pass {
    pub(super) compared: u64,
    pub(super) copied: u64,
}

/// Tables, each with the parts in which it is read.
pub(super) type Parts = Vec<(Table, Vec<Part>)>;

/// What a part lacks where it is copied to.
#[derive(Default)]
struct Difference {
    /// Rows to be written.
    put: Vec<String>,
    /// Keys of rows that are not there.
    delete: Vec<String>,
}

impl Mover {
    /// The tables that have rows of slots of this table.
    pub(super) async fn tables(&self, database: usize, table: usize) -> Result<Vec<Table>, Error> {
        moves::tables(self.pool(database), table).await.map_err(|error| Error::Database(database, error))
    }

    /// The parts in which the rows of slots are read where they are.
    pub(super) async fn parts(&self, database: usize, tables: &[Table], slots: &[Slot]) -> Result<Parts, Error> {
        let mut all = Vec::with_capacity(tables.len());
        for table in tables {
            let parts = table.parts(self.pool(database), slots, PAGE).await;
            all.push((table.clone(), parts.map_err(|error| Error::Database(database, error))?));
        }
        Ok(all)
    }

    /// Compares all rows of a group on both sides, and makes those equal that differ.
    pub(super) async fn pass(&self, group: &Group, parts: &Parts, pause: Duration) -> Result<Pass, Error> {
        let mut pass = Pass::default();
        for (table, parts) in parts {
            let compared = stream::iter(parts).map(|part| self.compare(group, table, part)).buffered(AT_ONCE);
            let mut compared = pin!(compared);
            while let Some((rows, difference)) = compared.try_next().await? {
                pass.compared += rows;
                pass.copied += (difference.put.len() + difference.delete.len()) as u64;
                self.write(group, table, difference, pause).await?;
            }
        }
        Ok(pass)
    }

    async fn compare(&self, group: &Group, table: &Table, part: &Part) -> Result<(u64, Difference), Error> {
        let rows = |database: usize| async move {
            let rows = table.rows(self.pool(database), part).await;
            rows.map_err(|error| Error::Database(database, error))
        };
        let (here, mut there) = try_join(rows(group.from), rows(group.to)).await?;
        let compared = here.len() as u64;
        let mut difference = Difference::default();
        for (key, row) in here {
            if there.remove(&key).as_ref() != Some(&row) {
                difference.put.push(row);
            }
        }
        difference.delete.extend(there.into_keys());
        Ok((compared, difference))
    }

    async fn write(&self, group: &Group, table: &Table, own: Difference, pause: Duration) -> Result<(), Error> {
        let (slots, mover) = (&group.slots, self.number);
        let is_mine = async |db_tx: &mut MySqlConnection| {
            Ok::<_, sqlx::Error>(moves::standing(db_tx, slots, &[State::Arriving], Some(mover)).await? == slots.len())
        };
        // What is not there any more may stand in the way of what is, by another unique key.
        for keys in lots(&own.delete) {
            self.transact(group.to, async |db_tx| {
                Ok(is_mine(db_tx).await? && table.delete(db_tx, &keys).await.map(|()| true)?)
            })
            .await?;
            sleep(pause).await;
        }
        for rows in lots(&own.put) {
            self.transact(group.to, async |db_tx| {
                Ok(is_mine(db_tx).await? && table.put(db_tx, &rows).await.map(|()| true)?)
            })
            .await?;
            sleep(pause).await;
        }
        Ok(())
    }

    /// Deletes all rows of slots that have left this database; returns how many.
    pub(super) async fn clean(&self, database: usize, table: usize, slots: &[Slot]) -> Result<u64, Error> {
        let failed = |error| Error::Database(database, error);
        let mut deleted = 0;
        let tables = self.tables(database, table).await?;
        for (table, parts) in self.parts(database, &tables, slots).await? {
            for part in parts {
                let rows = table.rows(self.pool(database), &part).await.map_err(failed)?;
                let keys: Vec<String> = rows.into_keys().collect::<BTreeSet<_>>().into_iter().collect();
                for keys in lots(&keys) {
                    self.transact(database, async |db_tx| {
                        let stands = moves::standing(db_tx, slots, &[State::Left], None).await? == slots.len();
                        Ok(stands && table.delete(db_tx, &keys).await.map(|()| true)?)
                    })
                    .await?;
                    deleted += keys.len() as u64;
                    sleep(self.pause).await;
                }
            }
        }
        let (steps, mover) = ((&[State::Left][..], State::Empty), self.number);
        self.transact(database, async |db_tx| Ok(moves::step(db_tx, slots, steps, mover).await? == slots.len() as u64))
            .await?;
        Ok(deleted)
    }
}

/// As many as one statement takes.
fn lots(all: &[String]) -> Vec<Vec<&str>> {
    let (mut lots, mut bytes): (Vec<Vec<&str>>, usize) = (Vec::new(), 0);
    for text in all {
        match lots.last_mut() {
            Some(lot) if lot.len() < WRITE_ROWS && bytes + text.len() <= WRITE_BYTES => lot.push(text),
            Some(_) | None => {
                lots.push(vec![text]);
                bytes = 0;
            }
        }
        bytes += text.len();
    }
    lots
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_statement_gets_more_than_it_takes() {
        let all = vec!["x".repeat(WRITE_BYTES / 3); 7];
        assert_eq!(lots(&all).iter().map(Vec::len).collect::<Vec<_>>(), [3, 3, 1]);
        let all = vec!["x".to_owned(); WRITE_ROWS + 1];
        assert_eq!(lots(&all).iter().map(Vec::len).collect::<Vec<_>>(), [WRITE_ROWS, 1]);
    }
}
