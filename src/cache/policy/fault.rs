//! What makes a policy invalid.

use super::{Policy, QueryPart, TAG_FIELDS};
use crate::cache::names::{cookie_fault, header_fault};
use crate::cache::template::TagTemplate;

impl Policy {
    /// Why this policy is invalid, if it is.
    pub(crate) fn fault(&self) -> Option<String> {
        self.time_fault()
            .or_else(|| self.share_fault())
            .or_else(|| self.key_fault())
            .or_else(|| self.identity.fault(&self.vary_cookies))
            .or_else(|| self.tag_fault())
    }

    fn time_fault(&self) -> Option<String> {
        let fault = if self.ttl.is_zero() {
            "its TTL is zero: leave the route out, or give it a TTL"
        } else if self.max_staleness.is_zero() {
            "its max_staleness is zero: with a Listener nothing could be served, and without one it has no effect; \
             give it a time, such as the default of 5 s"
        } else {
            return None;
        };
        Some(fault.into())
    }

    fn share_fault(&self) -> Option<String> {
        if !(0.0..=1.0).contains(&self.jitter) {
            return Some(format!("its jitter is {}, which is not between 0 and 1", self.jitter));
        }
        if !(self.early_refresh.is_finite() && self.early_refresh >= 0.0) {
            return Some(format!("its early refresh β is {}, not 0 or more", self.early_refresh));
        }
        let is_share = (0.0..=1.0).contains(&self.audit);
        (!is_share)
            .then(|| format!("its audited share is {}, which is not between 0 and 1", self.audit))
    }

    fn key_fault(&self) -> Option<String> {
        if self.is_standard && self.any_query_order {
            return Some(
                "Policy::standard uses each URI unchanged: leave out any_query_order".into(),
            );
        }
        if let QueryPart::Only(names) = &self.query
            && names.iter().any(String::is_empty)
        {
            return Some("query names a parameter without a name: leave it out".into());
        }
        let is_any = self.vary.iter().any(|name| name == "*");
        if is_any {
            return Some(
                "it varies by `*`, so no two requests would share a response: name the headers, or leave the route out"
                    .into(),
            );
        }
        let headers = self.vary.iter().find_map(|name| header_fault("vary", name));
        headers.or_else(|| {
            self.vary_cookies.iter().find_map(|name| cookie_fault("vary_cookies", name))
        })
    }

    fn tag_fault(&self) -> Option<String> {
        let is_unsupported = |field: &&String| !TAG_FIELDS.contains(&field.as_str());
        if let Some(field) = self.tag_fields.iter().find(is_unsupported) {
            return Some(format!(
                "it reads tags from the unsupported field {field}: use one of {}",
                TAG_FIELDS.join(", ")
            ));
        }
        self.tags.iter().find_map(TagTemplate::fault)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_invalid_policy_names_its_fault() {
        let policy = || Policy::ttl(Duration::from_secs(1));
        assert!(policy().fault().is_none());
        for (fault, policy) in [
            ("TTL", Policy::ttl(Duration::ZERO)),
            ("max_staleness", policy().max_staleness(Duration::ZERO)),
            ("jitter", policy().jitter(1.5)),
            ("jitter", policy().jitter(f64::NAN)),
            ("β", policy().early_refresh(-1.0)),
            ("audited", policy().audit(2.0)),
            ("brace", policy().tag("users:id={id")),
            ("brace", policy().tag("users:id=id}")),
            ("empty", policy().tag(" ")),
            ("any_query_order", Policy::standard().any_query_order()),
            ("query names a parameter without a name: leave it out", policy().query(["page", ""])),
            ("strict", policy().forward(["accept"])),
            ("forward has `x-*`", policy().strict().forward(["x-*"])),
            ("forward has `a b`", policy().strict().forward(["a b"])),
            ("x-tags", policy().tag_fields(["x-tags"])),
            ("`*`", policy().vary(["*"])),
            ("vary has `x-*`", policy().vary(["x-*"])),
            ("vary has ``", policy().vary([""])),
            ("vary has `accept:`", policy().vary(["Accept:"])),
            ("vary has `köln`", policy().vary(["köln"])),
            ("vary_cookies has ``", policy().vary_cookies([""])),
            ("vary_cookies has `a=b`", policy().vary_cookies(["a=b"])),
            ("vary_cookies has ` a`", policy().vary_cookies([" a"])),
            ("vary_cookies has `ab*`", policy().vary_cookies(["ab*"])),
            ("ignore_cookies has `a;b`", policy().ignore_cookies(["a;b"])),
            ("ignore_cookies has ``", policy().ignore_cookies([""])),
            ("at the end only", policy().ignore_cookies(["a*b*"])),
            ("both", policy().vary_cookies(["sid"]).ignore_cookies(["sid"])),
        ] {
            let text = policy.fault().unwrap_or_default();
            assert!(text.contains(fault), "{fault}: {text}");
        }
    }

    #[test]
    fn unusual_settings_that_have_a_meaning_are_legal() {
        let policy = || Policy::ttl(Duration::from_secs(1));
        for legal in [
            policy().wait(Duration::ZERO).lease(Duration::ZERO).finish(Duration::ZERO),
            policy().jitter(1.0).early_refresh(0.0).audit(1.0).fills(0),
            policy().query(Vec::<String>::new()).query(["filter[size]"]),
            policy().vary(["Accept-Language", "X_Odd!"]).vary_cookies(["user[name]", "a.b"]),
            policy().vary_cookies(["sid"]).ignore_cookies(["_ga*", "*"]),
            policy().strict().public().vary(["accept-language"]).forward(["X-Request-Id"]),
            Policy::standard().error_ttl(Duration::ZERO),
            policy().negative_ttl(Duration::ZERO).body_limit(0),
            policy().query_content(0).post_reads(0, |_, _| true),
        ] {
            assert_eq!(legal.fault(), None);
        }
    }
}
