//! The quickstart does what its page says. There are no development dependencies, since `cargo run --example` compiles them.

#![allow(clippy::unwrap_used)]

use std::process::Command;

#[test]
fn the_quickstart_shows_hits_a_change_and_one_run_for_a_stampede() {
    // Cargo builds the example along with this test.
    let tests = std::env::current_exe().unwrap();
    let program = tests.parent().unwrap().parent().unwrap().join("examples/quickstart");
    let output = Command::new(program).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    let statuses: Vec<&str> = said.lines().filter(|line| line.contains("tidegate;")).collect();
    assert_eq!(statuses.len(), 4, "{said}");
    assert!(statuses[0].contains("stored") && statuses[1].contains("hit"), "{said}");
    assert!(statuses[2].contains("changed") && statuses[3].contains("hit"), "{said}");
    assert!(said.contains("coffee, looked up by run 3"), "a hundred at once, one run: {said}");
}
