//! The servers: private ones, or those that environment variables name.

use std::time::Duration;

use sqlx::{Connection, PgConnection};
use tidegate::Triggers;
use tidegate_testing::{Postgres, RedisServer};
use tokio::process::Command;
use tokio::time::sleep;

use super::shop::{Answer, Node};
use super::{Failure, now};

const SET_UP: &str = "
    drop table if exists products;
    create table products (id int primary key, name text not null, cents int not null);
    insert into products select n, 'product ' || n, 100 + n from generate_series(1, 1000) n;
";

/// A primary, a replica and Redis.
pub(crate) struct Servers {
    pub primary: String,
    pub replica: String,
    pub redis: String,
    private: Option<Private>,
}

struct Private {
    primary: Postgres,
    replica: Postgres,
    redis: RedisServer,
}

impl Servers {
    /// Uses the servers that the environment names, or starts private ones if it names none.
    pub(crate) async fn start() -> Result<Self, Failure> {
        let named = |name| std::env::var(name).ok();
        let names =
            (named("POSTGRES_PRIMARY_URL"), named("POSTGRES_REPLICA_URL"), named("REDIS_URL"));
        match names {
            (Some(primary), Some(replica), Some(redis)) => {
                Ok(Self { primary, replica, redis, private: None })
            }
            (None, None, None) => Self::start_private().await,
            _ => {
                Err("set POSTGRES_PRIMARY_URL, POSTGRES_REPLICA_URL and REDIS_URL, or none".into())
            }
        }
    }

    async fn start_private() -> Result<Self, Failure> {
        let primary = Postgres::start().await?;
        let replica = primary.standby().await?;
        let redis = RedisServer::start().await?;
        Ok(Self {
            primary: primary.url(),
            replica: replica.url(),
            redis: redis.url(),
            private: Some(Private { primary, replica, redis }),
        })
    }

    pub(crate) fn are_private(&self) -> bool {
        self.private.is_some()
    }

    /// Creates the table and its triggers.
    pub(crate) async fn set_up(&self) -> Result<(), Failure> {
        let mut conn = PgConnection::connect(&self.primary).await?;
        sqlx::raw_sql(SET_UP).execute(&mut conn).await?;
        Triggers::new().table("products").install(&mut conn).await?;
        Ok(())
    }

    /// Runs SQL with psql.
    pub(crate) async fn psql(&self, sql: &str) -> Result<(), Failure> {
        if let Some(private) = &self.private {
            private.primary.psql(sql).await?;
            return Ok(());
        }
        let psql = Command::new("psql").args(["-Xqc", sql, "-d", &self.primary]).status().await?;
        psql.success().then_some(()).ok_or_else(|| "psql failed".into())
    }

    /// Changes a row with psql, and measures when each node first served the change.
    pub(crate) async fn seen_by_both(
        &self,
        sql: &str,
        a: &Node,
        b: &Node,
    ) -> Result<[(Answer, Duration); 2], Failure> {
        self.psql(sql).await?;
        let committed = now();
        let changed = async |node: &Node| -> Result<_, Failure> {
            loop {
                let answer = node.get("/products/1").await?;
                if answer.body.contains("499") {
                    return Ok((answer, committed.elapsed()));
                }
            }
        };
        let (a, b) = tokio::try_join!(changed(a), changed(b))?;
        Ok([a, b])
    }

    /// Waits until the replica has replayed everything that the primary has now.
    pub(crate) async fn replica_follows(&self) -> Result<(), Failure> {
        let mut primary = PgConnection::connect(&self.primary).await?;
        let mut replica = PgConnection::connect(&self.replica).await?;
        let at: String = sqlx::query_scalar("select pg_current_wal_insert_lsn()::text")
            .fetch_one(&mut primary)
            .await?;
        let there = "select pg_last_wal_replay_lsn() >= $1::pg_lsn";
        while !sqlx::query_scalar::<_, bool>(there).bind(&at).fetch_one(&mut replica).await? {
            sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    pub(crate) async fn kill_redis(&mut self) -> Result<(), Failure> {
        if let Some(private) = &mut self.private {
            private.redis.kill().await?;
        }
        Ok(())
    }

    pub(crate) async fn kill_replica(&mut self) -> Result<(), Failure> {
        if let Some(private) = &mut self.private {
            private.replica.kill().await?;
        }
        Ok(())
    }

    pub(crate) async fn restart_both(&mut self) -> Result<(), Failure> {
        if let Some(private) = &mut self.private {
            private.redis.restart().await?;
            private.replica.restart().await?;
        }
        Ok(())
    }
}
