//! What an operator can change while a coordinator runs. After a restart it is what the configuration says.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::limits;
use crate::plan::Invalid;

/// A limit that can be moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Knob {
    /// Most transactions in memory.
    LiveMax,
    /// Rows of `compensation_log` of one service that are under way at a time.
    ScanRows,
}

impl Knob {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::LiveMax, Self::ScanRows];

    /// Its name, as an operator gives it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::LiveMax => "live_max",
            Self::ScanRows => "scan_rows",
        }
    }

    /// What it is, for people.
    pub const fn text(self) -> &'static str {
        match self {
            Self::LiveMax => "most transactions in memory; past it new ones are refused",
            Self::ScanRows => "rows of compensation_log of one service that are under way at a time",
        }
    }

    /// The least and the most that it can be.
    pub const fn bounds(self) -> (u64, u64) {
        match self {
            Self::LiveMax => (1, limits::LIVE_MAX_MAX),
            Self::ScanRows => (1, limits::SCAN_ROWS_MAX as u64),
        }
    }

    /// Reads a name and checks a value for it.
    ///
    /// # Errors
    /// When there is no such limit, or the value is outside its bounds.
    pub fn parse(name: &str, value: u64) -> Result<Self, Invalid> {
        let names = || Self::ALL.map(Self::name).join(", ");
        let knob = Self::ALL.into_iter().find(|knob| knob.name() == name);
        let knob = knob.ok_or_else(|| Invalid { field: "name".into(), limit: format!("one of {}", names()) })?;
        let (least, most) = knob.bounds();
        if (least..=most).contains(&value) {
            return Ok(knob);
        }
        Err(Invalid { field: "value".into(), limit: format!("{least} to {most} for {name}") })
    }
}

/// The values in force.
#[derive(Debug, Default)]
pub struct Controls {
    draining: AtomicBool,
    values: [AtomicU64; Knob::ALL.len()],
    configured: [u64; Knob::ALL.len()],
}

impl Controls {
    /// As configured.
    pub fn new(live_max: usize) -> Self {
        let configured = [live_max as u64, limits::SCAN_ROWS_MAX.into()];
        Self { draining: AtomicBool::new(false), values: configured.map(AtomicU64::new), configured }
    }

    /// A limit's value.
    pub fn get(&self, knob: Knob) -> u64 {
        self.values[knob as usize].load(Ordering::Relaxed)
    }

    /// What it was at the start.
    pub const fn configured(&self, knob: Knob) -> u64 {
        self.configured[knob as usize]
    }

    /// Moves a limit. Bounds are checked by [`Knob::parse`].
    pub fn set(&self, knob: Knob, value: u64) {
        self.values[knob as usize].store(value, Ordering::Relaxed);
    }

    /// Most transactions in memory.
    pub fn live_max(&self) -> usize {
        usize::try_from(self.get(Knob::LiveMax)).unwrap_or(usize::MAX)
    }

    /// Rows of one service that are under way at a time.
    pub fn scan_rows(&self) -> u32 {
        u32::try_from(self.get(Knob::ScanRows)).unwrap_or(limits::SCAN_ROWS_MAX)
    }

    /// Whether nothing new is taken.
    pub fn draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Takes nothing new from here on, or again.
    pub fn drain(&self, draining: bool) {
        self.draining.store(draining, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_named_and_bounded() {
        assert_eq!(Knob::parse("live_max", 5), Ok(Knob::LiveMax));
        let refused = |name, value| Knob::parse(name, value).expect_err("outside").to_string();
        assert_eq!(refused("live_max", 0), "value: 1 to 10000000 for live_max");
        assert_eq!(refused("scan_rows", 257), "value: 1 to 256 for scan_rows");
        assert_eq!(refused("everything", 1), "name: one of live_max, scan_rows");
    }

    #[test]
    fn what_is_set_is_in_force_and_what_was_configured_is_remembered() {
        let controls = Controls::new(9);
        controls.set(Knob::LiveMax, 4);
        assert_eq!((controls.live_max(), controls.configured(Knob::LiveMax)), (4, 9));
        assert_eq!(u64::from(controls.scan_rows()), controls.configured(Knob::ScanRows));
    }
}
