//! Bounded runs of the checker: see `docs/correctness.md` for long ones.

use crate::lab;

/// Runs the checker until each kind of fault has come once, for at most half a second, and expects no violation.
async fn check(redis: &str, faults: &[&str]) {
    let mut check = lab();
    check.args(["check", "--redis", redis, "--rounds", "1", "--hold", "500"]);
    check.args(["--seconds", "300", "--reads", "100000000"]);
    let output = check.output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let complaints = String::from_utf8_lossy(&output.stderr);
    println!("{said}");
    assert_eq!(output.status.code(), Some(0), "{said}\n{complaints}");
    // Progress is for terminals: otherwise there is a line for each minute.
    assert!(complaints.lines().all(|line| line.contains(" min: ")), "{complaints}");
    let number = |line: &str| -> u64 {
        let found = said.lines().find_map(|said| said.strip_prefix(line));
        found.unwrap_or_else(|| panic!("no `{line}` in:\n{said}")).trim().parse().unwrap()
    };
    assert_eq!(number("violations:"), 0);
    assert!(number("responses checked:") > 1000, "{said}");
    for fault in faults {
        assert!(said.contains(fault), "no `{fault}` in:\n{said}");
    }
}

#[tokio::test]
async fn no_response_is_wrong_while_servers_fail_and_the_schema_changes() {
    let faults = [
        "Redis killed",
        "a replica killed",
        "a crash of the primary",
        "a failover",
        "the log trimmed",
        "cut",
        "clock",
        "put back from a copy",
        "two tables renamed",
        "label renamed",
        "a column added",
        // And each kind of response.
        "computed from other cached results",
        "db.cached",
        "get_or_load",
        "get_many",
    ];
    check("server", &faults).await;
}

#[tokio::test]
#[ignore = "another round of faults: scripts/deep runs it"]
async fn no_response_is_wrong_while_sentinel_fails_redis_over() {
    let faults = ["Redis failed over", "Redis killed", "Redis stopped and continued", "a failover"];
    check("sentinel", &faults).await;
}
