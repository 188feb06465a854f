//! Opens the records of requests and values, with the options of their lookups.

use std::sync::Arc;
use std::time::Duration;

use super::cache::Cache;
use super::options::LookupOptions;
use super::permit::Permit;
use super::policy::Policy;
use super::record::{Record, RecordScope, ScopeKind};
use crate::entry::Key;

impl Cache {
    /// A record for a request that has no policy and may write to the database without `Database`.
    pub(crate) fn record_of_write(&self, options: LookupOptions) -> Record {
        let scope = RecordScope {
            database: self.database(),
            session: options.session,
            untracked: self.log().is_none(),
            observer: options.observer,
            kind: ScopeKind::Request { may_write: true },
            ..RecordScope::default()
        };
        Record::new(self.shared.fences.clone(), scope)
    }

    /// A record for work with or without a policy.
    pub(crate) fn record(&self, policy: Option<&Policy>, options: LookupOptions) -> Record {
        self.record_for(&[], None, policy, options)
    }

    /// A record for work that computes the entries for `keys` under `permit`.
    pub(crate) fn record_for(
        &self,
        keys: &[&Key],
        permit: Option<&Arc<Permit>>,
        policy: Option<&Policy>,
        options: LookupOptions,
    ) -> Record {
        let has_log = self.log().is_some();
        let scope = RecordScope {
            tags: options.tags,
            database: self.database(),
            session: options.session,
            // Without a log, no read is tracked.
            untracked: !has_log || policy.is_some_and(|policy| policy.untracked),
            followed: has_log && policy.is_some(),
            max_staleness: policy.map_or(Duration::ZERO, |policy| policy.max_staleness),
            observer: options.observer,
            is_kept: policy.is_some(),
            kind: if options.is_request {
                ScopeKind::Request { may_write: false }
            } else {
                ScopeKind::Value
            },
            keys: keys.iter().map(|key| *key.hash()).collect(),
            permit: permit.map(Arc::downgrade).unwrap_or_default(),
            unscoped_reads: options.unscoped_reads,
        };
        Record::new(self.shared.fences.clone(), scope)
    }
}
