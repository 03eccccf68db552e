//! The whole server against an API server of our own making: lists, watches, and the end.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket as StdUdpSocket};
use std::time::Duration;

use control_dns::{DnsSettings, Upstreams};
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const DEADLINE: Duration = Duration::from_secs(20);

/// An API server that lists one headless Service, and one slice that a watch replaces once `go` is true.
async fn serve_api(listener: TcpListener, go: watch::Receiver<bool>) {
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        tokio::spawn(serve_connection(stream, go.clone()));
    }
}

async fn serve_connection(stream: TcpStream, go: watch::Receiver<bool>) {
    let mut stream = BufReader::new(stream);
    while let Some(path) = read_request(&mut stream).await {
        if path.contains("watch=") {
            return serve_watch(stream, path.contains("endpointslices"), go).await;
        }
        let body = list(path.contains("endpointslices")).to_string();
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let response = head + &body;
        if stream.write_all(response.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// The path of the next request; its headers are skipped, and none of them has a body.
async fn read_request(stream: &mut BufReader<TcpStream>) -> Option<String> {
    let mut request = String::new();
    stream.read_line(&mut request).await.ok()?;
    let path = request.split(' ').nth(1)?.to_owned();
    let mut header = String::new();
    while stream.read_line(&mut header).await.ok()? > 2 {
        header.clear();
    }
    Some(path)
}

async fn serve_watch(
    mut stream: BufReader<TcpStream>,
    slices: bool,
    mut go: watch::Receiver<bool>,
) {
    let head =
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.expect("written");
    stream.flush().await.expect("written");
    if slices {
        go.wait_for(|go| *go).await.expect("the test is running");
        let event =
            json!({"type": "MODIFIED", "object": slice("10.244.0.2", "2")}).to_string() + "\n";
        let chunk = format!("{:x}\r\n{event}\r\n", event.len());
        stream.write_all(chunk.as_bytes()).await.expect("written");
        stream.flush().await.expect("written");
    }
    // The client ends a watch by closing the connection.
    let mut rest = String::new();
    let _closed = stream.read_line(&mut rest).await;
}

fn list(slices: bool) -> Value {
    let (version, kind, item) = if slices {
        (
            "discovery.k8s.io/v1",
            "EndpointSliceList",
            slice("10.244.0.1", "1"),
        )
    } else {
        ("v1", "ServiceList", service())
    };
    json!({"apiVersion": version, "kind": kind, "metadata": {"resourceVersion": "1"}, "items": [item]})
}

fn service() -> Value {
    json!({
        "metadata": {"namespace": "default", "name": "db", "resourceVersion": "1"},
        "spec": {"clusterIP": "None"},
    })
}

fn slice(address: &str, version: &str) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": "default",
            "name": "db-1",
            "resourceVersion": version,
            "labels": {"kubernetes.io/service-name": "db"},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address]}],
    })
}

/// Asks for the headless Service's address until it is `expected`.
async fn eventually(server: SocketAddr, expected: &str) {
    let socket = UdpSocket::bind(LOOPBACK).await.expect("a socket");
    socket.connect(server).await.expect("connected");
    let deadline = Instant::now() + DEADLINE;
    loop {
        let last = ask(&socket).await;
        if last == expected {
            return;
        }
        assert!(Instant::now() < deadline, "{last}, not {expected}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// The address, or what went wrong. The server may not have opened its socket yet.
async fn ask(socket: &UdpSocket) -> String {
    let name = Name::from_ascii("db.default.svc.cluster.local.").expect("a name");
    let mut question = Message::query();
    question.add_query(Query::query(name, RecordType::A));
    let question = question.to_vec().expect("a packet");
    let mut buffer = [0; 1500];
    let exchange = async {
        socket.send(&question).await?;
        socket.recv(&mut buffer).await
    };
    match timeout(Duration::from_secs(1), exchange).await {
        Ok(Ok(length)) => render(&Message::from_vec(&buffer[..length]).expect("a response")),
        other => format!("{other:?}"),
    }
}

fn render(response: &Message) -> String {
    match response.answers.first() {
        Some(record) => record.data.to_string(),
        None => format!("{:?}", response.metadata.response_code),
    }
}

#[tokio::test]
async fn what_the_api_says_is_what_dns_answers() {
    let api = TcpListener::bind(LOOPBACK).await.expect("a socket");
    let url = format!("http://{}", api.local_addr().expect("an address"));
    let (go, wait) = watch::channel(false);
    let api = tokio::spawn(serve_api(api, wait));
    let config = kube::Config::new(url.parse().expect("an address"));
    let client = kube::Client::try_from(config).expect("a client");
    let server = free_address(1);
    let settings = DnsSettings {
        bind: vec![server],
        domain: "cluster.local".to_owned(),
        upstreams: Upstreams::Fixed(Vec::new()),
    };
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(control_dns::run(client, settings, shutdown.clone()));
    eventually(server, "10.244.0.1").await;
    go.send_replace(true);
    eventually(server, "10.244.0.2").await;
    shutdown.cancel();
    let ended = timeout(DEADLINE, running).await.expect("an end in time");
    ended.expect("no panic").expect("no error");
    api.abort();
}

#[tokio::test]
async fn an_unreachable_api_server_leaves_the_zone_failing_and_the_server_running() {
    let config = kube::Config::new("http://127.0.0.1:1".parse().expect("an address"));
    let client = kube::Client::try_from(config).expect("a client");
    let server = free_address(2);
    let settings = DnsSettings {
        bind: vec![server],
        domain: "cluster.local".to_owned(),
        upstreams: Upstreams::Fixed(Vec::new()),
    };
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(control_dns::run(client, settings, shutdown.clone()));
    eventually(server, &format!("{:?}", ResponseCode::ServFail)).await;
    shutdown.cancel();
    let ended = timeout(DEADLINE, running).await.expect("an end in time");
    ended.expect("no panic").expect("no error");
}

/// An address of a port that is free, on a loopback address that nobody else has sockets on.
fn free_address(last: u8) -> SocketAddr {
    let socket = StdUdpSocket::bind((Ipv4Addr::new(127, 0, 53, last), 0)).expect("a socket");
    socket.local_addr().expect("an address")
}
