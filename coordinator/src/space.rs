//! Room on the disk under the embedded store: the last of it belongs to what is under way.
//!
//! While less than the reserve is free, new transactions are refused, and those that were accepted use the reserve to
//! end. When even that is gone, a commit fails as a whole: what it would have begun is refused, what it would have
//! moved on is tried again until there is room (`writer.rs`). Nothing here is asked by a call: a flag is.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tracing::{error, info};

use crate::config::Config;
use crate::driver::Gauges;
use crate::metrics;
use crate::outage::Outage;

/// How often the disk is asked.
const LOOK: Duration = Duration::from_millis(250);

/// Where the file system sees room and the store does not (a quota), it is tried again after so many looks.
const LOOKS_MAX: u32 = 20;

/// Looks at one disk.
pub struct Watch {
    /// A folder on it.
    folder: PathBuf,
    /// Bytes that are kept for what is under way.
    reserve: u64,
    /// Where the driver and readiness see what was found, and the writer says what the store has met.
    gauges: Arc<Gauges>,
}

impl Watch {
    /// Of the disk under an embedded store; `None` when the store is elsewhere.
    pub fn new(config: &Config, gauges: Arc<Gauges>) -> Option<Self> {
        let (folder, reserve) = (config.data.clone(), config.disk_reserve_mib.saturating_mul(1 << 20));
        folder.is_dir().then_some(Self { folder, reserve, gauges })
    }

    /// Looks until it is dropped.
    pub async fn run(self) {
        let mut outage = Outage::new("asking for the free space of the disk");
        let (mut told, mut hold) = (false, 0_u32);
        loop {
            match free(&self.folder) {
                Ok(free) => {
                    outage.over();
                    metrics::disk_free(free);
                    let met = self.gauges.full_met.swap(false, Ordering::Relaxed);
                    hold = if met { LOOKS_MAX } else { hold.saturating_sub(1) };
                    let full = hold > 0 || is_full(free, self.reserve, told);
                    self.gauges.disk_full.store(full, Ordering::Relaxed);
                    metrics::disk_full(full);
                    if full != told {
                        told = full;
                        self.tell(full, free);
                    }
                }
                Err(error) => outage.failed(&error),
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn tell(&self, full: bool, free: u64) {
        let (folder, reserve) = (self.folder.display(), self.reserve);
        if full {
            error!(%folder, free, reserve, "the disk is full: nothing new is taken, what is under way goes on");
        } else {
            info!(%folder, free, reserve, "the disk has room again");
        }
    }
}

/// Whether too little is free. Once it was, a quarter more than the reserve has to be, so that it does not flutter.
fn is_full(free: u64, reserve: u64, was: bool) -> bool {
    free < if was { reserve.saturating_add(reserve / 4) } else { reserve }
}

/// Bytes that may still be written on the disk of a folder.
///
/// # Errors
/// The system's, when there is no such folder.
pub fn free(folder: &Path) -> std::io::Result<u64> {
    let disk = rustix::fs::statvfs(folder)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn below_the_reserve_the_disk_is_full_until_a_quarter_more_is_free() {
        assert!(!is_full(100, 100, false));
        assert!(is_full(99, 100, false));
        assert!(is_full(124, 100, true));
        assert!(!is_full(125, 100, true));
        assert!(!is_full(0, 0, false) && !is_full(0, 0, true), "no reserve: the store alone says when it is full");
    }

    #[test]
    fn a_folder_has_a_disk_with_room() {
        assert!(free(Path::new(".")).expect("it is there") > 0);
        assert!(free(Path::new("./nowhere")).is_err());
    }
}
