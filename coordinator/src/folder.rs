//! The folder of an embedded store belongs to one process at a time, whatever its node and its ports are.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::Error;
use crate::store;
use crate::store::sqlite::make_folder;

/// A folder that nobody else can have. The system lets go of it when this is dropped, or the process dies of anything.
#[derive(Debug)]
pub struct Held(#[expect(dead_code, reason = "the lock is the open file's")] File);

/// For a child of a process that has just ended to let go of what it has had from its parent until its own program
/// runs.
const PATIENCE: Duration = Duration::from_secs(1);
const AGAIN: Duration = Duration::from_millis(20);

/// Takes a folder for this process, and makes it when it is not there. Nothing is written in it. One that somebody has
/// is tried for a second.
///
/// # Errors
/// [`Error::Held`] when another process has it, or another coordinator of this one; [`store::Error::Unwritable`] when
/// it can not be made or its file system knows no locks.
pub async fn hold(folder: &Path) -> Result<Held, Error> {
    let begun = Instant::now();
    loop {
        match try_hold(folder) {
            Err(Error::Held { .. }) if begun.elapsed() < PATIENCE => tokio::time::sleep(AGAIN).await,
            held => return held,
        }
    }
}

fn try_hold(folder: &Path) -> Result<Held, Error> {
    let unwritable = |source| store::Error::Unwritable { path: folder.to_owned(), source };
    make_folder(folder).map_err(unwritable)?;
    let path = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let file = File::open(path).map_err(unwritable)?;
    match file.try_lock() {
        Ok(()) => Ok(Held(file)),
        Err(TryLockError::WouldBlock) => Err(Error::Held { folder: folder.to_owned() }),
        Err(TryLockError::Error(error)) => Err(unwritable(error).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_one_holders_until_it_lets_go() {
        let folder = tempfile::tempdir().expect("a folder");
        let data = folder.path().join("a/b");
        let held = try_hold(&data).expect("it is made");
        let other = try_hold(&data).expect_err("it is held");
        assert_eq!(other.to_string(), format!("another process runs a coordinator on the folder {}", data.display()));
        assert_eq!(std::fs::read_dir(&data).expect("it is there").count(), 0, "nothing is left in it");
        drop(held);
        try_hold(&data).expect("it is free");
    }

    #[tokio::test]
    async fn a_folder_that_is_about_to_be_let_go_of_is_waited_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let held = hold(folder.path()).await.expect("it is free");
        let let_go = async {
            tokio::time::sleep(AGAIN * 2).await;
            drop(held);
        };
        let (next, ()) = tokio::join!(hold(folder.path()), let_go);
        next.expect("it is free soon");
    }
}
