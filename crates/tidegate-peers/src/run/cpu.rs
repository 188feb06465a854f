//! What the processor did for a server: what a request costs whoever else takes time from it.

use std::collections::BTreeMap;
use std::time::Duration;

/// Linux counts in these, whatever the kernel's own ticks.
const TICKS_A_SECOND: u64 = 100;

/// The time that these processes and their descendants took, where the system tells.
pub(super) fn used(roots: &[u32]) -> Option<Duration> {
    let all = processes()?;
    let of_one = |(id, (_, ticks)): (&u32, &(u32, u64))| {
        let is_one = roots.iter().any(|root| descends(*id, *root, &all));
        is_one.then_some(*ticks)
    };
    let ticks: u64 = all.iter().filter_map(of_one).sum();
    Some(Duration::from_millis(ticks * 1000 / TICKS_A_SECOND))
}

type Processes = BTreeMap<u32, (u32, u64)>;

fn descends(mut id: u32, root: u32, all: &Processes) -> bool {
    while id != root {
        match all.get(&id) {
            Some((parent, _)) if *parent != 0 => id = *parent,
            _ => return false,
        }
    }
    true
}

/// Each with its parent and its ticks.
fn processes() -> Option<Processes> {
    let folders = std::fs::read_dir("/proc").ok()?.filter_map(Result::ok);
    let ids = folders.filter_map(|folder| folder.file_name().to_str()?.parse::<u32>().ok());
    Some(ids.filter_map(|id| Some((id, process(id)?))).collect())
}

fn process(id: u32) -> Option<(u32, u64)> {
    parsed(&std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?)
}

/// A program's name may have anything in it, parentheses too.
fn parsed(stat: &str) -> Option<(u32, u64)> {
    let (_, fields) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some((u32::try_from(number(1)?).ok()?, number(11)? + number(12)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_with_parentheses_does_not_break_parsing() {
        let stat = "7 (a) b) S 3 7 7 0 -1 4194560 1 2 3 4 50 25 0 0 20 0 1 0 9 9 9";
        assert_eq!(parsed(stat), Some((3, 75)));
    }

    #[test]
    fn descendants_include_the_process_itself_and_no_siblings() {
        let all = BTreeMap::from([(1, (0, 1)), (5, (1, 1)), (6, (5, 1)), (7, (1, 1))]);
        let of: Vec<u32> = all.keys().copied().filter(|id| descends(*id, 5, &all)).collect();
        assert_eq!(of, [5, 6]);
    }
}
