//! What `http-cache-semantics` makes of a case. The fuzz target compiles this file too, since the library does not depend
//! on that crate.

use http::{HeaderMap, Request, Response};
use http_cache_semantics::{CacheOptions, CachePolicy};

use super::{Case, Judged, now};

pub(crate) fn theirs(case: &Case) -> Judged {
    let mut response = Response::new(());
    (*response.status_mut(), *response.headers_mut()) = (case.status, case.response.clone());
    let options = CacheOptions::default();
    let policy = CachePolicy::new_options(&request(&case.first), &response, now(), options);
    let is_stored = policy.is_storable();
    let second = policy.before_request(&request(&case.second), now() + case.later);
    Judged {
        is_stored,
        fresh: policy.time_to_live(now()).as_secs(),
        is_served: is_stored && second.satisfies_without_revalidation(),
    }
}

fn request(headers: &HeaderMap) -> Request<()> {
    let mut request = Request::new(());
    *request.headers_mut() = headers.clone();
    request
}
