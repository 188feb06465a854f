//! The command, as a program.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::process::Stdio;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use serde_json::Value;
use tidegate::{Admin, Cache, CacheLayer, Database, DatabaseOptions, Listener, Memory, Policy};
use tidegate_testing::{Postgres, RedisServer};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

fn command(url: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(arguments).env("POSTGRES_PRIMARY_URL", url);
    let others = ["POSTGRES_REPLICA_URL", "POSTGRES_LISTEN_URL", "REDIS_URL", "TIDEGATE_ADMIN_URL"];
    for name in others {
        command.env_remove(name);
    }
    command
}

/// What it printed for programs, and its exit code.
async fn json(url: &str, arguments: &[&str]) -> (Value, Option<i32>) {
    let output = command(url, arguments).arg("--json").output().await.unwrap();
    (serde_json::from_slice(&output.stdout).unwrap(), output.status.code())
}

/// What it printed on either side, and its exit code.
async fn tidegate(url: &str, arguments: &[&str]) -> (String, Option<i32>) {
    let output = command(url, arguments).output().await.unwrap();
    let said = [output.stdout, output.stderr].map(|said| String::from_utf8(said).unwrap());
    (said.concat(), output.status.code())
}

#[tokio::test]
async fn install_auto_keys_all_tables_by_their_foreign_keys() {
    let server = Postgres::start().await.unwrap();
    server
        .psql(
            "create table users (id int primary key);
             create table tags (name text primary key, price numeric unique);
             create schema shop;
             create table shop.posts (id int primary key, author_id int references users, tag text references tags,
                 price numeric references tags (price));
             create table visits (post int references shop.posts, day date) partition by range (day);
             create table visits_2026 partition of visits for values from ('2026-01-01') to ('2027-01-01');
             create table a (v int); create table b (v int); create table several () inherits (a, b);
             create view names as select name from tags;
             create role other; create table foreigners (id int); alter table foreigners owner to other",
        )
        .await
        .unwrap();
    let url = server.url();
    let (said, code) = tidegate(&url, &["install", "--auto", "shop.posts:id"]).await;
    assert!(
        said.contains("shop.posts: tracked by id, author_id, tag") && code == Some(0),
        "{said}"
    );
    assert!(!said.contains("users: tracked"), "{said}");
    // What was declared before stays.
    server.psql("alter table shop.posts add slug text").await.unwrap();
    assert_eq!(tidegate(&url, &["install", "shop.posts:slug"]).await.1, Some(0));
    let (sql, code) = tidegate(&url, &["migration", "--auto"]).await;
    assert!(sql.contains("'author_id'") && code == Some(0), "{sql}");
    let (said, code) = tidegate(&url, &["install", "--auto"]).await;
    assert_eq!(code, Some(0), "{said}");
    for line in [
        "users: tracked by id",
        "tags: tracked by name",
        "shop.posts: tracked by id, author_id, tag, slug",
        "visits: tracked by post",
        "not tracked: `a` ",
    ] {
        assert!(said.contains(line), "no `{line}` in {said}");
    }
    for absent in ["visits_2026: ", "names: ", "not tracked: `users`"] {
        assert!(!said.contains(absent), "`{absent}` in {said}");
    }
}

#[tokio::test]
async fn install_and_uninstall_work_and_status_names_the_fix() {
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
    assert!(said.contains("fix: tidegate install users:id,org"), "{said}");
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
async fn tables_can_be_installed_with_the_write_ahead_log_as_their_source() {
    let server = Postgres::start_with(&[("wal_level", "logical")]).await.unwrap();
    server.psql("create table users (id int primary key, org int)").await.unwrap();
    let url = server.url();
    let (said, code) = tidegate(&url, &["install", "--source", "wal", "users:org"]).await;
    let line = "users: tracked by id, org, from the write-ahead log";
    assert!(said.contains(line) && code == Some(0), "{said}");
    let (said, _) = tidegate(&url, &["doctor"]).await;
    assert!(said.contains("retained WAL"), "{said}");
    let (found, _) = json(&url, &["status"]).await;
    assert_eq!(found["tables"][0]["source"], "wal", "{found}");
    server.psql("alter publication tidegate drop table users").await.unwrap();
    let (said, code) = tidegate(&url, &["status"]).await;
    let fix = "fix: tidegate install --source wal users:id,org";
    assert!(said.contains(fix) && code == Some(2), "{said}");
    let (said, code) = tidegate(&url, &["install", "--source", "triggers", "users"]).await;
    assert!(!said.contains("write-ahead log") && code == Some(0), "{said}");
    let (_, code) = tidegate(&url, &["uninstall", "--all"]).await;
    assert_eq!(code, Some(0));
    let left = "select count(*) from pg_trigger, pg_publication";
    assert_eq!(server.psql(left).await.unwrap(), "0");
    let plain = Postgres::start_with(&[("wal_level", "replica")]).await.unwrap();
    plain.psql("create table users (id int primary key)").await.unwrap();
    let (said, code) = tidegate(&plain.url(), &["install", "--source", "wal", "users"]).await;
    assert!(said.contains("wal_level") && code != Some(0), "{said}");
}

#[tokio::test]
async fn errors_name_the_fix_and_never_show_the_password() {
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

#[tokio::test]
async fn json_output_shows_soundness_tables_and_replicas() {
    let server = Postgres::start().await.unwrap();
    let standby = server.standby().await.unwrap();
    server.psql("create table users (id int primary key, org int)").await.unwrap();
    let url = server.url();
    let (status, code) = json(&url, &["install", "users:org"]).await;
    assert_eq!((status["sound"].as_bool(), code), (Some(true), Some(0)), "{status}");
    assert_eq!(status["tables"][0]["columns"], serde_json::json!(["id", "org"]));
    assert_eq!(status["replicas"][0]["state"], "streaming", "{status}");
    assert!(status["replicas"][0]["lag_bytes"].is_i64() && status["log_bytes"].is_i64());
    server.psql("drop trigger tidegate_insert on users").await.unwrap();
    let (status, code) = json(&url, &["status"]).await;
    assert_eq!((status["sound"].as_bool(), code), (Some(false), Some(2)), "{status}");
    let unsound = serde_json::json!([{"table": "users", "event": "insert", "state": "is missing"}]);
    assert_eq!(status["tables"][0]["unsound_triggers"], unsound);
    assert_eq!(json(&url, &["invalidate", "users"]).await.0["done"], true);
    drop(standby);
}

#[tokio::test]
async fn watch_prints_each_committed_change_and_no_rolled_back_one() {
    let server = Postgres::start().await.unwrap();
    server.psql("create table users (id int primary key)").await.unwrap();
    let url = server.url();
    tidegate(&url, &["install", "users"]).await;
    let mut command = command(&url, &["watch", "--count", "2", "--json"]);
    let mut watch = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut ready = BufReader::new(watch.stderr.take().unwrap()).lines();
    assert_eq!(ready.next_line().await.unwrap().unwrap(), "watching");
    server
        .psql("begin; insert into users values (7); rollback; insert into users values (8)")
        .await
        .unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let first: Value = serde_json::from_str(&lines.next_line().await.unwrap().unwrap()).unwrap();
    assert_eq!(first["tags"], serde_json::json!(["users", "users:id=8"]), "{first}");
    assert_eq!(first["all"], false);
    server.psql("alter table users add n int").await.unwrap();
    let second: Value = serde_json::from_str(&lines.next_line().await.unwrap().unwrap()).unwrap();
    assert_eq!(second["all"], true, "a change of the schema: {second}");
    assert!(watch.wait().await.unwrap().success(), "it ends after two");
}

#[tokio::test]
async fn a_generated_migration_creates_the_same_triggers_as_install() {
    let server = Postgres::start().await.unwrap();
    let table = "create table users (id int primary key, org int, at timestamptz);
                 create schema s; create table s.\"it's\" (id uuid primary key)";
    server.psql(table).await.unwrap();
    let url = server.url();
    let made = tidegate(&url, &["migration", "users:org", "s.it's", "--row-limit", "7"]).await.0;
    server.psql(&format!("begin; {made} commit")).await.unwrap();
    let (status, _) = json(&url, &["status"]).await;
    assert_eq!(status["sound"], true, "{status}");
    assert_eq!(status["tables"][1]["columns"], serde_json::json!(["id", "org"]), "{status}");
    assert_eq!(status["tables"][0]["name"], "s.it's", "{status}");
    let triggers = "select string_agg(pg_get_triggerdef(oid), ';' order by tgname) from pg_trigger
                    where tgrelid = 'users'::regclass and not tgisinternal";
    let by_migration = server.psql(triggers).await.unwrap();
    server.psql(&format!("begin; {made} commit")).await.unwrap();
    tidegate(&url, &["uninstall", "--all"]).await;
    tidegate(&url, &["install", "users:org", "--row-limit", "7"]).await;
    assert_eq!(server.psql(triggers).await.unwrap(), by_migration);
    for (wrong, why) in [
        ("nothing", "there is no table"),
        ("users:none", "column `none` of `users`"),
        ("users:at", "column `at` of `users`"),
        ("pg_catalog.pg_class", "a table of the system"),
    ] {
        let made = tidegate(&url, &["migration", wrong]).await.0;
        let error = server.psql(&format!("begin; {made} commit")).await.unwrap_err().to_string();
        assert!(error.contains(why), "{wrong}: {error}");
    }
}

/// The state of what was looked at, and all that was said of it.
fn state<'r>(report: &'r Value, what: &str) -> (&'r str, String) {
    let checks = report["checks"].as_array().unwrap();
    let check = checks.iter().find(|check| check["what"] == what);
    let check = check.unwrap_or_else(|| panic!("nothing was said of {what}: {report}"));
    (check["state"].as_str().unwrap(), check.to_string())
}

#[tokio::test]
async fn doctor_reports_each_failing_check_and_passes_a_sound_setup() {
    let server = Postgres::start().await.unwrap();
    let (standby, other) = (server.standby().await.unwrap(), Postgres::start().await.unwrap());
    server.psql("create table users (id int primary key)").await.unwrap();
    let redis =
        RedisServer::start_with(&["--maxmemory", "20mb", "--maxmemory-policy", "allkeys-lru"]);
    let full =
        RedisServer::start_with(&["--maxmemory", "20mb", "--maxmemory-policy", "noeviction"]);
    let (redis, full) = (redis.await.unwrap(), full.await.unwrap());
    let url = server.url();

    let (report, code) = json(&url, &["doctor"]).await;
    assert_eq!(code, Some(2));
    let (bad, said) = state(&report, "schema tidegate");
    assert!(bad == "bad" && said.contains("tidegate install"), "{said}");
    assert_eq!(state(&report, "listener").0, "bad");

    tidegate(&url, &["install", "users"]).await;
    let replicas = standby.url();
    let well = ["doctor", "--replica", &replicas, "--redis", &redis.url()];
    let (report, code) = json(&url, &well).await;
    assert_eq!((code, report["sound"].as_bool()), (Some(0), Some(true)), "{report}");
    for what in [
        "primary",
        "wal_level",
        "clock",
        "schema tidegate",
        "wake-ups",
        "log",
        "table users",
        "writers",
        "listener",
        "replica replica-1",
        "Redis memory",
    ] {
        assert_eq!(state(&report, what).0, "good", "{report}");
    }
    // Whether it is fast enough depends on this machine.
    let (_, said) = state(&report, "Redis");
    assert!(said.contains("responds within"), "{said}");
    let (said, code) = tidegate(&url, &well).await;
    assert!(said.ends_with("no check has failed\n") && code == Some(0), "{said}");

    server.psql("drop trigger tidegate_update on users").await.unwrap();
    server.psql("alter database postgres set tidegate.notify = off").await.unwrap();
    let replicas = format!("{},{}", url, other.url());
    let (report, code) =
        json(&url, &["doctor", "--replica", &replicas, "--redis", &full.url()]).await;
    assert_eq!(code, Some(2), "{report}");
    let (bad, said) = state(&report, "table users");
    assert!(bad == "bad" && said.contains("tidegate install users:id"), "{said}");
    let (warned, said) = state(&report, "wake-ups");
    assert!(warned == "warning" && said.contains("tidegate.notify is off"), "{said}");
    let (bad, said) = state(&report, "replica");
    assert!(bad == "bad" && said.contains("is a primary, not a replica"), "{said}");
    let (bad, said) = state(&report, "Redis memory");
    assert!(bad == "bad" && said.contains("allkeys-lru"), "{said}");

    let (said, code) = tidegate(
        "postgres://u:s3cret@127.0.0.1:1/d",
        &["doctor", "--redis", "redis://:s3cret@127.0.0.1:1/"],
    )
    .await;
    assert!(code == Some(2) && said.matches("BAD").count() == 2, "{said}");
    assert!(!said.contains("s3cret"), "{said}");
}

/// What a subscription applies fires no statement trigger.
#[tokio::test]
async fn doctor_and_status_name_a_subscription_that_writes_to_a_tracked_table() {
    let publisher = Postgres::start_with(&[("wal_level", "logical")]).await.unwrap();
    let server = Postgres::start().await.unwrap();
    for server in [&publisher, &server] {
        let tables =
            "create table users (id int primary key); create table other (id int primary key)";
        server.psql(tables).await.unwrap();
    }
    publisher.psql("create publication p for table users").await.unwrap();
    let url = server.url();
    assert_eq!(tidegate(&url, &["install", "users", "other"]).await.1, Some(0));
    let subscribe = format!(
        "create subscription news connection 'host=127.0.0.1 port={} user=postgres dbname=postgres'
         publication p with (copy_data = false)",
        publisher.port()
    );
    server.psql(&subscribe).await.unwrap();
    let mend =
        "use Tidegate with the server on which the rows are written, or drop subscription news";
    let (report, code) = json(&url, &["doctor"]).await;
    assert_eq!((code, report["sound"].as_bool()), (Some(2), Some(false)), "{report}");
    let (bad, said) = state(&report, "table users");
    assert!(
        bad == "bad" && said.contains("a subscription writes to it") && said.contains(mend),
        "{said}"
    );
    assert_eq!(state(&report, "table other").0, "good", "{report}");
    let (status, code) = json(&url, &["status"]).await;
    assert_eq!((code, status["sound"].as_bool()), (Some(2), Some(false)), "{status}");
    let table = |name: &str| {
        let tables = status["tables"].as_array().unwrap();
        tables.iter().find(|table| table["name"] == name).unwrap().clone()
    };
    assert_eq!(table("users")["subscriptions"], serde_json::json!(["news"]), "{status}");
    assert_eq!((&table("users")["mend"], &table("users")["sound"]), (&mend.into(), &false.into()));
    assert_eq!(table("other")["sound"], true, "{status}");
    let (said, code) = tidegate(&url, &["status"]).await;
    assert!(said.contains("subscription news writes to it") && said.contains(mend), "{said}");
    assert_eq!(code, Some(2));
    server.psql("drop subscription news").await.unwrap();
    assert_eq!(tidegate(&url, &["doctor"]).await.1, Some(0));
    assert_eq!(tidegate(&url, &["status"]).await.1, Some(0));
}

#[tokio::test]
async fn completions_and_the_man_page_list_the_commands() {
    for (shell, word) in
        [("bash", "_tidegate"), ("zsh", "#compdef tidegate"), ("fish", "complete -c tidegate")]
    {
        let (script, code) = tidegate("", &["completions", shell]).await;
        assert!(script.contains(word) && script.contains("doctor") && code == Some(0), "{script}");
    }
    let (page, code) = tidegate("", &["man"]).await;
    assert!(page.contains(".TH tidegate") && code == Some(0), "{page}");
    for command in ["install", "watch", "doctor", "migration"] {
        assert!(page.contains(&format!("tidegate\\-{command}")), "{command} in {page}");
    }
    assert!(!page.contains("check\\-node"));
}

/// A service with a page for operators; where that is.
async fn service(url: &str) -> String {
    async fn count(State(db): State<Database>) -> String {
        let query = sqlx::query_scalar::<_, i64>("select count(*) from users, orgs");
        query.fetch_one(db.reader()).await.unwrap().to_string()
    }
    let db = DatabaseOptions::new(url).connect().await.unwrap();
    let cache = Cache::new(Memory::new(1 << 20));
    Listener::spawn(&db, &cache).await.unwrap();
    let layer = CacheLayer::new(cache).route("/count", Policy::ttl(Duration::from_mins(1)));
    let admin = Admin::new(&layer).database(&db).with_token("a secret of the test's").unwrap();
    let app = Router::new().route("/count", get(count)).layer(layer).with_state(db);
    let app = app.nest("/admin", admin);
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", socket.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(socket, app).await });
    base
}

/// The body of a response to a GET.
async fn fetch(url: &str) -> String {
    let connector = hyper_util::client::legacy::connect::HttpConnector::new();
    let client = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new());
    let client = client.build::<_, http_body_util::Empty<&[u8]>>(connector);
    let response = client.get(url.parse().unwrap()).await.unwrap();
    let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap();
    String::from_utf8(body.to_bytes().to_vec()).unwrap()
}

#[tokio::test]
async fn explain_suggest_and_status_query_a_running_service() {
    let server = Postgres::start().await.unwrap();
    server
        .psql("create table users (id int primary key); create table orgs (id int)")
        .await
        .unwrap();
    let url = server.url();
    tidegate(&url, &["install", "users"]).await;
    let base = service(&url).await;
    let admin = format!("{base}/admin/");
    let with = async |token: &str, arguments: &[&str]| {
        let page = ["--admin", &admin, "--admin-token", token];
        tidegate(&url, &[arguments, &page].concat()).await
    };
    assert_eq!(fetch(&format!("{base}/count")).await, "0");
    let query = async |arguments: &[&str]| with("a secret of the test's", arguments).await;
    let (said, code) = query(&["explain", "/count"]).await;
    assert!(said.starts_with("/count: miss (absent)\n") && code == Some(0), "{said}");
    let (said, _) = query(&["explain", "/count", "-H", "Cookie: a=b", "-H", "Host: x"]).await;
    assert!(said.contains("bypass (personal)") && said.contains("Policy::public"), "{said}");
    let (said, code) = query(&["explain", "count"]).await;
    assert!(said.contains("a path that begins with /") && code == Some(1), "{said}");
    let (said, _) = query(&["suggest"]).await;
    assert!(said.contains("1 responses can't be stored: table orgs is not tracked"), "{said}");
    let (said, code) = query(&["status"]).await;
    assert!(said.contains("orgs: read by the service, but not tracked"), "{said}");
    assert!(said.contains("has read the log up to"), "{said}");
    assert!(said.contains("fix: tidegate install orgs") && code == Some(2), "{said}");
    let page = ["--admin", &admin, "--admin-token", "a secret of the test's"];
    let (explained, _) = json(&url, &[&["explain", "/count"][..], &page].concat()).await;
    assert_eq!(explained["reason"], "absent");
    assert_eq!(
        json(&url, &[&["status"][..], &page].concat()).await.0["node"]["untracked"][0],
        "orgs"
    );
    assert!(with("another secret", &["suggest"]).await.0.contains("--admin-token"));
    for (page, mend) in [
        (&["suggest"][..], "TIDEGATE_ADMIN_URL"),
        (&["suggest", "--admin", "localhost/x"], "https://host/path"),
        (&["suggest", "--admin", "http://127.0.0.1:1/"], "the request to http"),
        (
            &["suggest", "--admin", "http://127.0.0.1:1/", "--admin-token", "t"],
            "the request to http",
        ),
        (&["suggest", "--admin", "http://[::1]:1/", "--admin-token", "t"], "the request to http"),
        (&["suggest", "--admin", "http://node.invalid/", "--admin-token", "t"], "--plain-http"),
        (&["suggest", "--admin", "http://node.invalid/"], "the request to http"),
        (&["explain", "/a", "--admin", "http://node.invalid/"], "the request to http"),
        (
            &["explain", "/a", "-H", "cookie: id=1", "--admin", "http://node.invalid/"],
            "--plain-http",
        ),
        (
            &["suggest", "--admin", "http://node.invalid/", "--admin-token", "t", "--plain-http"],
            "the request to http",
        ),
        (&["suggest", "--admin", &base], "no operator page at"),
    ] {
        let (said, code) = tidegate(&url, page).await;
        assert!(said.contains(mend) && code == Some(1), "{page:?}: {said}");
    }
}

/// A service with one response that is stored and one that is not.
async fn loaded() -> String {
    let cache = Cache::new(Memory::new(1 << 20));
    let policy = Policy::ttl(Duration::from_secs(3600)).untracked();
    let app = Router::new()
        .route("/kept", get(async || "kept"))
        .route("/made", get(async || "made"))
        .layer(CacheLayer::new(cache).route("/kept", policy))
        .route("/bare", get(async || "bare"));
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", socket.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(socket, app).await.unwrap() });
    base
}

#[tokio::test]
async fn bench_http_counts_statuses_and_cache_hits() {
    let base = loaded().await;
    let kept = format!("{base}/kept");
    fetch(&kept).await;
    let urls = ["kept", "made", "bare", "none"].map(|path| format!("{base}/{path}"));
    let [kept, made, bare, none] = urls.each_ref().map(String::as_str);
    let load = ["bench", "http", "--requests", "400", "--connections", "7", "--threads", "2"];
    let (found, code) = json("", &[&load[..], &[kept, made, bare, none]].concat()).await;
    assert_eq!((found["responses"].as_u64(), code), (Some(400), Some(0)), "{found}");
    assert_eq!(found["statuses"], serde_json::json!({"200": 300, "404": 100}), "{found}");
    assert_eq!(found["cache"]["hits"], 100, "{found}");
    assert_eq!(found["cache"]["none"], 100, "{found}");
    let (found, _) = json("", &[&load[..], &["--rate", "4000", kept]].concat()).await;
    assert_eq!(
        (found["cache"]["hits"].as_u64(), found["rate"].as_f64()),
        (Some(400), Some(4000.0))
    );
    assert_eq!(found["cache"]["hit_rate"], 1.0, "{found}");
    let output = command("", &[&load[..], &[kept]].concat()).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    // Progress is for terminals.
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert!(said.contains("400 responses") && said.contains("hits 400 (100.00 %)"), "{said}");
}

#[tokio::test]
async fn bench_http_explains_a_load_that_it_cannot_generate() {
    let cut = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = cut.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = cut.accept().await.unwrap();
            let mut request = [0; 1000];
            let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut request).await;
            let head = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf";
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, head).await;
        }
    });
    let cut = format!("http://{address}/");
    for (url, why) in [
        ("http://127.0.0.1:1/", "nothing listens at 127.0.0.1:1"),
        ("127.0.0.1", "is not a URL"),
        ("https://127.0.0.1/", "TLS is not measured"),
        (&cut, "closed in the middle of the response (20)"),
    ] {
        let (said, code) = tidegate("", &["bench", "http", "--requests", "20", url]).await;
        assert!(said.contains(why) && code == Some(1), "{url}: {said}");
    }
}
