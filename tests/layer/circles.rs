//! No file of `src` needs itself by way of others.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::layering::{code, root, sources};

/// The path of a module, from the crate's root.
type Module = Vec<String>;

/// A name that a file imports.
struct Import {
    name: String,
    path: Vec<String>,
    /// It is there for other files.
    is_export: bool,
}

/// One file.
#[derive(Default)]
struct Source {
    imports: Vec<Import>,
    /// The paths in the rest of its code, and all its words.
    paths: Vec<Vec<String>>,
    words: BTreeSet<String>,
}

struct Crate(BTreeMap<Module, Source>);

/// `a::{b, c::{self, d as e}}` as one path for each name.
fn expand(tree: &str) -> Vec<(String, Vec<String>)> {
    let segments = |text: &str| -> Vec<String> {
        text.split("::")
            .map(|part| part.trim().to_owned())
            .filter(|part| !part.is_empty())
            .collect()
    };
    let Some((prefix, list)) = tree.split_once('{') else {
        let (path, name) = tree.split_once(" as ").unwrap_or((tree, ""));
        let mut path = segments(path);
        path.pop_if(|last| last == "self");
        let name = if name.is_empty() {
            path.last().cloned().unwrap_or_default()
        } else {
            name.trim().to_owned()
        };
        return vec![(name, path)];
    };
    let list = list.trim().strip_suffix('}').unwrap_or_else(|| panic!("no closing brace: {tree}"));
    let (mut depth, mut begin, mut items) = (0, 0, Vec::new());
    for (at, c) in list.char_indices().chain([(list.len(), ',')]) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                items.push(&list[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    let items = items.into_iter().filter(|item| !item.trim().is_empty());
    let joined = |(name, path): (String, Vec<String>)| {
        let path: Vec<String> = segments(prefix).into_iter().chain(path).collect();
        // `self` in a list.
        let name = if name.is_empty() { path.last().cloned().unwrap_or_default() } else { name };
        (name, path)
    };
    items.flat_map(expand).map(joined).collect()
}

/// What follows `use` in a line that begins an import. A line of text may begin with that word too.
fn begun_import(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let line = ["pub(crate) ", "pub(super) ", "pub "]
        .iter()
        .find_map(|prefix| line.strip_prefix(prefix))
        .unwrap_or(line);
    let is_of_path = |c: char| c.is_alphanumeric() || "_:{},*; ".contains(c);
    line.strip_prefix("use ").filter(|tree| tree.chars().all(is_of_path))
}

impl Source {
    fn read(file: &Path) -> Self {
        let text = fs::read_to_string(file).unwrap();
        let mut source = Self::default();
        let mut rest = String::new();
        let mut import = None::<(String, bool)>;
        for line in code(&text) {
            match (&mut import, begun_import(line)) {
                (Some((tree, _)), _) => tree.push_str(line.trim()),
                (None, Some(begun)) => {
                    import = Some((begun.to_owned(), line.trim_start().starts_with("pub")));
                }
                (None, None) => {
                    rest.push_str(line);
                    rest.push('\n');
                }
            }
            let Some((tree, is_export)) = &import else { continue };
            if let Some(tree) = tree.strip_suffix(';') {
                let named = |(name, path)| Import { name, path, is_export: *is_export };
                source.imports.extend(expand(tree).into_iter().map(named));
                import = None;
            }
        }
        let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
        let paths = rest.split(|c| !is_path(c)).filter(|word| word.contains("::"));
        source.paths = paths.map(|path| expand(path).remove(0).1).collect();
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        source.words = rest.split(|c| !is_word(c)).map(str::to_owned).collect();
        source
    }
}

impl Crate {
    fn read() -> Self {
        let src = root().join("src");
        let module = |file: &Path| {
            let parts = file.strip_prefix(&src).unwrap().with_extension("");
            let mut parts: Module =
                parts.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
            parts.pop_if(|last| last == "mod" || last == "lib");
            parts
        };
        Self(sources(&src).iter().map(|file| (module(file), Source::read(file))).collect())
    }

    /// The file in which the item of a path is defined, if it is one of the crate's. Re-exports are followed.
    fn file_of(&self, from: &Module, path: &[String], depth: u32) -> Option<Module> {
        let (mut at, mut path) = match path.first()?.as_str() {
            "crate" => (Module::new(), &path[1..]),
            "self" => (from.clone(), &path[1..]),
            "super" => {
                let ups = path.iter().take_while(|part| *part == "super").count();
                (from[..from.len().checked_sub(ups)?].to_vec(), &path[ups..])
            }
            first => {
                let child = [&from[..], &[first.to_owned()]].concat();
                let is_known = self.0.contains_key(&child) || self.imported(from, first).is_some();
                (is_known.then(|| from.clone())?, path)
            }
        };
        while let Some((first, rest)) = path.split_first() {
            let child = [&at[..], std::slice::from_ref(first)].concat();
            if self.0.contains_key(&child) {
                (at, path) = (child, rest);
                continue;
            }
            let Some(import) = self.imported(&at, first).filter(|_| depth < 9) else { break };
            return self.file_of(&at, &[import, rest].concat(), depth + 1);
        }
        // A module by itself is no item.
        (!path.is_empty()).then_some(at)
    }

    fn imported(&self, module: &Module, name: &str) -> Option<&[String]> {
        let mut imports = self.0.get(module)?.imports.iter();
        // `use serde::ser` in a file that has no module `serde`.
        let import = imports.find(|import| import.name == name && import.path[0] != name)?;
        Some(&import.path)
    }

    /// Which file needs which others.
    fn needs(&self) -> BTreeMap<Module, BTreeSet<Module>> {
        let of = |(module, source): (&Module, &Source)| {
            // A file does not need what it only exports from the files of its folder.
            let imported = |import: &Import| {
                let file = self.file_of(module, &import.path, 0)?;
                let is_used = !import.is_export || source.words.contains(&import.name);
                (is_used || !file.starts_with(module)).then_some(file)
            };
            let imports = source.imports.iter().filter_map(imported);
            let paths = source.paths.iter().filter_map(|path| self.file_of(module, path, 0));
            (module.clone(), imports.chain(paths).filter(|file| file != module).collect())
        };
        self.0.iter().map(of).collect()
    }
}

/// Which files of `src` need which others.
pub(super) fn needs() -> BTreeMap<Vec<String>, BTreeSet<Vec<String>>> {
    Crate::read().needs()
}

/// Those that are left once whatever needs none of the rest, or is needed by none of it, is gone, again and again.
fn circles(mut needs: BTreeMap<Module, BTreeSet<Module>>) -> BTreeMap<Module, BTreeSet<Module>> {
    loop {
        let before = needs.len();
        let needed: BTreeSet<Module> = needs.values().flatten().cloned().collect();
        needs.retain(|file, others| !others.is_empty() && needed.contains(file));
        let left: BTreeSet<Module> = needs.keys().cloned().collect();
        for others in needs.values_mut() {
            others.retain(|other| left.contains(other));
        }
        if needs.len() == before {
            return needs;
        }
    }
}

#[test]
fn imports_are_expanded() {
    let paths = |tree| -> Vec<String> {
        expand(tree).into_iter().map(|(name, path)| format!("{name}={}", path.join("::"))).collect()
    };
    assert_eq!(
        paths("super::a::{b, c::{self, d as e}}"),
        ["b=super::a::b", "c=super::a::c", "e=super::a::c::d"]
    );
}

#[test]
fn a_circle_is_found() {
    let module = |name: &str| vec![name.to_owned()];
    let needs = [("a", "b"), ("b", "c"), ("c", "b"), ("d", "e")];
    let needs = needs.map(|(from, to)| (module(from), BTreeSet::from([module(to)])));
    let found: Vec<Module> = circles(needs.into()).into_keys().collect();
    assert_eq!(found, [module("b"), module("c")]);
}

/// What the files and folders of each folder need of each other: `a.rs` and the files of `a/` count as one.
fn siblings(
    needs: &BTreeMap<Module, BTreeSet<Module>>,
) -> BTreeMap<Module, BTreeMap<Module, BTreeSet<Module>>> {
    let mut folders: BTreeMap<Module, BTreeMap<Module, BTreeSet<Module>>> = BTreeMap::new();
    for (from, to) in needs.iter().flat_map(|(from, to)| to.iter().map(move |to| (from, to))) {
        let shared = from.iter().zip(to).take_while(|(one, other)| one == other).count();
        // A file and one of its own folder are one of the siblings.
        if shared < from.len().min(to.len()) {
            let folder = folders.entry(from[..shared].to_vec()).or_default();
            folder.entry(from[..=shared].to_vec()).or_default().insert(to[..=shared].to_vec());
        }
    }
    folders
}

#[test]
fn no_folder_needs_itself_by_way_of_its_siblings() {
    let folders = siblings(&needs());
    assert!(folders.len() > 20, "only {} folders were found", folders.len());
    let circles: Vec<_> = folders
        .into_values()
        .flat_map(circles)
        .map(|(one, others)| format!("{} needs {others:?}", one.join("/")))
        .collect();
    assert!(circles.is_empty(), "in circles, or between two of them:\n{}", circles.join("\n"));
}

#[test]
fn no_file_needs_itself_by_way_of_others() {
    let needs = needs();
    let edges: usize = needs.values().map(BTreeSet::len).sum();
    assert!(edges > 700, "only {edges} imports were found");
    let circles = circles(needs);
    let told = circles.iter().map(|(file, others)| format!("{} needs {others:?}", file.join("/")));
    assert!(
        circles.is_empty(),
        "in circles, or between two of them:\n{}",
        told.collect::<Vec<_>>().join("\n")
    );
}
