//! Starting and stopping: opens the store and the authority, listens, furnishes the cluster, serves until shutdown.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use control_store::{EngineError, History, Index, Key, Store};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::CancellationToken;

use crate::allocate::Allocators;
use crate::api::{Api, READERS, WRITERS};
use crate::args::ServerArgs;
use crate::error::ApiError;
use crate::identity::{Authenticator, MASTERS, User, parse_token_file};
use crate::metrics::Metrics;
use crate::pki::{self, Pki, PkiError};
use crate::proxy::Agents;
use crate::token::Tokens;
use crate::{bootstrap, listener, object};

/// The name nodes know us by when we ask for logs and the like.
const AGENT_CLIENT: &str = "kube-apiserver-kubelet-client";

/// The server could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The certificate authority could not be used.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The store could not be opened.
    #[error("the store: {0}")]
    Store(#[from] EngineError),
    /// TLS could not be set up.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// A certificate or key is not what it should be.
    #[error("a certificate or key: {0}")]
    Pem(#[from] rustls_pki_types::pem::Error),
    /// Client certificates could not be verified with our authority.
    #[error("the client verifier: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    /// The address could not be listened on.
    #[error("listening on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The token file could not be read.
    #[error("reading {}: {source}", path.display())]
    TokenFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The first objects could not be made.
    #[error("making the first objects: {0}")]
    Furnish(String),
}

/// Runs the API server until `shutdown`; says on `ready` when it serves.
pub async fn run(
    args: ServerArgs,
    ready: oneshot::Sender<()>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let pki = Pki::open(&args.data_dir)?;
    let listener = TcpListener::bind(args.bind)
        .await
        .map_err(|source| Error::Listen {
            address: args.bind,
            source,
        })?;
    let bound = listener.local_addr().map_err(|source| Error::Listen {
        address: args.bind,
        source,
    })?;
    let advertised = SocketAddr::new(
        args.advertise_address
            .unwrap_or_else(|| own_address(bound.ip())),
        bound.port(),
    );

    let api = Arc::new(open(&args, &pki, advertised, shutdown)?);
    bootstrap::recover(&api);
    bootstrap::furnish(&api, advertised)
        .await
        .map_err(|error: ApiError| Error::Furnish(error.message))?;
    write_admin_kubeconfig(&args.data_dir, &pki, advertised)?;
    let tls = server_tls(&pki, &serving_names(&args, &api, bound, advertised))?;

    api.ready.store(true, Ordering::Relaxed);
    tracing::info!(%bound, %advertised, revision = %api.store.revision(), "serving");
    // Nobody may be waiting for us.
    ready.send(()).unwrap_or(());
    let event_ttl = Duration::from_secs(args.event_ttl);
    tokio::join!(
        listener::serve(Arc::clone(&api), listener, tls),
        bootstrap::tend(&api, advertised, event_ttl),
    );
    api.store.close().await;
    Ok(())
}

fn open(
    args: &ServerArgs,
    pki: &Pki,
    advertised: SocketAddr,
    shutdown: CancellationToken,
) -> Result<Api, Error> {
    let store = Store::open(
        &args.data_dir.join("store.redb"),
        &index_stored,
        History::default(),
    )?;
    let tokens = Tokens::new(store.clone(), pki.service_account_key())?;
    let fixed = match &args.token_auth_file {
        Some(path) => read_tokens(path)?,
        None => HashMap::new(),
    };
    Ok(Api {
        store,
        authenticator: Authenticator { tokens, fixed },
        allocators: Allocators::new(&args.service_cidrs, args.node_port_range.clone()),
        agents: Agents::new(agent_tls(pki)?),
        metrics: Metrics::default(),
        ready: AtomicBool::new(false),
        readers: Arc::new(Semaphore::new(READERS)),
        writers: Arc::new(Semaphore::new(WRITERS)),
        shutdown,
        address: advertised.to_string(),
    })
}

/// The index of a value loaded from the disk.
fn index_stored(key: &Key, value: &[u8]) -> Index {
    let resources = control_schema::resources();
    match resources
        .iter()
        .find(|res| res.is_stored() && object::table(res) == *key.table)
    {
        Some(res) => object::index(res, &object::decode(value)),
        None => Index::default(),
    }
}

fn read_tokens(path: &Path) -> Result<HashMap<String, User>, Error> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::TokenFile {
        path: path.to_owned(),
        source,
    })?;
    Ok(parse_token_file(&text))
}

/// The address to be reached under: the bound one, or the one packets to the world would leave from.
fn own_address(bound: IpAddr) -> IpAddr {
    if !bound.is_unspecified() {
        return bound;
    }
    let towards_the_world = || {
        let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
        // Nothing is sent: connecting only asks the kernel for a route. The address is one of documentation.
        socket.connect("203.0.113.1:9").ok()?;
        socket.local_addr().ok()
    };
    towards_the_world().map_or(IpAddr::from([127, 0, 0, 1]), |address| address.ip())
}

fn serving_names(
    args: &ServerArgs,
    api: &Api,
    bound: SocketAddr,
    advertised: SocketAddr,
) -> Vec<String> {
    let fixed = [
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "127.0.0.1",
        "::1",
    ];
    let mut names: Vec<String> = fixed.map(str::to_owned).to_vec();
    names.push(advertised.ip().to_string());
    if !bound.ip().is_unspecified() {
        names.push(bound.ip().to_string());
    }
    names.extend(
        api.allocators
            .addresses()
            .first()
            .map(|address| address.to_string()),
    );
    names.extend(args.tls_sans.iter().cloned());
    names.sort();
    names.dedup();
    names
}

fn write_admin_kubeconfig(data_dir: &Path, pki: &Pki, advertised: SocketAddr) -> Result<(), Error> {
    let kubeconfig =
        pki.client_kubeconfig(&format!("https://{advertised}"), "admin", &[MASTERS])?;
    Ok(pki::write_private(
        &data_dir.join("admin.kubeconfig"),
        &kubeconfig,
    )?)
}

fn roots(pki: &Pki) -> Result<Arc<RootCertStore>, Error> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pki.ca_pem().as_bytes())?)?;
    Ok(Arc::new(roots))
}

fn server_tls(pki: &Pki, names: &[String]) -> Result<Arc<ServerConfig>, Error> {
    let (certificate, key) = pki.serving_cert("kube-apiserver", names)?;
    pki::write_private(&pki.directory().join("apiserver.crt"), &certificate)?;
    pki::write_private(&pki.directory().join("apiserver.key"), &key)?;
    let verifier = WebPkiClientVerifier::builder(roots(pki)?)
        .allow_unauthenticated()
        .build()?;
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes())?];
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())?;
    let mut config = ServerConfig::builder()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn agent_tls(pki: &Pki) -> Result<ClientConfig, Error> {
    let (certificate, key) = pki.client_cert(AGENT_CLIENT, &[MASTERS])?;
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes())?];
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())?;
    Ok(ClientConfig::builder()
        .with_root_certificates(roots(pki)?)
        .with_client_auth_cert(chain, key)?)
}
