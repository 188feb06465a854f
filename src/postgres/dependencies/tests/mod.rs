//! Tests of the analysis of a text, and of its dependencies on a real server.

mod bodies;
mod differential;
mod limits;
mod narrowed;
mod properties;
mod remembered;
mod rows;
mod server;
mod shadowed;
mod spellings;
mod text;
mod types;

/// Looks a statement up, again if a busy machine has let the time limit of the lookup pass.
async fn learn(
    conn: &mut sqlx::PgConnection,
    sql: &str,
) -> super::dependency_cache::FoundDependencies {
    loop {
        match super::dependency_cache::DependencyCache::new().learn(&mut *conn, sql).await {
            Err(error)
                if crate::postgres::sql_error::sql_state(&error).as_deref() == Some("57014") => {}
            found => return found.expect("an analysis"),
        }
    }
}
