//! What Secrets hold, and what clients show.
#![no_main]

use std::collections::BTreeMap;

use ingress::tls::certificate::Certificate;
use ingress::tls::client_certificate::{Authority, ClientCertificate};
use libfuzzer_sys::fuzz_target;
use rustls_pki_types::CertificateDer;

// The first byte says what the rest is: two entries of a Secret with a NUL between them, or a certificate.
fuzz_target!(|bytes: &[u8]| {
    let Some((kind, rest)) = bytes.split_first() else {
        return;
    };
    let middle = rest.iter().position(|byte| *byte == 0);
    let (first, second) = rest.split_at(middle.unwrap_or(rest.len()));
    let second = second.get(1..).unwrap_or_default();
    match kind {
        b's' => {
            if let Ok(certificate) = Certificate::from_pem(first, second) {
                // What can be used once can be used again, and is the same.
                let again = Certificate::from_pem(first, second).expect("the same bytes");
                assert_eq!(certificate.facts(), again.facts());
            }
        }
        b'a' => {
            let data = [("ca.crt", first), ("ca.crl", second)];
            let data = data.map(|(name, bytes)| (name.to_owned(), bytes.to_vec()));
            // That it is refused is as good as that it is not; it must not break anything.
            drop(Authority::from_secret(&BTreeMap::from(data)));
        }
        _ => {
            let _shown = ClientCertificate::new(&[CertificateDer::from(rest)]);
        }
    }
});
