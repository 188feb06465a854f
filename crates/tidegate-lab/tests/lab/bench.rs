//! Measurements run, within the given limits.

use serde_json::Value;

use crate::lab;

/// What it printed for programs, and its exit code. Progress is for terminals.
async fn json(arguments: &[&str]) -> (Value, Option<i32>) {
    let output = lab().args(arguments).arg("--json").output().await.unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{arguments:?}");
    (serde_json::from_slice(&output.stdout).unwrap(), output.status.code())
}

#[tokio::test]
async fn stampede_misses_compression_connections_and_scaling_benchmarks_respect_their_options() {
    let stampede = ["bench", "stampede", "--requests", "200", "--nodes", "2", "--rounds", "2"];
    let (found, code) = json(&stampede).await;
    assert_eq!((&found["with_cache"], code), (&serde_json::json!([1, 1]), Some(0)), "{found}");
    assert!(found["without_cache"][0].as_u64() == Some(200), "{found}");

    let (found, code) = json(&["bench", "misses", "--requests", "20"]).await;
    assert!(found["absent"]["median"].as_f64() > found["read"]["median"].as_f64(), "{found}");
    assert_eq!((&found["requests"], code), (&20.into(), Some(0)), "{found}");

    let compression = ["bench", "compression", "--sizes", "5000,70000", "--rounds", "3"];
    let (found, code) = json(&compression).await;
    assert_eq!((found["sizes"].as_array().map(Vec::len), code), (Some(2), Some(0)), "{found}");
    let stored = |kind: &str| found["sizes"][1][kind]["stored"].as_u64().unwrap();
    assert!(stored("plain") > 70_000 && stored("compressed") < 35_000, "{found}");

    let connections = ["bench", "connections", "--count", "300", "--requests", "2"];
    let (found, code) = json(&connections).await;
    assert_eq!((&found["held"], code), (&300.into(), Some(0)), "{found}");
    assert!(found["hits"].as_u64().is_some_and(|hits| hits >= 599), "{found}");

    let scaling = ["bench", "scaling", "--keys", "1000", "--hits", "10", "--capacity", "2"];
    let (found, code) = json(&scaling).await;
    assert_eq!((&found["curves"][0]["points"][0]["at"], code), (&1000.into(), Some(0)), "{found}");
    let bound = &found["bound"];
    assert_eq!(bound["capacity"].as_u64(), Some(2 << 20), "{found}");
    assert!(bound["counted"].as_u64() <= bound["capacity"].as_u64(), "{found}");
}

#[tokio::test]
async fn writes_and_staleness_benchmarks_report_every_table_and_load() {
    let writes = ["bench", "writes", "--clients", "2", "--rounds", "1", "--seconds", "1"];
    let (found, code) = json(&[&writes[..], &["--rows", "100", "--no-fsync"]].concat()).await;
    let tables = found["clients"][0]["tables"].as_array().unwrap();
    let names: Vec<_> = tables.iter().map(|table| table["table"].as_str().unwrap()).collect();
    let all = ["untriggered", "tracked", "notifying", "published"];
    assert_eq!((&names[..], code), (&all[..], Some(0)));
    assert!(tables.iter().all(|table| table["rate"]["median"].as_f64() > Some(0.0)), "{found}");

    let staleness = ["bench", "staleness", "--seconds", "1", "--rate", "50", "--nodes", "2"];
    let (found, code) = json(&staleness).await;
    let load = found["load"].as_array().unwrap();
    assert_eq!((load.len(), code), (2, Some(0)), "{found}");
    assert!(load.iter().all(|of| of["commits"].as_u64() > Some(0)), "{found}");
    assert!(load[1]["writes_per_second"].as_f64() > Some(0.0), "{found}");
}
