//! Creates a pool for an address: a single server, a cluster, or the master that Sentinel names.

use std::time::Duration;

use deadpool_redis::redis::{self, Cmd, ConnectionInfo, IntoConnectionInfo, Value};

use super::RedisError;
use crate::redact::redacted;

/// The timeout of a command. A `Guard` gives up sooner.
pub(super) const REPLY_WITHIN: Duration = Duration::from_secs(1);

/// A pool of connections to one topology.
pub(super) enum RedisPool {
    Single(deadpool_redis::Pool),
    #[cfg(feature = "redis-cluster")]
    Cluster(deadpool_redis::cluster::Pool),
    #[cfg(feature = "redis-sentinel")]
    Sentinel(deadpool_redis::sentinel::Pool),
}

/// A connection that was taken from the pool.
pub(super) enum PooledConnection {
    Single(deadpool_redis::Connection),
    #[cfg(feature = "redis-cluster")]
    Cluster(deadpool_redis::cluster::Connection),
    #[cfg(feature = "redis-sentinel")]
    Sentinel(deadpool_redis::sentinel::Connection),
}

/// A clone of a held connection, for one command.
#[derive(Clone)]
pub(super) enum ConnectionHandle {
    One(redis::aio::MultiplexedConnection),
    #[cfg(feature = "redis-cluster")]
    Cluster(redis::cluster_async::ClusterConnection),
}

impl RedisPool {
    /// A pool of at most `size` connections to the servers at `url`.
    pub(super) fn new(url: &str, size: usize) -> Result<Self, RedisError> {
        let address = RedisAddress::parse(url)?;
        let invalid = |error: &dyn std::fmt::Display| problem(url, &error.to_string());
        match address.kind {
            TopologyKind::Single => {
                let server = address.nodes(url)?.swap_remove(0);
                let manager =
                    deadpool_redis::Manager::new(server).map_err(|error| invalid(&error))?;
                let pool = deadpool_redis::Pool::builder(manager).max_size(size).build();
                Ok(Self::Single(pool.map_err(|error| invalid(&error))?))
            }
            #[cfg(feature = "redis-cluster")]
            TopologyKind::Cluster => {
                use deadpool_redis::cluster::{Manager, Pool};
                let manager = Manager::new(address.nodes(url)?, false);
                let manager = manager.map_err(|error| invalid(&error))?;
                let pool = Pool::builder(manager).max_size(size).build();
                Ok(Self::Cluster(pool.map_err(|error| invalid(&error))?))
            }
            #[cfg(feature = "redis-sentinel")]
            TopologyKind::Sentinel => {
                use deadpool_redis::sentinel::{Manager, Pool, SentinelServerType};
                let SentinelGroup { master, sentinels, servers } = address.sentinels(url)?;
                let kind = SentinelServerType::Master;
                let manager = Manager::new(sentinels, master, Some(servers), kind);
                let manager = manager.map_err(|error| invalid(&error))?;
                let pool = Pool::builder(manager).max_size(size).build();
                Ok(Self::Sentinel(pool.map_err(|error| invalid(&error))?))
            }
            #[cfg(not(feature = "redis-cluster"))]
            TopologyKind::Cluster => Err(left_out(url, "redis-cluster")),
            #[cfg(not(feature = "redis-sentinel"))]
            TopologyKind::Sentinel => Err(left_out(url, "redis-sentinel")),
        }
    }

    /// Whether one server has all keys, unlike in a cluster.
    pub(super) fn is_of_one_server(&self) -> bool {
        match self {
            Self::Single(_) => true,
            #[cfg(feature = "redis-sentinel")]
            Self::Sentinel(_) => true,
            #[cfg(feature = "redis-cluster")]
            Self::Cluster(_) => false,
        }
    }

    /// Takes a connection and checks it with a PING.
    pub(super) async fn take(&self) -> Result<PooledConnection, deadpool_redis::PoolError> {
        let held = match self {
            Self::Single(pool) => PooledConnection::Single(pool.get().await?),
            #[cfg(feature = "redis-cluster")]
            Self::Cluster(pool) => PooledConnection::Cluster(pool.get().await?),
            #[cfg(feature = "redis-sentinel")]
            Self::Sentinel(pool) => PooledConnection::Sentinel(pool.get().await?),
        };
        // A server that requires a password accepts any connection, and fails only the first command.
        match held.handle().send(&redis::cmd("PING")).await {
            // It can't write to its disk, and responds so to PING too, but still serves reads.
            Err(error) if error.code() == Some("MISCONF") => {}
            replied => drop(replied?),
        }
        Ok(held)
    }
}

/// Opens connections for subscriptions to other nodes' messages.
pub(super) enum Subscriber {
    /// Any of these.
    Servers(Vec<ConnectionInfo>),
    #[cfg(feature = "redis-sentinel")]
    Sentinel(SentinelGroup),
}

impl Subscriber {
    pub(super) fn new(url: &str) -> Result<Self, RedisError> {
        let address = RedisAddress::parse(url)?;
        match address.kind {
            #[cfg(feature = "redis-sentinel")]
            TopologyKind::Sentinel => Ok(Self::Sentinel(address.sentinels(url)?)),
            _ => Ok(Self::Servers(address.nodes(url)?)),
        }
    }

    /// A connection that has not subscribed to anything yet.
    pub(super) async fn open(&self) -> redis::RedisResult<redis::aio::PubSub> {
        match self {
            Self::Servers(servers) => {
                let none =
                    redis::RedisError::from((redis::ErrorKind::InvalidClientConfig, "no server"));
                let mut opened = Err(none);
                let first = fastrand::usize(..servers.len().max(1));
                for server in servers.iter().cycle().skip(first).take(servers.len()) {
                    opened = redis::Client::open(server.clone())?.get_async_pubsub().await;
                    if opened.is_ok() {
                        break;
                    }
                }
                opened
            }
            #[cfg(feature = "redis-sentinel")]
            Self::Sentinel(SentinelGroup { master, sentinels, servers }) => {
                let mut sentinel = redis::sentinel::Sentinel::build(sentinels.clone())?;
                let servers = servers.clone().into();
                let master = sentinel.async_master_for(master, Some(&servers)).await?;
                master.get_async_pubsub().await
            }
        }
    }
}

impl PooledConnection {
    pub(super) fn handle(&self) -> ConnectionHandle {
        let mut one = match self {
            Self::Single(held) => redis::aio::MultiplexedConnection::clone(held),
            #[cfg(feature = "redis-sentinel")]
            Self::Sentinel(held) => redis::aio::MultiplexedConnection::clone(held),
            #[cfg(feature = "redis-cluster")]
            Self::Cluster(held) => {
                return ConnectionHandle::Cluster(redis::cluster_async::ClusterConnection::clone(
                    held,
                ));
            }
        };
        one.set_response_timeout(2 * REPLY_WITHIN); // the link's own limit comes first
        ConnectionHandle::One(one)
    }

    /// Closes the connection. If it were only dropped, the pool would reuse it.
    pub(super) fn discard(self) {
        match self {
            Self::Single(held) => drop(deadpool_redis::Connection::take(held)),
            #[cfg(feature = "redis-cluster")]
            Self::Cluster(held) => drop(deadpool_redis::cluster::Connection::take(held)),
            #[cfg(feature = "redis-sentinel")]
            Self::Sentinel(held) => drop(deadpool_redis::sentinel::Connection::take(held)),
        }
    }
}

impl ConnectionHandle {
    pub(super) async fn send(&mut self, command: &Cmd) -> redis::RedisResult<Value> {
        match self {
            Self::One(connection) => command.query_async(connection).await,
            #[cfg(feature = "redis-cluster")]
            Self::Cluster(connection) => command.query_async(connection).await,
        }
    }

    /// Whether an I/O error ends this connection. A cluster connection has one socket per node and replaces broken ones
    /// itself.
    pub(super) fn ends_with_its_socket(&self) -> bool {
        matches!(self, Self::One(_))
    }
}

#[derive(Clone, Copy)]
enum TopologyKind {
    Single,
    Cluster,
    Sentinel,
}

/// An address in parts.
struct RedisAddress<'a> {
    kind: TopologyKind,
    scheme: &'a str,
    user: &'a str,
    hosts: &'a str,
    path: &'a str,
    options: &'a str,
}

impl<'a> RedisAddress<'a> {
    fn parse(url: &'a str) -> Result<Self, RedisError> {
        let (scheme, rest) =
            url.split_once("://").ok_or_else(|| problem(url, "it has no scheme"))?;
        let (scheme, kind) = match scheme.split_once('+') {
            None => (scheme, TopologyKind::Single),
            Some((scheme, "cluster")) => (scheme, TopologyKind::Cluster),
            Some((scheme, "sentinel")) => (scheme, TopologyKind::Sentinel),
            Some(_) => return Err(problem(url, "the scheme names an unknown topology")),
        };
        match scheme {
            "redis" => {}
            "rediss" if cfg!(feature = "tls") => {}
            "rediss" => return Err(left_out(url, "tls")),
            _ => return Err(problem(url, "the scheme is neither redis nor rediss")),
        }
        let (rest, options) = rest.split_at(rest.find(['?', '#']).unwrap_or(rest.len()));
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (user, hosts) = authority.split_at(authority.rfind('@').map_or(0, |at| at + 1));
        if hosts.split(',').any(str::is_empty) {
            return Err(problem(url, "a host is missing"));
        }
        if matches!(kind, TopologyKind::Single) && hosts.contains(',') {
            return Err(problem(
                url,
                "it names several servers, but its scheme is neither +cluster nor +sentinel",
            ));
        }
        Ok(Self { kind, scheme, user, hosts, path: path.trim_matches('/'), options })
    }

    /// The address of each server.
    fn nodes(&self, url: &str) -> Result<Vec<ConnectionInfo>, RedisError> {
        self.each(url, self.user, self.path)
    }

    fn each(&self, url: &str, user: &str, path: &str) -> Result<Vec<ConnectionInfo>, RedisError> {
        let node = |host| format!("{}://{user}{host}/{path}{}", self.scheme, self.options);
        let parsed = self.hosts.split(',').map(|host| node(host).into_connection_info());
        parsed.collect::<Result<_, _>>().map_err(|error| problem(url, &error.to_string()))
    }
}

#[cfg(feature = "redis-sentinel")]
impl RedisAddress<'_> {
    /// The sentinels, and how to reach the servers that they name. The user and the password are for these servers.
    fn sentinels(&self, url: &str) -> Result<SentinelGroup, RedisError> {
        const PORT: u16 = 26379;
        let (master, database) = self.path.split_once('/').unwrap_or((self.path, ""));
        if master.is_empty() {
            return Err(problem(url, "the master's name is missing after the hosts"));
        }
        let hosts = self.hosts.split(',').map(|host| with_port(host, PORT));
        let hosts = hosts.collect::<Vec<_>>().join(",");
        let sentinels = RedisAddress { hosts: &hosts, ..*self }.each(url, "", "")?;
        let server = self.each(url, self.user, database)?.swap_remove(0);
        let servers = RedisServers {
            tls_mode: match server.addr() {
                redis::ConnectionAddr::TcpTls { insecure: true, .. } => {
                    Some(deadpool_redis::sentinel::TlsMode::Insecure)
                }
                redis::ConnectionAddr::TcpTls { .. } => {
                    Some(deadpool_redis::sentinel::TlsMode::Secure)
                }
                _ => None,
            },
            redis_connection_info: Some(server.redis_settings().clone().into()),
        };
        Ok(SentinelGroup { master: master.to_owned(), sentinels, servers })
    }
}

/// The servers of an address with the topology `+sentinel`.
#[cfg(feature = "redis-sentinel")]
#[derive(Debug)]
pub(super) struct SentinelGroup {
    /// The master's name.
    master: String,
    sentinels: Vec<ConnectionInfo>,
    /// The connection settings of the servers that the sentinels name.
    servers: RedisServers,
}

#[cfg(feature = "redis-sentinel")]
type RedisServers = deadpool_redis::sentinel::SentinelNodeConnectionInfo;

#[cfg(feature = "redis-sentinel")]
fn with_port(host: &str, port: u16) -> String {
    // The colons of an IPv6 address are inside its brackets.
    let has_port = host.rsplit(']').next().is_some_and(|end| end.contains(':'));
    if has_port { host.to_owned() } else { format!("{host}:{port}") }
}

fn problem(url: &str, problem: &str) -> RedisError {
    RedisError::Url { url: redacted(url), problem: problem.to_owned() }
}

fn left_out(url: &str, feature: &'static str) -> RedisError {
    RedisError::Feature { url: redacted(url), feature }
}
