//! The socket of operators: HTTP over a Unix socket that only the gateway's own user may open, and the subcommands that
//! ask on it.
//!
//! It is apart from the admin port because it tells who routes what where, which is nobody else's business.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use hyper::client::conn::http1 as client;
use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use super::{Format, certificates, explain, routes, upstreams};
use crate::observe::admin;
use crate::server::gateway::Shared;

/// Where the socket is, if nobody says otherwise.
pub const DEFAULT_PATH: &str = "/run/portolan-ingress/admin.sock";

/// A question to a gateway that runs.
#[derive(clap::Subcommand, Debug, Clone)]
pub enum Question {
    /// Show the paths of all hosts and where they lead.
    Routes(Asker),
    /// Show what becomes of a request for a URL, and why.
    Explain {
        /// The URL.
        url: String,
        #[command(flatten)]
        #[expect(
            missing_docs,
            reason = "clap would take a comment for the title of the help"
        )]
        asker: Asker,
    },
    /// Show the endpoints of all backends and how they do.
    Upstreams(Asker),
    /// Show which certificate each host has, and when it expires.
    Certs(Asker),
}

/// How to ask.
#[derive(clap::Args, Debug, Clone)]
pub struct Asker {
    /// The gateway's admin socket.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_PATH)]
    pub admin_socket: PathBuf,
    /// How to write the answer.
    #[arg(long, short, value_enum, default_value_t)]
    pub output: Format,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens, or we must not ask.
    #[error("cannot reach the gateway at {path}")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It did not answer.
    #[error("the gateway does not answer")]
    Http(#[from] hyper::Error),
    /// It cannot answer this.
    #[error("{0}")]
    Refused(String),
}

// The gateway's side.

/// Answers on a socket at `path` until `shutdown`. A gateway that cannot have its socket serves all the same.
pub async fn run(shared: Arc<Shared>, path: PathBuf, shutdown: CancellationToken) {
    let listener = match bind(&path) {
        Ok(listener) => listener,
        Err(error) => {
            return tracing::warn!(path = %path.display(), %error, "no admin socket");
        }
    };
    admin::serve(listener, shutdown, move |request| answer(&shared, request)).await;
}

/// Binds `path`, in the place of a socket that a process before left there.
fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

fn answer<B>(shared: &Shared, request: &Request<B>) -> Response<Full<Bytes>> {
    let query = request.uri().query().unwrap_or_default();
    let mut given = form_urlencoded::parse(query.as_bytes());
    let format = match given
        .clone()
        .any(|(name, value)| name == "output" && value == "json")
    {
        true => Format::Json,
        false => Format::Table,
    };
    let found = match request.uri().path() {
        "/routes" => Ok(routes(shared, format)),
        "/upstreams" => Ok(upstreams(shared, format)),
        "/certs" => Ok(certificates(shared, format)),
        "/explain" => {
            let url = given.find(|(name, _)| name == "url");
            let url = url.map_or_else(Default::default, |(_, url)| url);
            explain::explain(shared, &url, format)
        }
        other => Err(format!("there is no {other}")),
    };
    let (status, text) = match found {
        Ok(text) => (StatusCode::OK, text),
        Err(message) => (StatusCode::BAD_REQUEST, message),
    };
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response
}

// The operator's side.

impl Question {
    /// Asks and returns the answer, ready to be printed.
    pub async fn ask(&self) -> Result<String, AskError> {
        let (path, asker) = match self {
            Self::Routes(asker) => ("/routes", asker),
            Self::Explain { asker, .. } => ("/explain", asker),
            Self::Upstreams(asker) => ("/upstreams", asker),
            Self::Certs(asker) => ("/certs", asker),
        };
        let mut query = form_urlencoded::Serializer::new(String::new());
        if asker.output == Format::Json {
            query.append_pair("output", "json");
        }
        if let Self::Explain { url, .. } = self {
            query.append_pair("url", url);
        }
        ask(&asker.admin_socket, &format!("{path}?{}", query.finish())).await
    }
}

async fn ask(socket: &Path, target: &str) -> Result<String, AskError> {
    let connect = UnixStream::connect(socket).await;
    let stream = connect.map_err(|source| AskError::Connect {
        path: socket.to_owned(),
        source,
    })?;
    let (mut sender, connection) = client::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = target.parse().unwrap_or_default();
    let host = http::HeaderValue::from_static("admin");
    request.headers_mut().insert(http::header::HOST, host);
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    driver.abort();
    let text = String::from_utf8_lossy(&body).into_owned();
    match status {
        StatusCode::OK => Ok(text),
        _ => Err(AskError::Refused(text)),
    }
}
