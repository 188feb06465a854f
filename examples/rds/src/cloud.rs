//! The servers that a cloud would have.

use std::fmt;
use std::fs;
use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use sqlx::{Connection, PgConnection};
use tidegate::Triggers;
use tidegate_testing::{FaultProxy, PgBouncer, Postgres, RedisCluster};
use tokio::time::sleep;

use super::Failure;
use super::load::Window;

/// How many products there are, numbered from 1.
pub(crate) const PRODUCTS: u32 = 2000;

/// A primary with a standby in another zone, two replicas, a proxy, a name that leads to the primary, and a
/// Redis Cluster.
pub(crate) struct Cloud {
    primary: Postgres,
    standby: Option<Postgres>,
    replicas: Vec<Postgres>,
    proxy: PgBouncer,
    mode: &'static str,
    /// The primary's name, which leads to another server after a failover, as with DNS.
    endpoint: FaultProxy,
    redis: RedisCluster,
    folder: tempfile::TempDir,
    /// The token for the nodes' operator pages.
    pub(crate) token: String,
}

impl Cloud {
    pub(crate) async fn start() -> Result<Self, Failure> {
        let primary = Postgres::start().await?;
        let standby = primary.standby_named("multi_az").await?;
        let replicas = vec![primary.standby().await?, primary.standby().await?];
        // A write is acknowledged only once both zones have it.
        primary.psql("alter system set synchronous_standby_names = 'multi_az'").await?;
        primary.psql("select pg_reload_conf()").await?;
        let mode =
            if PgBouncer::keeps_statements_apart().await? { "transaction" } else { "session" };
        let cloud = Self {
            proxy: PgBouncer::start(mode, &[("shop", primary.addr())]).await?,
            endpoint: FaultProxy::start(primary.addr()).await?,
            redis: RedisCluster::start().await?,
            folder: tempfile::tempdir()?,
            token: format!("{:032x}", fastrand::u128(..)),
            standby: Some(standby),
            mode,
            primary,
            replicas,
        };
        cloud.set_up().await?;
        cloud.register()?;
        Ok(cloud)
    }

    async fn set_up(&self) -> Result<(), Failure> {
        let tables = format!(
            "create table products (id int primary key, name text not null, cents int not null);
            insert into products select n, 'product ' || n, 100 + n from generate_series(1, {PRODUCTS}) n"
        );
        self.primary.psql(&tables).await?;
        let mut conn = PgConnection::connect(&self.primary.url()).await?;
        Ok(Triggers::new().table("products").install(&mut conn).await?)
    }

    pub(crate) fn replicas(&self) -> usize {
        self.replicas.len()
    }

    /// The environment variables of a node.
    pub(crate) fn environment(&self) -> [(&'static str, String); 6] {
        [
            ("POSTGRES_PRIMARY_URL", self.proxy.url("shop")),
            (
                "POSTGRES_LISTEN_URL",
                format!("postgres://postgres@{}/postgres", self.endpoint.addr()),
            ),
            ("POSTGRES_REPLICA_URL", String::new()),
            ("REDIS_URL", self.redis.url()),
            ("ADMIN_TOKEN", self.token.clone()),
            ("REPLICAS_FILE", self.registry().display().to_string()),
        ]
    }

    /// Runs SQL on the primary with psql.
    pub(crate) async fn psql(&self, sql: &str) -> Result<(), Failure> {
        self.primary.psql(sql).await?;
        Ok(())
    }

    pub(crate) async fn add_replica(&mut self) -> Result<(), Failure> {
        self.replicas.push(self.primary.standby().await?);
        self.register()
    }

    /// Removes the newest replica from the list, and stops it once nodes have noticed.
    pub(crate) async fn remove_replica(&mut self) -> Result<(), Failure> {
        let removed = self.replicas.pop();
        self.register()?;
        sleep(Duration::from_secs(1)).await;
        drop(removed);
        Ok(())
    }

    /// Kills the primary under load, and promotes its standby.
    pub(crate) async fn lose_the_primary(
        &mut self,
        clients: impl Future<Output = Result<Window, Failure>>,
    ) -> Result<Window, Failure> {
        let failover = async {
            sleep(Duration::from_secs(3)).await;
            let standby = self.standby.take().ok_or("there is no standby any more")?;
            self.primary.kill().await?;
            println!("  +3.0 s   the primary is killed");
            sleep(Duration::from_secs(1)).await;
            standby.promote().await?;
            self.primary = standby;
            self.proxy.lead("shop", self.primary.addr())?;
            self.endpoint.retarget(self.primary.addr());
            println!(
                "  +4.0 s   the standby is promoted, the proxy and the primary's name lead to it"
            );
            self.replicas_follow().await?;
            Ok::<_, Failure>(())
        };
        let (window, done) = tokio::join!(clients, failover);
        done.and(window)
    }

    /// Makes the replicas follow the new primary. One that was ahead of the promoted standby can't follow it, and is
    /// rebuilt.
    async fn replicas_follow(&mut self) -> Result<(), Failure> {
        let follows = "select count(*) from pg_stat_wal_receiver where status = 'streaming' and received_tli > 1";
        for replica in &mut self.replicas {
            replica.follow(&self.primary).await?;
            for _ in 0..30 {
                if replica.psql(follows).await? == "1" {
                    break;
                }
                sleep(Duration::from_millis(100)).await;
            }
            if replica.psql(follows).await? == "1" {
                println!("           a replica follows it");
            } else {
                *replica = self.primary.standby().await?;
                println!("           a replica was ahead of the standby, and was rebuilt");
            }
        }
        self.register()
    }

    /// Kills a Redis node under load, and restarts it empty.
    pub(crate) async fn lose_a_redis(
        &mut self,
        clients: impl Future<Output = Result<Window, Failure>>,
    ) -> Result<Window, Failure> {
        let fault = async {
            sleep(Duration::from_secs(2)).await;
            let node = &mut self.redis.nodes()[1];
            node.kill().await?;
            println!("  +2.0 s   it is killed: a third of all keys is unavailable");
            sleep(Duration::from_secs(3)).await;
            node.restart().await?;
            println!("  +5.0 s   it is back, empty");
            Ok::<_, Failure>(())
        };
        let (window, done) = tokio::join!(clients, fault);
        done.and(window)
    }

    fn registry(&self) -> PathBuf {
        self.folder.path().join("replicas")
    }

    /// Writes the list of replicas.
    fn register(&self) -> Result<(), Failure> {
        let urls: Vec<String> = self.replicas.iter().map(Postgres::url).collect();
        let draft = self.folder.path().join("draft");
        fs::write(&draft, urls.join("\n"))?;
        Ok(fs::rename(draft, self.registry())?)
    }
}

impl fmt::Display for Cloud {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "3 nodes of the service")?;
        writeln!(
            f,
            "  writes, and reads of the primary  PgBouncer, pooling by {} (as RDS Proxy)",
            self.mode
        )?;
        writeln!(
            f,
            "  log of changes, one connection    the primary's own name (as the instance's endpoint)"
        )?;
        writeln!(
            f,
            "  reads                             2 streaming replicas, found by a list (as DescribeDBInstances)"
        )?;
        writeln!(f, "  shared responses                  Redis Cluster of 3 (as ElastiCache)")?;
        write!(
            f,
            "  failover                          a synchronous standby that serves no reads (as Multi-AZ)"
        )?;
        if self.mode == "session" {
            write!(
                f,
                "\nThis PgBouncer is older than 1.21: pooling by transaction would mix prepared statements up."
            )?;
        }
        Ok(())
    }
}
