//! A pod's row: one word for the state of all its containers.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{NONE, age, count, items, name, since, text};

pub(super) fn cells(pod: &Value, now: Timestamp) -> Vec<Value> {
    let summary = Summary::of(pod);
    vec![
        name(pod),
        json!(format!("{}/{}", summary.ready, summary.total)),
        json!(summary.reason),
        json!(summary.restarts(now)),
        age(pod, now),
        text(&pod["status"]["podIPs"][0]["ip"]),
        text(&pod["spec"]["nodeName"]),
        text(&pod["status"]["nominatedNodeName"]),
        json!(readiness_gates(pod)),
    ]
}

#[derive(Default)]
struct Summary {
    ready: usize,
    total: usize,
    reason: String,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

impl Summary {
    fn of(pod: &Value) -> Self {
        let (spec, status) = (&pod["spec"], &pod["status"]);
        let sidecars = items(&spec["initContainers"])
            .iter()
            .filter(|c| c["restartPolicy"] == "Always")
            .count();
        let mut summary = Self {
            total: items(&spec["containers"]).len() + sidecars,
            reason: first_text([&status["reason"], &status["phase"]]),
            ..Self::default()
        };
        if condition(status, "PodScheduled").is_some_and(|c| c["reason"] == "SchedulingGated") {
            summary.reason = "SchedulingGated".to_owned();
        }
        let initializing = summary.init_containers(pod);
        if !initializing || is_true(status, "Initialized") {
            summary.containers(status);
        }
        summary.deletion(pod);
        summary
    }

    /// Whether an init container still has work to do: the first such one gives the reason.
    fn init_containers(&mut self, pod: &Value) -> bool {
        let specs = items(&pod["spec"]["initContainers"]);
        let mut sidecars = Self::default();
        for (i, container) in items(&pod["status"]["initContainerStatuses"])
            .iter()
            .enumerate()
        {
            let spec = specs.iter().find(|s| s["name"] == container["name"]);
            let is_sidecar = spec.is_some_and(|s| s["restartPolicy"] == "Always");
            self.count_restarts(container);
            if is_sidecar {
                sidecars.count_restarts(container);
            }
            let state = &container["state"];
            if state["terminated"].is_object() && count(&state["terminated"]["exitCode"]) == 0 {
                continue;
            }
            if is_sidecar && container["started"] == true {
                self.ready += usize::from(container["ready"] == true);
                continue;
            }
            self.reason = match (ended(&state["terminated"]), waiting(state)) {
                (Some(reason), _) => format!("Init:{reason}"),
                (None, Some(reason)) if reason != "PodInitializing" => format!("Init:{reason}"),
                _ => format!("Init:{i}/{}", specs.len()),
            };
            return true;
        }
        // Once initialized, only the restarts of containers that still run count.
        (self.restarts, self.last_restart) = (sidecars.restarts, sidecars.last_restart);
        false
    }

    /// The first container with a reason gives it.
    fn containers(&mut self, status: &Value) {
        let mut running = false;
        for container in items(&status["containerStatuses"]).iter().rev() {
            self.count_restarts(container);
            let state = &container["state"];
            if let Some(reason) = waiting(state)
                .map(str::to_owned)
                .or_else(|| ended(&state["terminated"]))
            {
                self.reason = reason;
            } else if container["ready"] == true && state["running"].is_object() {
                running = true;
                self.ready += 1;
            }
        }
        // Some have completed, others go on.
        if self.reason == "Completed" && running {
            self.reason = if is_true(status, "Ready") {
                "Running"
            } else {
                "NotReady"
            }
            .to_owned();
        }
    }

    fn deletion(&mut self, pod: &Value) {
        let status = &pod["status"];
        if pod["metadata"]["deletionTimestamp"].is_null() {
            return;
        }
        if status["reason"] == "NodeLost" {
            self.reason = "Unknown".to_owned();
        } else if status["phase"] != "Succeeded" && status["phase"] != "Failed" {
            self.reason = "Terminating".to_owned();
        }
    }

    fn count_restarts(&mut self, container: &Value) {
        self.restarts += count(&container["restartCount"]);
        let ended = container["lastState"]["terminated"]["finishedAt"].as_str();
        self.last_restart = self.last_restart.max(ended.and_then(|t| t.parse().ok()));
    }

    fn restarts(&self, now: Timestamp) -> String {
        match self.last_restart {
            Some(last) if self.restarts != 0 => {
                format!(
                    "{} ({} ago)",
                    self.restarts,
                    since(&json!(last.to_string()), now)
                )
            }
            _ => self.restarts.to_string(),
        }
    }
}

fn first_text(values: [&Value; 2]) -> String {
    let text = values
        .iter()
        .find_map(|v| v.as_str().filter(|t| !t.is_empty()));
    text.unwrap_or_default().to_owned()
}

fn waiting(state: &Value) -> Option<&str> {
    state["waiting"]["reason"]
        .as_str()
        .filter(|r| !r.is_empty())
}

/// Why a container ended: its reason, else its signal, else its exit code.
fn ended(terminated: &Value) -> Option<String> {
    terminated.as_object()?;
    Some(
        match (
            terminated["reason"].as_str().unwrap_or_default(),
            count(&terminated["signal"]),
        ) {
            ("", 0) => format!("ExitCode:{}", count(&terminated["exitCode"])),
            ("", signal) => format!("Signal:{signal}"),
            (reason, _) => reason.to_owned(),
        },
    )
}

fn condition<'a>(status: &'a Value, kind: &str) -> Option<&'a Value> {
    items(&status["conditions"])
        .iter()
        .find(|c| c["type"] == kind)
}

fn is_true(status: &Value, kind: &str) -> bool {
    condition(status, kind).is_some_and(|c| c["status"] == "True")
}

fn readiness_gates(pod: &Value) -> String {
    let gates = items(&pod["spec"]["readinessGates"]);
    if gates.is_empty() {
        return NONE.to_owned();
    }
    let open = gates.iter().filter_map(|g| g["conditionType"].as_str());
    let open = open.filter(|kind| is_true(&pod["status"], kind)).count();
    format!("{open}/{}", gates.len())
}
