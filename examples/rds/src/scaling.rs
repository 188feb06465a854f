//! A policy that adds and removes replicas, by load and lag.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::Failure;
use super::cloud::Cloud;
use super::load::{Load, Mix, Window};
use super::node::{Fleet, Servers};

/// Add a replica above this rate of reads per second on each replica.
const HIGH: f64 = 60.0;

/// Remove a replica below this rate, whatever the lag, since a replica that joins or leaves lags without any load.
const LOW: f64 = 40.0;

/// Also add a replica if the lag is larger than this and the load is not low.
const LATE: Duration = Duration::from_secs(1);

const LEAST: usize = 2;
const MOST: usize = 4;

/// The number of consecutive measurements with high or low load before the policy acts.
const TURNS: u32 = 2;

pub(crate) struct Scaling {
    fleet: Arc<Fleet>,
    before: Servers,
    at: Instant,
    high: u32,
    low: u32,
    added: u32,
}

impl Scaling {
    pub(crate) async fn new(fleet: &Arc<Fleet>) -> Result<Self, Failure> {
        let before = fleet.servers().await?;
        Ok(Self { fleet: fleet.clone(), before, at: Instant::now(), high: 0, low: 0, added: 0 })
    }

    /// Adjusts the number of replicas while clients run.
    pub(crate) async fn while_running(
        &mut self,
        cloud: &mut Cloud,
        clients: impl Future<Output = Result<Window, Failure>>,
    ) -> Result<Window, Failure> {
        let mut clients = pin!(clients);
        loop {
            tokio::select! {
                window = &mut clients => return window,
                () = sleep(Duration::from_secs(1)) => self.look(cloud).await?,
            }
        }
    }

    /// Continues until the number of replicas is back at the minimum.
    pub(crate) async fn until_calm(
        &mut self,
        cloud: &mut Cloud,
        load: &Load,
        mix: Mix,
    ) -> Result<(), Failure> {
        for _ in 0..20 {
            if cloud.replicas() <= LEAST {
                return Ok(());
            }
            self.while_running(cloud, load.run(mix, Duration::from_secs(2))).await?;
        }
        Err("the added replicas were not removed in time".into())
    }

    /// Says so if no replica was added, as on a machine that is too slow for the load.
    pub(crate) fn report(&self) {
        if self.added == 0 {
            println!(
                "  scaling  not above {HIGH:.0} reads in a second on each replica: none is added"
            );
        }
    }

    async fn look(&mut self, cloud: &mut Cloud) -> Result<(), Failure> {
        let now = self.fleet.servers().await?;
        let reads: u64 = now
            .since(&self.before)
            .iter()
            .filter_map(|(name, reads)| name.starts_with("replica").then_some(*reads))
            .sum();
        let replicas = cloud.replicas();
        let each = rate(reads, self.at.elapsed()) / rate(replicas as u64, Duration::from_secs(1));
        let high = each > HIGH || (each >= LOW && now.lag() > LATE);
        self.high = if high { self.high + 1 } else { 0 };
        self.low = if each < LOW { self.low + 1 } else { 0 };
        (self.before, self.at) = (now, Instant::now());
        if self.high >= TURNS && replicas < MOST {
            self.high = 0;
            println!(
                "  scaling  {each:.0} reads in a second on each of {replicas} replicas: one is added"
            );
            cloud.add_replica().await?;
            self.added += 1;
        } else if self.low >= TURNS && replicas > LEAST {
            self.low = 0;
            println!(
                "  scaling  {each:.0} reads in a second on each of {replicas} replicas: one is removed"
            );
            cloud.remove_replica().await?;
        }
        Ok(())
    }
}

fn rate(times: u64, within: Duration) -> f64 {
    f64::from(u32::try_from(times).unwrap_or(u32::MAX)) / within.as_secs_f64()
}
