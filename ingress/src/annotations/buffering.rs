//! Annotations about nginx's buffers, which are read so that their values are checked, and change nothing here: bodies
//! pass through as they come, at the pace of whoever takes them.

use super::Annotations;

/// Reads them all.
pub fn check(from: &mut Annotations<'_>) {
    let on_off = [("on", ()), ("off", ())];
    for name in ["proxy-buffering", "proxy-request-buffering"] {
        from.choice(name, &on_off);
    }
    for name in [
        "client-body-buffer-size",
        "proxy-buffer-size",
        "proxy-busy-buffers-size",
        "proxy-max-temp-file-size",
    ] {
        from.size(name);
    }
    from.number("proxy-buffers-number", 1..=u32::MAX);
    from.choice("proxy-http-version", &[("1.0", ()), ("1.1", ())]);
}

#[cfg(test)]
mod tests {
    use crate::annotations::policy::tests::{read, verdict};

    #[test]
    fn they_are_accepted_and_their_values_checked() {
        for (name, good, bad) in [
            ("proxy-buffering", "on", "maybe"),
            ("proxy-request-buffering", "off", "1"),
            ("client-body-buffer-size", "1M", "much"),
            ("proxy-buffer-size", "8k", "8x"),
            ("proxy-busy-buffers-size", "16k", "-"),
            ("proxy-max-temp-file-size", "1024m", "m"),
            ("proxy-buffers-number", "4", "0"),
            ("proxy-http-version", "1.0", "2"),
        ] {
            let (accepted, refused) = (read(&[(name, good)]), read(&[(name, bad)]));
            assert_eq!(
                (verdict(&accepted, name).0, verdict(&refused, name).0),
                ("differs", "invalid"),
                "{name}"
            );
            assert_eq!((accepted.policy, refused.policy), (None, None));
        }
    }
}
