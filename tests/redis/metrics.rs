//! The metrics that a recorder receives. The dashboard, the alerts and the documentation use the same names.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::common::{eventually, fetch};
use crate::world;
use axum::Router;
use axum::extract::{Path, State};
use axum::routing::get;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tidegate::{
    Cache, CacheLayer, Database, DatabaseOptions, Guard, Listener, Memory, MetricKind, Metrics,
    Policy, Redis, Tiered, Triggers,
};
use tidegate_testing::{Postgres, RedisServer};

const TTL: Duration = Duration::from_mins(1);

struct World {
    postgres: Postgres,
    standby: Postgres,
    redis: RedisServer,
    db: Database,
    app: Router,
    metrics: Metrics,
    prometheus: PrometheusHandle,
}

impl World {
    async fn new() -> Self {
        let prometheus = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &[0.01, 1.0])
            .unwrap()
            .install_recorder()
            .unwrap();
        let table =
            "create table t (id int primary key, n int); insert into t values (1, 1), (2, 2)";
        let servers = world::World::new(table, Triggers::new().table("t")).await;
        let world::World { postgres, redis, .. } = servers;
        let standby = postgres.standby().await.unwrap();
        let options = DatabaseOptions::new(postgres.url()).replica(standby.url());
        let db = options.connect().await.unwrap();
        let guard = Guard::new(Redis::connect(redis.url()).await.unwrap());
        let guard = guard.read_within(TTL).breaker(1, TTL);
        let cache = Cache::new(Tiered::with_guard(Memory::new(1 << 20), guard));
        Listener::spawn(&db, &cache).await.unwrap();
        let metrics = Metrics::new(&cache).database(&db);
        let app = Router::new()
            .route("/{id}", get(read))
            .route("/audited/{id}", get(read))
            .layer(
                CacheLayer::with_policy(cache, Policy::ttl(TTL).wait(TTL))
                    .route("/audited/{id}", Policy::ttl(TTL).audit(1.0)),
            )
            .with_state(db.clone());
        Self { postgres, standby, redis, db, app, metrics, prometheus }
    }

    fn scrape(&self) -> String {
        self.metrics.record();
        self.prometheus.run_upkeep();
        self.prometheus.render()
    }

    /// The value of a metric, whose name may have labels; NaN if there is none.
    fn value(&self, series: &str) -> f64 {
        let text = self.scrape();
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.map_or(f64::NAN, |value| value.parse().unwrap())
    }
}

async fn read(State(db): State<Database>, Path(id): Path<i32>) -> String {
    let query = sqlx::query_scalar::<_, i32>("select n from t where id = $1").bind(id);
    query.fetch_one(db.reader()).await.unwrap().to_string()
}

/// All that looks like a metric's name, without what Prometheus adds for histograms.
fn names(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !(c.is_ascii_lowercase() || c == '_'));
    let histograms = ["_bucket", "_sum", "_count"];
    let bare =
        |word| histograms.iter().find_map(|end| str::strip_suffix(word, end)).unwrap_or(word);
    words.filter(|word| word.starts_with("tidegate_")).map(bare).collect()
}

fn same(value: f64, expected: u32) -> bool {
    (value - f64::from(expected)).abs() < f64::EPSILON
}

#[tokio::test]
async fn metrics_are_correct_and_have_the_documented_names() {
    let world = World::new().await;
    let up = async || same(world.value(r#"tidegate_server_up{server="replica-1"}"#), 1);
    eventually("the replica is up", up).await;

    // The first computes the response, the second waits for it, since it is polled before any server can reply to the first,
    // and the third is a hit.
    tokio::join!(fetch(&world.app, "/1"), fetch(&world.app, "/1"));
    fetch(&world.app, "/1").await;
    let requests = |result: &str, reason: &str| {
        format!(r#"tidegate_requests_total{{result="{result}",reason="{reason}"}}"#)
    };
    assert!(same(world.value(&requests("miss", "absent")), 1), "{}", world.scrape());
    assert!(same(world.value(&requests("collapsed", "collapsed")), 1));
    assert!(same(world.value(&requests("hit", "memory")), 1));
    assert!(same(world.value(r#"tidegate_fills_total{result="stored"}"#), 1));
    assert!(same(world.value("tidegate_memory_entries"), 1));
    assert!(same(world.value("tidegate_load_seconds_count"), 1));
    assert!(same(world.value("tidegate_flight_wait_seconds_count"), 1));
    let put =
        async || same(world.value(r#"tidegate_store_call_seconds_count{operation="put"}"#), 1);
    eventually("it is put into Redis", put).await;
    let sent =
        |server: &str| world.value(&format!(r#"tidegate_statements_total{{server="{server}"}}"#));
    assert!(same(sent("replica-1") + sent("primary"), 1), "{}", world.scrape());
    assert!(world.value("tidegate_log_age_seconds") < 60.0);
    assert!(world.value("tidegate_longest_log_age_seconds") > 0.0);
    assert!(same(world.value("tidegate_epoch_known"), 1));

    fetch(&world.app, "/audited/1").await;
    fetch(&world.app, "/audited/1").await;
    let audited = r#"tidegate_audited_total{route="/audited/{id}",result="same"}"#;
    eventually("it is compared", async || same(world.value(audited), 1)).await;
    assert!(same(world.value("tidegate_background_loads_total"), 1));

    // Every listed metric is recorded, with its help, and no other is.
    let text = world.scrape();
    let listed: BTreeSet<&str> = Metrics::ALL.iter().map(|metric| metric.name).collect();
    for metric in Metrics::ALL {
        let kind = match metric.kind {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Histogram => "histogram",
        };
        assert!(text.contains(&format!("# TYPE {} {kind}\n", metric.name)), "{metric:?} in {text}");
        assert!(text.contains(&format!("# HELP {} ", metric.name)), "{metric:?}");
        assert_eq!(kind == "counter", metric.name.ends_with("_total"), "{metric:?}");
    }
    let recorded = text.lines().filter(|line| !line.starts_with('#'));
    let recorded: Vec<&str> = recorded.map(|line| line.split(['{', ' ']).next().unwrap()).collect();
    assert!(names(&recorded.join(" ")).is_subset(&listed));
}

#[tokio::test]
async fn metrics_report_lag_an_open_breaker_and_lost_servers() {
    let mut world = World::new().await;
    let lag = r#"tidegate_replica_lag_bytes{server="replica-1"}"#;
    eventually("lag is known", async || world.value(lag) >= 0.0).await;
    world.standby.pause_replay().await.unwrap();
    world.postgres.psql("update t set n = 3").await.unwrap();
    eventually("the replica is behind", async || world.value(lag) > 0.0).await;
    let late = async || world.value(r#"tidegate_replica_lag_seconds{server="replica-1"}"#) > 0.0;
    eventually("for a while", late).await;
    world.standby.resume_replay().await.unwrap();
    eventually("it catches up", async || same(world.value(lag), 0)).await;

    world.redis.kill().await.unwrap();
    fetch(&world.app, "/1").await;
    fetch(&world.app, "/2").await;
    let open = async || same(world.value("tidegate_store_breaker_open"), 1);
    eventually("the breaker opens", open).await;
    let gone = async || same(world.value("tidegate_store_connected"), 0);
    eventually("the connection is gone", gone).await;
    assert!(world.value("tidegate_store_errors_total") >= 1.0);

    let name = &world.db.replicas()[0].name;
    world.standby.kill().await.unwrap();
    let down = async || same(world.value(&format!(r#"tidegate_server_up{{server="{name}"}}"#)), 0);
    eventually("the replica is gone", down).await;
    assert!(world.value(lag).is_nan(), "and its lag not what it was");
}

#[tokio::test]
async fn a_removed_replica_is_not_reported_and_its_counter_continues_with_its_name() {
    let world = World::new().await;
    let up = r#"tidegate_server_up{server="replica-1"}"#;
    let sent = r#"tidegate_statements_total{server="replica-1"}"#;
    eventually("it is up", async || same(world.value(up), 1)).await;
    let read = async || {
        let query = sqlx::query_scalar::<_, i32>("select n from t where id = 1");
        query.fetch_one(world.db.reader()).await.unwrap();
    };
    read().await;
    assert!(same(world.value(sent), 1), "{}", world.scrape());
    assert!(world.db.remove_replica("replica-1"));
    assert!(world.value(up).is_nan());
    assert!(world.value(r#"tidegate_replica_lag_bytes{server="replica-1"}"#).is_nan());
    for state in ["idle", "used"] {
        let connections = format!(r#"tidegate_connections{{server="replica-1",state="{state}"}}"#);
        assert!(same(world.value(&connections), 0), "{}", world.scrape());
    }
    world.db.add_replica(&world.standby.url()).await.unwrap();
    eventually("it is up again", async || same(world.value(up), 1)).await;
    read().await;
    assert!(same(world.value(sent), 2), "{}", world.scrape());
}

#[test]
fn two_caches_in_one_process_are_distinguished_by_a_label() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let scraped = recorder.handle();
    metrics::with_local_recorder(&recorder, || {
        for (name, size) in [("users", 1 << 20), ("orders", 2 << 20)] {
            let cache = Cache::new(Memory::new(size));
            Metrics::new(&cache).label("cache", name).record();
        }
    });
    let text = scraped.render();
    for line in [
        r#"tidegate_memory_capacity_bytes{cache="users"} 1048576"#,
        r#"tidegate_memory_capacity_bytes{cache="orders"} 2097152"#,
        r#"tidegate_fills_total{cache="orders",result="stored"} 0"#,
    ] {
        assert!(text.contains(line), "{text}");
    }
}

#[test]
fn the_dashboard_the_alerts_and_the_table_use_existing_metric_names() {
    let listed: BTreeSet<&str> = Metrics::ALL.iter().map(|metric| metric.name).collect();
    let table = include_str!("../../docs/metrics.md");
    let rows = table.lines().filter_map(|line| line.strip_prefix("| `tidegate_"));
    let rows: Vec<String> =
        rows.map(|row| format!("tidegate_{}", row.split('`').next().unwrap())).collect();
    let rows: BTreeSet<&str> = rows.iter().map(String::as_str).collect();
    assert_eq!(rows, listed);

    let dashboard: serde_json::Value =
        serde_json::from_str(include_str!("../../docs/grafana.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    let shown: Vec<&str> = targets.map(|target| target["expr"].as_str().unwrap()).collect();
    let shown = shown.join("\n");
    assert_eq!(names(&shown), listed, "each is shown, and nothing else");

    let alerts = names(include_str!("../../docs/alerts.yaml"));
    assert!(!alerts.is_empty() && alerts.is_subset(&listed), "{alerts:?}");
}
