//! Copies of requests for another service: `mirror-target`, `mirror-host`, `mirror-request-body`.

use super::Annotations;
use crate::filters::mirror::Mirror;
use crate::message::variables::UrlTemplate;

/// Where copies go, if any do.
pub fn parse(from: &mut Annotations<'_>) -> Option<Mirror> {
    let url = from.get("mirror-target", UrlTemplate::parse);
    let host = from.header_value("mirror-host");
    let with_body = from.choice("mirror-request-body", &[("on", true), ("off", false)]);
    Some(Mirror {
        url: url?,
        host,
        with_body: with_body.unwrap_or(true),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::annotations::policy::tests::{read, verdict};

    #[test]
    fn a_target_is_enough_and_the_rest_can_be_said() {
        let target = ("mirror-target", "https://test.env.com$request_uri");
        let mirror = |more: &[(&str, &str)]| {
            let policy = read(&[&[target], more].concat()).policy?;
            policy.mirror.as_deref().cloned()
        };
        let url = UrlTemplate::parse(target.1).ok();
        let plain = mirror(&[]);
        assert_eq!(
            plain
                .as_ref()
                .map(|mirror| (&mirror.host, mirror.with_body)),
            Some((&None, true))
        );
        assert_eq!(plain.map(|mirror| mirror.url), url);
        let said = mirror(&[("mirror-host", "b.org"), ("mirror-request-body", "off")]);
        assert_eq!(
            said.map(|mirror| (mirror.host, mirror.with_body)),
            Some(("b.org".parse().ok(), false))
        );
        assert_eq!(read(&[("mirror-host", "b.org")]).policy, None);
        for (name, value) in [
            ("mirror-target", "test.env.com"),
            ("mirror-request-body", "maybe"),
        ] {
            assert_eq!(verdict(&read(&[(name, value)]), name).0, "invalid");
        }
    }
}
