//! The part of `tercet doctor` that looks at the folder of an embedded store, whether a coordinator runs or not.
//!
//! It changes nothing: no folder is made, and the database is only read.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, Row as _};
use tokio::net::TcpListener;

use super::client::endpoint;
use super::doctor::{Check, failed, passed, skipped};

/// With less free space than this a busy coordinator may soon have to stop.
const FREE_KIB_MIN: u64 = 1 << 20;

/// The checks of a folder, and of the port when nobody has answered on it.
pub(super) async fn checks(folder: &Path, address: &str, connected: bool) -> Vec<Check> {
    // A folder that is not there yet is made by the first start, below this one.
    let existing = folder.ancestors().find(|path| path.exists()).map(Path::to_owned);
    let existing = existing.unwrap_or_else(|| PathBuf::from("."));
    vec![
        writable(folder, &existing),
        database(&folder.join("tercet.db")).await,
        disk(&existing),
        port(address, connected).await,
    ]
}

fn writable(folder: &Path, existing: &Path) -> Check {
    let probe = existing.join(format!(".tercet-doctor-{}", std::process::id()));
    let made = std::fs::OpenOptions::new().write(true).create_new(true).open(&probe);
    match made.and_then(|_| std::fs::remove_file(&probe)) {
        Ok(()) if folder == existing => passed("folder", format!("{} can be written", folder.display())),
        Ok(()) => passed("folder", format!("{} is not there yet and can be made", folder.display())),
        Err(error) => {
            let remedy = "give the coordinator's user the right to write there, or name another folder with --data";
            failed("folder", format!("can not write {}: {error}", existing.display()), remedy)
        }
    }
}

async fn database(file: &Path) -> Check {
    if !file.exists() {
        return skipped("database", "there is none yet: the first start makes it");
    }
    let remedy = "stop the coordinator, keep a copy of the folder, and restore the file or move it away";
    match quick_check(file).await {
        Ok(word) if word == "ok" => passed("database", format!("{} is sound", file.display())),
        Ok(word) => failed("database", format!("{}: {word}", file.display()), remedy),
        Err(error) => {
            let cause = error.as_database_error().map_or_else(|| error.to_string(), |error| error.message().to_owned());
            failed("database", format!("{}: {cause}", file.display()), remedy)
        }
    }
}

/// How a database is read that a coordinator may have open, or another user's.
pub(super) fn reading(file: &Path) -> SqliteConnectOptions {
    // Without a log beside it nobody has it open. Reading it then as unchanging leaves no files behind that could
    // belong to another user than the coordinator's.
    let mut log = file.as_os_str().to_owned();
    log.push("-wal");
    let options = SqliteConnectOptions::new().filename(file).read_only(true).immutable(!Path::new(&log).exists());
    options.disable_statement_logging()
}

async fn quick_check(file: &Path) -> Result<String, sqlx::Error> {
    let mut connection = reading(file).connect().await?;
    let word = sqlx::query("PRAGMA quick_check(1)").fetch_one(&mut connection).await?.try_get(0);
    connection.close().await?;
    word
}

fn disk(existing: &Path) -> Check {
    let output = std::process::Command::new("df").arg("-Pk").arg(existing).output();
    let free = output.ok().and_then(|output| free_kib(&String::from_utf8_lossy(&output.stdout)));
    let Some(free_kib) = free else {
        return skipped("disk", "`df` does not tell the free space here");
    };
    let detail = format!("{}.{} GiB free", free_kib >> 20, ((free_kib % (1 << 20)) * 10) >> 20);
    if free_kib >= FREE_KIB_MIN {
        return passed("disk", detail);
    }
    failed("disk", detail, "make room: when the disk is full nothing can be made durable, and all is refused")
}

/// What `df -Pk` says is available: the word before the percentage.
fn free_kib(output: &str) -> Option<u64> {
    let words: Vec<_> = output.lines().nth(1)?.split_whitespace().collect();
    let percentage = words.iter().position(|word| word.ends_with('%'))?;
    words.get(percentage.checked_sub(1)?)?.parse().ok()
}

async fn port(address: &str, connected: bool) -> Check {
    if connected {
        return skipped("port", "a process answers on it, so it is in use");
    }
    let Ok(endpoint) = endpoint(address) else { return skipped("port", "needs address") };
    let host = endpoint.uri().host().unwrap_or_default().trim_matches(['[', ']']);
    let port = endpoint.uri().port_u16().unwrap_or_default();
    match TcpListener::bind((host, port)).await {
        Ok(_) => passed("port", format!("{host}:{port} is free")),
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            let remedy = "stop the process that has it, or let `serve` use another with --admin-listen";
            failed("port", format!("{host}:{port} is taken by something that does not answer"), remedy)
        }
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            failed("port", format!("{host}:{port}: {error}"), "use a port above 1023")
        }
        Err(error) => skipped("port", format!("{host}:{port} is not this machine's ({error})")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::doctor::Outcome;
    use super::*;
    use crate::clock::SystemClock;
    use crate::store::SqliteStore;

    #[test]
    fn the_free_space_is_found_in_what_df_says() {
        let output = "Filesystem 1024-blocks Used Available Capacity Mounted on\na b 100 10 90 10% /mnt\n";
        assert_eq!(free_kib(output), Some(90));
        assert_eq!(free_kib("df: no such file"), None);
    }

    #[tokio::test]
    async fn a_sound_file_passes_a_damaged_one_fails_and_neither_is_changed() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("tercet.db");
        assert_eq!(database(&file).await.outcome, Outcome::Skipped);
        let store = SqliteStore::open(&file, SystemClock::start()).await.expect("it opens");
        let in_use = database(&file).await;
        assert_eq!(in_use.outcome, Outcome::Passed, "{in_use:?}");
        store.close().await.expect("it closes");
        let at_rest = database(&file).await;
        assert_eq!(at_rest.outcome, Outcome::Passed, "{at_rest:?}");
        let mut bytes = std::fs::read(&file).expect("it is there");
        let middle = bytes.len() / 2;
        bytes[4096..middle].fill(0xa5);
        std::fs::write(&file, &bytes).expect("it can be written");
        let damaged = database(&file).await;
        assert_eq!(damaged.outcome, Outcome::Failed, "{damaged:?}");
        let names: Vec<_> =
            std::fs::read_dir(&folder).expect("it is there").map(|entry| entry.expect("so").file_name()).collect();
        assert_eq!(names, ["tercet.db"]);
    }

    #[tokio::test]
    async fn a_taken_port_fails_and_a_folder_that_can_not_be_made_too() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("it is bound").to_string();
        assert_eq!(port(&address, false).await.outcome, Outcome::Failed);
        drop(listener);
        assert_eq!(port(&address, false).await.outcome, Outcome::Passed);
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("file");
        std::fs::write(&file, "").expect("it can be written");
        assert_eq!(checks(&file.join("data"), &address, true).await[0].outcome, Outcome::Failed);
        assert_eq!(checks(&folder.path().join("data"), &address, true).await[0].outcome, Outcome::Passed);
    }
}
