//! Replication slots that are left.

use std::time::Duration;

use sqlx::PgConnection;
use tokio::time::sleep;

use super::error::{SchemaError, within};
use crate::clock::now;
use crate::postgres::sql_error::sql_state;

/// How long nodes may take to end their streams, and how often to look.
const FREE_WITHIN: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(200);

const DROP: &str = r"
    select pg_catalog.pg_drop_replication_slot(slot_name) from pg_catalog.pg_replication_slots
    where slot_name like 'tidegate\_kept\_%' and database = pg_catalog.current_database() and active_pid is null";

const LEFT: &str = r"
    select coalesce(pg_catalog.string_agg(slot_name, ', '), '') from pg_catalog.pg_replication_slots
    where slot_name like 'tidegate\_kept\_%' and database = pg_catalog.current_database()";

/// Drops the slots that outlive the connections of nodes, once the schema is gone: nodes that run can no longer do it.
pub(super) async fn drop_all(conn: &mut PgConnection) -> Result<(), SchemaError> {
    let began = now();
    loop {
        let dropped = sqlx::query(DROP).execute(&mut *conn).await;
        let left = sqlx::query_scalar::<_, String>(LEFT).fetch_one(&mut *conn).await;
        let left = left.map_err(within("the replication slots"))?;
        if left.is_empty() {
            return Ok(());
        }
        let may_not = dropped.is_err_and(|error| sql_state(&error).as_deref() == Some("42501"));
        if may_not || began.elapsed() > FREE_WITHIN {
            tracing::warn!(
                left,
                "replication slots remain: stop the nodes, then drop the slots with pg_drop_replication_slot"
            );
            return Ok(());
        }
        sleep(LOOK_EVERY).await;
    }
}
