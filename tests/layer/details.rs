//! docs/cache-status.md lists every token that `Cache-Status` and the metrics can show, and no other.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use tidegate::Outcome;

type Tokens = BTreeSet<String>;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The tokens of the page's tables, by the heading above each.
fn listed() -> BTreeMap<String, Tokens> {
    let page = fs::read_to_string(root().join("docs/cache-status.md")).unwrap();
    let sections = page.split("\n## ").skip(1);
    let table = |section: &str| {
        let (heading, rows) = section.split_once('\n').unwrap();
        let tokens: Vec<_> = rows.lines().filter_map(token_of_row).collect();
        let unique: Tokens = tokens.iter().cloned().collect();
        assert_eq!(unique.len(), tokens.len(), "a token is twice under {heading}");
        (heading.to_owned(), unique)
    };
    sections.map(table).collect()
}

/// The token that a row of a table begins with.
fn token_of_row(row: &str) -> Option<String> {
    let (token, rest) = row.strip_prefix("| `")?.split_once("` |")?;
    let cells = rest.trim_end_matches('|').split(" | ").map(str::trim).collect::<Vec<_>>();
    assert!(cells.len() <= 2 && !cells[0].is_empty(), "a row without a meaning: {row}");
    Some(token.to_owned())
}

/// The code of every file below a folder, without tests and comments.
fn sources(folder: &Path) -> Vec<String> {
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let all = paths.flat_map(|path| match path.is_dir() {
        _ if path.ends_with("tests") || path.ends_with("tests.rs") => Vec::new(),
        true => sources(&path),
        false => vec![code(&fs::read_to_string(path).unwrap())],
    });
    all.collect()
}

fn code(text: &str) -> String {
    let is_test =
        |line: &str| ["#[cfg(test)]", "#[cfg(all(test,"].iter().any(|cfg| line.starts_with(cfg));
    let lines = text.lines().take_while(|line| !is_test(line));
    let lines = lines.filter(|line| !line.trim_start().starts_with("//"));
    lines.map(|line| format!("{line}\n")).collect()
}

/// The string literals of a text.
fn literals(text: &str) -> impl Iterator<Item = String> {
    text.split('"').skip(1).step_by(2).map(str::to_owned)
}

/// The body of the first function that begins so.
fn body_of<'c>(sources: &'c [String], beginning: &str) -> &'c str {
    let found = sources.iter().find_map(|code| code.split_once(beginning));
    let (_, rest) = found.unwrap_or_else(|| panic!("no function begins with {beginning}"));
    rest.split_once("\n    }\n").unwrap().0
}

/// The value of a constant.
fn constant(sources: &[String], name: &str) -> String {
    let start = format!("const {name}: &str = \"");
    let found = sources.iter().find_map(|code| code.split_once(start.as_str()));
    let (_, rest) =
        found.unwrap_or_else(|| panic!("`{name}` is the token of a reason, and no constant"));
    rest.split_once('"').unwrap().0.to_owned()
}

/// The tokens for which a response is not stored.
fn reasons(sources: &[String]) -> Tokens {
    let unanalyzable = body_of(sources, "impl Unanalyzable {\n    pub(crate) fn token(");
    let mut found: Tokens = literals(unanalyzable).collect();
    for code in sources {
        for call in code.split("Uncacheable::new(").skip(1) {
            let token = call.split([',', ')']).next().unwrap().trim();
            match token.strip_prefix('"') {
                Some(literal) => drop(found.insert(literal.trim_end_matches('"').to_owned())),
                None if token.starts_with("unanalyzable.token(") => {}
                None => drop(found.insert(constant(sources, token))),
            }
        }
    }
    found
}

#[test]
fn the_page_of_details_lists_each_token_and_no_other() {
    let (listed, sources) = (listed(), sources(&root().join("src")));
    let outcomes = |results: &[&str]| -> Tokens {
        let of = Outcome::all().filter(|outcome| results.contains(&outcome.result()));
        of.map(|outcome| outcome.token().to_owned()).collect()
    };
    let under = |heading: &str| listed.get(heading).cloned().unwrap_or_default();
    let not_stored =
        under("Not stored: the response").into_iter().chain(under("Not stored: the database"));
    let mut servers: Tokens = literals(body_of(&sources, "fn why_primary(&self, db:")).collect();
    let behind = constant(&sources, "REPLICA_BEHIND");
    let mut reasons = reasons(&sources);
    assert!(reasons.len() > 60, "the reasons were not found in the sources: {reasons:?}");
    assert!(reasons.remove(&behind) && servers.len() == 2, "{servers:?}");
    servers.insert(behind);
    for (what, listed, expected) in [
        ("hits", under("Hits"), outcomes(&["hit", "collapsed", "stale"])),
        ("misses", under("Misses"), outcomes(&["miss"])),
        ("bypasses", under("Bypasses"), outcomes(&["bypass"])),
        ("reasons", not_stored.collect(), reasons),
        ("servers", under("Notes about servers"), servers),
    ] {
        let missing: Vec<_> = expected.difference(&listed).collect();
        assert!(missing.is_empty(), "{what} that docs/cache-status.md lacks: {missing:?}");
        let unknown: Vec<_> = listed.difference(&expected).collect();
        assert!(unknown.is_empty(), "{what} that no code gives: {unknown:?}");
    }
}
