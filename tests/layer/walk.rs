//! The functions that docs/design.md, section 3.2, names on a request's way are in the files that it names.

use std::fs;
use std::path::PathBuf;

/// The heading of the section with the lists.
const HEADING: &str = "\n### 3.2 Through the code\n";

/// The most entries of the lists: a hit in memory, a hit in Redis, and a miss.
const MOST: [usize; 3] = [12, 18, 25];

/// A file below `src`, and a function or a method of a type in it.
type Step = (String, String);

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn section() -> String {
    let design = fs::read_to_string(root().join("docs/design.md")).unwrap();
    let (_, rest) = design.split_once(HEADING).expect("the section has this heading");
    rest.split_once("\n#").map_or(rest, |(section, _)| section).to_owned()
}

/// The steps that a text names, as in `` `file.rs: function` ``.
fn steps(text: &str) -> Vec<Step> {
    let spans = text.split('`').skip(1).step_by(2);
    let named = spans.filter_map(|span| span.split_once(".rs: "));
    named.map(|(file, function)| (format!("{file}.rs"), function.to_owned())).collect()
}

/// The number and the text of a line of a list.
fn numbered(line: &str) -> Option<(usize, &str)> {
    let (number, text) = line.split_once(". ")?;
    Some((number.parse().ok()?, text))
}

/// The numbered lists, each of whose lines begins with one step.
fn lists(section: &str) -> Vec<Vec<Step>> {
    let mut lists: Vec<Vec<Step>> = Vec::new();
    for (number, text) in section.lines().filter_map(numbered) {
        if number == 1 {
            lists.push(Vec::new());
        }
        let list = lists.last_mut().expect("a list begins with 1");
        let step = steps(text).into_iter().next().filter(|_| text.starts_with('`'));
        list.push(step.unwrap_or_else(|| panic!("this line begins with no step: {text}")));
        assert_eq!(list.len(), number, "a wrong number: {text}");
    }
    lists
}

fn has_word(text: &str, word: &str) -> bool {
    let is_of_word = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| {
        let (before, after) = (&text[..at], &text[at + word.len()..]);
        !before.ends_with(is_of_word) && !after.starts_with(is_of_word)
    })
}

/// The `impl` blocks of a file that rustfmt has formatted: the head and the body of each.
fn impls(code: &str) -> impl Iterator<Item = (&str, &str)> {
    let blocks = code.split("\nimpl").skip(1).filter_map(|block| block.split_once("\n}\n"));
    blocks.filter_map(|(block, _)| block.split_once('{'))
}

/// Whether a file has a function: in an `impl` of its type, or by itself.
fn exists((file, function): &Step) -> bool {
    let Ok(code) = fs::read_to_string(root().join("src").join(file)) else { return false };
    if let Some((of, method)) = function.split_once("::") {
        let method = format!("fn {method}");
        return impls(&code).any(|(head, body)| has_word(head, of) && has_word(body, &method));
    }
    let function = format!("fn {function}");
    let mut outer = code.lines().filter(|line| !line.starts_with([' ', '/']));
    outer.any(|line| has_word(line, &function))
}

#[test]
fn the_design_names_the_functions_on_a_requests_way() {
    let section = section();
    let lists = lists(&section);
    assert_eq!(lists.len(), MOST.len(), "lists in{HEADING}");
    for (list, most) in lists.iter().zip(MOST) {
        assert!(list.len() <= most, "{} entries are more than {most}", list.len());
    }
    let missing: Vec<_> = lists.iter().flatten().filter(|step| !exists(step)).collect();
    assert!(missing.is_empty(), "not in that file below src: {missing:?}");
    let all = steps(&section);
    let in_no_list: Vec<_> = all.iter().filter(|step| !lists.concat().contains(step)).collect();
    assert!(in_no_list.is_empty(), "named as a step of a list, and in none: {in_no_list:?}");
}
