//! Runs a program in a container over a WebSocket, in Kubernetes' channel protocol: each message starts with the number
//! of its channel.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, Stream, StreamExt};
use http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::process::{Child, ChildStdin};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};
use tokio_tungstenite::tungstenite::{Error as SocketError, Message};

use super::terminal::Terminal;
use super::{Body, Query, text};
use crate::agent::Agent;
use crate::pod::PodView;
use crate::runtime::ExecRequest;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// Version 5 only: the channel named in the next byte is closed.
const CLOSE: u8 = 255;
/// How long a client may take to close a session after its program has ended.
const FAREWELL: Duration = Duration::from_secs(10);
/// The best version first.
const PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];

/// Answers a request to run a program.
pub(super) fn answer(
    agent: &Agent,
    view: &PodView,
    container: &str,
    mut request: Request<Incoming>,
) -> Response<Body> {
    let running = view
        .containers
        .get(container)
        .and_then(|state| state.running.clone());
    let Some(running) = running else {
        return text(
            StatusCode::NOT_FOUND,
            &format!("container not found (\"{container}\")\n"),
        );
    };
    let query = Query::of(&request);
    let streams = Streams::of(&query);
    let exec = ExecRequest {
        arguments: query.all("command"),
        terminal: streams.terminal,
    };
    if exec.arguments.is_empty() {
        return text(
            StatusCode::BAD_REQUEST,
            "you must specify at least 1 command\n",
        );
    }
    let Some((protocol, response)) = handshake(&request) else {
        return text(
            StatusCode::BAD_REQUEST,
            "Upgrade request required: WebSocket with v5.channel.k8s.io or v4.channel.k8s.io\n",
        );
    };
    let mut command = running.exec(&agent.args.shim, &exec);
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let socket = match upgraded.await {
            Ok(upgraded) => {
                WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await
            }
            Err(error) => return tracing::debug!(%error, "a WebSocket was not upgraded"),
        };
        tracing::debug!(protocol, ?exec, "exec starts");
        match Session::start(&mut command, &streams) {
            Ok(session) => session.run(socket).await,
            Err(error) => refuse(socket, &error).await,
        }
    });
    response
}

/// Which streams the client wants; the API server's and the kubelet's names for them are both taken.
struct Streams {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    terminal: bool,
}

impl Streams {
    fn of(query: &Query) -> Self {
        let either = |a, b| query.is_set(a) || query.is_set(b);
        let terminal = query.is_set("tty");
        Self {
            stdin: either("input", "stdin"),
            stdout: either("output", "stdout"),
            stderr: either("error", "stderr") && !terminal,
            terminal,
        }
    }
}

/// The protocol chosen and the answer that switches to it; none if this is no WebSocket request we understand.
fn handshake(request: &Request<Incoming>) -> Option<(&'static str, Response<Body>)> {
    let header = |name| {
        request
            .headers()
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok())
    };
    if !header(UPGRADE)?.eq_ignore_ascii_case("websocket") {
        return None;
    }
    let offered: Vec<&str> = request
        .headers()
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .collect();
    let protocol = PROTOCOLS
        .into_iter()
        .find(|protocol| offered.contains(protocol))?;
    let accept = derive_accept_key(header(SEC_WEBSOCKET_KEY)?.as_bytes());
    let mut response = text(StatusCode::SWITCHING_PROTOCOLS, "");
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    headers.insert(SEC_WEBSOCKET_ACCEPT, HeaderValue::from_str(&accept).ok()?);
    Some((protocol, response))
}

type Socket = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

async fn refuse(mut socket: Socket, error: &io::Error) {
    let status = json!({
        "metadata": {}, "status": "Failure", "message": error.to_string(), "reason": "InternalError", "code": 500,
    });
    // A client that is gone needs no explanation.
    socket
        .send(message(ERROR, status.to_string().as_bytes()))
        .await
        .ok();
    socket.send(goodbye()).await.ok();
}

fn goodbye() -> Message {
    let frame = CloseFrame {
        code: CloseCode::Normal,
        reason: "".into(),
    };
    Message::Close(Some(frame))
}

fn message(channel: u8, bytes: &[u8]) -> Message {
    let mut framed = Vec::with_capacity(bytes.len() + 1);
    framed.push(channel);
    framed.extend_from_slice(bytes);
    Message::Binary(Bytes::from(framed))
}

/// A program that runs for a client.
struct Session {
    child: Child,
    terminal: Option<Arc<Terminal>>,
}

/// Where the client's input goes.
enum Input {
    Pipe(ChildStdin),
    Terminal(Arc<Terminal>),
    Nowhere,
}

impl Session {
    fn start(command: &mut tokio::process::Command, streams: &Streams) -> io::Result<Self> {
        let terminal = if streams.terminal {
            let (terminal, [stdin, stdout, stderr]) = Terminal::open()?;
            command.stdin(stdin).stdout(stdout).stderr(stderr);
            Some(Arc::new(terminal))
        } else {
            let pipe = |wanted: bool| {
                if wanted {
                    Stdio::piped()
                } else {
                    Stdio::null()
                }
            };
            command
                .stdin(pipe(streams.stdin))
                .stdout(pipe(streams.stdout))
                .stderr(pipe(streams.stderr));
            None
        };
        let child = command.spawn()?;
        // The command holds the terminal's other end: the terminal would never say that it is closed.
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Ok(Self { child, terminal })
    }

    /// Passes everything on until program or client end. A program whose client is gone is killed.
    async fn run(mut self, socket: WebSocketStream<impl AsyncRead + AsyncWrite + Unpin>) {
        let (mut sink, mut stream) = socket.split();
        let (send, mut receive) = mpsc::channel::<Message>(16);
        let input = match (&self.terminal, self.child.stdin.take()) {
            (Some(terminal), _) => Input::Terminal(Arc::clone(terminal)),
            (None, Some(pipe)) => Input::Pipe(pipe),
            (None, None) => Input::Nowhere,
        };
        let writing = async {
            while let Some(message) = receive.recv().await {
                sink.send(message).await?;
            }
            // Without a code clients take the end for a failure.
            sink.send(goodbye()).await
        };
        let running = self.pump(send);
        let outcome = tokio::select! {
            // The program's end, and everything it said, delivered.
            (_, written) = async { tokio::join!(running, writing) } => written,
            read = take_input(&mut stream, input) => read,
        };
        match outcome {
            Ok(()) => part(stream).await,
            Err(error) => tracing::debug!(%error, "an exec session ended"),
        }
    }

    /// Sends the program's output, then how it ended.
    async fn pump(&mut self, send: mpsc::Sender<Message>) {
        let (stdout, stderr) = (self.child.stdout.take(), self.child.stderr.take());
        let outputs = async {
            tokio::join!(
                copy(stdout, STDOUT, &send),
                copy(stderr, STDERR, &send),
                copy_terminal(self.terminal.as_deref(), &send)
            )
        };
        outputs.await;
        let status = self.child.wait().await;
        let status = status.map_or_else(
            |error| json!({"status": "Failure", "message": error.to_string()}),
            report,
        );
        send.send(message(ERROR, status.to_string().as_bytes()))
            .await
            .ok();
    }
}

/// Reads until the client has closed its end (RFC 6455, section 7.1.1). A socket that is closed while something in it is
/// unread resets the connection, and the client may lose how the program ended.
async fn part(mut stream: impl Stream<Item = Result<Message, SocketError>> + Unpin) {
    let closed = async { while let Some(Ok(_)) = stream.next().await {} };
    if timeout(FAREWELL, closed).await.is_err() {
        tracing::debug!("an exec session was not closed by its client");
    }
}

async fn copy(from: Option<impl AsyncRead + Unpin>, channel: u8, send: &mpsc::Sender<Message>) {
    let Some(mut from) = from else { return };
    let mut buffer = vec![0; 16 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if send.send(message(channel, &buffer[..count])).await.is_err() {
            return;
        }
    }
}

async fn copy_terminal(terminal: Option<&Terminal>, send: &mpsc::Sender<Message>) {
    let Some(terminal) = terminal else { return };
    let mut buffer = vec![0; 16 << 10];
    while let Ok(count @ 1..) = terminal.read(&mut buffer).await {
        if send.send(message(STDOUT, &buffer[..count])).await.is_err() {
            return;
        }
    }
}

/// How the program ended, as the Status that clients read the exit code from.
fn report(status: ExitStatus) -> serde_json::Value {
    match status.code() {
        Some(0) => json!({"metadata": {}, "status": "Success"}),
        code => {
            let code = code.unwrap_or(137);
            json!({
                "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
                "message": format!("command terminated with non-zero exit code: exit status {code}"),
                "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
            })
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Size {
    width: u16,
    height: u16,
}

/// Passes on what the client sends; ends when the client does.
async fn take_input(
    mut stream: impl Stream<Item = Result<Message, SocketError>> + Unpin,
    mut input: Input,
) -> Result<(), SocketError> {
    while let Some(message) = stream.next().await {
        let bytes = match message? {
            Message::Binary(bytes) => bytes,
            Message::Text(text) => Bytes::from(text),
            Message::Close(_) => return Ok(()),
            _ => continue,
        };
        let Some((&channel, content)) = bytes.split_first() else {
            continue;
        };
        match (channel, &mut input) {
            (STDIN, Input::Pipe(pipe)) => {
                let written = pipe.write_all(content).await.and(pipe.flush().await);
                // A program that reads no more does not end the session.
                input = if written.is_ok() {
                    input
                } else {
                    Input::Nowhere
                };
            }
            (STDIN, Input::Terminal(terminal)) => terminal.write_all(content).await?,
            (RESIZE, Input::Terminal(terminal)) => {
                if let Ok(size) = serde_json::from_slice::<Size>(content) {
                    terminal.resize(size.width, size.height)?;
                }
            }
            (CLOSE, Input::Pipe(_)) if content.first() == Some(&STDIN) => input = Input::Nowhere,
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing step fails the test")]

    use std::os::unix::process::ExitStatusExt;

    use super::*;

    /// A client's message that comes after the program has ended must not cost it how that ended.
    #[tokio::test]
    async fn a_session_ends_when_its_client_has_closed_it() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let client = tokio::net::TcpStream::connect(address).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let streams = Streams {
            stdin: true,
            stdout: true,
            stderr: true,
            terminal: false,
        };
        let mut command = tokio::process::Command::new("sh");
        let session = Session::start(command.args(["-c", "exit 3"]), &streams).unwrap();
        let running = tokio::spawn(async move {
            session
                .run(WebSocketStream::from_raw_socket(server, Role::Server, None).await)
                .await;
        });
        let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        let status = client.next().await.unwrap().unwrap().into_data();
        assert_eq!(status[0], ERROR);
        for _ in 0..3 {
            client.send(message(STDIN, b"late")).await.unwrap();
        }
        assert!(client.next().await.unwrap().unwrap().is_close());
        let end = client.next().await;
        assert!(end.is_none(), "{end:?}");
        running.await.unwrap();
    }

    #[test]
    fn exit_codes_are_told_in_a_status() {
        assert_eq!(report(ExitStatus::from_raw(0))["status"], "Success");
        assert_eq!(
            report(ExitStatus::from_raw(3 << 8))["details"]["causes"][0]["message"],
            "3"
        );
        assert_eq!(
            report(ExitStatus::from_raw(9))["details"]["causes"][0]["message"],
            "137"
        );
    }
}
