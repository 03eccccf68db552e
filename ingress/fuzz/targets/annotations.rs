//! Any values for the annotations that we know, which anybody who may write Ingresses may choose.
#![no_main]

use std::collections::BTreeMap;

use ingress::annotations::known::{ALL, find, key};
use ingress::annotations::policy::Policy;
use k8s_openapi::api::networking::v1::Ingress;
use libfuzzer_sys::fuzz_target;

// Annotations with a NUL between them, each a name and its value with `=` between; a byte may stand for a name.
fuzz_target!(|text: &str| {
    let asked = text.split('\0').filter_map(|asked| asked.split_once('='));
    let annotations: BTreeMap<String, String> = asked
        .map(|(name, value)| (key(known(name)), value.to_owned()))
        .collect();
    let mut ingress = Ingress::default();
    ingress.metadata.name = Some("i".to_owned());
    ingress.metadata.namespace = Some("ns".to_owned());
    ingress.metadata.annotations = Some(annotations.clone());
    let reading = Policy::read(&ingress, None);
    for finding in &reading.findings {
        assert!(annotations.contains_key(&finding.annotation), "{finding:?}");
    }
    // What is read twice is the same: nothing depends on what was read before.
    assert_eq!(reading.policy, Policy::read(&ingress, None).policy);
});

fn known(name: &str) -> &'static str {
    let number = name
        .bytes()
        .fold(0, |sum: usize, byte| sum + usize::from(byte));
    find(name).unwrap_or(&ALL[number % ALL.len()]).name
}
