//! What is cached per text, and when it is removed.

use super::super::{Dependencies, DependencyCache, Unanalyzable};
use super::server::Server;

#[tokio::test]
async fn a_schema_change_drops_the_remembered_analyses() {
    let mut server = Server::start("create table a (id int); select track('a')").await;
    let known = DependencyCache::new();
    let sql = "select * from a";
    assert!(known.get(sql).is_none());
    let first = known.learn(&mut server.conn, sql).await.expect("dependencies");
    assert!(matches!(&*first.dependencies, Dependencies::Tables(tables) if tables.len() == 1));
    server.run("drop trigger tidegate_insert on a").await;
    assert_eq!(known.get(sql), Some(first));
    known.clear_before(crate::cache::Fences::new(0).change_schema());
    assert_eq!(known.get(sql), None);
    let second = known.learn(&mut server.conn, sql).await.expect("dependencies");
    assert!(matches!(
        &*second.dependencies,
        Dependencies::Unanalyzable(Unanalyzable::UntrackedTable(..))
    ));
    let write = known.learn(&mut server.conn, "delete from a").await.expect("dependencies");
    assert_eq!(*write.dependencies, Dependencies::Unanalyzable(Unanalyzable::NotARead));
}

#[tokio::test]
async fn a_database_error_is_not_remembered() {
    let mut server = Server::start("create table a (id int); select track('a')").await;
    let known = DependencyCache::new();
    server.run("begin").await;
    let broken = sqlx::raw_sql("select 1 / 0").execute(&mut server.conn).await;
    assert!(broken.is_err());
    assert!(known.learn(&mut server.conn, "select * from a").await.is_err());
    assert!(known.get("select * from a").is_none());
    server.run("rollback").await;
    let found = known.learn(&mut server.conn, "select * from a").await.expect("dependencies");
    assert!(matches!(&*found.dependencies, Dependencies::Tables(_)));
}
