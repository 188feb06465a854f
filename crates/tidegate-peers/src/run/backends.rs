//! What servers under test connect to: private servers, on the core of the load.

use redis::cmd;
use tidegate_testing::{Postgres, RedisServer};

use crate::Failure;
use crate::serve::body;
use crate::variant::Variant;

/// Rows that can be read.
pub(super) const ROWS: u64 = 1000;

#[derive(Debug)]
pub(super) struct Backends {
    redis: Option<RedisServer>,
    postgres: Option<Postgres>,
}

impl Backends {
    /// Those that these variants need.
    pub(super) async fn start(variants: &[Variant]) -> Result<Self, Failure> {
        let redis = match variants.iter().any(|variant| variant.needs_redis()) {
            true => Some(RedisServer::start().await?),
            false => None,
        };
        let postgres = match variants.iter().any(|variant| variant.needs_postgres()) {
            true => Some(with_rows().await?),
            false => None,
        };
        Ok(Self { redis, postgres })
    }

    /// Forgets what a variant before has kept.
    pub(super) async fn empty(&self) -> Result<(), Failure> {
        if let Some(redis) = &self.redis {
            redis.run::<()>(&cmd("FLUSHALL")).await?;
        }
        Ok(())
    }

    /// For the command line of a server.
    pub(super) fn arguments(&self) -> Vec<String> {
        let redis = self.redis.iter().flat_map(|redis| ["--redis".to_owned(), redis.url()]);
        let postgres = self.postgres.iter();
        let postgres = postgres.flat_map(|postgres| ["--postgres".to_owned(), postgres.url()]);
        redis.chain(postgres).collect()
    }
}

async fn with_rows() -> Result<Postgres, Failure> {
    let postgres = Postgres::start().await?;
    let body = body();
    let sql = format!(
        "create table items (id int primary key, body text not null);
         insert into items select id, '{body}' from generate_series(0, {ROWS} - 1) id;
         vacuum analyze items"
    );
    postgres.psql(&sql).await?;
    Ok(postgres)
}
