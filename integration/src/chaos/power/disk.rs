//! A disk that loses power: what a process did to the files of a folder, and what of it can be there afterwards.
//!
//! What counts is what was synced. Of the rest any part may be there and any other not, down to a sector; a file may be
//! there or not until its folder is synced. Bytes beside those that were written stay as they were, which SQLite relies
//! on (SQLITE_IOCAP_POWERSAFE_OVERWRITE). Modelled after ALICE (Pillai et al., OSDI 2014).

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, bail};

use crate::chaos::Dice;

/// Disks write this much whole or not at all.
const SECTOR: u64 = 512;

/// Kind, length of the name, nothing, offset, length.
const HEADER: usize = 24;

/// One thing that was done, as `powercut/record.c` tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Done<'t> {
    Create,
    Write {
        offset: u64,
        data: &'t [u8],
    },
    Truncate {
        length: u64,
    },
    /// Of a file, or with the name "" of the folder.
    Sync,
    Unlink,
}

/// A [`Done`], to which file, and where its record ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record<'t> {
    pub(super) name: &'t str,
    pub(super) done: Done<'t>,
    pub(super) end: u64,
}

/// All records of a trace. A last one that is cut off was never finished by the process, which was killed.
pub(super) fn records(trace: &[u8]) -> anyhow::Result<Vec<Record<'_>>> {
    let mut records = Vec::new();
    let mut at = 0;
    while let Some(header) = trace.get(at..at + HEADER) {
        let number = |from: usize| u64::from_le_bytes(header[from..from + 8].try_into().expect("eight bytes"));
        let (offset, length) = (number(8), number(16));
        let name_end = at + HEADER + usize::from(header[1]);
        let end = name_end + length as usize;
        let (Some(name), Some(data)) = (trace.get(at + HEADER..name_end), trace.get(name_end..end)) else { break };
        let done = match header[0] {
            1 => Done::Create,
            2 => Done::Write { offset, data },
            3 => Done::Truncate { length: offset },
            4 => Done::Sync,
            5 => Done::Unlink,
            other => bail!("a record of kind {other} at {at}"),
        };
        records.push(Record { name: std::str::from_utf8(name)?, done, end: end as u64 });
        at = end;
    }
    Ok(records)
}

/// What is lost when the power goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Loss {
    /// Nothing: only the process died.
    Nothing,
    /// Everything that is not synced.
    Everything,
    /// Of each file the later part of what is not synced.
    Tails,
    /// Any sectors of what is not synced.
    Sectors,
}

impl Loss {
    pub(super) const ALL: [Self; 4] = [Self::Nothing, Self::Everything, Self::Tails, Self::Sectors];
}

#[derive(Clone, Default)]
struct Inode<'t> {
    synced: Vec<u8>,
    pending: Vec<Done<'t>>,
}

/// The files of a folder, by name, as they are after a power cut.
pub(super) type Image = BTreeMap<String, Vec<u8>>;

/// The disk under the folder while the process runs.
#[derive(Default)]
pub(super) struct Disk<'t> {
    inodes: Vec<Inode<'t>>,
    /// What the process sees.
    now: BTreeMap<String, usize>,
    /// The folder as it was last synced.
    synced: BTreeMap<String, usize>,
}

impl<'t> Disk<'t> {
    /// One that has rested for long.
    pub(super) fn new(image: Image) -> Self {
        let mut disk = Self::default();
        for (name, synced) in image {
            disk.now.insert(name, disk.inodes.len());
            disk.inodes.push(Inode { synced, pending: Vec::new() });
        }
        disk.synced.clone_from(&disk.now);
        disk
    }

    /// Does what the process did.
    pub(super) fn apply(&mut self, record: &Record<'t>) -> anyhow::Result<()> {
        match record.done {
            Done::Create => {
                self.now.insert(record.name.to_owned(), self.inodes.len());
                self.inodes.push(Inode::default());
            }
            Done::Unlink => drop(self.now.remove(record.name)),
            Done::Sync if record.name.is_empty() => self.synced.clone_from(&self.now),
            Done::Sync => {
                let inode = self.inode(record.name)?;
                let pending = std::mem::take(&mut inode.pending);
                pending.iter().for_each(|done| write(&mut inode.synced, *done));
            }
            Done::Write { .. } | Done::Truncate { .. } => self.inode(record.name)?.pending.push(record.done),
        }
        Ok(())
    }

    fn inode(&mut self, name: &str) -> anyhow::Result<&mut Inode<'t>> {
        let at = self.now.get(name).with_context(|| format!("{name} was never made"))?;
        Ok(&mut self.inodes[*at])
    }

    /// The power goes now.
    pub(super) fn cut(&self, loss: Loss, dice: &mut Dice) -> Image {
        let mut image = Image::new();
        let names = self.now.keys().chain(self.synced.keys().filter(|name| !self.now.contains_key(*name)));
        for name in names {
            let latest = match loss {
                Loss::Nothing => true,
                Loss::Everything => false,
                Loss::Tails | Loss::Sectors => dice.percent(50),
            };
            let folder = if latest { &self.now } else { &self.synced };
            if let Some(at) = folder.get(name) {
                image.insert(name.clone(), self.inodes[*at].cut(loss, dice));
            }
        }
        image
    }
}

impl Inode<'_> {
    fn cut(&self, loss: Loss, dice: &mut Dice) -> Vec<u8> {
        let mut content = self.synced.clone();
        let kept = match loss {
            Loss::Nothing | Loss::Sectors => self.pending.len(),
            Loss::Everything => 0,
            Loss::Tails => (dice.roll() % (self.pending.len() as u64 + 1)) as usize,
        };
        for done in &self.pending[..kept] {
            match *done {
                Done::Write { offset, data } if loss == Loss::Sectors => {
                    for (offset, data) in sectors(offset, data).filter(|_| dice.percent(50)) {
                        write(&mut content, Done::Write { offset, data });
                    }
                }
                Done::Truncate { .. } if loss == Loss::Sectors && dice.percent(50) => {}
                Done::Create | Done::Write { .. } | Done::Truncate { .. } | Done::Sync | Done::Unlink => {
                    write(&mut content, *done);
                }
            }
        }
        content
    }
}

/// The parts of a write that are whole or not at all.
fn sectors(offset: u64, data: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    let mut rest = (offset, data);
    std::iter::from_fn(move || {
        let (offset, data) = rest;
        let length = (SECTOR - offset % SECTOR).min(data.len() as u64);
        let (part, more) = data.split_at(length as usize);
        rest = (offset + length, more);
        (!part.is_empty()).then_some((offset, part))
    })
}

fn write(content: &mut Vec<u8>, done: Done<'_>) {
    match done {
        Done::Write { offset, data } => {
            let (from, to) = (offset as usize, offset as usize + data.len());
            if content.len() < to {
                content.resize(to, 0);
            }
            content[from..to].copy_from_slice(data);
        }
        Done::Truncate { length } => content.resize(length as usize, 0),
        Done::Create | Done::Sync | Done::Unlink => {}
    }
}

/// Makes the folder hold this and nothing else.
pub(super) fn restore(image: &Image, folder: &Path) -> anyhow::Result<()> {
    if folder.exists() {
        std::fs::remove_dir_all(folder)?;
    }
    std::fs::create_dir_all(folder)?;
    for (name, content) in image {
        std::fs::write(folder.join(name), content).with_context(|| name.clone())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(kind: u8, name: &str, offset: u64, data: &[u8]) -> Vec<u8> {
        let mut bytes = vec![kind, name.len() as u8, 0, 0, 0, 0, 0, 0];
        bytes.extend(offset.to_le_bytes());
        bytes.extend((data.len() as u64).to_le_bytes());
        bytes.extend(name.as_bytes());
        bytes.extend(data);
        bytes
    }

    fn trace() -> Vec<u8> {
        [
            raw(1, "a", 0, b""),
            raw(2, "a", 0, b"first"),
            raw(4, "a", 0, b""),
            raw(4, "", 0, b""),
            raw(2, "a", 0, &[b'x'; 1_200]),
            raw(1, "b", 0, b""),
        ]
        .concat()
    }

    fn cut(records: usize, loss: Loss, seed: u64) -> Image {
        let trace = trace();
        let mut disk = Disk::default();
        super::records(&trace).expect("it is whole")[..records]
            .iter()
            .for_each(|record| disk.apply(record).expect("it fits"));
        disk.cut(loss, &mut Dice(seed))
    }

    #[test]
    fn what_is_synced_stays_and_the_rest_may_go() {
        assert_eq!(cut(3, Loss::Everything, 0), Image::new(), "its folder was not synced");
        let first = Image::from([("a".to_owned(), b"first".to_vec())]);
        for seed in 0..20 {
            assert_eq!(cut(4, Loss::Sectors, seed), first);
        }
        assert_eq!(cut(6, Loss::Everything, 0), first);
        let all = cut(6, Loss::Nothing, 0);
        assert_eq!((all["a"].len(), all["b"].len()), (1_200, 0));
    }

    #[test]
    fn an_unsynced_write_is_torn_at_sectors_only() {
        let images: Vec<_> = (0..50).map(|seed| cut(5, Loss::Sectors, seed).remove("a").expect("it stays")).collect();
        let kept = |at: usize| images.iter().filter(|image| image.get(at) == Some(&b'x')).count();
        assert!((5..45).contains(&kept(0)) && (5..45).contains(&kept(512)), "{} {}", kept(0), kept(512));
        for image in &images {
            for sector in image.chunks(512) {
                assert!(sector.iter().all(|byte| *byte == b'x') || sector.iter().all(|byte| *byte != b'x'));
            }
        }
    }

    #[test]
    fn a_record_that_is_cut_off_is_left_out() {
        let trace = trace();
        let whole = records(&trace).expect("it is whole");
        assert_eq!(whole.last().map(|last| last.end), Some(trace.len() as u64));
        let short = records(&trace[..whole[4].end as usize - 1]).expect("the rest is whole");
        assert_eq!(short.len(), 4);
    }

    #[test]
    fn a_deleted_file_can_come_back_until_the_folder_is_synced() {
        let gone = [raw(5, "a", 0, b"")].concat();
        let mut disk = Disk::new(Image::from([("a".to_owned(), b"old".to_vec())]));
        disk.apply(&records(&gone).expect("it is whole")[0]).expect("it fits");
        assert_eq!(disk.cut(Loss::Nothing, &mut Dice(1)), Image::new());
        assert_eq!(disk.cut(Loss::Everything, &mut Dice(1)).len(), 1);
    }
}
