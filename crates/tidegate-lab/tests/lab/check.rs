//! Bounded runs of the checker: see `docs/correctness.md` for long ones.

use crate::lab;

/// Checks for long enough that each kind of fault comes once, and that no answer is wrong.
async fn check(redis: &str, faults: &[&str]) {
    let mut check = lab();
    check.args(["check", "--redis", redis, "--seconds", "90", "--reads", "100000000"]);
    let output = check.output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let complaints = String::from_utf8_lossy(&output.stderr);
    println!("{said}");
    assert_eq!(output.status.code(), Some(0), "{said}\n{complaints}");
    let number = |line: &str| -> u64 {
        let found = said.lines().find_map(|said| said.strip_prefix(line));
        found.unwrap_or_else(|| panic!("no `{line}` in:\n{said}")).trim().parse().unwrap()
    };
    assert_eq!(number("violations:"), 0);
    assert!(number("answers checked:") > 1000, "{said}");
    for fault in faults {
        assert!(said.contains(fault), "no `{fault}` in:\n{said}");
    }
}

#[tokio::test]
async fn no_answer_is_wrong_while_everything_breaks() {
    let faults = [
        "Redis killed",
        "a replica killed",
        "a crash of the primary",
        "a failover",
        "the log trimmed",
        "cut",
        "clock",
    ];
    check("server", &faults).await;
}

#[tokio::test]
#[ignore = "another minute and a half: scripts/deep runs it"]
async fn no_answer_is_wrong_while_sentinel_moves_redis_about() {
    let faults = ["Redis failed over", "Redis killed", "Redis stopped and continued", "a failover"];
    check("sentinel", &faults).await;
}
