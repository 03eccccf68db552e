//! Cross-origin requests: `enable-cors`, `cors-*`.

use http::HeaderValue;

use super::Annotations;
use crate::filters::cors::{Cors, Origin, Origins};

/// ingress-nginx's defaults.
const METHODS: &str = "GET, PUT, POST, DELETE, PATCH, OPTIONS";
const HEADERS: &str = "DNT,Keep-Alive,User-Agent,X-Requested-With,If-Modified-Since,Cache-Control,Content-Type,Range,Authorization";
const MAX_AGE: u32 = 1_728_000;

/// What browsers are told, if they are told anything.
pub fn parse(from: &mut Annotations<'_>) -> Option<Cors> {
    let is_enabled = from.flag("enable-cors");
    let origins = from.get("cors-allow-origin", origins);
    let methods = from.get("cors-allow-methods", |text| {
        tokens(text, u8::is_ascii_alphabetic)
    });
    let headers = from.get("cors-allow-headers", |text| tokens(text, is_name_byte));
    let expose = from.get("cors-expose-headers", |text| {
        tokens(text, |byte| is_name_byte(byte) || *byte == b'*')
    });
    let credentials = from.flag("cors-allow-credentials").unwrap_or(true);
    let max_age = from.number("cors-max-age", 0..=u32::MAX).unwrap_or(MAX_AGE);
    let cors = Cors {
        origins: origins.unwrap_or(Origins::Any),
        methods: methods.unwrap_or(HeaderValue::from_static(METHODS)),
        headers: headers.unwrap_or(HeaderValue::from_static(HEADERS)),
        credentials,
        expose,
        max_age,
    };
    (is_enabled == Some(true)).then_some(cors)
}

/// `*` among them makes it all of them.
fn origins(text: &str) -> Result<Origins, String> {
    let listed = || {
        text.split(',')
            .map(str::trim)
            .filter(|origin| !origin.is_empty())
    };
    if listed().any(|origin| origin == "*") {
        return Ok(Origins::Any);
    }
    let parse = |origin| {
        Origin::parse(origin)
            .ok_or_else(|| format!("{origin:?} is not an origin, like https://a.org"))
    };
    listed()
        .map(parse)
        .collect::<Result<_, _>>()
        .map(Origins::Listed)
}

fn is_name_byte(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}

/// A list of words as it stands, if it is one.
fn tokens(text: &str, is_part: impl Fn(&u8) -> bool) -> Result<HeaderValue, String> {
    let mut words = text.split([',', ' ']);
    let bad = words.find(|word| !word.as_bytes().iter().all(&is_part));
    match (bad, HeaderValue::from_str(text)) {
        (None, Ok(value)) => Ok(value),
        _ => Err(format!(
            "{:?} does not belong in this list",
            bad.unwrap_or(text)
        )),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use crate::annotations::policy::tests::{read, verdict};

    fn cors(annotations: &[(&str, &str)]) -> Option<Cors> {
        let policy = read(annotations).policy?;
        policy.cors.as_deref().cloned()
    }

    #[test]
    fn what_is_not_said_is_as_in_ingress_nginx() {
        let cors = cors(&[("enable-cors", "true")]).unwrap();
        assert_eq!(cors.origins, Origins::Any);
        assert_eq!(
            (cors.methods, cors.headers),
            (METHODS.parse().unwrap(), HEADERS.parse().unwrap())
        );
        assert_eq!(
            (cors.credentials, cors.expose, cors.max_age),
            (true, None, 1_728_000)
        );
    }

    #[test]
    fn all_of_it_can_be_said() {
        let cors = cors(&[
            ("enable-cors", "true"),
            ("cors-allow-origin", "https://a.org, https://*.b.org:8443"),
            ("cors-allow-methods", "GET, PUT"),
            ("cors-allow-headers", "X-A, X_B"),
            ("cors-expose-headers", "*, X-C"),
            ("cors-allow-credentials", "false"),
            ("cors-max-age", "600"),
        ]);
        let cors = cors.unwrap();
        let expected =
            ["https://a.org", "https://*.b.org:8443"].map(|text| Origin::parse(text).unwrap());
        assert_eq!(cors.origins, Origins::Listed(Box::new(expected)));
        assert_eq!(
            (cors.methods, cors.headers),
            (
                HeaderValue::from_static("GET, PUT"),
                HeaderValue::from_static("X-A, X_B")
            )
        );
        assert_eq!(
            (cors.credentials, cors.expose, cors.max_age),
            (false, Some(HeaderValue::from_static("*, X-C")), 600)
        );
    }

    #[test]
    fn a_star_is_everybody_and_nothing_is_nobody() {
        let origins = |text| {
            cors(&[("enable-cors", "true"), ("cors-allow-origin", text)])
                .unwrap()
                .origins
        };
        assert_eq!(origins("https://a.org, *"), Origins::Any);
        assert_eq!(origins(","), Origins::Listed(Box::new([])));
    }

    #[test]
    fn bad_values_are_said_and_the_defaults_apply() {
        for (name, value) in [
            ("cors-allow-origin", "a.org"),
            ("cors-allow-methods", "GET;PUT"),
            ("cors-allow-headers", "X-A: $pid"),
            ("cors-expose-headers", "X(A)"),
            ("cors-allow-credentials", "maybe"),
            ("cors-max-age", "-1"),
        ] {
            let annotations = [("enable-cors", "true"), (name, value)];
            assert_eq!(verdict(&read(&annotations), name).0, "invalid", "{name}");
            assert_eq!(cors(&annotations), cors(&annotations[..1]), "{name}");
        }
        assert_eq!(cors(&[("cors-allow-origin", "*")]), None);
    }
}
