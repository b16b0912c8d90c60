//! Files whose content is parsed, and parsed again when it has changed.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::{error, info};

use crate::Error;

/// How old what is used may be, at most.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// A file and the setting that names it.
#[derive(Clone, Debug)]
pub struct Source {
    /// The setting.
    pub setting: &'static str,
    /// The file.
    pub path: PathBuf,
}

impl Source {
    fn read(&self) -> Result<Vec<u8>, Error> {
        let Self { setting, path } = self.clone();
        std::fs::read(&path).map_err(|source| Error::Unreadable { setting, path, source })
    }

    /// An error about what it holds.
    pub fn invalid(&self, fault: impl ToString) -> Error {
        Error::Invalid { setting: self.setting, path: self.path.clone(), fault: fault.to_string() }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

type Parse<T> = Box<dyn Fn(&[Source], &[Vec<u8>]) -> Result<T, Error> + Send + Sync>;

/// What some files say. Looked at by whoever asks, at most once a second: no task and no signal is needed. Files that
/// can not be used while they are being replaced leave the old in force, and are told of once.
pub struct Watched<T> {
    sources: Vec<Source>,
    parse: Parse<T>,
    state: Mutex<State<T>>,
}

struct State<T> {
    bytes: Vec<Vec<u8>>,
    value: Arc<T>,
    checked_at: Instant,
    fault: Option<String>,
}

impl<T> Watched<T> {
    /// Reads the files for the first time.
    ///
    /// # Errors
    /// When one can not be read, or does not hold what it must.
    pub fn load(
        sources: Vec<Source>,
        parse: impl Fn(&[Source], &[Vec<u8>]) -> Result<T, Error> + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        let bytes = read(&sources)?;
        let value = Arc::new(parse(&sources, &bytes)?);
        let state = State { bytes, value, checked_at: Instant::now(), fault: None };
        Ok(Self { sources, parse: Box::new(parse), state: Mutex::new(state) })
    }

    /// What they say now, or said a second ago.
    pub fn current(&self) -> Arc<T> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.checked_at.elapsed() >= CHECK_EVERY {
            state.checked_at = Instant::now();
            self.check(&mut state);
        }
        Arc::clone(&state.value)
    }

    /// Whether the files could not be used when they were last looked at, by [`Self::current`].
    pub fn is_stale(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).fault.is_some()
    }

    fn check(&self, state: &mut State<T>) {
        let read = read(&self.sources).and_then(|bytes| {
            let changed = bytes != state.bytes;
            let value = if changed { Some((self.parse)(&self.sources, &bytes)?) } else { None };
            Ok(value.map(|value| (bytes, value)))
        });
        match read {
            Ok(changed) => {
                state.fault = None;
                if let Some((bytes, value)) = changed {
                    (state.bytes, state.value) = (bytes, Arc::new(value));
                    info!(setting = self.sources[0].setting, path = %self.sources[0].path.display(), "read again");
                }
            }
            Err(fault) => {
                let fault = fault.to_string();
                if state.fault.as_ref() != Some(&fault) {
                    error!(fault, "the old stays in force");
                    state.fault = Some(fault);
                }
            }
        }
    }
}

fn read(sources: &[Source]) -> Result<Vec<Vec<u8>>, Error> {
    sources.iter().map(Source::read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_seen_within_a_second_and_what_can_not_be_used_leaves_the_old() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("number");
        let source = Source { setting: "number", path: path.clone() };
        let parse = |sources: &[Source], bytes: &[Vec<u8>]| {
            std::str::from_utf8(&bytes[0]).unwrap().parse::<u32>().map_err(|error| sources[0].invalid(error))
        };
        let missing = Watched::load(vec![source.clone()], parse).err().unwrap().to_string();
        assert!(missing.starts_with("number: can not read "), "{missing}");
        std::fs::write(&path, "1").unwrap();
        let watched = Watched::load(vec![source], parse).unwrap();
        let after = |text: &str| {
            std::fs::write(&path, text).unwrap();
            watched.state.lock().unwrap().checked_at -= CHECK_EVERY;
            *watched.current()
        };
        assert_eq!(after("2"), 2);
        assert_eq!((after("two"), watched.is_stale()), (2, true));
        assert_eq!((after("3"), watched.is_stale()), (3, false));
        std::fs::write(&path, "4").unwrap();
        assert_eq!(*watched.current(), 3, "it is not read for every question");
    }
}
