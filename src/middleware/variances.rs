//! The last `No-Vary-Search` at each path.
//!
//! `No-Vary-Search` is known only from a response. A request is keyed by the rule of the last response at its path, and the
//! rule itself is part of the key. So all responses under such a key have the same rule, even if another node knows a
//! different one.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};

use super::keying::{self, KeySource};
use super::rules::search_variance::SearchVariance;
use crate::cache::{Policy, QueryPart};
use crate::entry::{Key, KeyText};
use crate::sync::RwLockExt;

/// The maximum number of paths. Beyond it, an arbitrary path is forgotten, which costs an extra miss.
const PATHS: usize = 10_000;

/// The rule of the last response at each path, except for the default rule that everything counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct VarianceTable(Arc<RwLock<HashMap<[u8; 32], Arc<SearchVariance>>>>);

impl VarianceTable {
    /// The rule for a path, under `Policy::standard`. A policy that lists parameters has none: the handler receives those,
    /// so each of them counts, and no other. Most layers know no rule, and need not compute the path's hash.
    pub(crate) fn known(
        &self,
        space: &KeyText,
        of: &KeySource<'_>,
        policy: &Policy,
    ) -> Option<Arc<SearchVariance>> {
        let known = self.0.read_unpoisoned();
        if known.is_empty() || !policy.is_standard || policy.query != QueryPart::All {
            return None;
        }
        known.get(path(space, of, policy).hash()).cloned()
    }

    /// Notes the rule of a response.
    pub(crate) fn note(&self, path: &Key, said: Option<&SearchVariance>) {
        let is_noted = {
            let known = self.0.read_unpoisoned();
            known.get(path.hash()).map(|known| &**known) == said
        };
        if is_noted {
            return;
        }
        let mut known = self.0.write_unpoisoned();
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

/// The key of a request without its query.
pub(crate) fn path(space: &KeyText, of: &KeySource<'_>, policy: &Policy) -> Key {
    let any = SearchVariance::none();
    keying::key(space, &of.varying(Some(&any)), policy)
}
