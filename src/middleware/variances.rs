//! What the last response at each path said of the query.
//!
//! `No-Vary-Search` is known only from a response. A request is keyed by what the last one at its path said, and that is part of
//! the key: so under such a key there are only responses that said the same, on each node, whatever another one
//! knows.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use super::keying::{self, KeySource};
use super::rules::search_variance::SearchVariance;
use crate::cache::Policy;
use crate::entry::Key;

/// For how many paths it is known. Of more, any other is forgotten, which costs a spare miss.
const PATHS: usize = 10_000;

/// What the last response at each path said, where it was not that all counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct VarianceTable(Arc<RwLock<HashMap<[u8; 32], Arc<SearchVariance>>>>);

impl VarianceTable {
    /// What is known for a path, under policies by which headers decide. Most layers know of none, and need no hash.
    pub(crate) fn known(
        &self,
        space: (&str, &str),
        of: &KeySource<'_>,
        policy: &Policy,
    ) -> Option<Arc<SearchVariance>> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if known.is_empty() || !policy.is_standard {
            return None;
        }
        known.get(path(space, of, policy).hash()).cloned()
    }

    /// Notes what a response said.
    pub(crate) fn note(&self, path: &Key, said: Option<&SearchVariance>) {
        let is_noted = {
            let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
            known.get(path.hash()).map(|known| &**known) == said
        };
        if is_noted {
            return;
        }
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let Some(said) = said else {
            known.remove(path.hash());
            return;
        };
        if known.len() >= PATHS
            && let Some(other) = known.keys().next().copied()
        {
            known.remove(&other);
        }
        known.insert(*path.hash(), Arc::new(said.clone()));
    }
}

/// A request's key, whatever its query.
pub(crate) fn path(space: (&str, &str), of: &KeySource<'_>, policy: &Policy) -> Key {
    let any = SearchVariance::none();
    keying::key(space, &of.varying(Some(&any)), policy)
}
