//! The folders of `src` import each other in the directions that docs/design.md, section 4, gives.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

pub(super) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The lines of the block that begins with this text in docs/design.md, from the top layer down.
fn layers() -> Vec<Vec<String>> {
    let design = fs::read_to_string(root().join("docs/design.md")).unwrap();
    let (_, rest) = design.split_once("```text\nadmin,").expect("the layers are a block of text");
    let (block, _) = rest.split_once("```").unwrap();
    let lines = format!("admin,{block}");
    let names = |line: &str| line.split(',').map(|name| name.trim().to_owned()).collect();
    lines.lines().map(names).collect()
}

/// Every source file below a path, tests left out.
pub(super) fn sources(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        let is_test = path.ends_with("interleaved.rs") || path.ends_with("tests.rs");
        return if is_test { Vec::new() } else { vec![path.to_owned()] };
    }
    let is_tests = path.ends_with("tests");
    let inside = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    if is_tests { Vec::new() } else { inside.flat_map(|path| sources(&path)).collect() }
}

/// Whether a line of formatted code is the last one of an item that is not within another.
fn ends_item(line: &str) -> bool {
    line == "}" || !line.starts_with([' ', '#']) && line.ends_with([';', '}'])
}

/// The lines of code outside unit tests, and outside items for these.
pub(super) fn code(text: &str) -> Vec<&str> {
    let begins_test =
        |line: &str| line.starts_with("#[cfg(test)]") || line.starts_with("#[cfg(all(test,");
    let mut is_test = false;
    let mut code = Vec::new();
    for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
        is_test |= begins_test(line);
        if !is_test {
            code.push(line);
        }
        is_test &= !ends_item(line);
    }
    code
}

#[test]
fn code_between_and_after_test_items_is_read() {
    let text = "a();\n#[cfg(test)]\nuse x;\nb\n#[cfg(test)]\nmod tests {\n    c;\n}\n#[cfg(all(test, y))]\n#[z]\nfn d() {\n}\ne";
    assert_eq!(code(text), ["a();", "b", "e"]);
}

/// The names that follow `crate::` in a file's code.
fn imports(file: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(file).unwrap();
    let mut found = BTreeSet::new();
    for line in code(&text) {
        for after in line.split("crate::").skip(1) {
            let end = after.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(after.len());
            found.insert(after[..end].to_owned());
        }
    }
    found
}

/// Each import from one folder (or file) directly below `src` into another.
fn edges() -> BTreeSet<(String, String)> {
    let mut edges = BTreeSet::new();
    for entry in fs::read_dir(root().join("src")).unwrap() {
        let path = entry.unwrap().path();
        let from = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if from != "lib" {
            let into =
                sources(&path).iter().flat_map(|file| imports(file)).collect::<BTreeSet<_>>();
            edges.extend(into.into_iter().filter(|to| *to != from).map(|to| (from.clone(), to)));
        }
    }
    // Paths by way of `super`, and through re-exports.
    for (from, needed) in crate::circles::needs() {
        let between =
            needed.into_iter().filter_map(|to| Some((from.first()?, to.first()?.clone())));
        edges.extend(between.filter(|(from, to)| *from != to).map(|(from, to)| (from.clone(), to)));
    }
    edges
}

#[test]
fn imports_point_down_the_layers_of_the_design() {
    let layers = layers();
    let height = |name: &str| {
        let place = layers.iter().rev().position(|line| line.iter().any(|other| other == name));
        place.unwrap_or_else(|| panic!("`{name}` is in no layer of docs/design.md"))
    };
    let is_upward = |(from, to): &(String, String)| height(from) <= height(to);
    let edges = edges();
    assert!(edges.len() > 30, "the imports of src were not found: {edges:?}");
    let upward: BTreeSet<_> = edges.into_iter().filter(is_upward).collect();
    assert!(upward.is_empty(), "against the direction of docs/design.md, section 4: {upward:?}");
}
