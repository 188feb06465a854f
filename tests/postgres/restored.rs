//! Dumps that are restored by the real tools.

use tidegate::{TriggerState, Triggers};
use tidegate_testing::{Postgres, Scratch};

use super::common::eventually;
use super::world::{Node, connect, primary};

async fn run(server: &Postgres, program: &str, arguments: &[&str]) {
    let mut command = tokio::process::Command::new(server.program(program));
    let output = command.args(arguments).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Dumps the database, empties the table `users` and restores its rows without firing triggers.
async fn restore_without_triggers(primary: &Postgres) {
    if is_dump_too_old(primary).await {
        // It refuses the server. With this option, pg_restore sends these statements.
        let restored = "alter table users disable trigger all; truncate users;
            insert into users values (1, 'ada'), (2, 'bob'); alter table users enable trigger all";
        primary.psql(restored).await.unwrap();
        return;
    }
    let scratch = Scratch::new().unwrap();
    let file = scratch.path().join("dump");
    let (url, file) = (primary.url(), file.to_str().unwrap());
    run(primary, "pg_dump", &["-Fc", "-f", file, "-d", &url]).await;
    primary.psql("truncate users").await.unwrap();
    let restore = ["--data-only", "--disable-triggers", "-t", "users", "-d", &url, file];
    run(primary, "pg_restore", &restore).await;
}

/// Whether the installed `pg_dump` is older than the server.
async fn is_dump_too_old(server: &Postgres) -> bool {
    let mut program = tokio::process::Command::new(server.program("pg_dump"));
    program.arg("--version");
    let version = String::from_utf8(program.output().await.unwrap().stdout).unwrap();
    let major = |text: &str| text.split('.').next().unwrap().parse::<u32>().unwrap();
    major(version.split_whitespace().nth(2).unwrap())
        < major(&server.psql("show server_version").await.unwrap())
}

/// `--disable-triggers` switches triggers on again as ordinary ones, which replication and its kin do not fire.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_whose_triggers_do_not_always_fire_is_not_cached_until_reinstalled() {
    let primary = primary(&[]).await;
    let node = Node::alone(&primary).await;
    node.warm(&["/users/1"]).await;
    restore_without_triggers(&primary).await;
    let ordinary =
        "select count(*) from pg_trigger where tgrelid = 'users'::regclass and tgenabled = 'O'";
    assert_eq!(primary.psql(ordinary).await.unwrap(), "4", "or this tests nothing");
    eventually("the node knows", async || node.get("/users/1").await.1.contains("untracked-table"))
        .await;
    let unseen =
        "set session_replication_role = replica; update users set name = 'eve' where id = 1";
    primary.psql(unseen).await.unwrap();
    assert_eq!(node.get("/users/1").await.0, "eve");
    let mut conn = connect(&primary).await;
    let status = Triggers::status(&mut conn).await.unwrap();
    let users = status.table("users").unwrap();
    assert!(!users.is_sound());
    assert!(
        users.triggers.iter().all(|trigger| trigger.state == TriggerState::Partly),
        "{users:?}"
    );
    Triggers::new().table("users").install(&mut conn).await.unwrap();
    node.warm(&["/users/1"]).await;
    primary.psql(&unseen.replace("eve", "zoe")).await.unwrap();
    node.sees("/users/1", "zoe").await;
}
