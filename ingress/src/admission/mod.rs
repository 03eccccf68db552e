//! What the API server is told about an Ingress before it keeps it: a validating admission webhook.
//!
//! An Ingress of ours is refused for what would not be done: fields and values that break a rule, annotations that are
//! refused, paths that another Ingress has. What is done in another way than in ingress-nginx comes back as a warning.
//! The judgement is a pure function of the object and the routes in effect, by the same parsers that routing and `lint`
//! use; Services and Secrets are taken on trust, since they may come later. The gateway relies on none of this: what
//! nobody has judged is carried out as far as it can be, and the rest is an Event.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::api::controller::Report;
use crate::server::gateway::Shared;

mod certificate;
mod judgement;
mod review;
mod server;

/// Where reviews are served; ingress-nginx has the same.
pub const PATH: &str = "/networking/v1/ingresses";

/// Arguments about the admission webhook, by the names of ingress-nginx.
#[derive(clap::Args, Debug, Clone)]
#[group(skip)]
pub struct AdmissionArgs {
    /// Where to judge Ingresses before the API server keeps them, over HTTPS (validating admission webhook, see
    /// deploy/admission.yaml). A port alone, as in `:8443`, means all addresses. Without it nothing is judged.
    #[arg(
        long,
        value_name = "ADDRESS",
        value_parser = listen_address,
        requires = "validating_webhook_certificate"
    )]
    pub validating_webhook: Option<SocketAddr>,

    /// File with the certificate of that, as PEM, leaf first. When it changes, the next connection sees the new one; while
    /// it cannot be used, the last good one stays.
    #[arg(long, value_name = "FILE", requires = "validating_webhook_key")]
    pub validating_webhook_certificate: Option<PathBuf>,

    /// File with the key of that certificate, as PEM.
    #[arg(long, value_name = "FILE", requires = "validating_webhook")]
    pub validating_webhook_key: Option<PathBuf>,
}

/// Parses an address with a port, or a port alone after a colon.
fn listen_address(text: &str) -> Result<SocketAddr, String> {
    let whole = match text.starts_with(':') {
        true => format!("[::]{text}"),
        false => text.to_owned(),
    };
    whole
        .parse()
        .map_err(|_| "must be ADDRESS:PORT or :PORT".to_owned())
}

/// Serves reviews as `args` say until `shutdown`; not at all if they say nothing. Whose Ingresses are ours is in `reports`.
pub async fn run(
    args: AdmissionArgs,
    shared: Arc<Shared>,
    reports: watch::Receiver<Option<Arc<Report>>>,
    shutdown: CancellationToken,
) {
    let AdmissionArgs {
        validating_webhook: Some(address),
        validating_webhook_certificate: Some(chain),
        validating_webhook_key: Some(key),
    } = args
    else {
        return;
    };
    let files = certificate::Files::new(chain, key);
    let answer = move |body: &[u8]| {
        let report = reports.borrow().clone().unwrap_or_default();
        let routes = shared.routes.load();
        review::answer(body, &report.classes, &routes, &shared.metrics.reviews)
    };
    let serving = server::run(address, files, answer);
    shutdown.run_until_cancelled(serving).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_means_all_addresses() {
        for (text, expected) in [
            (":8443", Some("[::]:8443")),
            ("0.0.0.0:8443", Some("0.0.0.0:8443")),
            ("[::1]:1", Some("[::1]:1")),
            ("8443", None),
            (":", None),
            ("localhost:8443", None),
        ] {
            let found = listen_address(text).ok().map(|found| found.to_string());
            assert_eq!(found.as_deref(), expected, "{text}");
        }
    }
}
