//! The version of a service, as part of its keys.

use std::borrow::Cow;
use std::sync::Arc;

use super::cache::Cache;
use crate::entry::Key;

/// The most bytes of a version: every key contains it.
const LONGEST: usize = 128;

/// Why [`Cache::version`] rejects a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VersionError {
    /// It is empty or only white space, as from an unset environment variable.
    #[error(
        "the version of the cache is empty: give Cache::version a text that changes whenever the form of responses \
         may have changed, such as \
         env!(\"CARGO_PKG_VERSION\") or the commit"
    )]
    Empty,
    /// It has this many bytes; 128 are allowed.
    #[error(
        "the version of the cache has {0} bytes, and 128 are allowed: give Cache::version a hash of it"
    )]
    TooLong(usize),
    /// It contains a control character.
    #[error("the version of the cache contains a control character, such as a line feed: trim it")]
    Control,
}

impl Cache {
    /// Makes the service's version part of every key, for routes, values and queries alike. Versions that share a Redis
    /// then never serve one another's entries, so a new version never returns the old version's JSON, and a rolling
    /// deployment runs both side by side. A change in the database invalidates the entries of all versions.
    ///
    /// `version` must change whenever a response or value may change for a reason other than the data. You can use
    /// `env!("CARGO_PKG_VERSION")` if every release raises it. The commit or the image's tag always changes, so every
    /// deployment then starts without entries. If you use a number instead, and raise it by hand only when the form of
    /// a response changes, entries are kept across all other deployments.
    ///
    /// The version applies to this handle and to clones made from it: call this before you pass the cache to layers.
    ///
    /// ```
    /// use tidegate::{Cache, Memory};
    ///
    /// # fn main() -> Result<(), tidegate::VersionError> {
    /// let cache = Cache::new(Memory::new(64 << 20)).version(env!("CARGO_PKG_VERSION"))?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// If it is empty, has more than 128 bytes, or contains a control character.
    pub fn version(mut self, version: &str) -> Result<Self, VersionError> {
        if version.trim().is_empty() {
            return Err(VersionError::Empty);
        }
        if version.len() > LONGEST {
            return Err(VersionError::TooLong(version.len()));
        }
        if version.contains(char::is_control) {
            return Err(VersionError::Control);
        }
        self.version = Some(Arc::from(version));
        Ok(self)
    }

    /// The version, or an empty text.
    pub(crate) fn version_text(&self) -> &str {
        self.version.as_deref().unwrap_or_default()
    }

    /// The key of a value in this version.
    pub(super) fn own<'k>(&self, key: &'k Key) -> Cow<'k, Key> {
        match &self.version {
            None => Cow::Borrowed(key),
            Some(version) => Cow::Owned(versioned(key, version)),
        }
    }

    /// The same for an owned key.
    pub(super) fn own_key(&self, key: Key) -> Key {
        match &self.version {
            None => key,
            Some(version) => versioned(&key, version),
        }
    }
}

fn versioned(key: &Key, version: &str) -> Key {
    Key::new("version").part(version).part(key.text()).finish()
}

#[cfg(test)]
#[cfg(all(feature = "memory", not(tidegate_shuttle)))]
mod tests {
    use std::collections::HashMap;
    use std::time::Duration;

    use super::*;
    use crate::{Memory, ValuePolicy};

    async fn get(cache: &Cache, value: u8) -> (u8, Option<u8>, u8) {
        let policy =
            ValuePolicy::ttl(Duration::from_mins(1)).early_refresh(0.0).tag("t").build().unwrap();
        let key = |name: &u8| Key::new("t").part([*name]).finish();
        let load = async || Ok::<_, ()>(value);
        let one = cache.get_or_load(&key(&0), &policy, load).await.unwrap();
        let find = async || Ok::<_, ()>(Some(value));
        let found = cache.find_or_load(&key(&1), &policy, find).await.unwrap();
        let many = async |ids: Vec<u8>| {
            Ok::<_, ()>(ids.into_iter().map(|id| (id, value)).collect::<HashMap<_, _>>())
        };
        (one, found, cache.get_many([2], key, &policy, many).await.unwrap()[&2])
    }

    #[tokio::test]
    async fn versions_never_share_values_and_an_invalidation_reaches_all_of_them() {
        let bare = Cache::new(Memory::new(1 << 20));
        let versions = ["1.0.0", "1.0.1"].map(|version| bare.clone().version(version).unwrap());
        let [old, new] = &versions;
        assert_eq!(get(old, 1).await, (1, Some(1), 1));
        assert_eq!(get(new, 2).await, (2, Some(2), 2));
        assert_eq!(get(&bare, 3).await, (3, Some(3), 3));
        assert_eq!(get(&old.clone(), 9).await, (1, Some(1), 1), "still stored");
        new.invalidate(["t"]).await.unwrap();
        assert_eq!(get(old, 4).await, (4, Some(4), 4));
        assert_eq!(get(new, 5).await, (5, Some(5), 5));
    }

    #[test]
    fn an_empty_overlong_or_unprintable_version_is_refused() {
        let refused = |version: &str| {
            Cache::new(Memory::new(1 << 20)).version(version).map(drop).unwrap_err()
        };
        for empty in ["", " ", "\n"] {
            assert_eq!(refused(empty), VersionError::Empty);
        }
        assert_eq!(refused("1.0\n"), VersionError::Control);
        assert_eq!(refused(&"a".repeat(129)), VersionError::TooLong(129));
        assert!(refused("").to_string().contains("CARGO_PKG_VERSION"));
        assert!(Cache::new(Memory::new(1 << 20)).version(&"é".repeat(64)).is_ok());
    }
}
