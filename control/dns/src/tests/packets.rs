//! From packets to packets: what is declined and how, how long responses are, and that nothing sent can hurt.

use std::sync::LazyLock;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, RecordType};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{World, service_json, slice_json, wire_name};
use crate::message::Transport;
use crate::resolver::{Resolver, Step};
use crate::settings::Upstreams;
use crate::upstream::Upstream;

const WEB: &str = "web.default.svc.cluster.local";
const MANY: &str = "many.default.svc.cluster.local";

/// A resolver that knows a Service, a headless one with 200 endpoints, and no upstream.
static RESOLVER: LazyLock<Resolver> = LazyLock::new(|| {
    let endpoints: Vec<Value> = (0..200)
        .map(|i| json!({"addresses": [format!("10.244.0.{i}")]}))
        .collect();
    let world = World::of(
        &[
            service_json(
                "web",
                json!({"clusterIP": "10.96.0.7", "ports": [{"name": "http", "port": 80}]}),
            ),
            service_json("many", json!({"clusterIP": "None"})),
        ],
        &[slice_json("many", "many-1", json!(endpoints))],
    );
    Resolver::new(
        world.records(),
        Upstream::new(Upstreams::Fixed(Vec::new()), Vec::new()),
    )
});

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(wire_name(name), kind));
    message
}

fn with_edns(mut message: Message, payload: u16) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(payload);
    message.set_edns(edns);
    message
}

/// The response's bytes; the question must be one that is answered at once.
#[track_caller]
fn respond(message: &Message, transport: Transport) -> Vec<u8> {
    let bytes = message.to_vec().expect("a packet");
    match RESOLVER.start(&bytes, transport) {
        Step::Send(response) => response,
        other => panic!("no response at once: {other:?}"),
    }
}

#[track_caller]
fn ask(message: &Message) -> Message {
    let response = respond(message, Transport::Udp);
    Message::from_vec(&response).expect("a readable response")
}

#[track_caller]
fn check_code(message: &Message, expected: ResponseCode) {
    let response = ask(message);
    assert_eq!(response.metadata.response_code, expected);
    assert_eq!(response.metadata.id, message.metadata.id);
    assert!(response.answers.is_empty());
}

#[test]
fn a_response_repeats_what_it_answers() {
    let query = question("Web.Default.svc.Cluster.local", RecordType::A);
    let response = ask(&query);
    let flags = response.metadata;
    assert_eq!(
        (flags.id, flags.message_type),
        (query.metadata.id, MessageType::Response)
    );
    assert!(flags.authoritative && flags.recursion_available && flags.recursion_desired);
    assert!(response.queries[0].name.eq_case(&query.queries[0].name));
    assert!(response.answers[0].name.eq_case(&query.queries[0].name));
    assert_eq!(response.answers[0].ttl, 5);
    assert!(response.edns.is_none());
}

#[test]
fn other_operations_are_not_implemented() {
    for code in [
        OpCode::Status,
        OpCode::Notify,
        OpCode::Update,
        OpCode::Unknown(1),
        OpCode::Unknown(15),
    ] {
        let mut message = question(WEB, RecordType::A);
        message.metadata.op_code = code;
        check_code(&message, ResponseCode::NotImp);
    }
}

#[test]
fn only_one_question_makes_sense() {
    let mut two = question(WEB, RecordType::A);
    two.add_query(Query::query(wire_name(MANY), RecordType::A));
    check_code(&two, ResponseCode::FormErr);
    check_code(&Message::query(), ResponseCode::FormErr);
}

#[test]
fn a_broken_question_is_a_format_error() {
    let mut bytes = question(WEB, RecordType::A).to_vec().expect("a packet");
    bytes.truncate(bytes.len() - 3);
    let Step::Send(response) = RESOLVER.start(&bytes, Transport::Udp) else {
        panic!("no response");
    };
    let response = Message::from_vec(&response).expect("a readable response");
    assert_eq!(response.metadata.response_code, ResponseCode::FormErr);
}

#[test]
fn transfers_and_other_classes_are_refused() {
    check_code(
        &question("cluster.local", RecordType::AXFR),
        ResponseCode::Refused,
    );
    check_code(
        &question("cluster.local", RecordType::IXFR),
        ResponseCode::Refused,
    );
    let mut chaos = question("version.bind", RecordType::TXT);
    chaos.queries[0].query_class = DNSClass::CH;
    check_code(&chaos, ResponseCode::Refused);
}

#[test]
fn a_later_version_of_edns_is_turned_down_in_the_one_we_speak() {
    let mut message = with_edns(question(WEB, RecordType::A), 1232);
    message.edns.as_mut().expect("EDNS").set_version(1);
    let response = ask(&message);
    assert_eq!(u16::from(response.metadata.response_code), 16);
    assert_eq!(response.edns.expect("EDNS").version(), 0);
}

#[test]
fn responses_and_scraps_are_left_alone() {
    let mut response = question(WEB, RecordType::A);
    response.metadata.message_type = MessageType::Response;
    let response = response.to_vec().expect("a packet");
    for packet in [response.as_slice(), &[], &[0; 11]] {
        assert!(matches!(
            RESOLVER.start(packet, Transport::Udp),
            Step::Ignore
        ));
    }
}

#[test]
fn a_udp_response_is_as_long_as_the_client_takes_and_no_longer() {
    for (payload, limit) in [
        (None, 512),
        (Some(100), 512),
        (Some(700), 700),
        (Some(65_535), 1232),
    ] {
        let mut message = question(MANY, RecordType::A);
        if let Some(payload) = payload {
            message = with_edns(message, payload);
        }
        let bytes = respond(&message, Transport::Udp);
        let response = Message::from_vec(&bytes).expect("a readable response");
        assert!(
            bytes.len() <= limit && bytes.len() + 32 > limit,
            "{} for {payload:?}",
            bytes.len()
        );
        assert!(response.metadata.truncation);
        assert!(!response.answers.is_empty());
        assert_eq!(response.edns.is_some(), payload.is_some());
    }
}

#[test]
fn a_tcp_response_is_complete() {
    let bytes = respond(&question(MANY, RecordType::A), Transport::Tcp);
    let response = Message::from_vec(&bytes).expect("a readable response");
    assert_eq!(response.answers.len(), 200);
    assert!(!response.metadata.truncation);
}

#[test]
fn additional_records_go_without_a_word() {
    let long = "x".repeat(63);
    let endpoints: Vec<Value> = (0..5)
        .map(|i| json!({"addresses": ["10.244.0.1", "fd00::1"], "hostname": format!("h{i}-{}", &long[..59])}))
        .collect();
    let world = World::of(
        &[service_json("srv", json!({"clusterIP": "None"}))],
        &[slice_json("srv", "srv-1", json!(endpoints))],
    );
    let resolver = Resolver::new(
        world.records(),
        Upstream::new(Upstreams::Fixed(Vec::new()), Vec::new()),
    );
    let query = with_edns(
        question("_http._tcp.srv.default.svc.cluster.local", RecordType::SRV),
        780,
    );
    let Step::Send(bytes) = resolver.start(&query.to_vec().expect("a packet"), Transport::Udp)
    else {
        panic!("no response");
    };
    let response = Message::from_vec(&bytes).expect("a readable response");
    assert_eq!((response.answers.len(), response.additionals.len()), (5, 0));
    assert!(!response.metadata.truncation);
}

#[test]
fn a_response_longer_than_tcp_can_carry_is_cut() {
    let endpoints: Vec<Value> = (0..5000)
        .map(|i| json!({"addresses": [format!("10.{}.{}.1", i / 256, i % 256)]}))
        .collect();
    let world = World::of(
        &[service_json("huge", json!({"clusterIP": "None"}))],
        &[slice_json("huge", "huge-1", json!(endpoints))],
    );
    let resolver = Resolver::new(
        world.records(),
        Upstream::new(Upstreams::Fixed(Vec::new()), Vec::new()),
    );
    for (name, kind) in [("", RecordType::A), ("_http._tcp.", RecordType::SRV)] {
        let query = question(&format!("{name}huge.default.svc.cluster.local"), kind);
        let Step::Send(bytes) = resolver.start(&query.to_vec().expect("a packet"), Transport::Tcp)
        else {
            panic!("no response");
        };
        let response = Message::from_vec(&bytes).expect("a readable response");
        assert!(response.metadata.truncation);
        assert!(bytes.len() > 65_000, "{}", bytes.len());
    }
}

/// Names that lead somewhere, with labels of all kinds among them.
fn any_name() -> impl Strategy<Value = Name> {
    let label = prop_oneof![
        prop::sample::select(vec![
            "web", "many", "default", "svc", "pod", "dns", "_tcp", "_http", "10-0-0-1", "arpa",
            "in-addr", "ip6", "1",
        ])
        .prop_map(|label| label.as_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 1..20),
    ];
    let end = prop::sample::select(vec![
        vec!["cluster", "local"],
        vec!["in-addr", "arpa"],
        vec!["ip6", "arpa"],
        vec![],
    ]);
    (prop::collection::vec(label, 0..8), end).prop_map(|(labels, end)| {
        let end = end.into_iter().map(|label| label.as_bytes().to_vec());
        Name::from_labels(labels.into_iter().chain(end)).expect("a short name")
    })
}

proptest! {
    #[test]
    fn no_packet_hurts(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let _step = RESOLVER.start(&bytes, Transport::Udp);
    }

    #[test]
    fn no_packet_with_a_sensible_header_hurts(
        mut bytes in prop::collection::vec(any::<u8>(), 12..300),
        counts in prop::array::uniform3(0..3_u8),
    ) {
        bytes[2..12].copy_from_slice(&[1, 0, 0, 1, 0, counts[0], 0, counts[1], 0, counts[2]]);
        let _step = RESOLVER.start(&bytes, Transport::Tcp);
    }

    #[test]
    fn no_damaged_question_hurts(at in 0_usize..80, value: u8) {
        let message = with_edns(question(WEB, RecordType::SRV), 1232);
        let mut bytes = message.to_vec().expect("a packet");
        let at = at % bytes.len();
        bytes[at] = value;
        let _step = RESOLVER.start(&bytes, Transport::Udp);
    }

    #[test]
    fn every_response_is_readable_and_fits(name in any_name(), kind: u16, payload: u16) {
        let mut message = with_edns(Message::query(), payload);
        message.add_query(Query::query(name, RecordType::from(kind)));
        let bytes = message.to_vec().expect("a packet");
        if let Step::Send(response) = RESOLVER.start(&bytes, Transport::Udp) {
            prop_assert!(response.len() <= usize::from(payload.clamp(512, 1232)));
            let response = Message::from_vec(&response).expect("a readable response");
            prop_assert_eq!(response.metadata.id, message.metadata.id);
            prop_assert!(response.answers.iter().all(|record| !matches!(record.data, RData::Update0(_))));
        }
    }
}
