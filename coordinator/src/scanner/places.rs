//! How many rows are under way of each service: counted by values that free their place when they are dropped.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

#[derive(Debug, Default)]
struct Shared {
    under_way: Mutex<HashMap<Arc<str>, usize>>,
    freed: Notify,
}

/// The places of all services. Clones are one.
#[derive(Clone, Debug, Default)]
pub struct Places(Arc<Shared>);

/// One row that is under way.
#[derive(Debug)]
pub struct Place {
    shared: Arc<Shared>,
    service: Arc<str>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, usize>> {
        // Nothing panics while holding it; if something did, counts are still counts.
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Places {
    /// Takes one of this service.
    pub fn take(&self, service: &str) -> Place {
        let mut under_way = self.0.lock();
        let service = under_way.get_key_value(service).map_or_else(|| service.into(), |(service, _)| service.clone());
        *under_way.entry(Arc::clone(&service)).or_default() += 1;
        Place { shared: Arc::clone(&self.0), service }
    }

    /// How many of this service are taken.
    pub fn under_way(&self, service: &str) -> usize {
        self.0.lock().get(service).copied().unwrap_or_default()
    }

    /// Ends when one has been freed since the last time.
    pub async fn freed(&self) {
        self.0.freed.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut under_way = self.shared.lock();
        if let Some(count) = under_way.get_mut(&self.service) {
            *count -= 1;
            if *count == 0 {
                under_way.remove(&self.service);
            }
        }
        drop(under_way);
        self.shared.freed.notify_one();
    }
}
