//! Texts that could exhaust a stack, on a thread that has a small one.

use super::super::{Analysis, analyze};

#[test]
fn overlong_or_deeply_nested_sql_is_refused_on_a_small_stack() {
    let texts = [
        format!("select '{}'", "x".repeat(70_000)),
        format!("select {}1{}", "(".repeat(3_000), ")".repeat(3_000)),
        format!("select {}1", "- ".repeat(7_000)),
        format!("select 1{}", "+1".repeat(10_000)),
        format!("select {}", "not ".repeat(7_000)),
        format!("select {}1", "case when ".repeat(3_000)),
        "(select 1 from ".repeat(2_000),
    ];
    for sql in texts {
        let small = std::thread::Builder::new().stack_size(2 << 20);
        let analysed = small.spawn(move || analyze(&sql)).expect("thread").join().expect("stack");
        assert!(matches!(analysed, Analysis::Other(_)), "{analysed:?}");
    }
}

#[test]
fn long_flat_sql_is_analyzed_on_a_small_stack() {
    let texts = [
        format!("select 1{}", "+1".repeat(3_900)),
        format!("select 1 from a{}", " union select 1".repeat(2_600)),
        format!("select 1 where a{}", " or a".repeat(3_900)),
        format!("select a{}", "::int".repeat(3_900)),
        format!("select a{}", "[1]".repeat(2_600)),
        format!("select * from a{}", " cross join a".repeat(2_600)),
        format!("select a in (1{})", ",1".repeat(3_900)),
        format!("select a{}", " is null".repeat(3_900)),
        format!("select a{}", " at time zone b".repeat(1_900)),
    ];
    for sql in texts {
        let start = sql[..30.min(sql.len())].to_owned();
        let small = std::thread::Builder::new().stack_size(2 << 20);
        let analysed = small.spawn(move || analyze(&sql)).expect("thread").join().expect("stack");
        assert!(matches!(analysed, Analysis::Read(_)), "{start}: {analysed:?}");
    }
}
