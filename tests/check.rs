//! A bounded run of the checker: see `docs/correctness.md` for long ones.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use tokio::process::Command;

/// Long enough for each kind of fault to come once.
const SECONDS: &str = "90";

#[tokio::test]
async fn no_answer_is_wrong_while_everything_breaks() {
    let mut check = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    check.args(["check", "--seconds", SECONDS, "--reads", "100000000"]);
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
    for fault in ["Redis killed", "a replica killed", "a failover", "the log trimmed", "cut"] {
        assert!(said.contains(fault), "no `{fault}` in:\n{said}");
    }
}
