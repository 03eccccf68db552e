//! `/log` and `/exec` of pods: which container on which node, then the node agent's bytes as they are.

use std::sync::Arc;

use bytes::Bytes;
use control_schema::by_plural;
use http::header::{CONTENT_TYPE, HOST, HeaderValue, TRANSFER_ENCODING};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};

use crate::api::Api;
use crate::error::ApiError;
use crate::object::{self, items, text};
use crate::proxy::{Agent, AgentError};
use crate::query::Params;
use crate::request::wants_upgrade;
use crate::respond::{self, Answer};
use crate::rest;
use crate::route::Target;

/// How much of an agent's error text is passed on.
const ERROR_TEXT: usize = 64 << 10;

/// A subresource that is a stream from the node agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PodStream {
    Log,
    Exec,
}

/// The stream a path names, if it does.
pub(crate) fn stream_of(target: &Target) -> Option<PodStream> {
    match target.sub?.name {
        "log" => Some(PodStream::Log),
        "exec" => Some(PodStream::Exec),
        _ => None,
    }
}

impl PodStream {
    /// Opens the stream.
    pub(crate) async fn open(
        self,
        api: &Arc<Api>,
        target: &Target,
        params: &Params,
        request: Request<Incoming>,
    ) -> Result<Answer, ApiError> {
        let entry = rest::entry(api, target.res, &target.namespace, &target.name)?;
        let pod = object::decode(&entry.value);
        let container = choose_container(&pod, params.text("container"))?;
        if self == Self::Exec {
            check_exec(&pod, params, &request)?;
        }
        let Some(agent) = agent_of(api, &pod)? else {
            return match self {
                // Nothing has been written yet.
                Self::Log => Ok(respond::text(StatusCode::OK, Bytes::new())),
                Self::Exec => {
                    let what = format!("pod {} does not have a host assigned", target.name);
                    Err(ApiError::bad_request(what))
                }
            };
        };
        let path = self.path(target, &container, params);
        match self {
            Self::Log => logs(api, agent, &path).await,
            Self::Exec => exec(api, agent, &path, request).await,
        }
    }

    /// The agent's path for it.
    fn path(self, target: &Target, container: &str, params: &Params) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        let place = format!("{}/{}/{container}", target.namespace, target.name);
        match self {
            Self::Log => {
                for name in [
                    "follow",
                    "previous",
                    "sinceSeconds",
                    "sinceTime",
                    "timestamps",
                    "tailLines",
                    "limitBytes",
                ] {
                    if let Some(value) = params.get(name).filter(|value| !value.is_empty()) {
                        query.append_pair(name, value);
                    }
                }
                format!("/containerLogs/{place}?{}", query.finish())
            }
            Self::Exec => {
                for command in params.all("command") {
                    query.append_pair("command", command);
                }
                for (flag, name) in exec_flags(params) {
                    if flag {
                        query.append_pair(name, "1");
                    }
                }
                format!("/exec/{place}?{}", query.finish())
            }
        }
    }
}

/// The streams of an exec in the agent's words: output and errors if nothing is said, no errors of their own on a terminal.
fn exec_flags(params: &Params) -> [(bool, &'static str); 4] {
    let silent = ["stdin", "stdout", "stderr"]
        .iter()
        .all(|name| params.get(name).is_none());
    let tty = params.flag("tty");
    [
        (params.flag("stdin"), "input"),
        (silent || params.flag("stdout"), "output"),
        ((silent || params.flag("stderr")) && !tty, "error"),
        (tty, "tty"),
    ]
}

fn check_exec(pod: &Value, params: &Params, request: &Request<Incoming>) -> Result<(), ApiError> {
    if params.all("command").next().is_none() {
        return Err(ApiError::new(
            422,
            "Invalid",
            "PodExecOptions \"\" is invalid: command: Required value",
        ));
    }
    let phase = text(pod, "/status/phase");
    if matches!(phase, "Succeeded" | "Failed") {
        return Err(ApiError::bad_request(format!(
            "cannot exec into a container in a completed pod; current phase is {phase}"
        )));
    }
    if !wants_upgrade(request.headers()) {
        return Err(ApiError::bad_request("Upgrade request required"));
    }
    Ok(())
}

/// The container asked for, or the only one.
fn choose_container(pod: &Value, asked: &str) -> Result<String, ApiError> {
    let names = |pointer: &str| -> Vec<String> {
        items(pod, pointer)
            .iter()
            .map(|container| text(container, "/name").to_owned())
            .collect()
    };
    let (main, init) = (names("/spec/containers"), names("/spec/initContainers"));
    let ephemeral = names("/spec/ephemeralContainers");
    let pod = object::name(pod);
    if !asked.is_empty() {
        let known = [&main, &init, &ephemeral]
            .iter()
            .any(|names| names.iter().any(|name| name == asked));
        let unknown =
            || ApiError::bad_request(format!("container {asked} is not valid for pod {pod}"));
        return known.then(|| asked.to_owned()).ok_or_else(unknown);
    }
    match main.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(ApiError::bad_request(format!(
            "a container name must be specified for pod {pod}"
        ))),
        several => {
            let mut text = format!(
                "a container name must be specified for pod {pod}, choose one of: [{}]",
                several.join(" ")
            );
            if !init.is_empty() {
                text.push_str(&format!(
                    " or one of the init containers: [{}]",
                    init.join(" ")
                ));
            }
            Err(ApiError::bad_request(text))
        }
    }
}

/// The agent of the pod's node, none if it has no node.
fn agent_of(api: &Api, pod: &Value) -> Result<Option<Agent>, ApiError> {
    let name = text(pod, "/spec/nodeName");
    if name.is_empty() {
        return Ok(None);
    }
    let nodes = by_plural("", "v1", "nodes").expect("the schema has nodes");
    let entry = rest::entry(api, nodes, "", name)?;
    let node = object::decode(&entry.value);
    let agent = Agent::of(&node);
    agent.map(Some).ok_or_else(|| {
        ApiError::internal(format!(
            "no preferred addresses found; known addresses: {}",
            node.pointer("/status/addresses").unwrap_or(&Value::Null)
        ))
    })
}

async fn logs(api: &Api, agent: Agent, path: &str) -> Result<Answer, ApiError> {
    let request = Request::get(path)
        .header(HOST, agent.authority())
        .body(Full::default());
    let request = request.map_err(ApiError::internal)?;
    let answer = api
        .agents
        .send(agent, request)
        .await
        .map_err(|error| unreachable_agent(agent, path, &error))?;
    if answer.status() != StatusCode::OK {
        return Err(agent_refusal(answer).await);
    }
    let body = answer.into_body().map_err(Into::into).boxed_unsync();
    let mut passed = Response::new(body);
    passed
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Ok(passed)
}

/// Repeats the client's upgrade to the agent and, once both have switched, joins the two connections.
async fn exec(
    api: &Arc<Api>,
    agent: Agent,
    path: &str,
    mut request: Request<Incoming>,
) -> Result<Answer, ApiError> {
    let mut onward = Request::new(Full::default());
    *onward.method_mut() = if request.method() == Method::POST {
        Method::POST
    } else {
        Method::GET
    };
    *onward.uri_mut() = path.parse().map_err(ApiError::internal)?;
    for (name, value) in request.headers() {
        let of_the_switch = matches!(
            name.as_str(),
            "upgrade" | "connection" | "x-stream-protocol-version"
        );
        if of_the_switch || name.as_str().starts_with("sec-websocket-") {
            onward.headers_mut().append(name, value.clone());
        }
    }
    let host = HeaderValue::from_str(&agent.authority()).map_err(ApiError::internal)?;
    onward.headers_mut().insert(HOST, host);

    let mut answer = api
        .agents
        .send(agent, onward)
        .await
        .map_err(|error| unreachable_agent(agent, path, &error))?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(agent_refusal(answer).await);
    }
    let mut passed = Response::new(respond::full(Bytes::new()));
    *passed.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *passed.headers_mut() = answer.headers().clone();
    passed.headers_mut().remove(TRANSFER_ENCODING);

    let ends = (
        hyper::upgrade::on(&mut request),
        hyper::upgrade::on(&mut answer),
    );
    tokio::spawn(async move {
        match tokio::try_join!(ends.0, ends.1) {
            Ok((client, node)) => join(client, node).await,
            Err(error) => tracing::debug!(%error, "an upgrade did not happen"),
        }
    });
    Ok(passed)
}

/// Passes on what either says until both have ended. A node that takes no more of what the client says may still have
/// something to say itself: how the program ended.
async fn join(client: Upgraded, node: Upgraded) {
    let (from_client, to_client) = tokio::io::split(TokioIo::new(client));
    let (from_node, to_node) = tokio::io::split(TokioIo::new(node));
    tokio::join!(pass(from_client, to_node), pass(from_node, to_client));
}

async fn pass(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
    let copied = tokio::io::copy(&mut from, &mut to).await;
    if let Err(error) = copied.and(to.shutdown().await) {
        tracing::debug!(%error, "a stream to or from a pod ended");
        // A connection that is closed while something is unread is reset, and loses what is on its way to the other end.
        tokio::io::copy(&mut from, &mut tokio::io::sink())
            .await
            .ok();
    }
}

fn unreachable_agent(agent: Agent, path: &str, error: &AgentError) -> ApiError {
    let what = format!("Get \"https://{}{path}\": {error}", agent.authority());
    ApiError::new(500, "InternalError", what)
}

/// What the agent said, under the code it said it with.
async fn agent_refusal(answer: Response<Incoming>) -> ApiError {
    let code = answer.status().as_u16();
    let body = Limited::new(answer.into_body(), ERROR_TEXT).collect().await;
    let text = body
        .map(|body| String::from_utf8_lossy(&body.to_bytes()).trim().to_owned())
        .unwrap_or_default();
    match code {
        400 => ApiError::bad_request(text),
        404 => ApiError::new(404, "NotFound", text),
        _ => ApiError::new(500, "InternalError", text),
    }
}
