//! Clients that write, each in its own way.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use sqlx::{Connection, PgConnection};
use tokio::time::{Instant, sleep, timeout};

use super::cluster::Cluster;
use super::history::{Fate, first_group};
use super::node::UPDATE;
use super::{GROUPS, ROWS, Run};

/// A kind of transaction.
#[derive(Clone, Copy)]
enum Kind {
    One,
    Several,
    Long,
    RolledBack,
    Bulk,
    Truncate,
}

impl Kind {
    fn any(rng: &mut Rng) -> Self {
        match rng.u8(..100) {
            0..60 => Self::One,
            60..80 => Self::Several,
            80..87 => Self::Long,
            87..95 => Self::RolledBack,
            95..98 => Self::Bulk,
            _ => Self::Truncate,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::One => "of one row",
            Self::Several => "of several rows",
            Self::Long => "in a long transaction",
            Self::RolledBack => "rolled back",
            Self::Bulk => "of all rows at once",
            Self::Truncate => "by TRUNCATE and INSERT",
        }
    }

    fn rows(self, rng: &mut Rng) -> Vec<usize> {
        match self {
            Self::Bulk | Self::Truncate => (0..ROWS).collect(),
            Self::Several => rng.choose_multiple(0..ROWS, 4),
            _ => vec![rng.usize(..ROWS)],
        }
    }
}

/// Writes until the run is over.
pub(crate) async fn write(run: Arc<Run>, cluster: Arc<Cluster>, mut rng: Rng) {
    let mut connection = None;
    while !run.is_over() {
        sleep(Duration::from_micros(rng.u64(1000..20_000))).await;
        // A failover closes the gate while the primary changes.
        let _open = cluster.gate.read().await;
        if connection.is_none() {
            let connect = PgConnection::connect(&cluster.primary_url);
            connection = timeout(Duration::from_secs(2), connect).await.ok().and_then(Result::ok);
        }
        let Some(conn) = &mut connection else { continue };
        let kind = Kind::any(&mut rng);
        let written = transact(&run, conn, kind, &mut rng);
        match timeout(Duration::from_secs(5), written).await {
            Ok(Ok(())) => run.report.write(kind.name()),
            _ => connection = None,
        }
    }
}

/// Runs one transaction. If it ends with an error, its writes stay open in the history.
async fn transact(
    run: &Run,
    conn: &mut PgConnection,
    kind: Kind,
    rng: &mut Rng,
) -> Result<(), sqlx::Error> {
    let rows = kind.rows(rng);
    let mut transaction = conn.begin().await?;
    if matches!(kind, Kind::Truncate) {
        // Lock, so that versions that are assigned later are also written later.
        sqlx::query("lock table rows in access exclusive mode").execute(&mut *transaction).await?;
    }
    let version = run.history.next_version();
    let group = rng.u32(..GROUPS);
    for row in &rows {
        let group = if matches!(kind, Kind::Truncate) { first_group(*row) } else { group };
        run.history.begin(*row, version, group);
    }
    let number = version.cast_signed();
    if matches!(kind, Kind::Truncate) {
        sqlx::query("truncate rows").execute(&mut *transaction).await?;
        let insert = "insert into rows select n, $1, n % $2 from generate_series(0, $3) n";
        let insert = sqlx::query(insert).bind(number).bind(GROUPS.cast_signed());
        let last = i32::try_from(ROWS).unwrap_or_default() - 1;
        insert.bind(last).execute(&mut *transaction).await?;
    } else {
        let ids: Vec<i32> = rows.iter().filter_map(|row| i32::try_from(*row).ok()).collect();
        let update = sqlx::query(UPDATE).bind(number).bind(group.cast_signed()).bind(ids);
        update.execute(&mut *transaction).await?;
    }
    if matches!(kind, Kind::Long) {
        sleep(Duration::from_millis(rng.u64(50..500))).await;
    }
    let fate = if matches!(kind, Kind::RolledBack) {
        transaction.rollback().await?;
        Fate::RolledBack
    } else {
        transaction.commit().await?;
        Fate::Committed(Instant::now())
    };
    for row in rows {
        run.history.end(row, version, fate);
    }
    Ok(())
}
