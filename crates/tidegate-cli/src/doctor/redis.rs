//! Checks of Redis: whether it can be reached, how fast it responds, and what it does when it is full.

use std::time::Duration;

use tidegate::{RedisInfo, RedisOptions};
use tokio::time::Instant;

use super::Check;

/// The number of timed round trips.
const ASKS: usize = 9;

/// With a slower median, Redis is hardly worth calling.
const SLOW: Duration = Duration::from_millis(5);

pub(super) async fn checks(url: &str) -> Vec<Check> {
    let redis = match RedisOptions::new(url).lazy(false).connect().await {
        Ok(redis) => redis,
        Err(error) => return vec![Check::bad("Redis", error)],
    };
    let mut times = Vec::new();
    let mut infos = Vec::new();
    for _ in 0..ASKS {
        let began = Instant::now();
        match redis.info().await {
            Ok(found) => infos = found,
            Err(error) => return vec![Check::warning("Redis", format!("INFO failed: {error}"))],
        }
        times.push(began.elapsed());
    }
    times.sort();
    let median = times[ASKS / 2];
    let found = format!("responds within {:.1} ms (median of {ASKS})", median.as_secs_f64() * 1e3);
    let time = match median > SLOW {
        true => {
            Check::warning("Redis", found).mend("move Redis closer: each miss in memory calls it")
        }
        false => Check::good("Redis", found),
    };
    [time].into_iter().chain(infos.iter().flat_map(server_checks)).collect()
}

fn server_checks(info: &RedisInfo) -> Vec<Check> {
    let major = info.version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    let version = match major {
        Some(..6) => {
            Check::bad("Redis", format!("version {}: 6 or later is required", info.version))
        }
        _ => Check::good("Redis", format!("version {}", info.version)),
    };
    vec![version, memory_check(info)]
}

fn memory_check(info: &RedisInfo) -> Check {
    let what = "Redis memory";
    let policy = &info.eviction_policy;
    let used = format!("{} of {} bytes used, {policy}", info.used_memory, info.max_memory);
    if info.max_memory == 0 {
        let found = format!("{} bytes used, without a limit", info.used_memory);
        return Check::warning(what, found).mend(
            "set maxmemory, and maxmemory-policy allkeys-lru: the system kills a process that takes all memory",
        );
    }
    if policy == "noeviction" {
        return Check::bad(
            what,
            format!("{used}: Redis evicts nothing, and refuses writes once it is full"),
        )
        .mend("set maxmemory-policy allkeys-lru (or volatile-lru if others store data there)");
    }
    Check::good(what, used)
}
