//! The audit log: who changed what, when and why, each row chained to the one before it.
//!
//! A row's hash is SHA-256 over the hash of the row before it and the row's own content, so a row that is changed,
//! moved or missing breaks the chain where it is. Only rows cut off at the end leave the rest sound: against that the
//! [`Head`] is kept elsewhere, as `tercet audit list` tells it. Rows are written by the store, in the commit of what
//! they tell of; they are never changed and never purged.

use sha2::{Digest as _, Sha256};
use tercet_core::{Timestamp, Xid};

/// A SHA-256 hash.
pub type Hash = [u8; 32];

/// What a person did, before it has its place in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditWrite {
    /// Who.
    pub who: String,
    /// What, in a word.
    pub act: String,
    /// To which transaction, if to one.
    pub xid: Option<Xid>,
    /// Why, in the person's words.
    pub why: String,
    /// What was changed, as it was: a JSON object.
    pub before: String,
    /// The same, as it is now.
    pub after: String,
}

/// A row of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRow {
    /// 1, 2, 3 and so on.
    pub id: u64,
    /// When.
    pub at: Timestamp,
    /// What was done.
    pub write: AuditWrite,
    /// The hash of the row before, zeros in the first one.
    pub previous: Vec<u8>,
    /// The hash of this one.
    pub hash: Vec<u8>,
}

/// How far a log goes: enough to tell later that nothing before has changed or is missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// How many rows there are.
    pub count: u64,
    /// The hash of the last of them.
    pub hash: Hash,
}

/// What is wrong with a log: its first broken row.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// A row is not there.
    #[error("row {id} is missing")]
    Missing {
        /// Which.
        id: u64,
    },
    /// A row is not as it was written.
    #[error("row {id} has been changed: its content does not fit its hash")]
    Changed {
        /// Which.
        id: u64,
    },
    /// A row does not follow the one before it.
    #[error("row {id} does not follow row {}: it holds another hash than that of the row before it", id - 1)]
    Unchained {
        /// Which.
        id: u64,
    },
    /// The log is sound, and another one than the one whose head was kept.
    #[error("row {id} has another hash than the head that was kept: the log has been written anew")]
    Other {
        /// Which.
        id: u64,
    },
    /// The log is sound, and shorter than it was.
    #[error("row {id} is missing: the log ends before the head that was kept")]
    Short {
        /// The first that is missing.
        id: u64,
    },
}

impl AuditRow {
    /// The row that follows `head`.
    pub fn after(head: Head, at: Timestamp, write: AuditWrite) -> Self {
        let mut row = Self { id: head.count + 1, at, write, previous: head.hash.to_vec(), hash: Vec::new() };
        row.hash = row.content_hash().to_vec();
        row
    }

    /// The head of a log that ends with this row.
    pub fn head(&self) -> Option<Head> {
        Some(Head { count: self.id, hash: self.hash.as_slice().try_into().ok()? })
    }

    /// Over every field but the hash itself. Each has its length before it, so that nothing can move from one field to
    /// the next.
    fn content_hash(&self) -> Hash {
        let AuditWrite { who, act, xid, why, before, after } = &self.write;
        let xid = xid.map(|xid| xid.0);
        let xid: &[u8] = xid.as_ref().map_or(&[], |xid| xid);
        let (id, at) = (self.id.to_be_bytes(), self.at.0.to_be_bytes());
        let texts = [who, act, why, before, after].map(|text| text.as_bytes());
        let mut sha = Sha256::new();
        for part in [&self.previous[..], &id, &at, xid].into_iter().chain(texts) {
            sha.update((part.len() as u64).to_be_bytes());
            sha.update(part);
        }
        sha.finalize().into()
    }
}

/// Reads a log from its first row on and finds the first broken one.
#[derive(Clone, Debug, Default)]
pub struct Verifier {
    head: Head,
    kept: Option<Head>,
}

impl Verifier {
    /// One that also compares with the head of the log at an earlier time.
    pub fn against(kept: Option<Head>) -> Self {
        Self { head: Head::default(), kept }
    }

    /// The next row.
    ///
    /// # Errors
    /// When it is the first that is not as it should be.
    pub fn check(&mut self, row: &AuditRow) -> Result<(), Broken> {
        let id = self.head.count + 1;
        if row.id > id {
            return Err(Broken::Missing { id });
        }
        if row.id < id || row.content_hash() != *row.hash {
            return Err(Broken::Changed { id: row.id });
        }
        if row.previous != self.head.hash {
            return Err(Broken::Unchained { id });
        }
        self.head = row.head().unwrap_or_default();
        match self.kept {
            Some(kept) if kept.count == id && kept.hash != self.head.hash => Err(Broken::Other { id }),
            Some(_) | None => Ok(()),
        }
    }

    /// There is no other row.
    ///
    /// # Errors
    /// When there should be.
    pub fn end(self) -> Result<Head, Broken> {
        match self.kept {
            Some(kept) if kept.count > self.head.count => Err(Broken::Short { id: self.head.count + 1 }),
            Some(_) | None => Ok(self.head),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(count: u64) -> Vec<AuditRow> {
        let mut head = Head::default();
        let rows = (1..=count).map(|number| {
            let write = AuditWrite {
                who: "ann".into(),
                act: "park".into(),
                xid: (number % 2 == 0).then_some(Xid([number as u8; 16])),
                why: format!("reason {number}"),
                before: "{}".into(),
                after: r#"{"a":1}"#.into(),
            };
            let row = AuditRow::after(head, Timestamp(1_000 + number), write);
            head = row.head().expect("it has a hash");
            row
        });
        rows.collect()
    }

    fn verify(rows: &[AuditRow], kept: Option<Head>) -> Result<Head, Broken> {
        let mut verifier = Verifier::against(kept);
        rows.iter().try_for_each(|row| verifier.check(row))?;
        verifier.end()
    }

    #[test]
    fn a_sound_log_ends_at_its_head() {
        let rows = log(5);
        assert_eq!(verify(&rows, None).expect("it is sound"), rows[4].head().expect("it has one"));
        assert_eq!(verify(&rows, rows[2].head()).map(|head| head.count), Ok(5));
        assert_eq!(verify(&[], None), Ok(Head::default()));
    }

    #[test]
    fn every_change_of_every_field_is_found_in_its_row() {
        let changes: [fn(&mut AuditRow); 11] = [
            |row| row.at = row.at.after_ms(1),
            |row| row.write.who.push('e'),
            |row| row.write.act = "Park".into(),
            |row| row.write.xid = Some(Xid([99; 16])),
            |row| row.write.why.clear(),
            |row| row.write.before.push(' '),
            |row| row.write.after = row.write.after.replace('1', "2"),
            |row| row.previous[31] ^= 1,
            |row| row.hash[0] ^= 1,
            |row| row.hash.clear(),
            // What leaves one field for the next is a change too.
            |row| (row.write.who, row.write.act) = ("annp".into(), "ark".into()),
        ];
        for at in 0..4 {
            for change in changes {
                let mut rows = log(4);
                change(&mut rows[at]);
                assert_eq!(verify(&rows, None), Err(Broken::Changed { id: at as u64 + 1 }));
            }
        }
    }

    #[test]
    fn missing_moved_and_inserted_rows_are_named() {
        let mut rows = log(4);
        rows.remove(1);
        assert_eq!(verify(&rows, None), Err(Broken::Missing { id: 2 }));
        let mut rows = log(4);
        rows.swap(1, 2);
        (rows[1].id, rows[2].id) = (2, 3);
        assert_eq!(verify(&rows, None), Err(Broken::Changed { id: 2 }));
        let mut rows = log(4);
        rows.insert(2, rows[1].clone());
        assert_eq!(verify(&rows, None), Err(Broken::Changed { id: 2 }));
        // One that is written anew, with a sound hash of its own.
        let mut rows = log(4);
        let mut write = rows[1].write.clone();
        write.who = "bob".into();
        rows[1] = AuditRow::after(rows[0].head().expect("it has one"), rows[1].at, write);
        assert_eq!(verify(&rows, None), Err(Broken::Unchained { id: 3 }));
    }

    #[test]
    fn what_was_cut_off_or_written_anew_fails_against_the_head_that_was_kept() {
        let rows = log(4);
        let kept = rows[3].head();
        assert_eq!(verify(&rows[..3], None).map(|head| head.count), Ok(3));
        assert_eq!(verify(&rows[..3], kept), Err(Broken::Short { id: 4 }));
        let mut anew = Vec::new();
        let mut head = Head::default();
        for row in rows {
            let write = AuditWrite { who: "bob".into(), ..row.write };
            anew.push(AuditRow::after(head, row.at, write));
            head = anew.last().and_then(AuditRow::head).expect("it has one");
        }
        assert_eq!(verify(&anew, kept), Err(Broken::Other { id: 4 }));
    }
}
