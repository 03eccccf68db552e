//! Spans on their way to a collector that may be slow or gone.
//!
//! A thread of its own sends them, in batches. Requests never wait: where the queue is full a span is dropped and counted,
//! and so is a batch that the collector does not take in time. The log tells of the first one, and of the end of it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry_otlp::tonic_types::transport::ClientTlsConfig;
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::settings::TraceArgs;
use crate::observe::metrics::Metrics;
use crate::tls::backend::{BadRoots, read_roots, system_roots};

/// How long a batch may take, all attempts of the exporter included.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why spans cannot be sent at all.
#[derive(Debug, thiserror::Error)]
pub enum BadCollector {
    /// What is said about the collector makes no sense.
    #[error(transparent)]
    Exporter(#[from] ExporterBuildError),
    /// The certificates that it is verified by cannot be had.
    #[error("cannot trust the certificates in {file}")]
    Roots {
        /// The file.
        file: PathBuf,
        /// Why.
        source: BadRoots,
    },
    /// The thread cannot be started.
    #[error("cannot start a thread")]
    Thread(#[source] std::io::Error),
}

/// What sends batches.
struct Exporter {
    exporter: SpanExporter,
    metrics: Arc<Metrics>,
    /// Whether the collector did not take the last batch.
    is_out: bool,
}

/// Starts the thread that sends spans to `collector`. It ends when all senders are gone and what they sent is, too; the
/// receiver tells.
pub(super) fn start(
    settings: &TraceArgs,
    collector: String,
    metrics: Arc<Metrics>,
) -> Result<(Sender<SpanData>, oneshot::Receiver<()>), BadCollector> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(BadCollector::Thread)?;
    let built = {
        let _inside = runtime.enter();
        build(settings, collector)
    };
    let mut exporter = match built {
        Ok(exporter) => exporter,
        Err(error) => {
            // Dropped, it would wait for its threads, which must not be done where another one runs.
            runtime.shutdown_background();
            return Err(error);
        }
    };
    exporter.set_resource(&resource(settings));
    let (sender, spans) = channel(settings.otel_max_queuesize);
    let (finished, receiver) = oneshot::channel();
    let (most, delay) = (settings.otel_max_export_batch_size, settings.delay());
    let exporter = Exporter {
        exporter,
        metrics,
        is_out: false,
    };
    let thread = std::thread::Builder::new().name("spans".to_owned());
    let started = thread.spawn(move || {
        runtime.block_on(exporter.run(spans, most, delay));
        // Nobody may be waiting.
        finished.send(()).unwrap_or_default();
    });
    started.map_err(BadCollector::Thread)?;
    Ok((sender, receiver))
}

fn build(settings: &TraceArgs, collector: String) -> Result<SpanExporter, BadCollector> {
    let builder = SpanExporter::builder().with_tonic();
    let builder = builder.with_endpoint(collector).with_timeout(PATIENCE);
    Ok(match settings.otlp_collector_tls {
        true => builder.with_tls_config(tls(settings)?).build()?,
        false => builder.build()?,
    })
}

/// TLS to the collector, whose name is in its URL.
fn tls(settings: &TraceArgs) -> Result<ClientTlsConfig, BadCollector> {
    let roots = match settings.otlp_collector_ca_file.as_deref() {
        Some(file) => read_roots(file).map_err(|source| BadCollector::Roots {
            file: file.to_owned(),
            source,
        })?,
        None => system_roots(),
    };
    Ok(ClientTlsConfig::new().trust_anchors(roots.roots))
}

/// What is said about the gateway once for all its spans; OTEL_RESOURCE_ATTRIBUTES adds to it.
fn resource(settings: &TraceArgs) -> Resource {
    Resource::builder()
        .with_service_name(settings.otel_service_name.clone())
        .with_attribute(opentelemetry::KeyValue::new(
            "service.version",
            env!("CARGO_PKG_VERSION"),
        ))
        .build()
}

impl Exporter {
    async fn run(mut self, mut spans: Receiver<SpanData>, most: usize, delay: Duration) {
        loop {
            let mut batch = Vec::new();
            if spans.recv_many(&mut batch, most).await == 0 {
                return;
            }
            let fill = async {
                while batch.len() < most {
                    let room = most - batch.len();
                    if spans.recv_many(&mut batch, room).await == 0 {
                        return;
                    }
                }
            };
            // Full, nobody left to wait for, or waited long enough: it goes now.
            timeout(delay, fill).await.unwrap_or_default();
            self.send(batch).await;
        }
    }

    async fn send(&mut self, batch: Vec<SpanData>) {
        let count = batch.len() as u64;
        let error = match timeout(PATIENCE, self.exporter.export(batch)).await {
            Ok(Ok(())) => {
                self.metrics.spans_exported.add(count);
                if std::mem::take(&mut self.is_out) {
                    tracing::info!("the collector takes spans again");
                }
                return;
            }
            Ok(Err(error)) => error.to_string(),
            Err(late) => late.to_string(),
        };
        self.metrics.spans_refused.add(count);
        if !std::mem::replace(&mut self.is_out, true) {
            tracing::warn!(error, "the collector takes no spans, they are dropped");
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use std::io::Write;
    use std::sync::Mutex;
    use std::time::SystemTime;

    use opentelemetry::InstrumentationScope;
    use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status};
    use opentelemetry_sdk::trace::{SpanEvents, SpanLinks};

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn any_span() -> SpanData {
        SpanData {
            span_context: SpanContext::empty_context(),
            parent_span_id: SpanId::INVALID,
            parent_span_is_remote: false,
            span_kind: SpanKind::Server,
            name: "".into(),
            start_time: SystemTime::UNIX_EPOCH,
            end_time: SystemTime::UNIX_EPOCH,
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: InstrumentationScope::default(),
        }
    }

    #[tokio::test]
    async fn a_collector_that_is_gone_is_told_of_once() {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone());
        let _here = tracing::subscriber::set_default(subscriber.finish());
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let gone = format!("http://{}", socket.local_addr().unwrap());
        drop(socket);
        let builder = SpanExporter::builder().with_tonic().with_endpoint(gone);
        let mut exporter = Exporter {
            exporter: builder.build().unwrap(),
            metrics: Arc::default(),
            is_out: false,
        };
        let batch = vec![any_span()];
        exporter.send(batch.clone()).await;
        exporter.send(batch).await;
        assert_eq!(exporter.metrics.spans_refused.get(), 2);
        let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        assert_eq!(log.matches("takes no spans").count(), 1, "{log}");
    }
}
