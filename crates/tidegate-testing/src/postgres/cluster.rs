//! New clusters.
//!
//! `initdb` takes half a second, and most tests start one server. So the first cluster of a process is copied
//! from one that an earlier process has made, on the same day and with the same program. Copies have the same system
//! identifier, by which Postgres and a cache tell clusters apart, so `initdb` creates all further clusters of the process.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{fs, io};

use super::text;
use crate::process::server_user;
use crate::{Process, Scratch};

/// Small segments of the write-ahead log, since each cluster starts with one and is copied with it.
const OPTIONS: [&str; 7] =
    ["--auth=trust", "-U", "postgres", "-E", "UTF8", "--no-locale", "--wal-segsize=1"];

/// Older than a day's cluster that may be in use.
const OLD: Duration = Duration::from_hours(48);

static IS_FIRST: AtomicBool = AtomicBool::new(true);

/// Creates a cluster in the folder `data`, which does not exist yet.
pub(super) async fn create(bin: &Path, data: &Path) -> io::Result<()> {
    if IS_FIRST.swap(false, Ordering::Relaxed) && copy(bin, data).await.is_ok() {
        return Ok(());
    }
    // A copy that has failed may have left a part.
    let _ = fs::remove_dir_all(data);
    initdb(bin, data, &["--no-sync"]).await
}

async fn initdb(bin: &Path, data: &Path, sync: &[&str]) -> io::Result<()> {
    let data = text(data);
    let options = [&["-D", &data], sync, &OPTIONS[..]].concat();
    Process::run(&bin.join("initdb"), options).await
}

/// Copies the cluster that is kept, and makes it first if there is none.
async fn copy(bin: &Path, data: &Path) -> io::Result<()> {
    let kept = kept(bin)?;
    if !kept.is_dir() {
        let scratch = Scratch::new()?;
        // On disk, since other processes rely on it.
        initdb(bin, &scratch.path().join("data"), &[]).await?;
        // Fails if another process was faster.
        if fs::rename(scratch.path(), &kept).is_ok() {
            remove_others(&kept);
        }
    }
    // Anyone may create a folder of this name.
    let found = fs::symlink_metadata(&kept)?;
    if !found.is_dir() || found.uid() != server_user()? || found.mode() & 0o777 != 0o700 {
        return Err(io::Error::other("it belongs to somebody else"));
    }
    let (from, to) = (text(&kept.join("data")), text(data));
    Process::run(Path::new("cp"), ["-Rp", &from, &to]).await
}

/// Removes the clusters that were kept on earlier days. A process that copies one meanwhile makes its own.
fn remove_others(kept: &Path) {
    let name = |path: &Path| path.file_name()?.to_str()?.rsplit_once('-').map(|it| it.0.to_owned());
    let Ok(folder) = fs::read_dir(std::env::temp_dir()) else { return };
    for path in folder.filter_map(|entry| Some(entry.ok()?.path())) {
        let is_old = fs::symlink_metadata(&path).is_ok_and(|found| {
            found.modified().is_ok_and(|at| at.elapsed().is_ok_and(|age| age > OLD))
        });
        if is_old && path != kept && name(&path).is_some() && name(&path) == name(kept) {
            let _ = fs::remove_dir_all(path);
        }
    }
}

/// The folder of the cluster that is kept. It changes each day, since the system may remove old files one by one.
#[expect(clippy::disallowed_methods, reason = "no test puts the clock of this forward")]
fn kept(bin: &Path) -> io::Result<PathBuf> {
    let program = fs::metadata(bin.join("initdb"))?;
    let day = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() / 86_400;
    let mut hasher = DefaultHasher::new();
    // initdb writes the time zone into the configuration.
    let zone = std::env::var_os("TZ");
    (bin, program.len(), program.mtime(), OPTIONS, zone, day).hash(&mut hasher);
    let name = format!("tidegate-cluster-{}-{:016x}", server_user()?, hasher.finish());
    Ok(std::env::temp_dir().join(name))
}
