//! Properties that hold for every text.

use proptest::prelude::*;

use super::super::{Analysis, analyze};

/// Pieces that a statement is made of, and pieces that confuse scanners.
const PIECES: &[&str] = &[
    "select", "from", "secret", "a", "b", ",", "(", ")", "f(", "'", "''", "\"", "$$", "$x$", "E'",
    "--", "/*", "*/", "\n", " ", " ", "\\", "table", "only", "with", "as", "union", "join", "on",
    "where", "1", "::", ".", "+", "<-", "@", ";", "U&", "n'", "x'", "é", "order by", "distinct",
    "lateral", "values", "over", "not", "is", "in", "\u{a0}", "\r", "#", "?", "[", "]", ":=",
];

fn text() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(PIECES), 0..40).prop_map(|pieces| pieces.concat())
}

fn spaced() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(PIECES), 0..40).prop_map(|pieces| pieces.join(" "))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_string_is_analysed_without_a_panic(sql in ".{0,200}") {
        let _ = analyze(&sql);
    }

    #[test]
    fn any_sql_fragments_are_analysed_without_a_panic(sql in prop_oneof![text(), spaced()]) {
        let _ = analyze(&sql);
    }

    #[test]
    fn a_mutated_statement_is_analysed_without_a_panic(
        at in 0_usize..120,
        piece in prop::sample::select(PIECES),
        cut in 0_usize..20,
    ) {
        let sql = "with x as (select f(a.y), count(*) over (order by z) from s.a, \"B\" where 'x' in \
                   (select n from c)) select * from x left join d on x.y = d.y limit 3";
        let start = at.min(sql.len());
        let end = (start + cut).min(sql.len());
        let _ = analyze(&format!("{}{piece}{}", &sql[..start], &sql[end..]));
    }

    /// Wherever a subquery fits, its table is found or the text is refused.
    #[test]
    fn a_table_in_a_subquery_is_never_overlooked(before in spaced(), after in spaced()) {
        let sql = format!("select {before} (select 1 from hidden) {after}");
        if let Analysis::Read(found) = analyze(&sql) {
            let lexed = super::super::lex::lex(&sql).expect("it was read");
            let words = |word: &str| lexed.iter().filter(|t| t.keyword() == Some(word)).count();
            let shadowed = words("with") > 0 || words("hidden") == 0;
            prop_assert!(
                shadowed || found.relations.iter().any(|name| name.to_string() == "hidden"),
                "{sql}: {found:?}"
            );
        }
    }
}
