//! What annotations do to routes: expressions, further hosts, the slash at the end.

use super::*;
use crate::annotations::known;
use crate::annotations::paths::COMPAT;

/// An Ingress with annotations, ingress-nginx's by name and all others by key.
fn annotated(name: &str, second: u32, annotations: &[(&str, &str)], spec: Value) -> Ingress {
    let mut ingress = ingress(name, second, spec);
    let annotations = annotations.iter();
    let annotations = annotations.map(|(name, value)| (known::key(name), (*value).to_owned()));
    ingress.metadata.annotations = Some(annotations.collect());
    ingress
}

const REGEX: (&str, &str) = ("use-regex", "true");
const NGINX: (&str, &str) = (COMPAT, "nginx");

#[test]
fn expressions_are_for_their_own_ingress_only() {
    let paths: &[_] = &[
        ("ImplementationSpecific", "/v[0-9]+", "a"),
        ("Exact", "/x.", "b"),
    ];
    let built = built(&[
        annotated(
            "regex",
            1,
            &[REGEX],
            json!({"rules": [rule("x.org", paths)]}),
        ),
        ingress(
            "plain",
            2,
            json!({"rules": [rule("x.org", &[("Prefix", "/p.", "c")])]}),
        ),
    ]);
    check(
        &built,
        &[
            ("x.org", "/v12/y", Some("a")),
            ("x.org", "/V12", None),
            ("x.org", "/a/v12", None),
            ("x.org", "/xy", Some("b")),
            ("x.org", "/xyz", None),
            ("x.org", "/p./y", Some("c")),
            ("x.org", "/px", None),
        ],
    );
    assert_eq!(reasons(&built), []);
}

#[test]
fn the_longest_path_wins_expressions_included_and_an_exact_one_before_all() {
    let rewrite = ("rewrite-target", "/$2");
    let built = built(&[
        ingress(
            "frontend",
            1,
            json!({"rules": [rule("x.org", &[
                ("Prefix", "/", "a"), ("Exact", "/api/exact", "b"), ("Prefix", "/api/very/long/prefix", "b"),
            ])]}),
        ),
        annotated(
            "backend",
            2,
            &[rewrite],
            json!({"rules": [rule("x.org", &[("ImplementationSpecific", "/api(/|$)(.*)", "c")])]}),
        ),
        annotated(
            "longer",
            3,
            &[rewrite],
            json!({"rules": [rule("x.org", &[("ImplementationSpecific", "/api(/|$)(v[0-9].*)", "d")])]}),
        ),
    ]);
    check(
        &built,
        &[
            ("x.org", "/", Some("a")),
            ("x.org", "/apis", Some("a")),
            ("x.org", "/api", Some("c")),
            ("x.org", "/api/y", Some("c")),
            ("x.org", "/api/v2/y", Some("d")),
            ("x.org", "/api/exact", Some("b")),
            ("x.org", "/api/very/long/prefix/y", Some("b")),
        ],
    );
}

#[test]
fn of_two_with_the_same_expression_the_older_one_has_it() {
    let rules = |service| json!({"rules": [rule("x.org", &[("Prefix", "/a.*", service)])]});
    let built = built(&[
        annotated("young", 2, &[REGEX], rules("b")),
        annotated("old", 1, &[REGEX], rules("a")),
    ]);
    check(&built, &[("x.org", "/abc", Some("a"))]);
    assert_eq!(
        reasons(&built),
        [("spec.rules[0].http.paths[0].path", "Conflict")]
    );
}

#[test]
fn what_is_no_expression_is_left_out_alone() {
    let paths: &[_] = &[
        ("Prefix", "/a(", "a"),
        ("Prefix", "a.*", "a"),
        ("", "/b", "a"),
        ("Prefix", "/c", "a"),
    ];
    let built = built(&[annotated(
        "i",
        1,
        &[REGEX],
        json!({"rules": [rule("x.org", paths)]}),
    )]);
    check(&built, &[("x.org", "/a", None), ("x.org", "/c", Some("a"))]);
    let expected = [
        ("spec.rules[0].http.paths[0].path", "InvalidField"),
        ("spec.rules[0].http.paths[1].path", "InvalidField"),
        ("spec.rules[0].http.paths[2].pathType", "InvalidField"),
    ];
    assert_eq!(reasons(&built), expected);
}

#[test]
fn aliases_serve_what_the_rules_serve_and_yield_to_those_who_name_the_host() {
    let tls = json!([{"hosts": ["x.org"], "secretName": "one"}]);
    let built = built(&[
        annotated(
            "i",
            1,
            &[("server-alias", "alias.org, taken.org, *.y.org, x.org")],
            json!({
                "rules": [rule("x.org", &[("Prefix", "/one", "a"), ("Exact", "/two", "b")])],
                "defaultBackend": backend("d"),
                "tls": tls,
            }),
        ),
        ingress(
            "owner",
            2,
            json!({"rules": [rule("taken.org", &[("Prefix", "/", "c")])]}),
        ),
    ]);
    check(
        &built,
        &[
            ("alias.org", "/one/x", Some("a")),
            ("alias.org", "/two", Some("b")),
            ("alias.org", "/three", Some("d")),
            ("any.y.org", "/one", Some("a")),
            ("taken.org", "/one", Some("c")),
        ],
    );
    let field = "metadata.annotations[nginx.ingress.kubernetes.io/server-alias]";
    assert_eq!(reasons(&built), [(field, "InvalidField")]);
    for (host, expected) in [
        ("x.org", true),
        ("alias.org", true),
        ("any.y.org", true),
        ("taken.org", false),
    ] {
        assert_eq!(built.table.is_secure(host), expected, "{host}");
    }
}

#[test]
fn hosts_with_and_without_www_stand_in_for_each_other_unless_they_have_rules() {
    let www = ("from-to-www-redirect", "true");
    let rules = |hosts: &[&str]| {
        let rules = hosts
            .iter()
            .map(|host| rule(host, &[("Prefix", "/x", "a")]));
        json!({"rules": rules.collect::<Vec<_>>()})
    };
    let built = built(&[
        annotated(
            "i",
            1,
            &[www],
            rules(&["bare.org", "www.other.org", "both.org", "www.both.org"]),
        ),
        annotated("j", 2, &[www], rules(&["taken.org"])),
        ingress("k", 3, rules(&["www.taken.org"])),
    ]);
    let rows = [
        ("www.bare.org", Some("bare.org")),
        ("bare.org", None),
        ("other.org", Some("www.other.org")),
        ("both.org", None),
        ("www.both.org", None),
        ("www.taken.org", None),
    ];
    for (host, expected) in rows {
        assert_eq!(built.table.moved(host), expected, "{host}");
        assert_eq!(
            find(&built, host, "/x").is_some(),
            expected.is_none(),
            "{host}"
        );
    }
    assert_eq!(reasons(&built), []);
}

#[test]
fn a_path_with_a_slash_is_missed_without_it_only_where_nginx_is_asked_for() {
    let paths: &[_] = &[
        ("Exact", "/one/", "a"),
        ("Prefix", "/two/", "a"),
        ("Prefix", "/", "b"),
    ];
    let rules = |host| json!({"rules": [rule(host, paths)]});
    let built = built(&[
        annotated("like", 1, &[NGINX], rules("nginx.org")),
        ingress("strict", 2, rules("strict.org")),
        annotated("asked", 3, &[NGINX], rules("asked.org")),
        ingress(
            "asks",
            4,
            json!({"rules": [rule("asked.org", &[("Exact", "/two", "c")])]}),
        ),
    ]);
    check(
        &built,
        &[
            ("nginx.org", "/one", Some("/")),
            ("nginx.org", "/two", Some("/")),
            ("nginx.org", "/two/", Some("a")),
            ("strict.org", "/one", Some("b")),
            ("strict.org", "/two", Some("a")),
            ("asked.org", "/two", Some("c")),
        ],
    );
}

#[test]
fn the_default_backend_of_an_annotation_must_be_there() {
    let rules = || json!({"rules": [rule("x.org", &[("Prefix", "/", "a")])]});
    let there = built(&[annotated("i", 1, &[("default-backend", "b")], rules())]);
    let route = there.table.find("x.org", "/").unwrap();
    assert_eq!(&*route.fallback.as_ref().unwrap().name().service.name, "b");
    let missing = built(&[annotated("i", 1, &[("default-backend", "zzz")], rules())]);
    assert!(missing.table.find("x.org", "/").unwrap().fallback.is_none());
    let field = "metadata.annotations[nginx.ingress.kubernetes.io/default-backend]";
    assert_eq!(reasons(&missing), [(field, "InvalidField")]);
}
