//! Two nodes of `examples/app.rs` on real servers: a primary, a replica and Redis. All output is from them. `scripts/demo`
//! runs it.

mod servers;
mod shop;

use std::time::{Duration, Instant};

use servers::Servers;
use shop::{Answer, Node};

type Failure = Box<dyn std::error::Error>;

/// The number of requests that are sent while a server is down.
const REQUESTS: u32 = 200;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    println!("Starting a primary, a streaming replica, Redis and two nodes of examples/app.rs.");
    let mut servers = Servers::start().await?;
    servers.set_up().await?;
    let (a, b) = (Node::start("A", &servers).await?, Node::start("B", &servers).await?);
    servers.replica_follows().await?;

    hits(&a, &b).await?;
    invalidation(&servers, &a, &b).await?;
    own_write(&a, &b).await?;
    if servers.are_private() {
        redis_dies(&mut servers, &a).await?;
        replica_dies(&mut servers, &a).await?;
        all_are_back(&mut servers, &a, &b).await?;
    } else {
        println!("\nThese are your own servers, so the demo does not kill any of them.");
    }
    Ok(())
}

async fn hits(a: &Node, b: &Node) -> Result<(), Failure> {
    title(
        "A miss reads the replica and fills the cache; the next hits are from memory, and on node B from Redis",
    );
    let (uri, answer) = miss_from_replica(a, 1..=REQUESTS).await?;
    show(a, &uri, &answer);
    show(a, &uri, &until(a, &uri, "memory").await?);
    show(b, &uri, &until(b, &uri, "shared").await?);
    Ok(())
}

async fn invalidation(servers: &Servers, a: &Node, b: &Node) -> Result<(), Failure> {
    title(
        "psql changes the row: neither node serves the previous data, although the service took no part in the change",
    );
    until(b, "/products/1", "memory").await?;
    let seen = servers.seen_by_both("update products set cents = 499 where id = 1", a, b).await?;
    println!("  psql: update products set cents = 499 where id = 1");
    for (node, (answer, after)) in [a, b].into_iter().zip(seen) {
        show(node, "/products/1", &answer);
        println!("      {:.1} ms after psql committed", after.as_secs_f64() * 1000.0);
    }
    show(a, "/products/1", &until(a, "/products/1", "memory").await?);
    show(b, "/products/1", &until(b, "/products/1", "memory").await?);
    Ok(())
}

async fn own_write(a: &Node, b: &Node) -> Result<(), Failure> {
    title("A client writes on node A and reads its own write on node B at once");
    let written = a.put("/products/1", "450").await?;
    println!("  A  PUT /products/1 450 -> {}, with a token", written.status);
    let answer = b.get_with("/products/1", &written.token).await?;
    show(b, "/products/1", &answer);
    println!(
        "      the new price was {}",
        if answer.body.contains("450") { "seen" } else { "MISSED" }
    );
    Ok(())
}

async fn redis_dies(servers: &mut Servers, a: &Node) -> Result<(), Failure> {
    title("Redis is killed: reads go on");
    servers.kill_redis().await?;
    let (failed, last) = shop::load(a, REQUESTS).await?;
    show(a, &format!("/products/{REQUESTS}"), &last);
    println!("      {REQUESTS} requests for as many products, {failed} failed");
    Ok(())
}

async fn replica_dies(servers: &mut Servers, a: &Node) -> Result<(), Failure> {
    title("The replica is killed as well: reads go on, from the primary");
    servers.kill_replica().await?;
    // Change all rows, so that nothing can be served from memory.
    servers.psql("update products set cents = cents + 1").await?;
    until(a, "/products/1", "from primary").await?;
    let (failed, last) = shop::load(a, REQUESTS).await?;
    show(a, &format!("/products/{REQUESTS}"), &last);
    println!("      {REQUESTS} requests for as many products, {failed} failed");
    Ok(())
}

async fn all_are_back(servers: &mut Servers, a: &Node, b: &Node) -> Result<(), Failure> {
    title("Both are back");
    servers.restart_both().await?;
    servers.replica_follows().await?;
    // Nothing is shared until the circuit breaker lets requests to Redis through again.
    let mut products = REQUESTS + 1..=1000;
    loop {
        let (uri, first) = miss_from_replica(a, &mut products).await?;
        tokio::time::sleep(Duration::from_millis(20)).await;
        let second = b.get(&uri).await?;
        if second.cache_status.contains("shared") {
            show(a, &uri, &first);
            show(b, &uri, &second);
            return Ok(());
        }
    }
}

/// Requests one uncached product after another until a read goes to the replica. A node that has just started learns
/// within a second how far the replica has replayed.
async fn miss_from_replica(
    node: &Node,
    products: impl IntoIterator<Item = u32>,
) -> Result<(String, Answer), Failure> {
    for product in products {
        let uri = format!("/products/{product}");
        let answer = node.get(&uri).await?;
        if answer.cache_status.contains("from replica") {
            return Ok((uri, answer));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Err("no miss was read from the replica".into())
}

/// Repeats a request until `Cache-Status` contains `wanted`, or until its time is over.
async fn until(node: &Node, uri: &str, wanted: &str) -> Result<Answer, Failure> {
    let start = now();
    loop {
        let answer = node.get(uri).await?;
        if answer.cache_status.contains(wanted) {
            return Ok(answer);
        }
        if start.elapsed() > Duration::from_secs(20) {
            let status = answer.cache_status;
            return Err(format!(
                "no response for {uri} had `{wanted}` in its Cache-Status, but: {status}"
            )
            .into());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn title(text: &str) {
    println!("\n{text}");
}

fn show(node: &Node, uri: &str, answer: &Answer) {
    println!("  {}  GET {uri} -> {}", node.name, answer.body);
    println!("      {}", answer.cache_status);
}

#[expect(clippy::disallowed_methods, reason = "the demo measures")]
fn now() -> Instant {
    Instant::now()
}
