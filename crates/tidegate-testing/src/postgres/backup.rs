//! A base backup without `pg_basebackup`, for an installation that lacks it.

use std::path::Path;
use std::{fs, io};

use super::{Postgres, text};
use crate::process::give_to_servers;

impl Postgres {
    /// Copies the data folder with the low-level API (Postgres manual, "Making a Base Backup Using the Low Level API"), for
    /// a standby that then streams later changes.
    pub(super) async fn copy_to(&self, data: &Path, name: &str) -> io::Result<()> {
        let version = self.psql("show server_version_num").await?;
        let (start, stop) = if version.as_str() < "150000" {
            ("pg_start_backup('standby', true, false)", "pg_stop_backup(false, false)")
        } else {
            ("pg_backup_start('standby', true)", "pg_backup_stop(false)")
        };
        let (from, to) = (text(&self.data()), text(data));
        let copy = format!("cp -Rp '{from}' '{to}' 2>/dev/null");
        let spare = "postmaster.pid postmaster.opts pg_replslot/* pg_wal/*";
        let spare = spare.split(' ').map(|file| format!("'{to}'/{file}")).collect::<Vec<_>>();
        let clear = format!("rm -rf {}; mkdir -p '{to}/pg_wal/archive_status'", spare.join(" "));
        // Use one session: the end of the session would end the backup.
        let script = format!(
            "\\o /dev/null\nselect {start};\n\\o\n\\! {copy}; {clear}\nselect labelfile from {stop};\n"
        );
        let label = self.psql(&script).await?;
        fs::write(data.join("backup_label"), label + "\n")?;
        fs::write(data.join("standby.signal"), "")?;
        let primary = format!(
            "primary_conninfo = 'host=127.0.0.1 port={} user=postgres application_name={name}'\n",
            self.port()
        );
        let settings = data.join("postgresql.auto.conf");
        fs::write(&settings, fs::read_to_string(&settings)? + &primary)?;
        for file in [
            "backup_label",
            "standby.signal",
            "postgresql.auto.conf",
            "pg_wal",
            "pg_wal/archive_status",
        ] {
            give_to_servers(&data.join(file))?;
        }
        Ok(())
    }
}
