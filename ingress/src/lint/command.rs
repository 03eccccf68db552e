//! The command `lint`: reads objects, prints what there is to say, and tells by its exit whether something is not done.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::networking::v1::Ingress;
use kube::Api;
use kube::api::ListParams;
use serde::Deserialize;
use serde_json::Value;

use model::ObjectName;
use model::kube::object_name;

use super::{Remark, Report, lint, lint_settings};
use crate::config;

/// Tell what becomes of Ingresses here that were written for ingress-nginx, and of its ConfigMap.
///
/// Every annotation is the same as there, differs, is refused, or has a value that cannot be used; so are keys of the
/// ConfigMap, fields, and paths that ingress-nginx matches in another way. Ends with 1 if something is refused or cannot
/// be used.
#[derive(clap::Args, Debug, Clone)]
pub struct LintArgs {
    /// Files with objects in YAML or JSON; - is standard input. What is no Ingress is passed over, nor a ConfigMap that is
    /// ingress-nginx's by its name or labels.
    #[arg(value_name = "FILE", required_unless_present = "cluster")]
    pub files: Vec<PathBuf>,

    /// Look at all Ingresses of the cluster.
    #[arg(long, conflicts_with = "files")]
    pub cluster: bool,

    /// File that says how to reach the cluster. Without it: $KUBECONFIG or ~/.kube/config.
    #[arg(long, value_name = "FILE", requires = "cluster")]
    pub kubeconfig: Option<PathBuf>,

    /// ConfigMap with settings, as NAMESPACE/NAME, whatever its labels.
    #[arg(long, value_name = "CONFIGMAP", value_parser = config::object_name)]
    pub configmap: Option<ObjectName>,

    /// Print a JSON object a line.
    #[arg(long)]
    pub json: bool,

    /// Leave out what is the same.
    #[arg(long, short)]
    pub quiet: bool,
}

/// Why nothing could be said.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("cannot read {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is neither YAML nor JSON.
    #[error("{path} is not YAML")]
    Yaml {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_norway::Error,
    },
    /// An Ingress or a ConfigMap is none by its form.
    #[error("{path} has an object that is not of its kind")]
    Object {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// The cluster cannot be reached.
    #[error(transparent)]
    Client(#[from] crate::Error),
    /// The Ingresses cannot be listed.
    #[error("cannot list the Ingresses of the cluster")]
    List(#[source] Box<kube::Error>),
    /// The ConfigMap cannot be read.
    #[error("cannot read the ConfigMap {0}")]
    Settings(ObjectName, #[source] Box<kube::Error>),
    /// There is no such ConfigMap.
    #[error("there is no ConfigMap {0}")]
    NoSettings(ObjectName),
    /// What there is to say cannot be printed.
    #[error("cannot print")]
    Print(#[source] io::Error),
}

/// Prints what there is to say to `out`. Says whether all that is asked for is done.
pub async fn run(args: &LintArgs, mut out: impl Write) -> Result<bool, Error> {
    let objects = match args.cluster {
        true => from_cluster(args).await?,
        false => from_files(args)?,
    };
    let of_ingresses = lint(&objects.ingresses);
    let of_settings = objects.settings.iter().filter_map(lint_settings);
    let reports: Vec<Report> = of_ingresses.into_iter().chain(of_settings).collect();
    for remark in reports.iter().flat_map(|report| report.remarks()) {
        if !(args.quiet && remark.verdict == "same") {
            print(args, &remark, &mut out).map_err(Error::Print)?;
        }
    }
    Ok(!reports.iter().any(Report::is_bad))
}

fn print(args: &LintArgs, remark: &Remark, out: &mut impl Write) -> io::Result<()> {
    match args.json {
        true => {
            serde_json::to_writer(&mut *out, remark)?;
            writeln!(out)
        }
        false => writeln!(out, "{remark}"),
    }
}

/// What there is to look at.
#[derive(Default)]
struct Objects {
    ingresses: Vec<Ingress>,
    settings: Vec<ConfigMap>,
}

async fn from_cluster(args: &LintArgs) -> Result<Objects, Error> {
    let config = crate::kube_config(args.kubeconfig.as_deref()).await?;
    let client = crate::client(config)?;
    let listed = Api::<Ingress>::all(client.clone())
        .list(&ListParams::default())
        .await;
    let listed = listed.map_err(|error| Error::List(Box::new(error)))?;
    let mut objects = Objects {
        ingresses: listed.items,
        settings: Vec::new(),
    };
    if let Some(name) = &args.configmap {
        let api = Api::<ConfigMap>::namespaced(client, &name.namespace);
        // As the gateway does it, so the same right is enough.
        let one = ListParams::default().fields(&format!("metadata.name={}", name.name));
        let found = api.list(&one).await;
        let found = found.map_err(|error| Error::Settings(name.clone(), Box::new(error)))?;
        let mut found = found.into_iter();
        let map = found.find(|map| object_name(&map.metadata).as_ref() == Some(name));
        let map = map.ok_or_else(|| Error::NoSettings(name.clone()))?;
        objects.settings.push(map);
    }
    Ok(objects)
}

fn from_files(args: &LintArgs) -> Result<Objects, Error> {
    let mut objects = Objects::default();
    for path in &args.files {
        let text = read(path).map_err(|source| Error::File {
            path: path.clone(),
            source,
        })?;
        for document in serde_norway::Deserializer::from_str(&text) {
            let yaml = |source| Error::Yaml {
                path: path.clone(),
                source,
            };
            let object = Value::deserialize(document).map_err(yaml)?;
            let taken = objects.take(object, args.configmap.as_ref());
            taken.map_err(|source| Error::Object {
                path: path.clone(),
                source,
            })?;
        }
    }
    Ok(objects)
}

fn read(path: &Path) -> io::Result<String> {
    if path == Path::new("-") {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text)?;
        return Ok(text);
    }
    fs::read_to_string(path)
}

impl Objects {
    /// Takes up `object`, or those in it if it is a list, as far as they are looked at. One from a file may lack its
    /// namespace.
    fn take(
        &mut self,
        mut object: Value,
        settings: Option<&ObjectName>,
    ) -> Result<(), serde_json::Error> {
        if let Some(items) = object.get_mut("items").and_then(Value::as_array_mut) {
            let mut items = items.drain(..);
            return items.try_for_each(|item| self.take(item, settings));
        }
        let text = |field: &str| object.get(field).and_then(Value::as_str);
        let (version, kind) = (text("apiVersion"), text("kind"));
        let is_ours = version.is_some_and(|version| version.starts_with("networking.k8s.io/"));
        match kind {
            Some("Ingress") if is_ours => {
                let mut ingress: Ingress = serde_json::from_value(object)?;
                let namespace = &mut ingress.metadata.namespace;
                namespace.get_or_insert_with(|| "default".to_owned());
                self.ingresses.push(ingress);
            }
            Some("ConfigMap") if version == Some("v1") => {
                let mut map: ConfigMap = serde_json::from_value(object)?;
                let namespace = &mut map.metadata.namespace;
                namespace.get_or_insert_with(|| "default".to_owned());
                if has_settings(&map, settings) {
                    self.settings.push(map);
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// Whether `map` is the one that is `named`, or ingress-nginx's by its name or the labels of its Helm chart.
fn has_settings(map: &ConfigMap, named: Option<&ObjectName>) -> bool {
    const NAMES: [&str; 2] = ["ingress-nginx-controller", "nginx-configuration"];
    let Some(name) = object_name(&map.metadata) else {
        return false;
    };
    let label = |key| map.metadata.labels.as_ref()?.get(key).map(String::as_str);
    let is_its = label("app.kubernetes.io/name") == Some("ingress-nginx")
        && label("app.kubernetes.io/component") == Some("controller")
        // Others of the chart have the same labels, and headers or ports in them.
        && name.name.ends_with("-controller");
    named == Some(&name) || NAMES.contains(&&*name.name) || is_its
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use clap::Parser;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: LintArgs,
    }

    const OBJECTS: &str = "
apiVersion: v1
kind: Service
metadata: { name: s }
---
apiVersion: v1
kind: List
items:
- apiVersion: networking.k8s.io/v1
  kind: Ingress
  metadata:
    name: good
    annotations:
      nginx.ingress.kubernetes.io/ssl-redirect: \"false\"
  spec:
    defaultBackend: { service: { name: s, port: { number: 80 } } }
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: snippet
  namespace: ns
  annotations:
    nginx.ingress.kubernetes.io/server-snippet: return 418;
spec:
  defaultBackend: { service: { name: s, port: { number: 80 } } }
";

    async fn printed(text: &str, more: &[&str]) -> (Result<bool, Error>, String) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let path = file.path().to_str().unwrap();
        let cli = Cli::try_parse_from(["lint", path].iter().chain(more)).unwrap();
        let mut out = Vec::new();
        let ended = run(&cli.args, &mut out).await;
        (ended, String::from_utf8(out).unwrap())
    }

    #[tokio::test]
    async fn files_are_looked_through_for_ingresses() {
        let (ended, text) = printed(OBJECTS, &[]).await;
        assert!(!ended.unwrap());
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert_eq!(
            lines[0],
            "default/good: same: nginx.ingress.kubernetes.io/ssl-redirect: as in ingress-nginx"
        );
        assert!(
            lines[1]
                .starts_with("ns/snippet: refused: nginx.ingress.kubernetes.io/server-snippet: ")
        );
        let (_, text) = printed(OBJECTS, &["--json", "--quiet"]).await;
        let line: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (&line["object"], &line["verdict"]),
            (&"ns/snippet".into(), &"refused".into())
        );
    }

    #[tokio::test]
    async fn what_is_nothing_is_said_so() {
        let (ended, text) = printed("", &[]).await;
        assert!(ended.unwrap() && text.is_empty());
        assert!(matches!(
            printed("a: [", &[]).await.0,
            Err(Error::Yaml { .. })
        ));
        let odd = "apiVersion: networking.k8s.io/v1\nkind: Ingress\nspec: 1\n";
        assert!(matches!(
            printed(odd, &[]).await.0,
            Err(Error::Object { .. })
        ));
        assert!(Cli::try_parse_from(["lint"]).is_err());
    }

    const SETTINGS: &str = "
apiVersion: v1
kind: ConfigMap
metadata: { name: ingress-nginx-controller, namespace: ingress-nginx }
data: { proxy-body-size: 8m, http-snippet: x }
---
apiVersion: v1
kind: ConfigMap
metadata: { name: other }
data: { use-gzip: 'true' }
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: edge-controller
  labels: { app.kubernetes.io/name: ingress-nginx, app.kubernetes.io/component: controller }
data: { worker-processes: '4' }
";

    #[tokio::test]
    async fn the_settings_of_ingress_nginx_are_looked_at() {
        let (ended, text) = printed(SETTINGS, &[]).await;
        assert!(!ended.unwrap());
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        let refused = "ingress-nginx/ingress-nginx-controller: refused: http-snippet: ";
        assert!(lines[0].starts_with(refused), "{text}");
        assert_eq!(
            lines[1],
            "ingress-nginx/ingress-nginx-controller: same: proxy-body-size: as in ingress-nginx"
        );
        assert!(lines[2].starts_with("default/edge-controller: differs: worker-processes: "));
        let (ended, text) = printed(SETTINGS, &["--configmap=default/other", "--json"]).await;
        assert!(!ended.unwrap() && text.contains("use-gzip"));
    }
}
