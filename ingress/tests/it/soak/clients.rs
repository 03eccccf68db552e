//! Clients that ask for all sorts of things and leave when they like.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rand::Rng;
use rand::rngs::StdRng;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;

use super::shaky::{Body, Dice, Shaky, a_while, body};
use super::{PATHS, Tally};
use crate::harness::{Gateway, PATIENCE};

/// Clients at a time.
const CLIENTS: usize = 64;

/// How long a client stays that does not leave in the middle of something.
const LONG: Duration = Duration::from_secs(5);

/// Clients that go on until they are stopped.
pub(super) struct Clients {
    tasks: JoinSet<()>,
    stop: CancellationToken,
}

/// What every client knows.
#[derive(Clone)]
struct World {
    http: SocketAddr,
    https: SocketAddr,
    root: CertificateDer<'static>,
    dice: Dice,
    tally: &'static Tally,
}

impl Clients {
    pub(super) fn start(
        gateway: &Gateway,
        dice: &Dice,
        root: &CertificateDer<'static>,
        tally: &'static Tally,
    ) -> Self {
        let world = World {
            http: gateway.http,
            https: gateway.https,
            root: root.clone(),
            dice: dice.clone(),
            tally,
        };
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        for _ in 0..CLIENTS {
            let (world, stop) = (world.clone(), stop.clone());
            tasks.spawn(async move {
                while !stop.is_cancelled() {
                    world.client().await;
                }
            });
        }
        Self { tasks, stop }
    }

    /// Ends them; what they have asked for last may come to its end.
    pub(super) async fn stop(mut self) {
        self.stop.cancel();
        while let Some(ended) = timeout(PATIENCE, self.tasks.join_next()).await.unwrap() {
            ended.unwrap();
        }
    }
}

impl World {
    /// One connection, from its beginning to its end.
    async fn client(&self) {
        let mut random = self.dice.draw();
        let patience = patience(&mut random);
        self.tally.connections.fetch_add(1, Ordering::Relaxed);
        let is_secure = random.random_bool(0.5);
        let is_h2 = random.random_bool(0.4);
        let address = if is_secure { self.https } else { self.http };
        let stream = TcpStream::connect(address).await.unwrap();
        let stream = Shaky::new(stream, &self.dice, &mut random);
        let life = async {
            match is_secure {
                false => self.live(stream, is_h2, &mut random).await,
                true => {
                    let connector = self.connector(is_h2);
                    let name = ServerName::try_from("a.org").unwrap();
                    if let Ok(stream) = connector.connect(name, stream).await {
                        self.live(stream, is_h2, &mut random).await;
                    }
                }
            }
        };
        drop(timeout(patience, life).await);
    }

    fn connector(&self, is_h2: bool) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let protocol: &[u8] = if is_h2 { b"h2" } else { b"http/1.1" };
        config.alpn_protocols = vec![protocol.to_vec()];
        TlsConnector::from(Arc::new(config))
    }

    async fn live<S>(&self, stream: S, is_h2: bool, random: &mut StdRng)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        if is_h2 {
            return self.several_at_a_time(stream, random).await;
        }
        match random.random_bool(0.25) {
            true => self.talk(stream, random).await,
            false => self.one_by_one(stream, random).await,
        }
    }

    async fn one_by_one<S>(&self, stream: S, random: &mut StdRng)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let Ok((mut sender, connection)) = http1::handshake(TokioIo::new(stream)).await else {
            return;
        };
        let asking = async {
            for _ in 0..random.random_range(1..8) {
                let asked = Asked::new(random);
                if sender.ready().await.is_err() {
                    return;
                }
                let answered = sender.send_request(asked.request(random, "")).await;
                self.take(asked, answered).await;
            }
        };
        // The connection ends with what is asked over it.
        futures::future::select(std::pin::pin!(connection), std::pin::pin!(asking)).await;
    }

    async fn several_at_a_time<S>(&self, stream: S, random: &mut StdRng)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let Ok((sender, connection)) = handshake.await else {
            return;
        };
        let asking = (0..random.random_range(1..8)).map(|_| {
            let asked = Asked::new(random);
            let request = asked.request(random, "http://a.org");
            let mut sender = sender.clone();
            let patience = patience(random);
            async move {
                let exchange = async {
                    let answered = sender.send_request(request).await;
                    self.take(asked, answered).await;
                };
                // A stream that is left alone is reset.
                drop(timeout(patience, exchange).await);
            }
        });
        let asking = futures::future::join_all(asking.collect::<Vec<_>>());
        futures::future::select(std::pin::pin!(connection), asking).await;
    }

    /// Exchanges messages over WebSocket.
    async fn talk<S>(&self, stream: S, random: &mut StdRng)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let path = ["/one", "/three"][random.random_range(0..2)];
        let url = format!("ws://a.org{path}");
        let Ok((mut socket, _)) = tokio_tungstenite::client_async(url, stream).await else {
            return;
        };
        for _ in 0..random.random_range(1..20) {
            let length = 1 << random.random_range(0..18);
            let message = Message::binary(vec![random.random::<u8>(); length]);
            if socket.send(message.clone()).await.is_err() {
                return;
            }
            match socket.next().await {
                Some(Ok(back)) if back == message => {
                    self.tally.messages.fetch_add(1, Ordering::Relaxed);
                }
                Some(Ok(back)) if back.is_close() => return,
                Some(Ok(_)) => return self.tally.wrong("another message".to_owned()),
                Some(Err(_)) | None => return,
            }
        }
    }

    /// Judges an answer.
    async fn take(&self, asked: Asked, answered: hyper::Result<Response<Incoming>>) {
        let tally = self.tally;
        let Ok(response) = answered else {
            tally.cut.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let (parts, incoming) = response.into_parts();
        let id = parts.headers.get("x-id");
        let id = id.map(|id| id.to_str().unwrap().parse::<usize>().unwrap());
        // Answers of backends are this request's, whatever was broken off before it.
        match (parts.status, id) {
            (StatusCode::OK | StatusCode::SERVICE_UNAVAILABLE, Some(id)) if id == asked.id => {}
            (status, None) if status.is_server_error() || status.is_client_error() => {
                if matches!(status.as_u16(), 408 | 429 | 502 | 503 | 504) {
                    tally.refused.fetch_add(1, Ordering::Relaxed);
                } else {
                    tally.wrong(format!("{parts:?} to {asked:?}"));
                }
                return;
            }
            _ => return tally.wrong(format!("{parts:?} to {asked:?}")),
        }
        match incoming.collect().await {
            Err(_) => tally.cut.fetch_add(1, Ordering::Relaxed),
            Ok(all) => {
                let bytes = all.to_bytes();
                let filler = u8::try_from(asked.id % 251).unwrap();
                if bytes.len() != asked.wanted || bytes.iter().any(|byte| *byte != filler) {
                    let length = bytes.len();
                    tally.wrong(format!("{length} bytes passed for whole: {asked:?}"));
                }
                tally.whole.fetch_add(1, Ordering::Relaxed)
            }
        };
    }
}

/// How long a client stays at most.
fn patience(random: &mut StdRng) -> Duration {
    match random.random_bool(0.3) {
        true => a_while(random),
        false => LONG,
    }
}

/// What a request is about.
#[derive(Debug, Clone, Copy)]
struct Asked {
    id: usize,
    path: &'static str,
    /// Bytes of the answer.
    wanted: usize,
    /// Bytes of the request.
    sent: usize,
}

impl Asked {
    fn new(random: &mut StdRng) -> Self {
        let length = |random: &mut StdRng| match random.random_bool(0.3) {
            true => 0,
            false => {
                let magnitude = 1_usize << random.random_range(1..19);
                random.random_range(0..magnitude)
            }
        };
        Self {
            id: random.random_range(0..1_000_000_000),
            path: PATHS[random.random_range(0..PATHS.len())],
            wanted: length(random),
            sent: length(random),
        }
    }

    /// The request, with `origin` before its path.
    fn request(self, random: &mut StdRng, origin: &str) -> Request<Body> {
        let request = match random.random_bool(0.5) {
            true => Request::put(format!("{origin}{}", self.path)),
            false => Request::post(format!("{origin}{}", self.path)),
        };
        let request = match origin {
            "" => request.header("host", "a.org"),
            _ => request,
        };
        let body = body(random, 7, self.sent, true);
        request
            .header("x-id", self.id)
            .header("x-wanted", self.wanted)
            .header("x-sent", self.sent)
            .body(body)
            .unwrap()
    }
}
