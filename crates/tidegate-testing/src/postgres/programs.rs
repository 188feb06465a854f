//! Where the programs of Postgres are.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

use crate::process::find;

const INSTALL: &str = "install the PostgreSQL server, 14 or later (Debian and Ubuntu: apt-get \
                       install postgresql; macOS: brew install postgresql)";

/// The folder of the server's programs: on the path, so that a version can be chosen, or where
/// packages put it.
pub(super) fn folder() -> io::Result<PathBuf> {
    // A link to one program need not have its companions beside it.
    let initdb = find("initdb", &folders(), INSTALL)?.canonicalize()?;
    Ok(initdb.parent().unwrap_or(Path::new("/")).to_owned())
}

/// A program in the folder of the server's, or else another version's.
pub(super) fn beside(bin: &Path, program: &str) -> PathBuf {
    let own = bin.join(program);
    if own.is_file() { own } else { find(program, &folders(), INSTALL).unwrap_or(own) }
}

/// Those on the path, then those that packages make.
fn folders() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<_> = env::split_paths(&path).collect();
    folders.extend(versions("/usr/lib/postgresql", ""));
    for opt in ["/opt/homebrew/opt", "/usr/local/opt"] {
        folders.extend(versions(opt, "postgresql"));
    }
    folders
}

/// The `bin` folders of the versions installed side by side in `folder`, newest first.
fn versions(folder: &str, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<(u32, PathBuf)> = entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let version = name.strip_prefix(prefix)?.trim_start_matches('@').parse().unwrap_or(0);
            Some((version, entry.path().join("bin")))
        })
        .collect();
    found.sort_by(|a, b| b.cmp(a));
    found.into_iter().map(|(_, bin)| bin).collect()
}
