//! The processor time of a server's processes.

use std::collections::BTreeSet;
use std::time::Duration;

use nix::unistd::{SysconfVar, sysconf};
use tidegate_testing::Postgres;
use tokio::time::sleep;

/// The processor time that all processes of the server have taken so far, including those that have ended; `None` if the
/// system does not report it (`proc(5)`). Waits until no process is ending: between its end and the moment when it counts
/// as one that has ended, its time could be missed.
pub(crate) async fn server_time(server: &Postgres) -> Option<Duration> {
    let main = server.process_id()?;
    let per_second = u64::try_from(sysconf(SysconfVar::CLK_TCK).ok()??).ok()?;
    for _ in 0..1_000 {
        let before = children(main);
        let own = Times::of(main)?.all();
        if before.is_settled() && before.ids == children(main).ids {
            return Some(Duration::from_millis((own + before.ticks) * 1000 / per_second.max(1)));
        }
        sleep(Duration::from_millis(1)).await;
    }
    None
}

/// The processes that a server's main process has started, and that it has not waited for.
#[derive(Default)]
struct Children {
    ids: BTreeSet<u32>,
    ticks: u64,
    ending: usize,
}

impl Children {
    fn is_settled(&self) -> bool {
        self.ending == 0
    }
}

fn children(of: u32) -> Children {
    let mut found = Children::default();
    for process in std::fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok) {
        let id = process.file_name().to_str().and_then(|name| name.parse().ok());
        let Some((id, times)) = id.and_then(|id| Some((id, Times::of(id)?))) else { continue };
        if times.parent == of {
            found.ids.insert(id);
            found.ending += usize::from(times.is_zombie);
            found.ticks += times.all();
        }
    }
    found
}

/// In clock ticks.
struct Times {
    is_zombie: bool,
    parent: u32,
    own: u64,
    /// Of its children that have ended.
    ended: u64,
}

impl Times {
    fn of(process: u32) -> Option<Self> {
        Self::parse(&std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?)
    }

    /// The fields are those of `/proc/pid/stat`; the second one, the name, may contain spaces and parentheses.
    fn parse(stat: &str) -> Option<Self> {
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self {
            is_zombie: fields.first() == Some(&"Z"),
            parent: u32::try_from(field(4)?).ok()?,
            own: field(14)? + field(15)?,
            ended: field(16)? + field(17)?,
        })
    }

    fn all(self) -> u64 {
        self.own + self.ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_may_have_any_name() {
        let stat = "12 (a) b (c) S 7 12 12 0 -1 4194560 1 2 3 4 100 20 3000 400 20 0 1 0 5";
        let times = Times::parse(stat).unwrap();
        assert_eq!((times.parent, times.own, times.ended), (7, 120, 3400));
        assert!(Times::parse("12 (postgres").is_none());
    }
}
