//! Finds the programs of Postgres.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

use crate::process::find;

const INSTALL: &str = "install the PostgreSQL server, 14 or later (Debian and Ubuntu: apt-get \
                       install postgresql; macOS: brew install postgresql)";

/// The folder of the server's programs: from `PATH`, which can select a version, or from the usual places of packages.
pub(super) fn folder() -> io::Result<PathBuf> {
    // Resolve links, since the other programs may not be beside a link.
    let initdb = find("initdb", &folders(), INSTALL)?.canonicalize()?;
    Ok(initdb.parent().unwrap_or(Path::new("/")).to_owned())
}

/// A program from the server's folder, or else from another version.
pub(super) fn beside(bin: &Path, program: &str) -> PathBuf {
    let own = bin.join(program);
    if own.is_file() { own } else { find(program, &folders(), INSTALL).unwrap_or(own) }
}

/// The folders in `PATH`, then those of packages.
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
