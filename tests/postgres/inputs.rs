//! Wrong settings are reported at once, with the fix and without the password.

use std::time::Duration;

use tidegate::{Database, DatabaseError, DatabaseOptions, Listener, Triggers};
use tidegate_testing::Postgres;

use super::common::{cache, with_causes};
use super::world::{connect, options, primary};

async fn refused(options: DatabaseOptions, mend: &str) {
    let error = options.connect().await.unwrap_err();
    assert!(error.to_string().contains(mend), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_the_wrong_role_or_cluster_is_refused() {
    let primary = primary(&[]).await;
    let replica = primary.standby().await.unwrap();
    let other = Postgres::start().await.unwrap();
    let strange = other.standby().await.unwrap();
    refused(DatabaseOptions::new(replica.url()), "is a standby, not a primary").await;
    refused(options(&primary).replica(primary.url()), "is a primary").await;
    refused(options(&primary).replica(strange.url()), "does not belong to the cluster").await;
    refused(DatabaseOptions::new("postgres://postgres@127.0.0.1:1/postgres"), "127.0.0.1:1").await;
}

/// Its connection is accepted, by the system, and nobody replies.
#[tokio::test(start_paused = true)]
async fn a_server_that_never_responds_is_reported_and_does_not_block_the_start_forever() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("postgres://postgres@{}/postgres", silent.local_addr().unwrap());
    let connect = DatabaseOptions::new(url).connect();
    let outcome = tokio::time::timeout(Duration::from_mins(10), connect).await;
    let error = with_causes(&outcome.expect("a limit").unwrap_err());
    assert!(error.contains("127.0.0.1") && error.contains("no response within"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_about_invalid_urls_do_not_show_the_password() {
    for url in
        ["postgres://u:wr0ng@", "mysql://u:wr0ng@h/d", "wr0ng", "postgres://u:wr0ng@h:port/d"]
    {
        let error = DatabaseOptions::new(url).connect().await.unwrap_err();
        let message = format!("{} {error:?}", with_causes(&error));
        assert!(matches!(error, DatabaseError::Url(_)), "{message}");
        assert!(url == "wr0ng" || !message.contains("wr0ng"), "{message}");
    }
    let primary = primary(&[]).await;
    let url = primary.url().replace("postgres@", "postgres:wr0ng@");
    let db = DatabaseOptions::new(url).connect().await.unwrap();
    assert!(!format!("{db:?}").contains("wr0ng"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_listener_missing_rights_and_a_missing_schema_are_errors() {
    let primary = primary(&[]).await;
    let db = options(&primary).connect().await.unwrap();
    let cache = cache();
    Listener::spawn(&db, &cache).await.unwrap();
    let error = Listener::spawn(&db, &cache).await.unwrap_err();
    assert!(matches!(error, DatabaseError::Attached), "{error}");

    primary.psql("create role app login").await.unwrap();
    let app = primary.url().replace("postgres@", "app@");
    let error = listen(&app).await.unwrap_err();
    assert!(error.to_string().contains("tidegate grant"), "{error}");
    let mut conn = connect(&primary).await;
    Triggers::grant(&mut conn, "app").await.unwrap();
    listen(&app).await.unwrap();

    Triggers::uninstall_all(&mut conn).await.unwrap();
    let error = listen(&primary.url()).await.unwrap_err();
    assert!(error.to_string().contains("tidegate install"), "{error}");
}

async fn listen(url: &str) -> Result<Listener, DatabaseError> {
    let db: Database = DatabaseOptions::new(url).connect().await?;
    Listener::spawn(&db, &cache()).await
}
