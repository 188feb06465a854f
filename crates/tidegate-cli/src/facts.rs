//! What the primary's system catalogue shows about the change log and the replicas.

use serde::Serialize;
use sqlx::PgConnection;

/// The change log, the nodes that follow it, and the oldest open write.
#[derive(Debug, Serialize, sqlx::FromRow)]
pub(crate) struct Facts {
    /// The size of the log in bytes, including indexes.
    pub(crate) log_bytes: i64,
    /// The number of connections from nodes.
    pub(crate) connections: i64,
    /// The age of the oldest open transaction that has written something, in seconds.
    pub(crate) oldest_writer_seconds: Option<f64>,
    /// The process id of that transaction's session.
    pub(crate) oldest_writer_pid: Option<i32>,
}

/// A replica, as the primary sees it.
#[derive(Debug, Serialize, sqlx::FromRow)]
pub(crate) struct Standby {
    pub(crate) name: String,
    pub(crate) address: Option<String>,
    pub(crate) state: Option<String>,
    /// Bytes of the write-ahead log that it has yet to replay.
    pub(crate) lag_bytes: Option<i64>,
    /// The replay lag when it was last measured, in seconds; `None` on an idle replica.
    pub(crate) lag_seconds: Option<f64>,
}

impl Facts {
    pub(crate) async fn read(conn: &mut PgConnection) -> Result<Self, sqlx::Error> {
        let query = "
            select pg_total_relation_size('tidegate.log') as log_bytes,
                (select count(*) from pg_stat_activity where application_name = 'tidegate'
                    and pid <> pg_backend_pid()) as connections,
                extract(epoch from clock_timestamp() - w.xact_start)::float8 as oldest_writer_seconds,
                w.pid as oldest_writer_pid
            from (select) one left join lateral (
                select xact_start, pid from pg_stat_activity
                where backend_xid is not null and pid <> pg_backend_pid()
                order by xact_start limit 1) w on true";
        sqlx::query_as(query).fetch_one(conn).await
    }
}

impl Standby {
    pub(crate) async fn all(conn: &mut PgConnection) -> Result<Vec<Self>, sqlx::Error> {
        let query = "
            select application_name as name, host(client_addr) as address, state,
                pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)::int8 as lag_bytes,
                extract(epoch from replay_lag)::float8 as lag_seconds
            from pg_stat_replication order by 1, 2";
        sqlx::query_as(query).fetch_all(conn).await
    }
}
