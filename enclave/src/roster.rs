//! Who is served at present: the list from which the [`Directory`] is made anew whenever one key store changes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use holdfast_link::control::Level;
use holdfast_shared::ids::KeyStoreId;

use crate::directory::{Directory, ServedKeyStore};
use crate::report::Reporter;
use crate::tls::TlsError;

/// The list. Changing it is rare and takes a lock; requests read the directory, which takes none.
pub(crate) struct Roster {
    directory: Arc<Directory>,
    reporter: Reporter,
    stores: Mutex<BTreeMap<KeyStoreId, Arc<ServedKeyStore>>>,
}

impl Roster {
    pub(crate) fn new(directory: Arc<Directory>, reporter: Reporter) -> Self {
        Self { directory, reporter, stores: Mutex::default() }
    }

    /// Serves this version of a key store from now on.
    pub(crate) fn put(&self, store: ServedKeyStore) -> Result<(), TlsError> {
        let mut stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        let id = store.id;
        let before = stores.insert(id, Arc::new(store));
        if let Err(error) = self.refresh(&stores) {
            match before {
                Some(before) => stores.insert(id, before),
                None => stores.remove(&id),
            };
            return Err(error);
        }
        Ok(())
    }

    /// Serves a key store no longer.
    pub(crate) fn remove(&self, id: KeyStoreId) {
        let mut stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        if stores.remove(&id).is_some()
            && let Err(error) = self.refresh(&stores)
        {
            self.reporter.log(Level::Error, &format!("key store {id} could not be withdrawn: {error}"));
        }
    }

    fn refresh(&self, stores: &BTreeMap<KeyStoreId, Arc<ServedKeyStore>>) -> Result<(), TlsError> {
        let collisions = self.directory.replace(stores.values().cloned().collect())?;
        for collision in collisions {
            let ids: BTreeSet<_> = collision.stores.iter().map(ToString::to_string).collect();
            let ids = ids.into_iter().collect::<Vec<_>>().join(", ");
            let line =
                format!("{} is claimed more than once and served to nobody; claimed by {ids}", collision.host_name);
            self.reporter.log(Level::Error, &line);
        }
        Ok(())
    }
}
