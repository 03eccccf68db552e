//! The command `lint`: reads objects, prints what there is to say, and tells by its exit whether something is not done.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use k8s_openapi::api::networking::v1::Ingress;
use kube::Api;
use kube::api::ListParams;
use serde::Deserialize;
use serde_json::Value;

use super::{Remark, lint};

/// Tell what becomes of Ingresses here that were written for ingress-nginx.
///
/// Every annotation is the same as there, differs, is refused, or has a value that cannot be used; so are fields, and
/// paths that ingress-nginx matches in another way. Ends with 1 if something is refused or cannot be used.
#[derive(clap::Args, Debug, Clone)]
pub struct LintArgs {
    /// Files with objects in YAML or JSON; - is standard input. What is no Ingress is passed over.
    #[arg(value_name = "FILE", required_unless_present = "cluster")]
    pub files: Vec<PathBuf>,

    /// Look at all Ingresses of the cluster.
    #[arg(long, conflicts_with = "files")]
    pub cluster: bool,

    /// File that says how to reach the cluster. Without it: $KUBECONFIG or ~/.kube/config.
    #[arg(long, value_name = "FILE", requires = "cluster")]
    pub kubeconfig: Option<PathBuf>,

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
    /// An Ingress is none by its form.
    #[error("{path} has an Ingress that is none")]
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
    /// What there is to say cannot be printed.
    #[error("cannot print")]
    Print(#[source] io::Error),
}

/// Prints what there is to say to `out`. Says whether all that is asked for is done.
pub async fn run(args: &LintArgs, mut out: impl Write) -> Result<bool, Error> {
    let ingresses = match args.cluster {
        true => from_cluster(args).await?,
        false => from_files(&args.files)?,
    };
    let reports = lint(&ingresses);
    for remark in reports.iter().flat_map(|report| report.remarks()) {
        if !(args.quiet && remark.verdict == "same") {
            print(args, &remark, &mut out).map_err(Error::Print)?;
        }
    }
    Ok(!reports.iter().any(super::Report::is_bad))
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

async fn from_cluster(args: &LintArgs) -> Result<Vec<Ingress>, Error> {
    let config = crate::kube_config(args.kubeconfig.as_deref()).await?;
    let client = crate::client(config)?;
    let listed = Api::<Ingress>::all(client)
        .list(&ListParams::default())
        .await;
    let listed = listed.map_err(|error| Error::List(Box::new(error)))?;
    Ok(listed.items)
}

fn from_files(files: &[PathBuf]) -> Result<Vec<Ingress>, Error> {
    let mut ingresses = Vec::new();
    for path in files {
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
            let found = in_object(object);
            let found = found.map_err(|source| Error::Object {
                path: path.clone(),
                source,
            })?;
            ingresses.extend(found);
        }
    }
    Ok(ingresses)
}

fn read(path: &Path) -> io::Result<String> {
    if path == Path::new("-") {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text)?;
        return Ok(text);
    }
    fs::read_to_string(path)
}

/// The Ingress that `object` is, or those in it if it is a list. An object from a file may lack its namespace.
fn in_object(mut object: Value) -> Result<Vec<Ingress>, serde_json::Error> {
    if let Some(items) = object.get_mut("items").and_then(Value::as_array_mut) {
        let found: Result<Vec<_>, _> = items.drain(..).map(in_object).collect();
        return Ok(found?.into_iter().flatten().collect());
    }
    let is_ingress = object.get("kind").is_some_and(|kind| kind == "Ingress");
    let group = object
        .get("apiVersion")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if !is_ingress || !group.starts_with("networking.k8s.io/") {
        return Ok(Vec::new());
    }
    let mut ingress: Ingress = serde_json::from_value(object)?;
    ingress
        .metadata
        .namespace
        .get_or_insert_with(|| "default".to_owned());
    Ok(vec![ingress])
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
            (&line["ingress"], &line["verdict"]),
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
}
