//! Rate limits for the operators' page.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{ConnectInfo, Request};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::RETRY_AFTER;

use crate::clock::{self, Instant};
use crate::sync::{Mutex, MutexExt};

/// Requests of all clients together: 50 a second, and 200 at once. A page that is open in a browser sends one a second.
const REQUESTS: Rate = Rate { every: Duration::from_millis(20), burst: 200 };

/// Wrong tokens of one client: one in six seconds, and ten at once.
const WRONG_TOKENS: Rate = Rate { every: Duration::from_secs(6), burst: 10 };

/// The most clients with a rate meter of their own. Beyond this, meters without recent wrong tokens are removed.
const CLIENTS: usize = 1024;

/// From one warning to the next.
const WARN_EVERY: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug)]
struct Rate {
    every: Duration,
    burst: u32,
}

/// When the next request would be on time: the generic cell rate algorithm (ITU-T I.371), which needs no timer.
#[derive(Clone, Copy, Debug)]
struct Meter(Instant);

impl Meter {
    fn new() -> Self {
        Self(clock::now())
    }

    /// Whether one more is within the rate now.
    fn has_room(self, rate: Rate) -> bool {
        self.0 <= clock::now() + rate.every * (rate.burst - 1)
    }

    fn count(&mut self, rate: Rate) {
        self.0 = self.0.max(clock::now()) + rate.every;
    }
}

/// Wrong tokens, by client.
#[derive(Clone, Debug, Default)]
pub(super) struct WrongTokens(Arc<Mutex<ClientLimiter>>);

#[derive(Debug, Default)]
struct ClientLimiter {
    /// `None` is the meter that all clients without a known address share.
    meters: HashMap<Option<IpAddr>, Meter>,
    warned: Option<Instant>,
    total: u64,
}

impl ClientLimiter {
    /// The key of a client's meter: its own address. Once there are [`CLIENTS`] meters, new clients share the meter of
    /// clients without a known address.
    fn place(&mut self, client: Option<IpAddr>) -> Option<IpAddr> {
        if self.meters.len() >= CLIENTS {
            let now = clock::now();
            self.meters.retain(|_, meter| meter.0 > now);
        }
        let is_full = self.meters.len() >= CLIENTS && !self.meters.contains_key(&client);
        if is_full { None } else { client }
    }

    fn has_room(&self, place: Option<IpAddr>) -> bool {
        self.meters.get(&place).is_none_or(|meter| meter.has_room(WRONG_TOKENS))
    }
}

/// The client's address, if the server provides it (`into_make_service_with_connect_info`).
pub(super) fn client(request: &Request) -> Option<IpAddr> {
    request.extensions().get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(addr)| addr.ip())
}

impl WrongTokens {
    /// Whether a client has sent so many wrong tokens that its tokens are no longer checked. Clients without a known
    /// address are never shut out, since one of them could shut out all the others.
    pub(super) fn shut_out(&self, client: Option<IpAddr>) -> bool {
        let clients = self.0.lock_unpoisoned();
        client.is_some() && !clients.has_room(client)
    }

    /// Whether the wrong tokens that the client's meter has counted are within the rate.
    pub(super) fn has_room(&self, client: Option<IpAddr>) -> bool {
        let mut clients = self.0.lock_unpoisoned();
        let place = clients.place(client);
        clients.has_room(place)
    }

    /// Counts a wrong token, and warns once a minute at most.
    pub(super) fn count(&self, client: Option<IpAddr>) {
        let mut clients = self.0.lock_unpoisoned();
        let place = clients.place(client);
        clients.meters.entry(place).or_insert_with(Meter::new).count(WRONG_TOKENS);
        clients.total += 1;
        if clients.warned.is_none_or(|warned| warned.elapsed() >= WARN_EVERY) {
            clients.warned = Some(clock::now());
            let total = clients.total;
            tracing::warn!(?client, total, "a request for the operators' page had a wrong token");
        }
    }
}

/// All requests.
#[derive(Clone, Debug)]
pub(super) struct RequestLimiter(Arc<Mutex<Meter>>);

impl RequestLimiter {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Meter::new())))
    }

    fn admit(&self) -> bool {
        let mut meter = self.0.lock_unpoisoned();
        let has_room = meter.has_room(REQUESTS);
        if has_room {
            meter.count(REQUESTS);
        }
        has_room
    }
}

/// Rejects requests beyond the rate, since many of them query the primary.
pub(super) async fn check(requests: RequestLimiter, request: Request, next: Next) -> Response {
    match requests.admit() {
        true => next.run(request).await,
        false => too_many(Duration::from_secs(1)),
    }
}

/// The response to a wrong token beyond the rate.
pub(super) fn too_many_tokens() -> Response {
    too_many(WRONG_TOKENS.every)
}

/// Too many requests (RFC 6585, section 4).
fn too_many(again: Duration) -> Response {
    let after = [(RETRY_AFTER, again.as_secs().to_string())];
    (StatusCode::TOO_MANY_REQUESTS, after, "too many requests\n").into_response()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::time::advance;

    use super::*;

    fn address(n: u32) -> IpAddr {
        Ipv4Addr::from_bits(n).into()
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_guesses_tokens_is_locked_out_for_a_while_and_no_other_is() {
        let wrong = WrongTokens::default();
        for _ in 0..WRONG_TOKENS.burst {
            assert!(!wrong.shut_out(Some(address(1))));
            wrong.count(Some(address(1)));
        }
        assert!(wrong.shut_out(Some(address(1))) && !wrong.shut_out(Some(address(2))));
        advance(WRONG_TOKENS.every).await;
        assert!(!wrong.shut_out(Some(address(1))), "one more");
        wrong.count(Some(address(1)));
        assert!(wrong.shut_out(Some(address(1))));
    }

    #[tokio::test(start_paused = true)]
    async fn clients_of_unknown_address_are_rate_limited_and_never_locked_out() {
        let wrong = WrongTokens::default();
        (0..WRONG_TOKENS.burst).for_each(|_| wrong.count(None));
        assert!(!wrong.has_room(None) && !wrong.shut_out(None));
    }

    #[tokio::test(start_paused = true)]
    async fn the_number_of_tracked_clients_is_bounded() {
        let wrong = WrongTokens::default();
        (0..10_000).for_each(|n| wrong.count(Some(address(n))));
        assert!(wrong.0.lock().unwrap().meters.len() <= CLIENTS + 1);
    }

    /// Does what `access` does for a wrong token, and returns whether the token was checked.
    fn tries(wrong: &WrongTokens, n: u32) -> bool {
        let is_within = wrong.has_room(Some(address(n)));
        if is_within {
            wrong.count(Some(address(n)));
        }
        is_within
    }

    #[tokio::test(start_paused = true)]
    async fn security_clients_past_the_tracking_bound_share_one_limit_and_are_never_locked_out() {
        let wrong = WrongTokens::default();
        let known = u32::try_from(CLIENTS).unwrap();
        assert!((0..known).all(|n| tries(&wrong, n)));
        let within = (known..known + 1000).filter(|n| tries(&wrong, *n)).count();
        assert_eq!(within, WRONG_TOKENS.burst as usize, "of one that none of them has a place for");
        assert!(!wrong.shut_out(Some(address(known + 1))), "a correct token is looked at");
        assert!(tries(&wrong, 1), "a client that is known has a rate of its own");
        advance(WRONG_TOKENS.every * 2).await;
        assert!(tries(&wrong, known + 2000), "there is a place again");
    }

    #[tokio::test(start_paused = true)]
    async fn requests_are_admitted_in_one_burst_and_then_at_the_refill_rate() {
        let requests = RequestLimiter::new();
        let admitted = (0..1000).filter(|_| requests.admit()).count();
        assert_eq!(admitted, REQUESTS.burst as usize);
        advance(REQUESTS.every * 10).await;
        assert_eq!((0..1000).filter(|_| requests.admit()).count(), 10);
    }
}
