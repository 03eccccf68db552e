//! Stops one container: hook, signal, patience, force.

use std::time::Duration;

use k8s_openapi::api::core::v1::{LifecycleHandler, Pod};
use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep, sleep_until};

use super::probe::{Target, run_command, run_http_hook};
use crate::agent::Agent;
use crate::events::Level;

/// The least that a program gets after SIGTERM, whatever its hook has used up.
const LEAST: Duration = Duration::from_secs(2);

/// Asks the container to end within `grace` and then makes it end. Its end is seen by whoever waits for it; cancelling
/// this after that is right.
pub(crate) async fn stop(agent: &Agent, pod: &Pod, target: &Target, grace: Duration) {
    let began = Instant::now();
    let deadline = began + grace;
    if let Some(hook) = pre_stop(target).filter(|_| !grace.is_zero()) {
        let ran = tokio::time::timeout_at(deadline, run_hook(target, hook, grace)).await;
        if let Ok(Err(message)) = ran {
            let message = format!("PreStopHook failed: {message}");
            agent.recorder.pod(
                pod,
                Some(&target.container.name),
                Level::Warning,
                "FailedPreStopHook",
                message,
            );
        }
    }
    if !grace.is_zero() {
        signal(target, Signal::SIGTERM);
        let least = if began.elapsed() < Duration::from_millis(100) {
            Duration::ZERO
        } else {
            LEAST
        };
        sleep_until(deadline.max(Instant::now() + least)).await;
    }
    signal(target, Signal::SIGKILL);
}

fn signal(target: &Target, signal: Signal) {
    if let Err(error) = target.running.signal(signal) {
        tracing::warn!(container = target.container.name, %signal, %error, "cannot signal a container");
    }
}

fn pre_stop(target: &Target) -> Option<&LifecycleHandler> {
    target.container.lifecycle.as_ref()?.pre_stop.as_ref()
}

/// Runs a life cycle hook.
pub(crate) async fn run_hook(
    target: &Target,
    hook: &LifecycleHandler,
    limit: Duration,
) -> Result<(), String> {
    if let Some(exec) = &hook.exec {
        return run_command(target, exec.command.clone().unwrap_or_default(), limit).await;
    }
    if let Some(http) = &hook.http_get {
        return run_http_hook(target, http, limit).await;
    }
    if let Some(pause) = &hook.sleep {
        sleep(Duration::from_secs(
            u64::try_from(pause.seconds).unwrap_or(0),
        ))
        .await;
    }
    Ok(())
}
