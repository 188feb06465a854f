//! What is measured beside what.

use clap::ValueEnum;
use serde::Serialize;

/// Variants that do the same work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Group {
    /// An answer that is in the memory of the process, or of the proxy in front of it
    Memory,
    /// An answer that is in Redis
    Redis,
    /// An answer that no cache has, read from Postgres
    Miss,
}

/// One server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Variant {
    /// A handler that has the answer
    Axum,
    /// The layer over memory
    TidegateMemory,
    /// The same, with entries that changes in Postgres make stale
    TidegateTracked,
    /// A handler that asks moka
    Moka,
    /// hitbox's layer over its moka backend
    HitboxMemory,
    /// tower-http-cache's layer over its moka backend
    TowerHttpCache,
    /// axum-response-cache's layer
    AxumResponseCache,
    /// nginx with `proxy_cache` in front of a handler
    Nginx,
    /// Varnish in front of a handler
    Varnish,
    /// A handler that asks Redis on one connection for all
    RedisByHand,
    /// A handler that takes a connection to Redis from a pool
    RedisPooled,
    /// The layer over Redis alone
    TidegateRedis,
    /// The layer over memory over Redis
    TidegateTiered,
    /// hitbox's layer over its Redis backend
    HitboxRedis,
    /// A handler that reads a row through a pool of sqlx
    Read,
    /// The same, through the reader that routes over replicas
    ReadRouted,
    /// The same behind the layer over memory, asked for what it does not have
    TidegateMiss,
}

impl Group {
    /// Its variants, of which the first is what the others are compared with.
    pub(crate) fn variants(self) -> Vec<Variant> {
        let all = Variant::value_variants().iter().copied();
        all.filter(|variant| variant.group() == self).collect()
    }

    pub(crate) fn name(self) -> String {
        name(&self)
    }
}

impl Variant {
    pub(crate) fn group(self) -> Group {
        match self {
            Self::Axum
            | Self::TidegateMemory
            | Self::TidegateTracked
            | Self::Moka
            | Self::HitboxMemory
            | Self::TowerHttpCache
            | Self::AxumResponseCache
            | Self::Nginx
            | Self::Varnish => Group::Memory,
            Self::RedisByHand
            | Self::RedisPooled
            | Self::TidegateRedis
            | Self::TidegateTiered
            | Self::HitboxRedis => Group::Redis,
            Self::Read | Self::ReadRouted | Self::TidegateMiss => Group::Miss,
        }
    }

    /// Whether it keeps answers, so that handlers run once for each; if not, they run for each request.
    pub(crate) fn keeps(self) -> bool {
        !matches!(self, Self::Axum | Self::Read | Self::ReadRouted | Self::TidegateMiss)
    }

    pub(crate) fn needs_redis(self) -> bool {
        self.group() == Group::Redis
    }

    pub(crate) fn needs_postgres(self) -> bool {
        self.group() == Group::Miss || self == Self::TidegateTracked
    }

    pub(crate) fn name(self) -> String {
        name(&self)
    }
}

fn name<V: ValueEnum>(value: &V) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}
