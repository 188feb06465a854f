//! A cloud setup on this machine: a proxy in front of the database, a Multi-AZ standby that is promoted under load,
//! replicas that are added and removed by load, a Redis Cluster, several nodes, and a Lambda function. `scripts/demo --rds`
//! runs it. docs/aws.md says which AWS service each part stands for.
//!
//! With the argument `node` or `lambda`, this program is one node of the service. With `freeze`, it demonstrates only the
//! function.

mod cloud;
mod gateway;
mod load;
mod node;
mod scaling;
mod shop;

use std::time::Duration;

use cloud::Cloud;
use gateway::Function;
use load::{Load, Mix, Window};
use node::Fleet;
use scaling::Scaling;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The share of reads that the cache should take off Postgres.
const CLAIM: f64 = 0.70;

/// A day on which nothing happens.
const QUIET: Mix =
    Mix { clients: 32, writes_in_a_second: 20, searches: 0.0, pause: Duration::from_millis(8) };

/// A sale: more clients, and each twentieth request a search that is not cached.
const BUSY: Mix =
    Mix { clients: 96, writes_in_a_second: 60, searches: 0.05, pause: Duration::from_millis(8) };

#[tokio::main]
async fn main() -> Result<(), Failure> {
    match std::env::args().nth(1).as_deref() {
        Some("node") => shop::serve().await,
        Some("lambda") => shop::run_as_function().await,
        Some("freeze") => freeze(&mut Cloud::start().await?).await,
        _ => tell().await,
    }
}

async fn tell() -> Result<(), Failure> {
    let mut cloud = Cloud::start().await?;
    println!("{cloud}");
    let fleet = Fleet::start(&cloud, 3).await?;
    let load = Load::new(&fleet, cloud::PRODUCTS);
    // Warm up, since first requests are misses.
    load.run(QUIET, Duration::from_secs(3)).await?;

    title("A quiet day: 32 clients, products by Zipf's law, 20 writes in a second");
    let quiet = load.run(QUIET, Duration::from_secs(8)).await?;
    print!("{quiet}");

    title(
        "A sale: three times the clients, and searches that can't be cached; replicas are added by load",
    );
    let mut scaling = Scaling::new(&fleet).await?;
    let busy = scaling.while_running(&mut cloud, load.run(BUSY, Duration::from_secs(16))).await?;
    print!("{busy}");
    scaling.report();
    scaling.until_calm(&mut cloud, &load, QUIET).await?;

    title(
        "The primary's zone is lost under load: the standby is promoted, names lead to it, replicas follow",
    );
    let failover = cloud.lose_the_primary(load.run(QUIET, Duration::from_secs(12))).await?;
    print!("{failover}");

    title("One of the cluster's three Redis nodes is killed and comes back");
    let redis = cloud.lose_a_redis(load.run(QUIET, Duration::from_secs(8))).await?;
    print!("{redis}");

    freeze(&mut cloud).await?;
    sum_up(&[("quiet", quiet), ("sale", busy), ("failover", failover), ("Redis", redis)]);
    Ok(())
}

/// Freezes a Lambda function between two events, for longer than the policy's `max_staleness`.
async fn freeze(cloud: &mut Cloud) -> Result<(), Failure> {
    title("The same router as a Lambda function behind an HTTP API: frozen between events");
    let mut function = Function::start(cloud).await?;
    for _ in 0..2 {
        println!("  event    {}", function.invoke("/products/1").await?);
    }
    function.freeze()?;
    cloud.psql("update products set cents = 777 where id = 1").await?;
    println!("  frozen for 6 s; meanwhile psql: update products set cents = 777 where id = 1");
    tokio::time::sleep(Duration::from_secs(6)).await;
    function.thaw()?;
    let first = function.invoke("/products/1").await?;
    println!("  thawed   {first}");
    println!(
        "           the change was {}",
        if first.body.contains("777") { "seen" } else { "MISSED" }
    );
    for _ in 0..2 {
        println!("  event    {}", function.invoke("/products/1").await?);
    }
    Ok(())
}

fn sum_up(windows: &[(&str, Window)]) {
    title("In all");
    println!(
        "  {:<9} {:>9} {:>9} {:>10} {:>7} {:>7}  {:>6}",
        "", "reads", "offload", "of 70 %", "failed", "stale", "lag"
    );
    for (name, window) in windows {
        let verdict = if window.offload() >= CLAIM { "kept" } else { "NOT KEPT" };
        println!(
            "  {name:<9} {:>9} {:>7.1} % {verdict:>10} {:>7} {:>7}  {:>3.0} ms",
            window.reads,
            window.offload() * 100.0,
            window.failed_reads,
            window.stale,
            window.lag.as_secs_f64() * 1e3,
        );
    }
    println!(
        "  offload: reads of products that no server of Postgres saw; searches are not cached and not counted"
    );
    println!(
        "  stale: responses that lack a write which was acknowledged more than 5 s before the request"
    );
}

fn title(text: &str) {
    println!("\n{text}");
}
