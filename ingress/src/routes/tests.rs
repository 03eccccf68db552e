//! Whole tables of routes from whole objects: what a request finds, and what is reported.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::Ingress;
use model::kube::object_name;
use model::{Event, ObjectName, World};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::index::Changed;
use super::ingress::{Context, TlsClaim};
use super::{Routes, Table, Target};
use crate::annotations::Referenced;
use crate::observe::metrics::Metrics;
use crate::problem::Problem;
use crate::upstream::external::Names;
use crate::upstream::registry::Upstreams;

mod annotated;

/// An Ingress that was created at `second`, with the given spec.
fn ingress(name: &str, second: u32, spec: Value) -> Ingress {
    serde_json::from_value(json!({
        "metadata": {
            "name": name,
            "namespace": "ns",
            "uid": name,
            "creationTimestamp": format!("2026-01-01T00:00:{second:02}Z"),
        },
        "spec": spec,
    }))
    .unwrap()
}

fn backend(service: &str) -> Value {
    json!({"service": {"name": service, "port": {"number": 80}}})
}

fn rule(host: &str, paths: &[(&str, &str, &str)]) -> Value {
    let path = |(kind, path, service): &(&str, &str, &str)| json!({"pathType": kind, "path": path, "backend": backend(service)});
    json!({"host": host, "http": {"paths": paths.iter().map(path).collect::<Vec<_>>()}})
}

/// Services `a` to `d` with port 80, called `http`.
fn world() -> World {
    let mut world = World::new("");
    for name in ["a", "b", "c", "d"] {
        put_service(
            &mut world,
            json!({
                "metadata": {"name": name, "namespace": "ns"},
                "spec": {"clusterIP": "10.0.0.1", "ports": [{"name": "http", "port": 80}]},
            }),
        );
    }
    world
}

fn put_service(world: &mut World, service: Value) {
    let service: Service = serde_json::from_value(service).unwrap();
    let parsed = model::kube::service(&service).value.unwrap();
    world.apply(Event::Service(parsed));
}

/// What a set of objects amounts to.
struct Built {
    table: Table,
    tls: Vec<TlsClaim>,
    /// In order.
    problems: Vec<Problem>,
}

impl Built {
    fn of(routes: &Routes) -> Self {
        let mut problems: Vec<_> = routes.problems().cloned().collect();
        problems.sort();
        Self {
            table: routes.table(),
            tls: routes.claims().cloned().collect(),
            problems,
        }
    }

    /// Every host with what its paths lead to, as text.
    fn listing(&self) -> Vec<String> {
        let hosts = self.table.hosts().iter();
        let mut lines: Vec<_> = hosts
            .map(|(host, routes)| {
                let routes = routes.routes().map(|route| {
                    let object = &route.ingress;
                    let (kind, path, service) = (route.kind, &route.path, &route.service);
                    let target = matches!(route.target, Target::Backend(_));
                    format!("{kind:?} {path} {object:?} {service} {target}")
                });
                let is_secure = self.table.is_secure(&host.to_string());
                format!("{host} {is_secure} {:?}", routes.collect::<Vec<_>>())
            })
            .collect();
        lines.sort();
        lines
    }
}

/// Routes, with what their parts are found in.
#[derive(Default)]
struct Bench {
    routes: Routes,
    upstreams: Upstreams,
    metrics: Metrics,
}

impl Bench {
    fn update<'i>(
        &mut self,
        objects: impl IntoIterator<Item = (&'i ObjectName, Option<&'i Ingress>)>,
        world: &World,
    ) -> Changed {
        let context = Context {
            defaults: &crate::annotations::defaults::NONE,
            world,
            names: &Names::default(),
            upstreams: &self.upstreams,
            referenced: &Referenced::default(),
            metrics: &self.metrics,
        };
        self.routes.update(objects, context)
    }
}

fn build<'i>(ingresses: impl IntoIterator<Item = &'i Ingress>, world: &World) -> Built {
    let mut bench = Bench::default();
    for ingress in ingresses {
        let name = object_name(&ingress.metadata).unwrap();
        bench.update([(&name, Some(ingress))], world);
    }
    Built::of(&bench.routes)
}

/// Builds from `ingresses` in both orders, which must come to the same.
fn built(ingresses: &[Ingress]) -> Built {
    let one = build(ingresses, &world());
    let other = build(ingresses.iter().rev(), &world());
    assert_eq!(one.listing(), other.listing());
    assert_eq!(one.tls, other.tls);
    assert_eq!(one.problems, other.problems);
    one
}

/// The Service that a request finds, `-` if it is not there, `/` if the path lacks its slash.
fn find(built: &Built, host: &str, path: &str) -> Option<String> {
    let route = built.table.find(host, path)?;
    match &route.target {
        Target::Backend(upstream) => {
            assert_eq!(upstream.name().service.name, route.service);
            Some(route.service.to_string())
        }
        Target::Nowhere => Some("-".to_owned()),
        Target::WithSlash => Some("/".to_owned()),
    }
}

#[track_caller]
fn check(built: &Built, rows: &[(&str, &str, Option<&str>)]) {
    for (host, path, expected) in rows {
        assert_eq!(
            find(built, host, path).as_deref(),
            *expected,
            "{host}{path}"
        );
    }
}

fn reasons(built: &Built) -> Vec<(&str, &str)> {
    let problems = built.problems.iter();
    problems
        .map(|problem| (problem.field.as_str(), problem.fault.reason()))
        .collect()
}

/// Row 11 of the path table: what no path matches goes to the default backend of the host's own Ingress, and nowhere if
/// that has none. Another Ingress's default is for hosts that nobody names.
#[test]
fn default_backends_serve_their_own_hosts_or_those_nobody_names() {
    let built = built(&[
        ingress(
            "with",
            1,
            json!({
                "rules": [rule("with.org", &[("Prefix", "/aaa", "a")]), {"host": "bare.org"}],
                "defaultBackend": backend("b"),
            }),
        ),
        ingress(
            "without",
            2,
            json!({"rules": [rule("without.org", &[("Prefix", "/aaa", "a")])]}),
        ),
        ingress("catch-all", 3, json!({"defaultBackend": backend("c")})),
    ]);
    check(
        &built,
        &[
            ("with.org", "/aaa/ccc", Some("a")),
            ("with.org", "/ccc", Some("b")),
            ("bare.org", "/", Some("b")),
            ("without.org", "/ccc", None),
            ("other.org", "/", Some("c")),
        ],
    );
    assert_eq!(reasons(&built), []);
}

#[test]
fn the_most_specific_host_is_never_left_again() {
    let built = built(&[ingress(
        "i",
        1,
        json!({"rules": [
            rule("bar.foo.com", &[("Exact", "/x", "a")]),
            rule("*.foo.com", &[("Prefix", "/", "b")]),
            rule("", &[("Prefix", "/", "c")]),
        ]}),
    )]);
    check(
        &built,
        &[
            ("bar.foo.com", "/x", Some("a")),
            ("bar.foo.com", "/y", None),
            ("baz.foo.com", "/x", Some("b")),
            ("foo.com", "/x", Some("c")),
            ("a.b.foo.com", "/x", Some("c")),
        ],
    );
}

#[test]
fn paths_of_one_host_are_merged_and_the_oldest_keeps_what_two_want() {
    let built = built(&[
        ingress(
            "young",
            2,
            json!({"rules": [rule("x.org", &[
                ("Prefix", "/one", "b"), ("Exact", "/one", "b"), ("Prefix", "/two", "b"),
            ])]}),
        ),
        ingress(
            "old",
            1,
            json!({"rules": [rule("x.org", &[("Prefix", "/one", "a")])]}),
        ),
        ingress(
            "same-age",
            2,
            json!({"rules": [rule("x.org", &[("Prefix", "/two", "c")])]}),
        ),
    ]);
    check(
        &built,
        &[
            ("x.org", "/one/x", Some("a")),
            ("x.org", "/one", Some("b")),
            ("x.org", "/two", Some("c")),
        ],
    );
    assert_eq!(
        reasons(&built),
        [
            ("spec.rules[0].http.paths[0].path", "Conflict"),
            ("spec.rules[0].http.paths[2].path", "Conflict"),
        ]
    );
    assert_eq!(&*built.problems[0].ingress.name.name, "young");
    assert_eq!(
        built.problems[0].to_string(),
        "spec.rules[0].http.paths[0].path: Prefix path /one of host x.org is already taken by Ingress ns/old, \
         which comes first"
    );
}

#[test]
fn what_is_not_there_answers_and_is_reported() {
    let port = |port: Value| json!({"service": {"name": "a", "port": port}});
    let path = |path: &str, backend: Value| json!({"pathType": "Prefix", "path": path, "backend": backend});
    let paths = [
        path("/missing", backend("zzz")),
        path("/number", port(json!({"number": 81}))),
        path("/name", port(json!({"name": "https"}))),
        path("/neither", port(json!({}))),
        path("/both", port(json!({"name": "http", "number": 80}))),
        path(
            "/resource",
            json!({"resource": {"kind": "Bucket", "name": "b"}}),
        ),
        path("/none", json!({})),
        path("/good", port(json!({"name": "http"}))),
    ];
    let built = built(&[ingress(
        "i",
        1,
        json!({"rules": [{"host": "x.org", "http": {"paths": paths}}]}),
    )]);
    for path in [
        "/missing",
        "/number",
        "/name",
        "/neither",
        "/both",
        "/resource",
        "/none",
    ] {
        check(&built, &[("x.org", path, Some("-"))]);
    }
    check(&built, &[("x.org", "/good", Some("a"))]);
    let prefix = "spec.rules[0].http.paths";
    let expected = [
        ("[0].backend.service.name", "ServiceNotFound"),
        ("[1].backend.service.port", "PortNotFound"),
        ("[2].backend.service.port", "PortNotFound"),
        ("[3].backend.service.port", "InvalidField"),
        ("[4].backend.service.port", "InvalidField"),
        ("[5].backend.resource", "ResourceBackendUnsupported"),
        ("[6].backend.service", "InvalidField"),
    ];
    let expected = expected.map(|(field, reason)| (format!("{prefix}{field}"), reason));
    let found: Vec<_> = reasons(&built)
        .into_iter()
        .map(|(field, reason)| (field.to_owned(), reason))
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn external_names_are_refused() {
    let mut world = world();
    put_service(
        &mut world,
        json!({
            "metadata": {"name": "ext", "namespace": "ns"},
            "spec": {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": 80}]},
        }),
    );
    let built = build(
        &[ingress("i", 1, json!({"defaultBackend": backend("ext")}))],
        &world,
    );
    check(&built, &[("x.org", "/", Some("-"))]);
    assert_eq!(
        reasons(&built),
        [("spec.defaultBackend.service.name", "ExternalNameRefused")]
    );
}

#[test]
fn invalid_fields_are_left_out_and_the_rest_goes_on() {
    let mut odd = ingress(
        "odd",
        1,
        json!({
            "ingressClassName": "theirs",
            "rules": [
                rule("10.0.0.1", &[("Prefix", "/", "a")]),
                rule("x.org", &[("Prefix", "no-slash", "a"), ("Regex", "/", "a"), ("Prefix", "/good", "a")]),
            ],
            "tls": [{"hosts": ["*"]}],
        }),
    );
    odd.metadata.annotations = serde_json::from_value(json!({
        "kubernetes.io/ingress.class": "ours",
        "nginx.ingress.kubernetes.io/ssl-redirect": "perhaps",
    }))
    .unwrap();
    let built = built(&[odd, ingress("empty", 2, json!({}))]);
    check(
        &built,
        &[("x.org", "/good", Some("a")), ("10.0.0.1", "/", None)],
    );
    assert_eq!(
        reasons(&built),
        [
            ("spec", "InvalidField"),
            (
                "metadata.annotations[nginx.ingress.kubernetes.io/ssl-redirect]",
                "InvalidField"
            ),
            ("spec.ingressClassName", "ClassMismatch"),
            ("spec.rules[0].host", "InvalidField"),
            ("spec.rules[1].http.paths[0].path", "InvalidField"),
            ("spec.rules[1].http.paths[1].pathType", "InvalidField"),
            ("spec.tls[0].hosts[0]", "InvalidField"),
        ]
    );
}

#[test]
fn certificates_are_claimed_by_listed_hosts_or_those_of_the_rules() {
    let rules = json!([
        rule("a.org", &[("Prefix", "/", "a")]),
        rule("b.org", &[("Prefix", "/", "a")])
    ]);
    let built = built(&[
        ingress(
            "first",
            1,
            json!({"rules": rules, "tls": [{"hosts": ["a.org"], "secretName": "one"}]}),
        ),
        ingress(
            "second",
            2,
            json!({"rules": rules, "tls": [{"secretName": "two"}]}),
        ),
        ingress(
            "third",
            3,
            json!({"rules": rules, "tls": [{"hosts": ["*.c.org"]}]}),
        ),
    ]);
    let claims: Vec<_> = built
        .tls
        .iter()
        .map(|claim| {
            let secret = claim.secret.as_ref().map(|secret| secret.to_string());
            (claim.host.to_string(), secret.unwrap_or_default())
        })
        .collect();
    let expected = [("a.org", "ns/one"), ("b.org", "ns/two"), ("*.c.org", "")];
    assert_eq!(
        claims,
        expected.map(|(host, secret)| (host.to_owned(), secret.to_owned()))
    );
    let conflicts: Vec<_> = reasons(&built)
        .into_iter()
        .filter(|(field, _)| field.contains("tls"))
        .collect();
    assert_eq!(conflicts, [("spec.tls[0]", "Conflict")]);
    for (host, expected) in [("a.org", true), ("x.c.org", true), ("c.org", false)] {
        assert_eq!(built.table.is_secure(host), expected, "{host}");
    }
}

#[test]
fn a_certificate_for_all_hosts_secures_only_those_nobody_names() {
    let built = built(&[
        ingress(
            "any",
            1,
            json!({"defaultBackend": backend("a"), "tls": [{"secretName": "one"}]}),
        ),
        ingress(
            "named",
            2,
            json!({"rules": [rule("a.org", &[("Prefix", "/", "a")])]}),
        ),
    ]);
    assert!(built.table.is_secure("other.org"));
    assert!(!built.table.is_secure("a.org"));
}

/// A Service that appears or changes its ports changes the routes of those who name it, and of nobody else.
#[test]
fn a_service_outdates_those_who_name_it() {
    let mut world = world();
    let objects = [
        ingress(
            "one",
            1,
            json!({"rules": [rule("one.org", &[("Prefix", "/", "new")])]}),
        ),
        ingress(
            "two",
            2,
            json!({"rules": [rule("two.org", &[("Prefix", "/", "a")])]}),
        ),
    ];
    let names = [0, 1].map(|number: usize| object_name(&objects[number].metadata).unwrap());
    let mut bench = Bench::default();
    bench.update(names.iter().zip(objects.iter().map(Some)), &world);
    let before = bench.routes.table();
    check(&Built::of(&bench.routes), &[("one.org", "/", Some("-"))]);
    let service = ObjectName::new("ns", "new");
    let users: Vec<_> = bench.routes.users(&service).cloned().collect();
    assert_eq!(users, names[..1]);
    put_service(
        &mut world,
        json!({
            "metadata": {"name": "new", "namespace": "ns"},
            "spec": {"clusterIP": "10.0.0.9", "ports": [{"port": 80}]},
        }),
    );
    let changed = bench.update([(&names[0], Some(&objects[0]))], &world);
    let expected = Changed {
        routes: true,
        claims: false,
        references: false,
    };
    assert_eq!(changed, expected);
    let built = Built::of(&bench.routes);
    check(&built, &[("one.org", "/", Some("new"))]);
    assert_eq!(reasons(&built), []);
    let route = |table: &Table, host| Arc::as_ptr(table.find(host, "/").unwrap());
    assert_eq!(route(&before, "two.org"), route(&built.table, "two.org"));
    bench.update(names.iter().map(|name| (name, None)), &world);
    let built = Built::of(&bench.routes);
    assert_eq!(built.listing(), Vec::<String>::new());
    assert_eq!((bench.routes.len(), built.tls.len()), (0, 0));
    assert!(!built.table.is_secure("one.org"));
}

/// One of few names, in one of few ages, with rules, defaults and certificates that clash often. Nothing for one that is
/// deleted.
fn step() -> impl Strategy<Value = (usize, Option<Ingress>)> {
    let host = || prop_oneof!["a.org", "b.org", "\\*.org", ""];
    let kind = prop_oneof!["Exact", "Prefix", "ImplementationSpecific", "Bad"];
    let path = prop_oneof!["/", "/a", "/a/", "/a/b"];
    let service = || prop_oneof!["a", "b", "missing"];
    let rules = proptest::collection::vec((host(), kind, path, service()), 0..4);
    let rules = rules.prop_map(|rules| {
        let rules = rules.iter();
        let rules = rules.map(|(host, kind, path, service)| rule(host, &[(kind, path, service)]));
        json!(rules.collect::<Vec<_>>())
    });
    let default = proptest::option::of(service());
    let tls = proptest::option::of((proptest::option::of(host()), "[ab]"));
    let parts = (0_usize..4, 1_u32..3, rules, default, tls, 0..5);
    parts.prop_map(|(number, age, rules, default, tls, gone)| {
        let mut spec = json!({"rules": rules});
        if let Some(service) = default {
            spec["defaultBackend"] = backend(&service);
        }
        if let Some((host, secret)) = tls {
            let hosts: Vec<_> = host.into_iter().filter(|host| !host.is_empty()).collect();
            spec["tls"] = json!([{"hosts": hosts, "secretName": secret}]);
        }
        let object = ingress(&format!("i{number}"), age, spec);
        (number, (gone > 0).then_some(object))
    })
}

proptest! {
    /// Whatever an object says, building ends, and every route can be looked up.
    #[test]
    fn any_object_can_be_built(host in "\\PC{0,12}", path in "\\PC{0,12}", kind in "(Exact|Prefix|ImplementationSpecific|\\PC)") {
        let object = ingress("i", 1, json!({"rules": [rule(&host, &[(&kind, &path, "a")])]}));
        let built = build(&[object], &world());
        for (_, routes) in built.table.hosts().iter() {
            for route in routes.routes() {
                prop_assert!(built.table.find(&host, &route.path).is_some() || host.starts_with('*'));
            }
        }
    }

    /// Step by step comes to the same as all at once, whatever the steps were.
    #[test]
    fn changes_come_to_what_the_objects_are_at_last(steps in proptest::collection::vec(step(), 0..12)) {
        let world = world();
        let mut bench = Bench::default();
        let mut objects = [const { None }; 4];
        for (number, object) in steps {
            let name = ObjectName::new("ns", format!("i{number}"));
            bench.update([(&name, object.as_ref())], &world);
            objects[number] = object;
        }
        let (found, expected) = (Built::of(&bench.routes), build(objects.iter().flatten(), &world));
        prop_assert_eq!(found.listing(), expected.listing());
        prop_assert_eq!(found.tls, expected.tls);
        prop_assert_eq!(found.problems, expected.problems);
    }
}
