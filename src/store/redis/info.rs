//! A Redis server's own report (INFO).

use deadpool_redis::redis::{Value, cmd};

use super::Redis;
use super::reply::unexpected;
use crate::store::StoreError;

/// What a Redis server reports about itself (INFO).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RedisInfo {
    /// The server's version, as in `7.2.4`.
    pub version: String,
    /// The number of bytes that the server uses.
    pub used_memory: u64,
    /// The number of bytes that the server may use; 0 if there is no limit.
    pub max_memory: u64,
    /// The eviction policy for when the memory is full, as in `allkeys-lru`.
    pub eviction_policy: String,
    /// The number of keys that were evicted since the server was started or its statistics were reset.
    pub evicted_keys: u64,
}

impl Redis {
    /// The report of the server or, in a cluster, of each master.
    ///
    /// # Errors
    ///
    /// If the server does not respond, or the user may not run INFO.
    pub async fn info(&self) -> Result<Vec<RedisInfo>, StoreError> {
        match self.run(&cmd("INFO")).await? {
            Value::Map(nodes) => nodes.iter().map(|(_, text)| read(text)).collect(),
            text => Ok(vec![read(&text)?]),
        }
    }
}

fn read(value: &Value) -> Result<RedisInfo, StoreError> {
    let bytes = match value {
        Value::BulkString(bytes) => bytes.as_slice(),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => text.as_bytes(),
        other => return Err(unexpected("INFO", other)),
    };
    let text = String::from_utf8_lossy(bytes);
    let field = |name: &str| {
        let mut lines = text.lines().filter_map(|line| line.split_once(':'));
        lines.find_map(|(field, value)| (field == name).then(|| value.trim().to_owned()))
    };
    let number = |name| field(name).and_then(|value| value.parse().ok()).unwrap_or_default();
    Ok(RedisInfo {
        version: field("redis_version").unwrap_or_default(),
        used_memory: number("used_memory"),
        max_memory: number("maxmemory"),
        eviction_policy: field("maxmemory_policy").unwrap_or_default(),
        evicted_keys: number("evicted_keys"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_settings_are_parsed_from_the_info_reply() {
        let said =
            "# Server\r\nredis_version:7.2.4\r\nmaxmemory:100\r\nmaxmemory_policy:noeviction\r\n";
        let info = read(&Value::BulkString(said.into())).unwrap();
        assert_eq!((info.version.as_str(), info.max_memory, info.used_memory), ("7.2.4", 100, 0));
        assert_eq!(info.eviction_policy, "noeviction");
        assert!(read(&Value::Nil).is_err());
    }
}
