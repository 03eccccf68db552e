//! TLS as testssl.sh sees it: no old protocol, no weak cipher, none of the holes that have a name.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;
use tokio::time::timeout;

use crate::backend::Backend;
use crate::harness::{Gateway, secure_ingress, service_of};
use crate::tls::authority;

/// It takes its time: most of a minute on an idle machine.
const PATIENCE: Duration = Duration::from_secs(600);

/// What must not be offered.
const ABSENT: [&str; 10] = [
    "SSLv2",
    "SSLv3",
    "TLS1",
    "TLS1_1",
    "cipherlist_NULL",
    "cipherlist_aNULL",
    "cipherlist_EXPORT",
    "cipherlist_LOW",
    "cipherlist_3DES_IDEA",
    "cipherlist_AVERAGE",
];

/// What must be offered.
const PRESENT: [&str; 4] = ["TLS1_2", "TLS1_3", "cipherlist_STRONG", "PFS"];

/// What must not work, or be supported as it should.
const SOUND: [&str; 17] = [
    "heartbleed",
    "CCS",
    "ticketbleed",
    "ROBOT",
    "secure_renego",
    "secure_client_renego",
    "CRIME_TLS",
    "BREACH",
    "POODLE_SSL",
    "fallback_SCSV",
    "SWEET32",
    "FREAK",
    "DROWN",
    "LOGJAM",
    "BEAST",
    "LUCKY13",
    "RC4",
];

#[tokio::test]
async fn testssl_finds_nothing() {
    let authority = authority();
    let backend = Backend::echo("b").await;
    let mut objects = vec![
        secure_ingress("i", "a.org", "s", "cert"),
        authority.secret("cert", &["a.org"]),
    ];
    objects.extend(service_of("s", &[backend.address]));
    let gateway = Gateway::start(&objects, &[]);
    let findings = findings(gateway.https.port()).await;
    let said = |id: &str| findings.get(id).map_or("nothing", |(_, said)| said);
    for id in ABSENT {
        assert_eq!(said(id), "not offered", "{id}");
    }
    for id in PRESENT {
        assert!(said(id).starts_with("offered"), "{id}: {}", said(id));
    }
    assert_eq!(said("ALPN_HTTP2"), "h2");
    for id in SOUND {
        let severity = findings.get(id).map(|(severity, _)| severity.as_str());
        assert_eq!(severity, Some("OK"), "{id}: {}", said(id));
    }
    let bad = |(severity, _): &(String, String)| {
        ["LOW", "MEDIUM", "HIGH", "CRITICAL", "FATAL"].contains(&severity.as_str())
    };
    let bad: Vec<_> = findings.iter().filter(|(_, found)| bad(found)).collect();
    assert!(bad.is_empty(), "{bad:#?}");
}

/// What testssl.sh finds at `port`: severity and text by its names. The certificate is not its business, it is a test's.
async fn findings(port: u16) -> BTreeMap<String, (String, String)> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("findings.json");
    let mut command = Command::new("testssl");
    command
        .args([
            "--quiet",
            "--color",
            "0",
            "--warnings",
            "off",
            "--nodns",
            "none",
        ])
        .args(["--protocols", "--std", "--fs", "--vulnerable"])
        .args(["--ip", "127.0.0.1", "--jsonfile"])
        .arg(&file)
        .arg(format!("a.org:{port}"))
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = timeout(PATIENCE, command.output()).await.unwrap();
    let output = output.unwrap_or_else(|error| panic!("testssl: {error}: run ./setup.sh test"));
    let found = std::fs::read_to_string(&file).unwrap_or_default();
    let found: Vec<Value> = serde_json::from_str(&found)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stdout)));
    let text = |value: &Value| value.as_str().unwrap().trim().to_owned();
    let found = found.iter().map(|finding| {
        let found = (text(&finding["severity"]), text(&finding["finding"]));
        (text(&finding["id"]), found)
    });
    found.collect()
}
