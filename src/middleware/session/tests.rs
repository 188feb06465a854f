#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by it")]

use super::*;
use crate::entry::Position;
use crate::middleware::rules::session_cookie::is_session_cookie;

const AT: LogPosition = LogPosition::new(Epoch::new(3), Position::new(0x16_B374_D848));

fn sessions() -> Sessions {
    Sessions::new([7; 32]).unwrap()
}

fn token_at(position: u64, age: u64) -> String {
    let written = unix_millis() - age * 1000;
    sessions().tokens.seal(SessionToken {
        epoch: AT.epoch,
        position: Position::new(position),
        written,
    })
}

fn claim(name: &'static str, value: &str) -> SessionClaim {
    let mut headers = HeaderMap::new();
    headers.insert(name, value.parse().unwrap());
    sessions().read(&headers)
}

fn log_position(position: u64) -> LogPosition {
    LogPosition::new(AT.epoch, Position::new(position))
}

fn at(position: u64) -> SessionClaim {
    SessionClaim::Position { at: log_position(position), is_old: false }
}

#[test]
fn a_token_is_read_back_from_its_header_and_from_its_cookie() {
    let mut headers = HeaderMap::new();
    sessions().write(&mut headers, AT);
    let token = headers[HEADER].to_str().unwrap();
    assert_eq!(claim("tidegate-position", token), at(AT.position.get()));
    let cookie = headers[SET_COOKIE].to_str().unwrap().split(';').next().unwrap();
    assert_eq!(claim("cookie", cookie), at(AT.position.get()));
    assert_eq!(sessions().read(&HeaderMap::new()), SessionClaim::None);
}

#[test]
fn security_the_cookie_is_host_bound_and_secure_unless_the_service_is_plain_http() {
    let cookie = |sessions: Sessions| {
        let mut headers = HeaderMap::new();
        sessions.write(&mut headers, AT);
        headers[SET_COOKIE].to_str().unwrap().to_owned()
    };
    let secure = cookie(sessions());
    assert!(secure.starts_with("__Host-tidegate-position=") && secure.ends_with("; Secure"));
    assert!(secure.contains("; Path=/;") && !secure.contains("Domain"), "{secure}");
    let plain = cookie(sessions().plain_http());
    assert!(plain.starts_with("tidegate-position=") && !plain.contains("Secure"), "{plain}");
    let pair = plain.split(';').next().unwrap();
    assert_eq!(claim("cookie", pair), SessionClaim::None, "a subdomain may have set it");
}

#[test]
fn security_a_forged_token_does_not_hide_a_valid_one() {
    let (older, newer, forged) = (token_at(7, 9), token_at(8, 1), "f".repeat(80));
    let cookie = |token: &str| format!("__Host-tidegate-position={token}");
    let line = [cookie(&forged), cookie(&older), cookie(&newer), cookie(&older)].join("; ");
    assert_eq!(claim("cookie", &line), at(8));
    let mut headers = HeaderMap::new();
    headers.append(HEADER, forged.parse().unwrap());
    assert_eq!(sessions().read(&headers), SessionClaim::Forged);
    headers.append("cookie", cookie(&older).parse().unwrap());
    assert_eq!(sessions().read(&headers), at(7));
}

#[test]
fn security_an_expired_token_is_marked_old_and_still_counts() {
    assert_eq!(claim("tidegate-position", &token_at(7, LIFE - 1)), at(7));
    let old = SessionClaim::Position { at: log_position(7), is_old: true };
    assert_eq!(claim("tidegate-position", &token_at(7, LIFE + 1)), old);
}

#[test]
fn tokens_of_two_histories_require_a_position_in_neither() {
    let session = |tokens: &[(u64, u64, u64)]| {
        let mut headers = HeaderMap::new();
        for &(epoch, position, age) in tokens {
            let (epoch, position) = (Epoch::new(epoch), Position::new(position));
            let written = unix_millis() - age * 1000;
            let token = sessions().tokens.seal(SessionToken { epoch, position, written });
            headers.append(HEADER, token.parse().unwrap());
        }
        sessions().read(&headers)
    };
    let of_both = session(&[(3, 7, 0), (4, 5, 0)]);
    assert_eq!(session(&[(4, 5, 9), (3, 7, 900)]), of_both, "whatever the clocks said");
    let SessionClaim::Position { at, is_old: false } = of_both else { panic!("{of_both:?}") };
    assert!(![Epoch::new(3), Epoch::new(4), Epoch::UNKNOWN].contains(&at.epoch));
    assert_ne!(session(&[(3, 8, 0), (4, 5, 0)]), of_both, "it is of these two positions");
    assert_ne!(session(&[(3, 7, 0), (4, 5, 0), (5, 1, 0)]), of_both);
}

#[test]
fn security_a_token_bound_to_another_name_is_rejected() {
    let (shop, office) = (sessions().bound_to("shop"), sessions().bound_to("office"));
    let mut headers = HeaderMap::new();
    shop.write(&mut headers, AT);
    assert_eq!(shop.read(&headers), at(AT.position.get()));
    assert_eq!(
        (office.read(&headers), sessions().read(&headers)),
        (SessionClaim::Forged, SessionClaim::Forged)
    );
}

/// The `Cookie` line of a browser that has got these responses, in this order.
fn jar(responses: &[HeaderMap]) -> String {
    let mut jar = std::collections::BTreeMap::new();
    for cookie in responses.iter().flat_map(|headers| headers.get_all(SET_COOKIE)) {
        let pair = cookie.to_str().unwrap().split(';').next().unwrap();
        jar.extend(pair.split_once('='));
    }
    jar.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("; ")
}

#[test]
fn services_bound_to_different_names_on_one_host_have_separate_cookies() {
    let bound = ["shop", "office"].map(|name| sessions().bound_to(name));
    let both = [bound.clone(), bound.map(Sessions::plain_http)];
    for [shop, office] in both {
        let mut responses = [HeaderMap::new(), HeaderMap::new()];
        shop.write(&mut responses[0], AT);
        office.write(&mut responses[1], log_position(7));
        let mut headers = HeaderMap::new();
        headers.insert("cookie", jar(&responses).parse().unwrap());
        assert_eq!((shop.read(&headers), office.read(&headers)), (at(AT.position.get()), at(7)));
        assert!(cookies::all(&headers).all(|(name, _)| is_session_cookie(name)), "{headers:?}");
    }
    for other in ["tidegate-positions", "tidegate-position-", "tidegate-position-user", "id"] {
        assert!(!is_session_cookie(other.as_bytes()), "{other}");
    }
}

#[test]
fn tokens_of_several_services_are_read_from_one_line_or_from_many() {
    let (shop, office) = (sessions().bound_to("shop"), sessions().bound_to("office"));
    let mut headers = HeaderMap::new();
    shop.write(&mut headers, AT);
    shop.write(&mut headers, log_position(AT.position.get() + 1));
    office.write(&mut headers, log_position(7));
    let tokens: Vec<_> = headers.get_all(HEADER).iter().cloned().collect();
    assert_eq!(tokens.len(), 2, "a service's later token is past its earlier one");
    let lines = tokens.iter().map(|token| token.to_str().unwrap()).collect::<Vec<_>>();
    let folded = HeaderMap::from_iter([(HEADER, lines.join(" , ").parse().unwrap())]);
    let many: HeaderMap = tokens.into_iter().map(|token| (HEADER, token)).collect();
    for headers in [folded, many] {
        assert_eq!(shop.read(&headers), at(AT.position.get() + 1));
        assert_eq!(office.read(&headers), at(7));
    }
}

#[test]
fn tokens_of_two_databases_are_sent_side_by_side() {
    let mut headers = HeaderMap::new();
    sessions().write(&mut headers, AT);
    sessions().write(&mut headers, LogPosition::new(Epoch::new(4), AT.position));
    assert_eq!(headers.get_all(HEADER).iter().count(), 2);
}

#[test]
fn a_token_with_a_wrong_signature_or_form_is_rejected() {
    let other = Sessions::new([8; 32]).unwrap().tokens;
    let other =
        other.seal(SessionToken { epoch: AT.epoch, position: AT.position, written: unix_millis() });
    for forged in [&other, &other[1..], "", &"0".repeat(80), &"0".repeat(64), &"é".repeat(40)] {
        let mut headers = HeaderMap::new();
        headers.insert(HEADER, HeaderValue::from_bytes(forged.as_bytes()).unwrap());
        assert_eq!(sessions().read(&headers), SessionClaim::Forged, "{forged}");
    }
}

#[test]
fn security_a_token_signed_with_the_old_secret_is_accepted_during_rotation() {
    let mut headers = HeaderMap::new();
    sessions().write(&mut headers, AT);
    let both = Sessions::with_secrets(&[[8; 32], [7; 32]]).unwrap();
    assert_eq!(both.read(&headers), at(AT.position.get()));
}

#[test]
fn an_empty_old_secret_is_ignored_and_a_short_one_is_an_error() {
    let with_old = |old: &str| Sessions::with_old("a".repeat(16), Some(old.to_owned()));
    assert!(with_old("").is_ok() && with_old(&"b".repeat(16)).is_ok());
    assert_eq!(with_old("short").err(), Some(SecretError::Short(5)));
}

#[test]
fn a_secret_must_be_long_and_is_never_shown() {
    assert!(matches!(Sessions::new("short"), Err(SecretError::Short(5))));
    assert_eq!(Sessions::with_secrets(&[] as &[&str]).err(), Some(SecretError::Missing));
    assert_eq!(format!("{:?}", Sessions::new("a".repeat(16)).unwrap()), "Sessions");
}
