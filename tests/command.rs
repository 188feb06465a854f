//! The command, as a program.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use tidegate::testing::Postgres;
use tokio::process::Command;

/// What it printed on either side, and its exit code.
async fn tidegate(url: &str, arguments: &[&str]) -> (String, Option<i32>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(arguments).env("POSTGRES_PRIMARY_URL", url);
    let output = command.output().await.unwrap();
    let said = [output.stdout, output.stderr].map(|said| String::from_utf8(said).unwrap());
    (said.concat(), output.status.code())
}

#[tokio::test]
async fn installs_shows_what_is_wrong_and_mends_it() {
    let server = Postgres::start().await.unwrap();
    server.psql("create table users (id int primary key, org int)").await.unwrap();
    let url = server.url();
    let (said, code) = tidegate(&url, &["status"]).await;
    assert!(said.contains("tidegate install") && code == Some(1), "{said}");
    let (said, code) = tidegate(&url, &["install", "users:org"]).await;
    assert!(said.contains("users: tracked by id, org") && code == Some(0), "{said}");
    server.psql("alter table users disable trigger tidegate_update").await.unwrap();
    let (said, code) = tidegate(&url, &["status"]).await;
    assert!(said.contains("the trigger on update is disabled") && code == Some(2), "{said}");
    assert!(said.contains("mend: tidegate install users:id,org"), "{said}");
    assert_eq!(tidegate(&url, &["install", "users:id,org"]).await.1, Some(0));
    server.psql("truncate tidegate.log").await.unwrap();
    assert_eq!(tidegate(&url, &["invalidate", "users", "front page"]).await.1, Some(0));
    let tags = "select unnest(tags) from tidegate.log order by 1";
    assert_eq!(server.psql(tags).await.unwrap(), "front page\nfront page!\nusers\nusers!");
    assert_eq!(tidegate(&url, &["uninstall", "users"]).await.1, Some(0));
    assert!(tidegate(&url, &["status"]).await.0.contains("no table is tracked"));
    assert_eq!(tidegate(&url, &["uninstall", "--all"]).await.1, Some(0));
    let left = server.psql("select to_regnamespace('tidegate') is null").await.unwrap();
    assert_eq!(left, "t");
}

#[tokio::test]
async fn says_what_to_do_and_keeps_the_password() {
    let server = Postgres::start().await.unwrap();
    let standby = server.standby().await.unwrap();
    let url = server.url().replace("postgres@", "postgres:s3cret@");
    for (url, arguments, mend) in [
        (url.as_str(), &["install", "nothing"][..], "there is no table `nothing`"),
        (standby.url().as_str(), &["install", "t"], "is a standby"),
        ("postgres://u:s3cret@127.0.0.1:1/d", &["status"], "127.0.0.1:1"),
        ("mysql://u:s3cret@h/d", &["status"], "is not a Postgres URL"),
        (url.as_str(), &["install"], "TABLES"),
        (url.as_str(), &["--help"], "POSTGRES_PRIMARY_URL"),
    ] {
        let (said, _) = tidegate(url, arguments).await;
        assert!(said.contains(mend), "{arguments:?}: {said}");
        assert!(!said.contains("s3cret"), "{arguments:?}: {said}");
    }
}
