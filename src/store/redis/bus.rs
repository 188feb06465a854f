//! Messages between nodes through PUBLISH and SUBSCRIBE, and the leadership lease through a script that uses
//! SET with an expiry.
//!
//! In a cluster, PUBLISH reaches the subscribers of every node (Redis manual, "Pub/Sub" and "Redis
//! cluster specification").

use std::time::Duration;

use bytes::Bytes;
use deadpool_redis::redis::aio::{PubSubSink, PubSubStream};
use deadpool_redis::redis::{Value, cmd};
use futures_util::StreamExt;
use futures_util::future::{BoxFuture, ready};
use futures_util::stream::{BoxStream, unfold};
use tokio::time::timeout;

use super::Redis;
use super::lease::RELEASE;
use super::reply::unexpected;
use super::topology::REPLY_WITHIN;
use crate::clock::millis;
use crate::store::{Bus, StoreError};

/// How long a subscription may be silent before it is checked with a PING.
const SILENT: Duration = Duration::from_secs(1);

const HOLD: &str = "local holder = redis.call('get', KEYS[1])
    if not holder then redis.call('set', KEYS[1], ARGV[1], 'PX', ARGV[2]) return 1 end
    if holder == ARGV[1] then redis.call('pexpire', KEYS[1], ARGV[2]) return 1 end
    return 0";

impl Bus for Redis {
    fn publish<'a>(
        &'a self,
        channel: &'a str,
        message: &'a [u8],
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let mut publish = cmd("PUBLISH");
            let name = self.names().channel(channel);
            let signed = self.seal().wrap(&name, message);
            publish.arg(&name).arg(&*signed);
            self.run(&publish).await.map(drop)
        })
    }

    fn subscribe<'a>(
        &'a self,
        channel: &'a str,
    ) -> BoxFuture<'a, Result<BoxStream<'static, Bytes>, StoreError>> {
        Box::pin(async move {
            let name = self.names().channel(channel);
            let subscribed = async {
                let mut subscription = self.subscriber().open().await?;
                subscription.subscribe(&name).await?;
                Ok(subscription)
            };
            let within = timeout(3 * REPLY_WITHIN, subscribed).await;
            let subscribed = within.map_err(|_late| StoreError::Timeout(3 * REPLY_WITHIN))?;
            let failed =
                |error: deadpool_redis::redis::RedisError| StoreError::Backend(error.into());
            let parts = subscribed.map_err(failed)?.split();
            let messages = unfold(parts, |(mut sink, mut stream)| async {
                let message = next(&mut sink, &mut stream).await?;
                Some((message, (sink, stream)))
            });
            let seal = self.seal().clone();
            Ok(messages.filter_map(move |bytes| ready(seal.unwrap(&name, bytes))).boxed())
        })
    }

    fn acquire_leadership<'a>(
        &'a self,
        name: &'a str,
        holder: u64,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(async move {
            let mut hold = cmd("EVAL");
            hold.arg(HOLD).arg(1).arg(self.names().leadership(name)).arg(holder).arg(millis(ttl));
            match self.run(&hold).await? {
                Value::Int(held) => Ok(held == 1),
                other => Err(unexpected("EVAL", &other)),
            }
        })
    }

    fn release_leadership<'a>(
        &'a self,
        name: &'a str,
        holder: u64,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let mut release = cmd("EVAL");
            release.arg(RELEASE).arg(1).arg(self.names().leadership(name)).arg(holder);
            self.run(&release).await.map(drop)
        })
    }

    fn put<'a>(
        &'a self,
        name: &'a str,
        value: &'a [u8],
        ttl: Duration,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let mut set = cmd("SET");
            let name = self.names().value(name);
            let signed = self.seal().wrap(&name, value);
            set.arg(&name).arg(&*signed).arg("PX").arg(millis(ttl));
            self.run(&set).await.map(drop)
        })
    }

    fn get<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Bytes>, StoreError>> {
        Box::pin(async move {
            let mut get = cmd("GET");
            let name = self.names().value(name);
            match self.run(get.arg(&name)).await? {
                Value::Nil => Ok(None),
                Value::BulkString(signed) => Ok(self.seal().unwrap(&name, signed.into())),
                other => Err(unexpected("GET", &other)),
            }
        })
    }
}

/// The next message; `None` if the connection is lost or does not respond.
async fn next(sink: &mut PubSubSink, stream: &mut PubSubStream) -> Option<Bytes> {
    loop {
        if let Ok(message) = timeout(SILENT, stream.next()).await {
            return message.map(|message| Bytes::copy_from_slice(message.get_payload_bytes()));
        }
        timeout(REPLY_WITHIN, sink.ping::<Value>()).await.ok()?.ok()?;
    }
}
