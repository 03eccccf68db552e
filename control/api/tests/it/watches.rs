//! Watches, line by line.

use std::time::Duration;

use futures::{AsyncBufReadExt as _, StreamExt as _};
use http::Request;
use serde_json::{Value, json};

use crate::support::{PATIENCE, Server, Wire};

/// The lines of a watch.
struct Lines {
    stream: futures::stream::BoxStream<'static, std::io::Result<String>>,
}

impl Lines {
    async fn open(wire: &Wire, path: &str) -> Self {
        Self::open_as(wire, path, "application/json").await
    }

    async fn open_as(wire: &Wire, path: &str, accept: &str) -> Self {
        let request = Request::get(path)
            .header("accept", accept)
            .body(Vec::new())
            .unwrap();
        let reader = wire.0.request_stream(request).await.unwrap();
        Self {
            stream: reader.lines().boxed(),
        }
    }

    async fn next(&mut self) -> Option<Value> {
        let line = tokio::time::timeout(PATIENCE, self.stream.next())
            .await
            .unwrap();
        line.map(|line| serde_json::from_str(&line.unwrap()).unwrap())
    }

    /// `TYPE name` of the next event.
    async fn event(&mut self) -> String {
        let event = self.next().await.expect("the watch goes on");
        let name = event["object"]["metadata"]["name"].as_str().unwrap_or("-");
        format!("{} {name}", event["type"].as_str().unwrap())
    }
}

const PATH: &str = "/api/v1/namespaces/default/configmaps";

async fn create(wire: &Wire, name: &str, label: &str) {
    let made = wire
        .post(
            PATH,
            json!({"metadata": {"name": name, "labels": {"l": label}}}),
        )
        .await;
    assert_eq!(made.code, 201, "{}", made.text);
}

async fn label(wire: &Wire, name: &str, label: &str) {
    let changed = wire
        .merge(
            &format!("{PATH}/{name}"),
            json!({"metadata": {"labels": {"l": label}}}),
        )
        .await;
    assert_eq!(changed.code, 200, "{}", changed.text);
}

#[tokio::test]
async fn a_watch_without_a_revision_shows_what_is_there_and_then_what_happens() {
    let server = Server::start().await;
    let wire = server.wire().await;
    create(&wire, "a", "1").await;
    let mut lines = Lines::open(&wire, &format!("{PATH}?watch=true")).await;
    assert_eq!(lines.event().await, "ADDED a");
    create(&wire, "b", "1").await;
    label(&wire, "a", "2").await;
    wire.delete(&format!("{PATH}/b"), json!({})).await;
    for expected in ["ADDED b", "MODIFIED a", "DELETED b"] {
        assert_eq!(lines.event().await, expected);
    }
}

#[tokio::test]
async fn a_watch_from_a_revision_misses_nothing_and_repeats_nothing() {
    let server = Server::start().await;
    let wire = server.wire().await;
    create(&wire, "a", "1").await;
    let list = wire.get(PATH).await.json();
    create(&wire, "b", "1").await;
    let revision = list["metadata"]["resourceVersion"].as_str().unwrap();
    let mut lines = Lines::open(
        &wire,
        &format!("{PATH}?watch=true&resourceVersion={revision}"),
    )
    .await;
    create(&wire, "c", "1").await;
    assert_eq!(lines.event().await, "ADDED b");
    assert_eq!(lines.event().await, "ADDED c");
}

#[tokio::test]
async fn an_object_that_leaves_the_selection_is_deleted_from_it() {
    let server = Server::start().await;
    let wire = server.wire().await;
    let mut lines = Lines::open(&wire, &format!("{PATH}?watch=true&labelSelector=l%3D1")).await;
    create(&wire, "a", "1").await;
    create(&wire, "b", "2").await;
    label(&wire, "a", "2").await;
    label(&wire, "b", "1").await;
    wire.delete(&format!("{PATH}/a"), json!({})).await;
    wire.delete(&format!("{PATH}/b"), json!({})).await;
    assert_eq!(lines.event().await, "ADDED a");
    let left = lines.next().await.unwrap();
    assert_eq!(
        (
            left["type"].as_str(),
            left["object"]["metadata"]["labels"]["l"].as_str()
        ),
        (Some("DELETED"), Some("1"))
    );
    let now =
        wire.get(&format!("{PATH}?limit=1")).await.json()["metadata"]["resourceVersion"].clone();
    assert_ne!(left["object"]["metadata"]["resourceVersion"], now);
    assert_eq!(lines.event().await, "ADDED b");
    assert_eq!(lines.event().await, "DELETED b");
}

#[tokio::test]
async fn a_watch_list_marks_the_end_of_what_was_there() {
    let server = Server::start().await;
    let wire = server.wire().await;
    create(&wire, "a", "1").await;
    let options = "watch=true&sendInitialEvents=true&allowWatchBookmarks=true";
    let mut lines = Lines::open(
        &wire,
        &format!("{PATH}?{options}&resourceVersionMatch=NotOlderThan"),
    )
    .await;
    assert_eq!(lines.event().await, "ADDED a");
    let mark = lines.next().await.unwrap();
    assert_eq!(mark["type"], "BOOKMARK");
    assert_eq!(mark["object"]["kind"], "ConfigMap");
    assert_eq!(
        mark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"],
        "true"
    );
    create(&wire, "b", "1").await;
    assert_eq!(lines.event().await, "ADDED b");

    let refused = wire.get(&format!("{PATH}?{options}")).await;
    assert_eq!(
        refused.refusal(),
        "422 Invalid: ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: sendInitialEvents requires \
         setting resourceVersionMatch to NotOlderThan"
    );
}

#[tokio::test]
async fn a_watch_ends_when_its_time_is_over_after_a_bookmark() {
    let server = Server::start().await;
    let wire = server.wire().await;
    let mut lines = Lines::open(
        &wire,
        &format!("{PATH}?watch=true&allowWatchBookmarks=true&timeoutSeconds=3"),
    )
    .await;
    let bookmark = tokio::time::timeout(Duration::from_secs(10), lines.next())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert!(lines.next().await.is_none());
}

#[tokio::test]
async fn a_revision_from_before_the_start_is_expired() {
    let server = Server::start().await;
    let wire = server.wire().await;
    create(&wire, "a", "1").await;
    let server = Server::start_on(server.stop().await, &[]).await;
    let wire = server.wire().await;
    create(&wire, "b", "1").await;
    let mut lines = Lines::open(&wire, &format!("{PATH}?watch=true&resourceVersion=1")).await;
    let error = lines.next().await.unwrap();
    assert_eq!(
        (error["type"].as_str(), error["object"]["code"].as_i64()),
        (Some("ERROR"), Some(410))
    );
    assert_eq!(error["object"]["reason"], "Expired");
    assert!(lines.next().await.is_none());
}

#[tokio::test]
async fn a_table_watch_has_tables_in_it() {
    let server = Server::start().await;
    let wire = server.wire().await;
    create(&wire, "a", "1").await;
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let mut lines = Lines::open_as(&wire, &format!("{PATH}?watch=true"), accept).await;
    let event = lines.next().await.unwrap();
    assert_eq!(
        (event["type"].as_str(), event["object"]["kind"].as_str()),
        (Some("ADDED"), Some("Table"))
    );
    assert_eq!(event["object"]["rows"][0]["cells"][0], "a");
}

#[tokio::test]
async fn watchers_are_let_go_at_shutdown() {
    let server = Server::start().await;
    let wire = server.wire().await;
    let mut lines = Lines::open(&wire, &format!("{PATH}?watch=true&resourceVersion=0")).await;
    create(&wire, "a", "1").await;
    assert_eq!(lines.event().await, "ADDED a");
    server.stop().await;
    assert!(lines.next().await.is_none());
}
