//! What is said about manifests, and about the five ways of ingress-nginx.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use serde_json::json;

use super::*;
use crate::annotations::known;
use crate::annotations::paths::COMPAT;

/// An Ingress of `x.org` with these annotations and paths.
fn ingress(name: &str, annotations: &[(&str, &str)], paths: &[(&str, &str)]) -> Ingress {
    let annotations: BTreeMap<String, &str> = annotations
        .iter()
        .map(|(name, value)| (known::key(name), *value))
        .collect();
    let backend = json!({"service": {"name": "s", "port": {"number": 80}}});
    let paths = paths.iter();
    let paths =
        paths.map(|(kind, path)| json!({"pathType": kind, "path": path, "backend": backend}));
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "ns", "annotations": annotations},
        "spec": {"rules": [{"host": "x.org", "http": {"paths": paths.collect::<Vec<_>>()}}]},
    }))
    .unwrap()
}

/// The quirks of the first of `ingresses`.
fn quirks(ingresses: &[Ingress]) -> Vec<Quirk> {
    let first = lint(ingresses).swap_remove(0);
    first.quirks.into_iter().map(|(_, quirk)| quirk).collect()
}

const NGINX: (&str, &str) = (COMPAT, "nginx");

#[test]
fn expressions_are_looser_there() {
    let paths = &[("ImplementationSpecific", "/v[0-9]+")];
    let regex = ("use-regex", "true");
    assert_eq!(
        quirks(&[ingress("i", &[regex], paths)]),
        [Quirk::LooseExpression]
    );
    assert_eq!(
        quirks(&[ingress("i", &[("rewrite-target", "/$1")], paths)]),
        [Quirk::LooseExpression]
    );
    assert_eq!(quirks(&[ingress("i", &[regex, NGINX], paths)]), []);
}

#[test]
fn an_expression_of_another_ingress_counts_there_for_the_whole_host() {
    let paths = &[("Exact", "/foo"), ("Prefix", "/bar/")];
    for owner in [("use-regex", "true"), ("rewrite-target", "/")] {
        let owner = ingress("owner", &[owner], &[("Prefix", "/x")]);
        let foreign = || Quirk::ForeignExpression(ObjectName::new("ns", "owner"));
        for own in [&[][..], &[NGINX]] {
            let both = [ingress("i", own, paths), owner.clone()];
            assert_eq!(quirks(&both), [foreign(), foreign()]);
        }
    }
    let mut elsewhere = ingress("owner", &[("use-regex", "true")], &[("Prefix", "/x")]);
    elsewhere.spec.as_mut().unwrap().rules.as_mut().unwrap()[0].host = Some("y.org".to_owned());
    assert_eq!(
        quirks(&[ingress("i", &[], &[("Exact", "/foo")]), elsewhere]),
        []
    );
}

#[test]
fn a_rewrite_makes_expressions_there() {
    let paths = &[("Prefix", "/foo")];
    let rewrite = ("rewrite-target", "/");
    assert_eq!(
        quirks(&[ingress("i", &[rewrite], paths)]),
        [Quirk::RewriteMakesExpression]
    );
    assert_eq!(quirks(&[ingress("i", &[rewrite, NGINX], paths)]), []);
}

#[test]
fn a_missing_slash_is_redirected_there() {
    let paths = &[("Exact", "/foo/"), ("Prefix", "/"), ("Prefix", "/bar")];
    assert_eq!(quirks(&[ingress("i", &[], paths)]), [Quirk::SlashRedirect]);
    assert_eq!(quirks(&[ingress("i", &[NGINX], paths)]), []);
}

#[test]
fn what_no_normal_path_has_is_told() {
    let regex = ("use-regex", "true");
    for path in ["/a//b", "/a/../b", "/a%2Fb"] {
        let found = quirks(&[ingress(
            "i",
            &[regex, NGINX],
            &[("ImplementationSpecific", path)],
        )]);
        assert_eq!(found, [Quirk::NotNormal], "{path}");
    }
}

#[test]
fn a_remark_names_object_subject_verdict_and_reason() {
    let bad = ingress(
        "i",
        &[("ssl-redirect", "perhaps"), ("auth-tls-secret", "ns/ca")],
        &[("Prefix", "no-slash"), ("Exact", "/foo/")],
    );
    let reports = lint(&[bad]);
    assert!(reports[0].is_bad());
    let remarks: Vec<_> = reports[0]
        .remarks()
        .map(|remark| (remark.verdict, remark.subject))
        .collect();
    let field = "spec.rules[0].http.paths";
    for expected in [
        ("invalid", known::key("ssl-redirect")),
        ("differs", format!("{field}[1].path")),
        ("invalid", format!("{field}[0].path")),
    ] {
        assert!(remarks.contains(&expected), "{expected:?} {remarks:?}");
    }
    // Services and Secrets are taken on trust.
    assert_eq!(
        remarks
            .iter()
            .filter(|(verdict, _)| *verdict == "invalid")
            .count(),
        2,
        "{remarks:?}"
    );
    assert!(!lint(&[ingress("i", &[], &[("Exact", "/foo")])])[0].is_bad());
}

#[test]
fn two_objects_that_want_the_same_are_told() {
    let one = || ingress("one", &[], &[("Exact", "/foo")]);
    let other = ingress("other", &[], &[("Exact", "/foo")]);
    let reports = lint(&[one(), other]);
    assert_eq!((reports[0].is_bad(), reports[1].is_bad()), (false, true));
}
