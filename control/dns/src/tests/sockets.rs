//! Over real sockets on loopback, with a resolver of our own making upstream.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{RData, Record, RecordType};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{World, service_json, wire_name};
use crate::resolver::Resolver;
use crate::server::{Server, bind_pair};
use crate::settings::Upstreams;
use crate::upstream::Upstream;

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
/// Longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(20);
/// The address of every name upstream knows.
const FAR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 80);

/// A resolver that answers for `*.example.com` and counts the questions. Over UDP it cuts what is asked of `long`.
struct Fake {
    address: SocketAddr,
    questions: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Fake {
    async fn start() -> Self {
        let (udp, tcp) = bind_pair(LOOPBACK).await.expect("sockets");
        let address = tcp.local_addr().expect("an address");
        let questions = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        tasks.spawn(fake_udp(udp, Arc::clone(&questions)));
        tasks.spawn(fake_tcp(tcp, Arc::clone(&questions)));
        Self {
            address,
            questions,
            _tasks: tasks,
        }
    }

    fn questions(&self) -> usize {
        self.questions.load(Ordering::SeqCst)
    }
}

async fn fake_udp(socket: UdpSocket, questions: Arc<AtomicUsize>) {
    let mut buffer = [0; 1500];
    loop {
        let (length, client) = socket.recv_from(&mut buffer).await.expect("a question");
        questions.fetch_add(1, Ordering::SeqCst);
        let query = Message::from_vec(&buffer[..length]).expect("a readable question");
        let mut forged = fake_answer(&query);
        forged.metadata.id ^= 1;
        forged.answers.clear();
        let mut answer = fake_answer(&query);
        if query.queries[0].name == wire_name("long.example.com") {
            answer = answer.truncate();
        }
        for packet in [forged, answer] {
            let bytes = packet.to_vec().expect("a packet");
            socket.send_to(&bytes, client).await.expect("sent");
        }
    }
}

async fn fake_tcp(listener: TcpListener, questions: Arc<AtomicUsize>) {
    loop {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        questions.fetch_add(1, Ordering::SeqCst);
        let query = read_message(&mut stream).await;
        write_message(&mut stream, &fake_answer(&query)).await;
    }
}

fn fake_answer(query: &Message) -> Message {
    let mut answer = query.clone().into_response();
    let name = query.queries[0].name.clone();
    if name == wire_name("broken.example.com") {
        answer.metadata.response_code = ResponseCode::ServFail;
    } else if wire_name("example.com").zone_of(&name) {
        answer.add_answer(Record::from_rdata(name, 60, RData::A(A(FAR))));
    } else {
        answer.metadata.response_code = ResponseCode::NXDomain;
    }
    answer
}

/// Our server on loopback.
struct Running {
    address: SocketAddr,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    async fn start(upstreams: Vec<SocketAddr>) -> Self {
        let world = World::of(
            &[
                service_json("web", json!({"clusterIP": "10.96.0.7"})),
                service_json(
                    "out",
                    json!({"type": "ExternalName", "externalName": "www.example.com"}),
                ),
                service_json(
                    "lost",
                    json!({"type": "ExternalName", "externalName": "broken.example.com"}),
                ),
            ],
            &[],
        );
        let upstream = Upstream::new(Upstreams::Fixed(upstreams), Vec::new());
        let resolver = Arc::new(Resolver::new(world.records(), upstream));
        let server = Server::bind(&[LOOPBACK]).await.expect("sockets");
        let address = server.addresses()[0];
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(server.run(resolver, shutdown.clone()));
        Self {
            address,
            shutdown,
            task,
        }
    }

    async fn ask_udp(&self, name: &str) -> Message {
        let socket = UdpSocket::bind(LOOPBACK).await.expect("a socket");
        socket.connect(self.address).await.expect("connected");
        let query = question(name).to_vec().expect("a packet");
        socket.send(&query).await.expect("sent");
        let mut buffer = [0; 1500];
        let received = timeout(DEADLINE, socket.recv(&mut buffer)).await;
        let length = received.expect("a response in time").expect("a response");
        Message::from_vec(&buffer[..length]).expect("a readable response")
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address)
            .await
            .expect("a connection")
    }

    async fn stop(self) {
        self.shutdown.cancel();
        timeout(DEADLINE, self.task)
            .await
            .expect("an end in time")
            .expect("no panic");
    }
}

fn question(name: &str) -> Message {
    let mut message = Message::query();
    message.add_query(Query::query(wire_name(name), RecordType::A));
    message
}

async fn read_message(stream: &mut TcpStream) -> Message {
    let length = stream.read_u16().await.expect("a length");
    let mut bytes = vec![0; usize::from(length)];
    stream.read_exact(&mut bytes).await.expect("a message");
    Message::from_vec(&bytes).expect("a readable message")
}

async fn write_message(stream: &mut TcpStream, message: &Message) {
    let bytes = message.to_vec().expect("a packet");
    let length = u16::try_from(bytes.len()).expect("a short packet");
    stream
        .write_all(&[&length.to_be_bytes(), bytes.as_slice()].concat())
        .await
        .expect("written");
}

#[track_caller]
fn check(message: &Message, code: ResponseCode, expected: &[&str]) {
    let data: Vec<String> = message
        .answers
        .iter()
        .map(|record| record.data.to_string())
        .collect();
    assert_eq!(
        (message.metadata.response_code, data),
        (code, expected.iter().map(ToString::to_string).collect())
    );
}

#[tokio::test]
async fn the_zone_is_served_over_udp() {
    let server = Running::start(Vec::new()).await;
    let response = server.ask_udp("web.default.svc.cluster.local").await;
    check(&response, ResponseCode::NoError, &["10.96.0.7"]);
    server.stop().await;
}

#[tokio::test]
async fn a_connection_takes_several_questions() {
    let fake = Fake::start().await;
    let server = Running::start(vec![fake.address]).await;
    let mut stream = server.connect().await;
    for (name, address) in [
        ("web.default.svc.cluster.local", "10.96.0.7"),
        ("www.example.com", "192.0.2.80"),
    ] {
        write_message(&mut stream, &question(name)).await;
        check(
            &read_message(&mut stream).await,
            ResponseCode::NoError,
            &[address],
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn a_connection_with_too_long_a_question_is_closed() {
    let server = Running::start(Vec::new()).await;
    let mut stream = server.connect().await;
    stream
        .write_all(&[0xff, 0xff, 0, 0])
        .await
        .expect("written");
    let end = timeout(DEADLINE, stream.read(&mut [0; 1]))
        .await
        .expect("an end in time");
    assert!(matches!(end, Ok(0) | Err(_)));
    server.stop().await;
}

#[tokio::test]
async fn other_names_are_asked_of_upstream_and_remembered() {
    let fake = Fake::start().await;
    let server = Running::start(vec![fake.address]).await;
    for _ in 0..3 {
        let response = server.ask_udp("www.example.com").await;
        check(&response, ResponseCode::NoError, &["192.0.2.80"]);
        assert!(!response.metadata.authoritative);
    }
    assert_eq!(fake.questions(), 1);
    check(
        &server.ask_udp("no.such").await,
        ResponseCode::NXDomain,
        &[],
    );
    server.stop().await;
}

#[tokio::test]
async fn an_answer_that_was_cut_is_fetched_over_tcp() {
    let fake = Fake::start().await;
    let server = Running::start(vec![fake.address]).await;
    let response = server.ask_udp("long.example.com").await;
    check(&response, ResponseCode::NoError, &["192.0.2.80"]);
    assert_eq!(fake.questions(), 2);
    server.stop().await;
}

#[tokio::test]
async fn an_external_name_comes_with_its_addresses() {
    let fake = Fake::start().await;
    let server = Running::start(vec![fake.address]).await;
    let response = server.ask_udp("out.default.svc.cluster.local").await;
    check(
        &response,
        ResponseCode::NoError,
        &["www.example.com.", "192.0.2.80"],
    );
    assert!(response.metadata.authoritative);
    let response = server.ask_udp("lost.default.svc.cluster.local").await;
    check(&response, ResponseCode::ServFail, &["broken.example.com."]);
    server.stop().await;
}

#[tokio::test]
async fn the_next_server_is_asked_when_one_is_dead_or_silent() {
    let fake = Fake::start().await;
    let dead = UdpSocket::bind(LOOPBACK)
        .await
        .expect("a socket")
        .local_addr()
        .expect("an address");
    let silent = UdpSocket::bind(LOOPBACK).await.expect("a socket");
    let silent_address = silent.local_addr().expect("an address");
    let server = Running::start(vec![dead, silent_address, fake.address]).await;
    let response = server.ask_udp("www.example.com").await;
    check(&response, ResponseCode::NoError, &["192.0.2.80"]);
    server.stop().await;
}

#[tokio::test]
async fn without_upstream_other_names_fail() {
    let server = Running::start(Vec::new()).await;
    check(
        &server.ask_udp("www.example.com").await,
        ResponseCode::ServFail,
        &[],
    );
    server.stop().await;
}

#[tokio::test]
async fn a_slow_upstream_holds_up_nobody_else() {
    let silent = UdpSocket::bind(LOOPBACK).await.expect("a socket");
    let server = Running::start(vec![silent.local_addr().expect("an address")]).await;
    let (slow, quick) = tokio::join!(server.ask_udp("www.example.com"), async {
        silent.readable().await.expect("a question");
        server.ask_udp("web.default.svc.cluster.local").await
    });
    check(&quick, ResponseCode::NoError, &["10.96.0.7"]);
    check(&slow, ResponseCode::ServFail, &[]);
    server.stop().await;
}
