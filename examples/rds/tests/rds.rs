//! The example does what it says, as its own program on real servers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use tokio::process::Command;

/// What `scripts/demo --rds` shows.
#[tokio::test]
async fn rds() {
    let output = Command::new(env!("CARGO_BIN_EXE_tidegate-example-rds")).output().await.unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let failed = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "it failed:\n{said}\n{failed}");
    for shown in
        ["one is added", "one is removed", "the standby is promoted", "it is back", "unconfirmed"]
    {
        assert!(said.contains(shown), "no `{shown}` in:\n{said}");
    }
    assert_eq!(said.matches("; 0 stale").count(), 4, "{said}");
    assert_eq!(said.matches(" kept ").count(), 4, "{said}");
    assert!(said.contains("the change was seen"), "{said}");
}
