//! The heads of stored responses, ready to be sent.
//!
//! `Age` and `Cache-Status` give the age and remaining lifetime of a response in whole seconds, so all hits of an entry
//! within one second have the same values. The head is stored with both fields, which are rewritten when they change; a
//! hit only copies the fields.

use std::sync::{Arc, RwLock};
use std::time::Duration;

use http::header::{AGE, CONTENT_LENGTH};
use http::{HeaderMap, HeaderValue, StatusCode};

use super::rules::audience::{Audience, audience};
use super::rules::vary::by_cookies;
use super::status::{self, CACHE_STATUS};
use super::stored::{MalformedHead, StoredHead};
use crate::cache::Hit;
use crate::entry::Entry;
use crate::outcome::{MissReason, Outcome};

/// The head of the response to a hit.
pub(crate) fn head(hit: &Hit) -> Result<StoredHead, MalformedHead> {
    let entry = &hit.found.entry;
    // If nobody else holds the entry, it is used only once: don't store the rendered head.
    if Arc::strong_count(entry) > 1
        && let Some(head) = RenderedHead::from_entry(entry)?.head(hit)
    {
        return Ok(head);
    }
    once(hit)
}

/// A head that is not stored after use.
fn once(hit: &Hit) -> Result<StoredHead, MalformedHead> {
    let mut head = StoredHead::from_entry(&hit.found.entry)?;
    let moment = AgeStamp::new(hit, head.age);
    head.headers.insert(AGE, moment.age.into());
    head.headers.append(CACHE_STATUS, moment.status());
    Ok(head)
}

/// Whether an entry holds a response. Asserts that both ways of rendering it give the same, except for the age.
#[cfg(any(test, fuzzing))]
pub(crate) fn is_rendered(entry: &Arc<Entry>) -> bool {
    let tier = crate::store::Tier::Shared;
    let hit = Hit::new(crate::store::Found { entry: entry.clone(), tier }, Outcome::Hit(tier));
    let timeless = |StoredHead { mut headers, .. }: StoredHead| {
        assert!(headers.remove(AGE).is_some());
        let lines = headers.get_all(CACHE_STATUS).iter().count();
        headers.remove(CACHE_STATUS);
        (headers, lines)
    };
    let kept =
        RenderedHead::from_entry(entry).ok().and_then(|rendered| rendered.head(&hit)).map(timeless);
    let read = once(&hit).ok().map(timeless);
    assert_eq!(kept, read);
    read.is_some()
}

/// The head of a stored response.
#[derive(Debug)]
pub(crate) struct RenderedHead {
    pub(crate) status: StatusCode,
    trailers: Option<Box<HeaderMap>>,
    /// The response's age when it arrived, if that does not count against its TTL.
    age: Duration,
    /// The clients that it may be served to, if it was computed for an anonymous one.
    pub(crate) audience: Audience,
    pub(crate) varies_by_cookies: bool,
    stamped: RwLock<RenderedFields>,
}

/// The fields of a response, and the values of those that this cache writes.
#[derive(Debug)]
struct RenderedFields {
    moment: Option<AgeStamp>,
    fields: HeaderMap,
    /// Whether there is a spare field, which is removed from each copy to leave capacity for another.
    has_spare: bool,
}

/// The time-dependent values that this cache writes into a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct AgeStamp {
    /// The response's age, in seconds.
    age: u64,
    /// Its remaining lifetime, in seconds; negative if it is stale.
    left: i64,
    outcome: Outcome,
    missed: Option<MissReason>,
}

impl RenderedHead {
    /// The rendered head of an entry, which is stored with the entry.
    pub(crate) fn from_entry(entry: &Entry) -> Result<Arc<Self>, MalformedHead> {
        entry.decoded(Self::read)
    }

    fn read(entry: &Entry) -> Result<Self, MalformedHead> {
        let StoredHead { status, headers, trailers, age } = StoredHead::from_entry(entry)?;
        let (audience, varies_by_cookies) = (audience(&headers), by_cookies(&headers));
        let (trailers, stamped) =
            (trailers.map(Box::new), RwLock::new(RenderedFields::new(headers)));
        Ok(Self { status, trailers, age, audience, varies_by_cookies, stamped })
    }

    /// A copy of the head. Never blocks: `None` while another thread updates the fields.
    fn head(&self, hit: &Hit) -> Option<StoredHead> {
        let moment = AgeStamp::new(hit, self.age);
        let headers = match self.stamped.try_read() {
            Ok(stamped) if stamped.moment == Some(moment) => stamped.copy(),
            reading => {
                drop(reading);
                let mut stamped = self.stamped.try_write().ok()?;
                stamped.stamp(moment);
                stamped.copy()
            }
        };
        let trailers = self.trailers.as_deref().cloned();
        Some(StoredHead { status: self.status, headers, trailers, age: self.age })
    }
}

impl AgeStamp {
    /// `age` is the response's age when it arrived, if that does not count against its TTL.
    fn new(hit: &Hit, age: Duration) -> Self {
        let (since, ttl) = (hit.found.entry.age(), hit.found.entry.ttl());
        Self {
            age: age.saturating_add(since).as_secs(),
            left: seconds(ttl).saturating_sub(seconds(since)),
            outcome: hit.outcome,
            missed: hit.missed,
        }
    }

    fn status(self) -> HeaderValue {
        status::hit_member(self.outcome, self.missed, self.left)
    }
}

fn seconds(time: Duration) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}

impl RenderedFields {
    fn new(mut fields: HeaderMap) -> Self {
        let nothing = HeaderValue::from_static("");
        fields.insert(AGE, nothing.clone());
        fields.append(CACHE_STATUS, nothing.clone());
        // The spare field is one that a router adds anyway. It comes last, so that its removal moves no other field.
        let has_spare = !fields.contains_key(CONTENT_LENGTH);
        if has_spare {
            fields.insert(CONTENT_LENGTH, nothing);
        }
        // Clone, since a cloned map has no spare capacity.
        Self { moment: None, fields: fields.clone(), has_spare }
    }

    /// Overwrites the existing values: `insert` would reserve capacity even for a field that exists.
    fn stamp(&mut self, moment: AgeStamp) {
        if let Some(age) = self.fields.get_mut(AGE) {
            *age = moment.age.into();
        }
        // Ours comes after those of caches nearer to the origin (RFC 9211, section 2).
        let members = self.fields.iter_mut().filter(|(name, _)| **name == CACHE_STATUS);
        if let Some((_, ours)) = members.last() {
            *ours = moment.status();
        }
        self.moment = Some(moment);
    }

    fn copy(&self) -> HeaderMap {
        let mut fields = self.fields.clone();
        if self.has_spare {
            fields.remove(CONTENT_LENGTH);
        }
        fields
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::entry::{Epoch, Key, Lifetime, LogPosition, Position};
    use crate::store::{Found, Tier};

    fn entry(headers: HeaderMap) -> Arc<Entry> {
        let head =
            StoredHead { status: StatusCode::OK, headers, trailers: None, age: Duration::ZERO };
        let life = Lifetime::starting_now(Duration::from_secs(9), Duration::MAX, Duration::ZERO);
        let basis = LogPosition::new(Epoch::new(1), Position::ZERO);
        let body = Bytes::from_static(b"body");
        Arc::new(Entry::new(&Key::new("t").finish(), basis, [].into(), life, head.encode(), body))
    }

    fn headers_of(entry: Arc<Entry>, outcome: Outcome) -> HeaderMap {
        let hit = Hit::new(Found { entry, tier: Tier::Memory }, outcome);
        head(&hit).unwrap().headers
    }

    fn of(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(*name, value.parse().unwrap());
        }
        map
    }

    const STORED: [(&str, &str); 3] = [("etag", "\"1\""), ("cache-status", "other"), ("x-a", "b")];

    #[tokio::test(start_paused = true)]
    async fn a_rendered_head_is_updated_for_each_second_and_outcome() {
        let entry = entry(of(&STORED));
        let said = |outcome, age: &str, said: &str| {
            let expected = [&STORED[..], &[("age", age), ("cache-status", said)]].concat();
            // From what is kept, and then from nothing.
            assert_eq!(headers_of(entry.clone(), outcome), of(&expected));
            let entry = Entry::from_parts(
                entry.key.clone(),
                entry.basis,
                [].into(),
                entry.life,
                entry.head.clone(),
                entry.body.clone(),
            );
            assert_eq!(headers_of(entry.into(), outcome), of(&expected));
        };
        let (memory, shared) = (Outcome::Hit(Tier::Memory), Outcome::Hit(Tier::Shared));
        said(memory, "0", "tidegate; hit; ttl=9; detail=\"memory\"");
        said(memory, "0", "tidegate; hit; ttl=9; detail=\"memory\"");
        said(shared, "0", "tidegate; hit; ttl=9; detail=\"shared\"");
        tokio::time::advance(Duration::from_secs(11)).await;
        said(memory, "11", "tidegate; hit; ttl=-2; detail=\"memory\"");
    }

    #[test]
    fn a_head_locked_by_another_thread_is_read_from_its_entry() {
        let entry = entry(of(&STORED));
        let rendered = RenderedHead::from_entry(&entry).unwrap();
        let written = rendered.stamped.write().unwrap();
        let said = headers_of(entry.clone(), Outcome::Hit(Tier::Memory));
        assert_eq!((said.len(), &said["age"]), (5, &HeaderValue::from(0)));
        drop(written);
    }

    #[test]
    fn stamping_a_rendered_head_does_not_grow_its_fields() {
        for names in 0..30 {
            let mut headers = HeaderMap::new();
            for at in 0..names {
                let name = http::HeaderName::try_from(format!("x{at}")).unwrap();
                headers.insert(name, HeaderValue::from_static("1"));
            }
            let rendered = RenderedHead::from_entry(&entry(headers)).unwrap();
            let mut stamped = rendered.stamped.write().unwrap();
            let before = stamped.fields.capacity();
            let outcome = Outcome::Hit(Tier::Memory);
            stamped.stamp(AgeStamp { age: 1, left: 2, outcome, missed: None });
            assert_eq!(stamped.fields.capacity(), before, "{names}");
        }
    }

    #[test]
    fn a_head_is_rendered_up_to_the_limit_of_names_and_refused_past_it() {
        for (names, expected) in [(16_384, true), (16_385, false), (24_573, false)] {
            let mut headers = HeaderMap::new();
            for at in 0..names {
                let name = http::HeaderName::try_from(format!("x{at}")).unwrap();
                headers.append(name, HeaderValue::from_static(""));
            }
            assert_eq!(is_rendered(&entry(headers)), expected, "{names}");
        }
        let with_age = of(&[("age", "77"), ("cache-status", "other")]);
        assert!(is_rendered(&entry(with_age)), "as both ways say the same");
    }

    #[test]
    fn a_stored_content_length_is_sent_and_none_is_added() {
        let stored = of(&[("content-length", "4")]);
        let hit = Outcome::Hit(Tier::Memory);
        assert_eq!(headers_of(entry(stored), hit)["content-length"], "4");
        assert!(!headers_of(entry(of(&STORED)), hit).contains_key("content-length"));
    }
}
