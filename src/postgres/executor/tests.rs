use std::time::Duration;

use sqlx::{Connection, PgConnection};
use tidegate_testing::{Postgres, eventually};

use super::*;
use crate::cache::{Ask, Cache, Policy};
use crate::{DatabaseOptions, Listener, Memory, Triggers};

/// A first candidate may fail, or a plan be outdated, so a server may be opened long after the plan was made: by then
/// the node may follow the database past the change.
#[tokio::test]
async fn a_read_that_was_planned_before_a_change_of_the_schema_is_not_stored() {
    let server = Postgres::start().await.expect("Postgres");
    let setup =
        "create table a (v text); create table b (v text); create view v as select v from a";
    server.psql(setup).await.expect("schema");
    let mut conn = PgConnection::connect(&server.url()).await.expect("connection");
    Triggers::new().table("a").table("b").install(&mut conn).await.expect("triggers");
    let db = DatabaseOptions::new(server.url()).connect().await.expect("database");
    let cache = Cache::new(Memory::new(1 << 20));
    Listener::spawn(&db, &cache).await.expect("listener");
    let policy = Policy::ttl(Duration::from_mins(1));
    for is_changed in [false, true] {
        let record = cache.record(Some(&policy), Ask::default());
        let read = async {
            let statement = Statement::take("select v from v").expect("a statement");
            let plan = Plan::of(&db, &statement, false).await;
            if is_changed {
                server.psql("create or replace view v as select v from b").await.expect("view");
                let known = async || db.inner.known.get("select v from v").is_none();
                eventually("the change is known", known).await.expect("known");
            }
            let opened = open(&db, &Candidate::Primary, &plan).await;
            let opened = opened.unwrap_or_else(|_| panic!("the primary is up"));
            note(&db, &plan, &opened.server, &opened.proof);
        };
        record.scope(read).await;
        let unfit = record.basis().err().map(|unfit| unfit.to_string());
        assert_eq!(unfit.is_some(), is_changed, "{unfit:?}");
    }
}
