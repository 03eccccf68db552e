//! The real kubectl: an older one beside the machine's own, and a current one where `setup.sh` has fetched it.

use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::support::{PATIENCE, Server, furnish, run};

/// The versions to try: the machine's (or a 1.32 that lies beside it) and the one fetched for tests.
pub(crate) fn programs() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let own = std::env::split_paths(&path)
        .map(|directory| directory.join("kubectl"))
        .find(|program| program.exists());
    let own = own.expect("kubectl is installed").canonicalize().unwrap();
    let beside = own.with_file_name("kubectl.1.32");
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools/kubectl");
    let older = if beside.exists() { beside } else { own };
    [older, fetched]
        .into_iter()
        .filter(|program| program.exists())
        .collect()
}

/// One version of kubectl, as the administrator of a server.
pub(crate) struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    home: TempDir,
}

impl Kubectl {
    pub(crate) fn on(program: &Path, server: &Server) -> Self {
        let kubeconfig = server.kubeconfig_path();
        Self {
            program: program.to_owned(),
            kubeconfig,
            home: tempfile::tempdir().unwrap(),
        }
    }

    fn env(&self) -> [(String, String); 2] {
        let cache = self.home.path().join("cache");
        [
            (
                "KUBECONFIG".into(),
                self.kubeconfig.to_str().unwrap().into(),
            ),
            ("KUBECACHEDIR".into(), cache.to_str().unwrap().into()),
        ]
    }

    pub(crate) async fn outcome(
        &self,
        command: &str,
        stdin: &str,
        editor: &str,
    ) -> crate::support::Outcome {
        let args: Vec<&str> = command.split(' ').collect();
        let env = self.env();
        let mut env: Vec<(&str, &str)> = env
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        env.push(("EDITOR", editor));
        let mut attempts = 5;
        loop {
            let outcome = run(&self.program, &args, self.home.path(), &env, stdin).await;
            attempts -= 1;
            // An older one may begin to read before it knows all it may read (kubernetes/kubernetes#131203).
            if attempts == 0 || !outcome.err.contains("Unknown stream id") {
                return outcome;
            }
        }
    }

    /// Runs a command that must succeed; returns what it printed.
    async fn ok(&self, command: &str) -> String {
        self.ok_with(command, "").await
    }

    async fn ok_with(&self, command: &str, stdin: &str) -> String {
        let outcome = self.outcome(command, stdin, "true").await;
        assert!(
            outcome.success,
            "kubectl {command}: {}{}",
            outcome.out, outcome.err
        );
        outcome.out
    }

    /// Runs a command that must print `expected`.
    async fn shows(&self, command: &str, expected: &str) {
        let out = self.ok(command).await;
        assert!(
            out.contains(expected),
            "kubectl {command} printed\n{out}instead of {expected}"
        );
    }

    /// Runs a command that must fail; returns what it complained.
    async fn fails(&self, command: &str, stdin: &str) -> String {
        let outcome = self.outcome(command, stdin, "true").await;
        assert!(
            !outcome.success,
            "kubectl {command} succeeded: {}",
            outcome.out
        );
        outcome.err
    }
}

const APP: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: app, labels: {app: app}}
spec:
  replicas: 2
  selector: {matchLabels: {app: app}}
  template:
    metadata: {labels: {app: app}}
    spec:
      containers:
      - {name: c, image: nginx, ports: [{containerPort: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: app}
spec: {type: NodePort, selector: {app: app}, ports: [{port: 80}]}
";

/// Runs a scenario with every version at hand.
async fn with_each(scenario: impl AsyncFn(&Kubectl)) {
    for program in programs() {
        let server = Server::start().await;
        furnish(&server.wire().await, "default").await;
        scenario(&Kubectl::on(&program, &server)).await;
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_discovers_gets_and_describes() {
    with_each(async |k| {
        k.shows("version", "Server Version: v1.").await;
        k.shows(
            "api-resources",
            "deployments                 deploy       apps/v1",
        )
        .await;
        k.shows("api-versions", "networking.k8s.io/v1").await;
        k.shows("get ns", "kube-node-lease   Active").await;
        k.shows("get svc -o wide", "kubernetes   ClusterIP   10.96.0.1")
            .await;
        k.shows("get svc -o name", "service/kubernetes").await;
        k.shows("get svc kubernetes -o yaml", "  clusterIP: 10.96.0.1\n")
            .await;
        k.shows("get svc -o json", "\"clusterIP\": \"10.96.0.1\"")
            .await;
        k.shows("get svc -A", "default     kubernetes").await;
        k.shows(
            "describe svc kubernetes",
            "IP:                       10.96.0.1",
        )
        .await;
        k.ok("create deployment web --image=nginx --replicas=3")
            .await;
        k.shows("get deploy", "web    0/3").await;
        k.shows("get deploy -o wide", "CONTAINERS   IMAGES   SELECTOR")
            .await;
        k.shows("describe deploy web", "3 desired").await;
        k.shows(
            "run one --image=busybox --labels=a=b -- sleep 1000",
            "pod/one created",
        )
        .await;
        k.shows("get pods", "one    0/1     Pending   0").await;
        k.shows("get pods -l a=b -o name", "pod/one").await;
        k.shows(
            "get pods --field-selector status.phase=Pending -o name",
            "pod/one",
        )
        .await;
        k.shows("describe pod one", "kube-api-access-").await;
        k.shows("get all", "deployment.apps/web").await;
        k.shows("auth whoami", "admin").await;
        k.shows("auth can-i create pods", "yes").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_applies_diffs_patches_and_edits() {
    with_each(async |k| {
        let applied = k.ok_with("apply -f -", APP).await;
        assert_eq!(applied, "deployment.apps/app created\nservice/app created\n");
        let applied = k.ok_with("apply -f -", APP).await;
        assert_eq!(applied, "deployment.apps/app unchanged\nservice/app unchanged\n");
        let changed = APP.replace("replicas: 2", "replicas: 4");
        let diff = k.outcome("diff -f -", &changed, "true").await;
        assert!(diff.out.contains("\n-  replicas: 2\n+  replicas: 4\n"), "{}{}", diff.out, diff.err);
        k.shows("get deploy app -o jsonpath={.spec.replicas}", "2").await;
        let applied = k.ok_with("apply -f -", &changed).await;
        assert_eq!(applied, "deployment.apps/app configured\nservice/app unchanged\n");

        k.ok("patch deploy app -p {\"spec\":{\"template\":{\"spec\":{\"containers\":[{\"name\":\"c\",\"tty\":true}]}}}}").await;
        k.shows("get deploy app -o jsonpath={.spec.template.spec.containers[0].image}", "nginx").await;
        k.ok("patch deploy app --type merge -p {\"spec\":{\"replicas\":7}}").await;
        k.ok("patch deploy app --type json -p [{\"op\":\"replace\",\"path\":\"/spec/replicas\",\"value\":8}]").await;
        let edited = k.outcome("edit deploy app", "", "sed -i s/replicas:.8/replicas:\\ 9/").await;
        assert!(edited.success, "{}", edited.err);
        k.shows("get deploy app -o jsonpath={.spec.replicas}", "9").await;
        k.shows("scale deploy app --replicas=1", "scaled").await;
        k.shows("set image deploy/app c=nginx:2", "image updated").await;
        k.shows("label deploy app tier=web", "labeled").await;
        k.shows("annotate deploy app note=x", "annotated").await;
        k.shows("expose deploy app --name=other --port=80", "service/other exposed").await;
        k.shows("get deploy app --show-labels", "app=app,tier=web").await;
        k.shows("delete deploy/app svc/other", "deployment.apps \"app\" deleted").await;
        k.fails("get deploy app", "").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_applies_on_the_server_side() {
    with_each(async |k| {
        let applied = k.ok_with("apply --server-side -f -", APP).await;
        assert_eq!(
            applied,
            "deployment.apps/app serverside-applied\nservice/app serverside-applied\n"
        );
        k.ok_with("apply --server-side -f -", APP).await;
        k.ok("patch deploy app --type merge -p {\"spec\":{\"replicas\":3}}")
            .await;
        let conflict = k.fails("apply --server-side -f -", APP).await;
        assert!(
            conflict.contains("conflict with \"kubectl-patch\""),
            "{conflict}"
        );
        k.ok_with("apply --server-side --force-conflicts -f -", APP)
            .await;
        k.shows("get deploy app -o jsonpath={.spec.replicas}", "2")
            .await;
        let applied = k
            .ok_with(
                "apply --server-side --dry-run=server -f -",
                &APP.replace("replicas: 2", "replicas: 5"),
            )
            .await;
        assert!(applied.contains("server dry run"), "{applied}");
        k.shows("get deploy app -o jsonpath={.spec.replicas}", "2")
            .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_creates_waits_and_deletes() {
    with_each(async |k| {
        k.shows("create ns team", "namespace/team created").await;
        k.shows("create cm c --from-literal=a=b", "configmap/c created")
            .await;
        k.shows(
            "create secret generic s --from-literal=a=b",
            "secret/s created",
        )
        .await;
        k.shows("get cm,secret", "secret/s   Opaque   1").await;
        k.shows(
            "wait --for=jsonpath={.data.a}=b cm/c --timeout=20s",
            "condition met",
        )
        .await;
        let (waited, _) = tokio::join!(
            k.ok("wait --for=delete cm/c --timeout=20s"),
            k.ok("delete cm c")
        );
        assert!(
            waited.is_empty() || waited.contains("condition met"),
            "{waited}"
        );
        assert_eq!(
            k.ok("create token default").await.trim().split('.').count(),
            3
        );
        k.ok_with(
            "replace -f -",
            r#"{"apiVersion":"v1","kind":"Secret","metadata":{"name":"s"},"data":{}}"#,
        )
        .await;
        k.shows("delete secret s", "deleted").await;
        k.ok("run p --image=i").await;
        k.shows("delete pod p", "deleted").await;
        let complaint = k.fails("get pod p", "").await;
        assert_eq!(
            complaint,
            "Error from server (NotFound): pods \"p\" not found\n"
        );
        let complaint = k
            .fails(
                "create -f -",
                r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"},"dta":{}}"#,
            )
            .await;
        assert!(
            complaint.contains("strict decoding error: unknown field \"dta\""),
            "{complaint}"
        );
        let complaint = k
            .fails(
                "create -f -",
                r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"x"},"spec":{}}"#,
            )
            .await;
        assert!(
            complaint.contains("spec.containers: Required value"),
            "{complaint}"
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_watches() {
    with_each(async |k| {
        let mut watching = tokio::process::Command::new(&k.program)
            .args(["get", "cm", "-w", "--no-headers"])
            .envs(k.env())
            .env("HOME", k.home.path())
            .stdout(std::process::Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
        k.ok("create cm a --from-literal=a=b").await;
        k.ok("create cm b").await;
        for expected in ["a     1", "b     0"] {
            let line = tokio::time::timeout(PATIENCE, lines.next_line())
                .await
                .unwrap()
                .unwrap()
                .unwrap();
            assert!(
                line.split_whitespace()
                    .take(2)
                    .eq(expected.split_whitespace()),
                "{line}"
            );
        }
        watching.kill().await.unwrap();
    })
    .await;
}
