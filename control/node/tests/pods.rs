//! Real pods: an API server in this process, a node agent beside it, busybox in containers.
//!
//! Needs root, busybox and kubectl. Everything happens in a network namespace and a cgroup of its own, and is removed
//! at the end.

mod harness;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::registry::{self, Registry};
use harness::{Cluster, condition, container, eventually};
use libtest_mimic::{Arguments, Trial};
use serde_json::{Value, json};

fn main() -> ExitCode {
    if let Some(code) = control_node::hidden_command() {
        return code;
    }
    let arguments = Arguments::from_args();
    if arguments.list {
        return libtest_mimic::run(&arguments, trials(None)).exit_code();
    }
    if let Some(missing) = harness::missing() {
        eprintln!("the tests of real pods need: {missing}");
        return ExitCode::FAILURE;
    }
    match run(&arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error:?}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    harness::enter_namespace()?;
    if std::env::var_os("RUST_LOG").is_some() {
        tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .init();
    }
    let cluster = Arc::new(Cluster::start()?);
    let outcome = libtest_mimic::run(arguments, trials(Some(&cluster)));
    let cluster = Arc::into_inner(cluster).context("a test still runs")?;
    cluster.stop()?;
    Ok(outcome.exit_code())
}

type Test = fn(&Cluster) -> Result<()>;

/// Functions with their names.
macro_rules! tests {
    ($($test:ident),* $(,)?) => { [$((stringify!($test), $test as Test)),*] };
}

fn trials(cluster: Option<&Arc<Cluster>>) -> Vec<Trial> {
    let beside_others = tests![
        a_pod_runs_and_is_reached_over_both_families,
        a_pod_starts_fast,
        containers_that_crash_are_restarted_with_back_off,
        pods_that_are_not_restarted_end,
        init_containers_and_volumes_prepare_a_pod,
        configuration_comes_from_the_api,
        what_is_missing_is_named_and_waited_for,
        images_that_are_not_there_are_named,
        images_are_pulled_from_a_registry,
        readiness_follows_its_probe,
        a_failing_liveness_probe_restarts_the_container,
        a_probe_that_takes_too_long_is_ended_whoever_it_runs_as,
        deletion_is_graceful_and_leaves_nothing,
        logs_and_exec_answer,
        memory_is_limited,
        a_container_may_do_little,
        users_and_privileges_are_as_asked,
        pods_may_share_the_nodes_network,
    ];
    let alone = tests![containers_outlive_the_agent];
    let trial = |name: &str, run: fn(&Cluster, Test) -> Result<()>, test: Test| {
        let cluster = cluster.cloned();
        Trial::test(name, move || match cluster {
            Some(cluster) => run(&cluster, test).map_err(|error| format!("{error:?}").into()),
            None => Err("no cluster".into()),
        })
    };
    let beside_others = beside_others
        .into_iter()
        .map(|(name, test)| trial(name, Cluster::beside_others, test));
    let alone = alone
        .into_iter()
        .map(|(name, test)| trial(name, Cluster::alone, test));
    beside_others.chain(alone).collect()
}

fn sh(script: &str) -> Value {
    json!({"name": "main", "command": ["sh", "-c", script]})
}

/// A container that serves its host name on port 8080.
fn server() -> Value {
    sh("mkdir /www; hostname > /www/index.html; exec httpd -f -p 8080 -h /www")
}

fn get(address: &str) -> Result<String> {
    let host = if address.contains(':') {
        format!("[{address}]:8080")
    } else {
        format!("{address}:8080")
    };
    let mut stream = TcpStream::connect_timeout(&host.parse()?, Duration::from_secs(2))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer
        .rsplit("\r\n\r\n")
        .next()
        .unwrap_or_default()
        .trim()
        .to_owned())
}

fn a_pod_runs_and_is_reached_over_both_families(cluster: &Cluster) -> Result<()> {
    let _one = cluster.run("one", json!({"containers": [server()]}))?;
    let _two = cluster.run("two", json!({"containers": [server()]}))?;
    let (one, two) = (cluster.wait_ready("one")?, cluster.wait_ready("two")?);
    ensure!(one["status"]["phase"] == "Running" && one["status"]["qosClass"] == "BestEffort");
    for ip in one["status"]["podIPs"].as_array().context("no addresses")? {
        let ip = ip["ip"].as_str().context("no address")?;
        eventually("the node reaches the pod", || {
            ensure!(get(ip)? == "one");
            Ok(())
        })?;
    }
    for ip in two["status"]["podIPs"].as_array().context("no addresses")? {
        let ip = ip["ip"].as_str().context("no address")?;
        let url = if ip.contains(':') {
            format!("http://[{ip}]:8080/")
        } else {
            format!("http://{ip}:8080/")
        };
        // A pod without a readiness probe is ready before its server listens.
        eventually("a pod reaches the other", || {
            ensure!(cluster.exec("one", &format!("wget -q -O - {url}"))? == "two");
            Ok(())
        })?;
    }
    for expected in [
        "Pulled: Container image",
        "Created: Created container: main",
        "Started: Started container main",
    ] {
        cluster.wait_event("one", expected)?;
    }
    Ok(())
}

/// The promise is 100 ms; a busy test machine gets more, so that this fails only for a real reason.
fn a_pod_starts_fast(cluster: &Cluster) -> Result<()> {
    let mut times = Vec::new();
    for number in 0..5 {
        let name = format!("fast-{number}");
        let began = Instant::now();
        let _pod = cluster.run(&name, json!({"containers": [sh("sleep 1000")]}))?;
        cluster.wait_ready(&name)?;
        times.push(began.elapsed());
    }
    times.sort();
    println!("from create to Ready: {times:?}");
    ensure!(times[2] < Duration::from_secs(3), "{times:?}");
    Ok(())
}

fn containers_that_crash_are_restarted_with_back_off(cluster: &Cluster) -> Result<()> {
    let _pod = cluster.run(
        "crash",
        json!({"containers": [sh("echo attempt; echo last words > /dev/termination-log; exit 3")]}),
    )?;
    let pod = cluster.wait("crash", "it backs off", |pod| {
        container(pod)["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    })?;
    let message = container(&pod)["state"]["waiting"]["message"]
        .as_str()
        .context("no message")?;
    ensure!(
        message.starts_with("back-off 10s restarting failed container=main pod=crash_default("),
        "{message}"
    );
    let ended = &container(&pod)["lastState"]["terminated"];
    ensure!(
        ended["exitCode"] == 3 && ended["reason"] == "Error" && ended["message"] == "last words\n",
        "{ended:#}"
    );
    ensure!(pod["status"]["phase"] == "Running" && condition(&pod, "Ready") == "False");
    cluster.wait_event(
        "crash",
        "BackOff: Back-off restarting failed container main in pod crash_default(",
    )?;
    // A new attempt may just have begun.
    cluster.wait_logs(&["crash"], "attempt")?;
    cluster.wait_logs(&["crash", "--previous"], "attempt")
}

fn pods_that_are_not_restarted_end(cluster: &Cluster) -> Result<()> {
    let _good = cluster.run(
        "good",
        json!({"restartPolicy": "Never", "containers": [sh("echo done")]}),
    )?;
    let _bad = cluster.run(
        "bad",
        json!({"restartPolicy": "Never", "containers": [sh("kill -9 $$; exit 2")]}),
    )?;
    let good = cluster.wait("good", "it succeeds", |pod| {
        pod["status"]["phase"] == "Succeeded"
    })?;
    ensure!(container(&good)["state"]["terminated"]["reason"] == "Completed");
    ensure!(cluster.logs(&["good"])? == "done");
    let bad = cluster.wait("bad", "it fails", |pod| pod["status"]["phase"] == "Failed")?;
    ensure!(
        container(&bad)["state"]["terminated"]["exitCode"] == 2,
        "{:#}",
        container(&bad)
    );
    Ok(())
}

fn init_containers_and_volumes_prepare_a_pod(cluster: &Cluster) -> Result<()> {
    let mount = json!([{"name": "shared", "mountPath": "/shared"}, {"name": "memory", "mountPath": "/memory"}]);
    let with = |mut container: Value| {
        container["volumeMounts"] = mount.clone();
        container
    };
    let mut first = with(sh(
        "[ -e /shared/failed ] && echo first > /shared/a || { touch /shared/failed; exit 1; }",
    ));
    first["name"] = json!("first");
    let mut second = with(sh("cat /shared/a > /memory/b"));
    second["name"] = json!("second");
    let _pod = cluster.run(
        "init",
        json!({
            "initContainers": [first, second],
            "containers": [with(sh("cat /memory/b; sleep 1000"))],
            "volumes": [{"name": "shared", "emptyDir": {}}, {"name": "memory", "emptyDir": {"medium": "Memory"}}],
        }),
    )?;
    let pod = cluster.wait_ready("init")?;
    cluster.wait_logs(&["init"], "first")?;
    let init = &pod["status"]["initContainerStatuses"];
    ensure!(
        init[0]["restartCount"] == 1 && init[0]["ready"] == true && init[1]["restartCount"] == 0,
        "{init:#}"
    );
    ensure!(
        cluster
            .exec("init", "mount | grep ' /memory '")?
            .contains("tmpfs")
    );
    Ok(())
}

fn configuration_comes_from_the_api(cluster: &Cluster) -> Result<()> {
    cluster.create(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "conf"}, "data": {"color": "blue", "n": "1"}}))?;
    cluster.create(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "sec"}, "data": {"key": "aHVudGVyMg=="}}))?;
    let mut main = sh(
        "echo $COLOR $POD $IMAGE_VAR $CONF_n; cat /conf/color /sec/k /down/name; echo; sleep 1000",
    );
    main["env"] = json!([
        {"name": "COLOR", "valueFrom": {"configMapKeyRef": {"name": "conf", "key": "color"}}},
        {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "IMAGE_VAR", "value": "$(KUBERNETES_SERVICE_HOST)"},
    ]);
    main["envFrom"] = json!([{"prefix": "CONF_", "configMapRef": {"name": "conf"}}]);
    main["volumeMounts"] = json!([
        {"name": "conf", "mountPath": "/conf"}, {"name": "sec", "mountPath": "/sec", "readOnly": true},
        {"name": "down", "mountPath": "/down"}, {"name": "conf", "mountPath": "/one", "subPath": "n"},
    ]);
    let _pod = cluster.run(
        "conf",
        json!({"containers": [main], "volumes": [
            {"name": "conf", "configMap": {"name": "conf"}},
            {"name": "sec", "projected": {"sources": [{"secret": {"name": "sec", "items": [{"key": "key", "path": "k"}]}}]}},
            {"name": "down", "downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}},
        ]}),
    )?;
    cluster.wait_ready("conf")?;
    cluster.wait_logs(&["conf"], "blue conf 10.96.0.1 1\nbluehunter2conf")?;
    ensure!(
        cluster
            .exec(
                "conf",
                "cat /one; touch /sec/x 2>&1 || echo; echo $FROM_IMAGE $HOSTNAME"
            )?
            .ends_with("yes conf")
    );
    // Whether the pod says so or not.
    for path in ["/conf", "/sec", "/down"] {
        let said = cluster.exec("conf", &format!("touch {path}/x 2>&1; true"))?;
        ensure!(said.contains("Read-only file system"), "{path}: {said}");
    }
    Ok(())
}

fn what_is_missing_is_named_and_waited_for(cluster: &Cluster) -> Result<()> {
    let mut main = sh("sleep 1000");
    main["env"] =
        json!([{"name": "X", "valueFrom": {"secretKeyRef": {"name": "late", "key": "k"}}}]);
    let _env = cluster.run("no-secret", json!({"containers": [main]}))?;
    let volume = json!([{"name": "v", "configMap": {"name": "late"}}]);
    let _volume = cluster.run(
        "no-volume",
        json!({"containers": [sh("sleep 1000")], "volumes": volume}),
    )?;
    let pod = cluster.wait("no-secret", "its error is shown", |pod| {
        container(pod)["state"]["waiting"]["reason"] == "CreateContainerConfigError"
    })?;
    ensure!(container(&pod)["state"]["waiting"]["message"] == "secret \"late\" not found");
    cluster.wait_event(
        "no-volume",
        "FailedMount: MountVolume.SetUp failed for volume \"v\" : configmap \"late\" not found",
    )?;
    cluster.wait("no-volume", "it waits", |pod| {
        container(pod)["state"]["waiting"]["reason"] == "ContainerCreating"
    })?;
    for (kind, value) in [("Secret", "dg=="), ("ConfigMap", "v")] {
        let meta = json!({"name": "late"});
        cluster.create(
            &json!({"apiVersion": "v1", "kind": kind, "metadata": meta, "data": {"k": value}}),
        )?;
    }
    cluster.wait_ready("no-secret")?;
    cluster.wait_ready("no-volume")?;
    Ok(())
}

fn images_that_are_not_there_are_named(cluster: &Cluster) -> Result<()> {
    let with = |image: &str, policy: &str| json!({"containers": [{"name": "main", "image": image, "imagePullPolicy": policy}]});
    let _never = cluster.run("never", with("localhost:1/absent:1", "Never"))?;
    let _pull = cluster.run("pull", with("localhost:1/absent:1", "IfNotPresent"))?;
    let _name = cluster.run("name", with("docker.io/UPPER/case", "IfNotPresent"))?;
    let reason = |reason: &'static str| {
        move |pod: &Value| container(pod)["state"]["waiting"]["reason"] == reason
    };
    cluster.wait("never", "ErrImageNeverPull", reason("ErrImageNeverPull"))?;
    let pod = cluster.wait("pull", "ImagePullBackOff", reason("ImagePullBackOff"))?;
    let message = container(&pod)["state"]["waiting"]["message"]
        .as_str()
        .context("no message")?;
    ensure!(
        message.starts_with("Back-off pulling image \"localhost:1/absent:1\": ErrImagePull: "),
        "{message}"
    );
    cluster.wait_event(
        "pull",
        "Failed: Failed to pull image \"localhost:1/absent:1\": ",
    )?;
    cluster.wait("name", "InvalidImageName", reason("InvalidImageName"))?;
    Ok(())
}

fn images_are_pulled_from_a_registry(cluster: &Cluster) -> Result<()> {
    let _registry = Registry::start()?;
    let name = format!("{}/team/busy:1", registry::ADDRESS);
    cluster.block_on(registry::push(&name, Path::new("/bin/busybox")))?;
    let main = json!({"name": "main", "image": name, "args": ["sleep", "1000"]});
    let _pod = cluster.run("pulled", json!({"containers": [main]}))?;
    let pod = cluster.wait_ready("pulled")?;
    let id = container(&pod)["imageID"].as_str().context("no image id")?;
    ensure!(id.starts_with("127.0.0.1:5000/team/busy@sha256:"), "{id}");
    cluster.wait_event("pulled", &format!("Pulling: Pulling image \"{name}\""))?;
    cluster.wait_event(
        "pulled",
        &format!("Pulled: Successfully pulled image \"{name}\" in "),
    )?;
    let pod = cluster.wait_ready("pulled")?;
    ensure!(container(&pod)["restartCount"] == 0, "it has ended: {pod}");
    Ok(())
}

fn readiness_follows_its_probe(cluster: &Cluster) -> Result<()> {
    let mut main = sh("mkdir /www; echo ok > /www/ready; exec httpd -f -p 8080 -h /www");
    main["ports"] = json!([{"name": "web", "containerPort": 8080}]);
    main["readinessProbe"] = json!({
        "httpGet": {"path": "/ready", "port": "web"}, "periodSeconds": 1, "failureThreshold": 1, "timeoutSeconds": 20,
    });
    let _pod = cluster.run("ready", json!({"containers": [main]}))?;
    cluster.wait_ready("ready")?;
    cluster.exec("ready", "rm -f /www/ready")?;
    let pod = cluster.wait("ready", "it is not ready", |pod| {
        condition(pod, "Ready") == "False"
    })?;
    ensure!(container(&pod)["restartCount"] == 0 && container(&pod)["started"] == true);
    cluster.wait_event(
        "ready",
        "Unhealthy: Readiness probe failed: HTTP probe failed with statuscode: 404",
    )?;
    cluster.exec("ready", "echo ok > /www/ready")?;
    cluster.wait_ready("ready")?;
    Ok(())
}

fn a_failing_liveness_probe_restarts_the_container(cluster: &Cluster) -> Result<()> {
    let mut main = sh("trap exit TERM; touch /alive; sleep 1000 & wait");
    // Only what it finds may make it fail, not how long that takes.
    let probe =
        json!({"exec": {"command": ["cat", "/alive"]}, "periodSeconds": 1, "timeoutSeconds": 20});
    main["startupProbe"] = probe.clone();
    main["livenessProbe"] = probe;
    main["livenessProbe"]["failureThreshold"] = json!(1);
    let _pod = cluster.run("live", json!({"containers": [main]}))?;
    cluster.wait_ready("live")?;
    cluster.exec("live", "rm -f /alive")?;
    cluster.wait("live", "it is restarted", |pod| {
        container(pod)["restartCount"] == 1
    })?;
    cluster.wait_event(
        "live",
        "Killing: Container main failed liveness probe, will be restarted",
    )?;
    cluster.wait_event(
        "live",
        "Unhealthy: Liveness probe failed: cat: can't open '/alive': No such file or directory",
    )?;
    cluster.wait_ready("live")?;
    Ok(())
}

fn a_probe_that_takes_too_long_is_ended_whoever_it_runs_as(cluster: &Cluster) -> Result<()> {
    let mut main = sh("sleep 1000");
    main["securityContext"] = json!({"runAsUser": 1000});
    main["readinessProbe"] =
        json!({"exec": {"command": ["sleep", "777"]}, "periodSeconds": 1, "timeoutSeconds": 1});
    let _pod = cluster.run("slow", json!({"containers": [main]}))?;
    cluster.wait_events("slow", "Unhealthy: Readiness probe", 3)?;
    eventually("no more than the one that runs now is left", || {
        let left = cluster.exec("slow", "ps | grep -c '[s]leep 777'; true")?;
        ensure!(left.trim().parse::<u32>()? <= 1, "{left} are left");
        Ok(())
    })
}

fn deletion_is_graceful_and_leaves_nothing(cluster: &Cluster) -> Result<()> {
    let script =
        "trap 'echo bye; sleep 0.3; exit 0' TERM; echo up; while true; do sleep 0.05; done";
    let _pod = cluster.run(
        "bye",
        json!({"terminationGracePeriodSeconds": 20, "containers": [sh(script)]}),
    )?;
    let pod = cluster.wait_ready("bye")?;
    cluster.wait_logs(&["bye"], "up")?;
    let uid = pod["metadata"]["uid"].as_str().context("no uid")?;
    ensure!(!cluster.traces(uid)?.is_empty());
    let began = Instant::now();
    cluster.delete("bye")?;
    ensure!(
        began.elapsed() < Duration::from_secs(15),
        "it took {:?}",
        began.elapsed()
    );
    cluster.wait_event("bye", "Killing: Stopping container main")?;
    eventually("nothing is left", || {
        let left = cluster.traces(uid)?;
        ensure!(left.is_empty(), "{left:#?}");
        Ok(())
    })
}

fn containers_outlive_the_agent(cluster: &Cluster) -> Result<()> {
    let script = "n=0; while true; do echo $n; n=$((n+1)); sleep 0.1; done";
    let _pod = cluster.run("outlive", json!({"containers": [sh(script)]}))?;
    let _ends = cluster.run("ends", json!({"restartPolicy": "Never", "containers": [sh("while [ ! -e /tmp/end ]; do sleep 0.1; done; exit 5")]}))?;
    let before = cluster.wait_ready("outlive")?;
    cluster.wait_ready("ends")?;
    cluster.stop_agent()?;
    cluster.start_agent()?;
    cluster.exec_when_up("ends", "touch /tmp/end")?;
    let ended = cluster.wait("ends", "its end is seen", |pod| {
        pod["status"]["phase"] == "Failed"
    })?;
    ensure!(container(&ended)["state"]["terminated"]["exitCode"] == 5);
    let after = cluster.wait_ready("outlive")?;
    ensure!(container(&after)["restartCount"] == 0);
    ensure!(
        container(&after)["state"]["running"]["startedAt"]
            == container(&before)["state"]["running"]["startedAt"]
    );
    ensure!(after["status"]["podIP"] == before["status"]["podIP"]);
    let last: u64 = cluster.logs(&["outlive", "--tail=1"])?.parse()?;
    eventually("it goes on counting", || {
        ensure!(cluster.logs(&["outlive", "--tail=1"])?.parse::<u64>()? > last + 2);
        Ok(())
    })
}

fn logs_and_exec_answer(cluster: &Cluster) -> Result<()> {
    let script = "for i in 1 2 3; do echo line $i; done; until [ -e /tmp/go ]; do sleep 0.1; done; echo oops >&2; sleep 1000";
    let _pod = cluster.run("talk", json!({"containers": [sh(script)]}))?;
    cluster.wait_ready("talk")?;
    // Lines of different streams come in the order in which they are read.
    cluster.wait_logs(&["talk"], "line 1\nline 2\nline 3")?;
    cluster.exec("talk", "touch /tmp/go")?;
    cluster.wait_logs(&["talk"], "line 1\nline 2\nline 3\noops")?;
    ensure!(cluster.logs(&["talk", "--tail=2"])? == "line 3\noops");
    ensure!(
        cluster
            .logs(&["talk", "--tail=1", "--timestamps"])?
            .ends_with("Z oops")
    );
    ensure!(cluster.logs(&["talk", "--limit-bytes=4"])? == "line");
    ensure!(cluster.exec("talk", "echo out; echo $FROM_IMAGE")? == "out\nyes");
    let output = cluster.kubectl(&["exec", "talk", "--", "sh", "-c", "echo err >&2; exit 7"])?;
    ensure!(output.status.code() == Some(7), "{output:?}");
    ensure!(
        String::from_utf8_lossy(&output.stderr).starts_with("err\n"),
        "{output:?}"
    );
    let output = cluster.kubectl_reading(
        &["exec", "-i", "talk", "--", "wc", "-c"],
        &"x".repeat(100_000),
    )?;
    ensure!(
        String::from_utf8_lossy(&output.stdout).trim() == "100000",
        "{output:?}"
    );
    let said =
        cluster.exec_on_terminal("talk", "[ -t 0 ] && echo a terminal; stty size; exit 3")?;
    ensure!(
        said.contains("a terminal") && said.contains("exit code 3"),
        "{said:?}"
    );
    let output = cluster.kubectl(&["exec", "talk", "--", "no-such-program"])?;
    ensure!(output.status.code() == Some(127), "{output:?}");
    let counts = sh("for i in 1 2 3 4 5; do echo $i; sleep 0.1; done; printf end");
    let _counts = cluster.run(
        "count",
        json!({"restartPolicy": "Never", "containers": [counts]}),
    )?;
    cluster.wait("count", "it has started", |pod| {
        pod["status"]["phase"] != "Pending"
    })?;
    ensure!(cluster.logs(&["-f", "count"])? == "1\n2\n3\n4\n5\nend");
    Ok(())
}

fn memory_is_limited(cluster: &Cluster) -> Result<()> {
    let limits = json!({"limits": {"memory": "32Mi", "cpu": "500m"}});
    let main = json!({"name": "main", "command": ["tail", "/dev/zero"], "resources": limits});
    let _pod = cluster.run(
        "hungry",
        json!({"restartPolicy": "Never", "containers": [main]}),
    )?;
    let pod = cluster.wait("hungry", "it is killed", |pod| {
        pod["status"]["phase"] == "Failed"
    })?;
    let ended = &container(&pod)["state"]["terminated"];
    ensure!(
        ended["reason"] == "OOMKilled" && ended["exitCode"] == 137,
        "{ended:#}"
    );
    ensure!(pod["status"]["qosClass"] == "Guaranteed");
    Ok(())
}

fn a_container_may_do_little(cluster: &Cluster) -> Result<()> {
    let mut main = sh("sleep 1000");
    main["securityContext"] =
        json!({"readOnlyRootFilesystem": true, "seccompProfile": {"type": "RuntimeDefault"}});
    let _pod = cluster.run("little", json!({"containers": [main]}))?;
    let _plain = cluster.run("plain", json!({"containers": [sh("sleep 1000")]}))?;
    cluster.wait_ready("little")?;
    cluster.wait_ready("plain")?;
    let fails = |pod: &str, script: &str, why: &str| -> Result<()> {
        let said = cluster.exec(pod, &format!("({script}) 2>&1; true"))?;
        ensure!(said.contains(why), "{script:?} says {said:?}");
        Ok(())
    };
    fails("little", "touch /x", "Read-only file system")?;
    fails("little", "mount -t tmpfs x /tmp", "permission denied")?;
    fails("little", "unshare -U true", "Operation not permitted")?;
    fails("plain", "mount -t tmpfs x /tmp", "permission denied")?;
    fails(
        "plain",
        "mknod /tmp/disk b 254 0 && head -c 1 /tmp/disk",
        "Permission denied",
    )?;
    fails(
        "plain",
        "mknod /dev/disk b 254 0 && head -c 1 /dev/disk",
        "Permission denied",
    )?;
    fails(
        "plain",
        "echo 1 > /proc/sys/kernel/panic",
        "Read-only file system",
    )?;
    fails("plain", "cat /proc/kcore | wc -c", "0")?;
    fails("plain", "reboot -f", "Operation not permitted")?;
    ensure!(
        cluster
            .exec(
                "plain",
                "echo hi > /dev/null; head -c 4 /dev/urandom | wc -c; ps | wc -l"
            )?
            .starts_with('4')
    );
    ensure!(
        cluster
            .exec("plain", "ls /sys/class/net")?
            .split_whitespace()
            .all(|link| link == "eth0" || link == "lo" || link.ends_with('0'))
    );
    Ok(())
}

fn users_and_privileges_are_as_asked(cluster: &Cluster) -> Result<()> {
    let mut main = sh("sleep 1000");
    main["securityContext"] = json!({
        "runAsUser": 1000, "runAsGroup": 1001, "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]},
    });
    main["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
    let _user = cluster.run(
        "user",
        json!({"containers": [main], "volumes": [{"name": "v", "emptyDir": {}}], "securityContext": {"fsGroup": 2000}}),
    )?;
    let mut root = sh("sleep 1000");
    root["securityContext"] = json!({"runAsNonRoot": true});
    let _root = cluster.run("root", json!({"containers": [root]}))?;
    let mut privileged = sh("sleep 1000");
    privileged["securityContext"] = json!({"privileged": true});
    let _privileged = cluster.run("privileged", json!({"containers": [privileged]}))?;
    cluster.wait_ready("user")?;
    ensure!(
        cluster
            .exec("user", "id")?
            .starts_with("uid=1000 gid=1001 groups=")
    );
    ensure!(cluster.exec("user", "touch /v/f; stat -c %g /v/f")? == "2000");
    let status = cluster.exec(
        "user",
        "grep -E 'NoNewPrivs|CapBnd|CapEff' /proc/self/status",
    )?;
    ensure!(
        status.contains("NoNewPrivs:\t1") && status.matches("0000000000000000").count() == 2,
        "{status}"
    );
    let pod = cluster.wait("root", "it is refused", |pod| {
        container(pod)["lastState"]["terminated"].is_object()
    })?;
    let message = container(&pod)["lastState"]["terminated"]["message"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    ensure!(
        message.contains("container has runAsNonRoot and image will run as root"),
        "{message}"
    );
    cluster.wait_ready("privileged")?;
    cluster.exec("privileged", "mount -t tmpfs x /tmp && ls /dev/kmsg")?;
    Ok(())
}

fn pods_may_share_the_nodes_network(cluster: &Cluster) -> Result<()> {
    let _pod = cluster.run(
        "host",
        json!({"hostNetwork": true, "containers": [sh("sleep 1000")]}),
    )?;
    let pod = cluster.wait_ready("host")?;
    ensure!(pod["status"]["podIP"] == "10.99.0.1", "{:#}", pod["status"]);
    ensure!(
        cluster
            .exec("host", "ip addr show lo")?
            .contains("10.99.0.1")
    );
    Ok(())
}
