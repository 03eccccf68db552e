//! The store against the simplest model of it: a map, and a list of all maps there ever were.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::sync::Arc;

use control_store::{
    Change, Draft, Engine, EngineError, Expect, History, Index, Key, Query, ReadError, Record,
    Revision, Store, Volatile, Write, WriteError,
};
use proptest::prelude::*;

type State = BTreeMap<(String, String), (u64, String)>;

/// One write, aimed at a small key space so that writes meet.
#[derive(Debug, Clone)]
struct Step {
    scope: u8,
    name: u8,
    delete: bool,
    /// Expect what the model knows to be there, or something else.
    stale: bool,
}

fn step() -> impl Strategy<Value = Step> {
    (0..3u8, 0..4u8, any::<bool>(), prop::bool::weighted(0.2)).prop_map(
        |(scope, name, delete, stale)| Step {
            scope,
            name,
            delete,
            stale,
        },
    )
}

fn key(scope: &str, name: &str) -> Key {
    Key::new("things", scope, name)
}

fn listed(store: &Store, at: Option<Revision>, scope: Option<&str>) -> Result<State, ReadError> {
    let page = store.list(&Query {
        table: "things",
        scope,
        at,
        ..Query::default()
    })?;
    let rows = page.entries.iter().map(|entry| {
        let value = String::from_utf8(entry.value.to_vec()).unwrap();
        (
            (entry.key.scope.to_string(), entry.key.name.to_string()),
            (entry.revision.0, value),
        )
    });
    Ok(rows.collect())
}

fn put(scope: &str, name: &str, expect: Expect) -> Write {
    let draft = Draft::with_gap(b"<>".to_vec(), 1);
    Write {
        key: key(scope, name),
        expect,
        draft,
        index: Some(Index::default()),
    }
}

async fn apply(store: &Store, state: &mut State, step: &Step) {
    let (scope, name) = (format!("s{}", step.scope), format!("n{}", step.name));
    let there = state
        .get(&(scope.clone(), name.clone()))
        .map(|(revision, _)| Revision(*revision));
    let expect = match (there, step.stale) {
        (Some(revision), false) => Expect::At(revision),
        (Some(revision), true) => Expect::At(Revision(revision.0 + 1000)),
        (None, false) => Expect::Absent,
        (None, true) => Expect::At(Revision(1)),
    };
    let mut write = put(&scope, &name, expect);
    if step.delete && there.is_some() {
        write.index = None;
    }
    let deletes = write.index.is_none();
    match store.write(write).await {
        Ok(entry) => {
            assert!(!step.stale, "a stale write was accepted");
            assert_eq!(entry.value, format!("<{}>", entry.revision).as_bytes());
            if deletes {
                state.remove(&(scope, name));
            } else {
                state.insert(
                    (scope, name),
                    (entry.revision.0, format!("<{}>", entry.revision)),
                );
            }
        }
        Err(WriteError::Conflict(actual)) => {
            assert!(step.stale, "a good write was refused");
            assert_eq!(actual.map(|entry| entry.revision), there);
        }
        Err(error) => panic!("{error}"),
    }
}

async fn check(steps: Vec<Step>) {
    let store = Store::over(Volatile, &|_, _| Index::default(), History::default()).unwrap();
    let mut state = State::new();
    let mut past = vec![(store.revision(), state.clone())];
    let mut watch = store.watch("things", Revision(0)).unwrap();
    for step in &steps {
        apply(&store, &mut state, step).await;
        past.push((store.revision(), state.clone()));
    }
    assert_eq!(listed(&store, None, None).unwrap(), state);
    for (revision, then) in &past {
        assert_eq!(
            listed(&store, Some(*revision), None).unwrap(),
            *then,
            "at {revision}"
        );
        let scoped: State = then
            .iter()
            .filter(|((scope, _), _)| scope == "s1")
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        assert_eq!(
            listed(&store, Some(*revision), Some("s1")).unwrap(),
            scoped,
            "s1 at {revision}"
        );
    }
    replay(&mut watch, &state);
}

/// What a watcher saw adds up to the state, and its revisions only grow.
fn replay(watch: &mut control_store::Watch, state: &State) {
    let mut replayed = State::new();
    let mut last = Revision(0);
    loop {
        let events = watch.pending().unwrap();
        if events.is_empty() {
            break;
        }
        for event in events {
            assert!(event.revision() > last);
            last = event.revision();
            let key = (
                event.entry.key.scope.to_string(),
                event.entry.key.name.to_string(),
            );
            assert_eq!(replayed.contains_key(&key), event.before.is_some());
            if event.deleted {
                replayed.remove(&key);
            } else {
                let value = String::from_utf8(event.entry.value.to_vec()).unwrap();
                replayed.insert(key, (event.revision().0, value));
            }
        }
    }
    assert_eq!(replayed, *state);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn the_store_is_its_model(steps in prop::collection::vec(step(), 0..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(check(steps));
    }
}

#[tokio::test]
async fn a_page_continues_after_the_last_key_at_its_revision() {
    let store = Store::over(Volatile, &|_, _| Index::default(), History::default()).unwrap();
    for name in ["a", "b", "c"] {
        store.write(put("s", name, Expect::Absent)).await.unwrap();
    }
    let at = store.revision();
    store.write(put("s", "bb", Expect::Absent)).await.unwrap();
    let query = Query {
        table: "things",
        after: Some(("s", "a")),
        at: Some(at),
        ..Query::default()
    };
    let names: Vec<_> = store
        .list(&query)
        .unwrap()
        .entries
        .iter()
        .map(|entry| entry.key.name.to_string())
        .collect();
    assert_eq!(names, ["b", "c"]);
}

#[tokio::test]
async fn history_that_is_gone_is_compacted_and_the_future_is_refused() {
    let history = History {
        events: 2,
        ..History::default()
    };
    let store = Store::over(Volatile, &|_, _| Index::default(), history).unwrap();
    for name in ["a", "b", "c", "d"] {
        store.write(put("s", name, Expect::Absent)).await.unwrap();
    }
    let compacted = |requested| ReadError::Compacted {
        requested: Revision(requested),
        oldest: Revision(2),
    };
    assert_eq!(store.watch("things", Revision(1)).err(), Some(compacted(1)));
    assert_eq!(
        listed(&store, Some(Revision(1)), None).err(),
        Some(compacted(1))
    );
    assert_eq!(listed(&store, Some(Revision(2)), None).unwrap().len(), 2);
    let future = ReadError::Future {
        requested: Revision(9),
        newest: Revision(4),
    };
    assert_eq!(listed(&store, Some(Revision(9)), None).err(), Some(future));
}

#[tokio::test]
async fn a_watch_waits_and_wakes_for_its_table_only() {
    let store = Store::over(Volatile, &|_, _| Index::default(), History::default()).unwrap();
    let mut watch = store.watch("things", Revision(0)).unwrap();
    let waiting = tokio::spawn(async move { watch.next().await.unwrap() });
    let other = Write {
        key: Key::new("others", "s", "a"),
        ..put("s", "a", Expect::Absent)
    };
    store.write(other).await.unwrap();
    store.write(put("s", "b", Expect::Absent)).await.unwrap();
    let seen = waiting.await.unwrap();
    assert_eq!(
        seen.iter()
            .map(|event| &*event.entry.key.name)
            .collect::<Vec<_>>(),
        ["b"]
    );
}

#[tokio::test]
async fn writers_racing_for_one_value_never_lose_an_update() {
    let store = Store::over(Volatile, &|_, _| Index::default(), History::default()).unwrap();
    store.write(put("s", "n", Expect::Absent)).await.unwrap();
    let writers = (0..8).map(|_| {
        let store = store.clone();
        tokio::spawn(async move {
            let mut won = 0;
            while won < 25 {
                let seen: Arc<_> = store.get(&key("s", "n")).unwrap();
                won += u32::from(
                    store
                        .write(put("s", "n", Expect::At(seen.revision)))
                        .await
                        .is_ok(),
                );
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    assert_eq!(store.revision(), Revision(1 + 8 * 25));
}

/// Commits once, then never again.
struct Failing {
    commits: u32,
}

impl Engine for Failing {
    fn load(&mut self, _each: &mut dyn FnMut(Record)) -> Result<Revision, EngineError> {
        Ok(Revision(0))
    }

    fn commit(&mut self, _revision: Revision, _changes: &[Change]) -> Result<(), EngineError> {
        self.commits += 1;
        if self.commits == 1 {
            return Ok(());
        }
        Err(EngineError {
            action: "committing",
            source: "the disk is full".into(),
        })
    }
}

#[tokio::test]
async fn what_the_engine_did_not_take_is_never_seen() {
    let store = Store::over(
        Failing { commits: 0 },
        &|_, _| Index::default(),
        History::default(),
    )
    .unwrap();
    store.write(put("s", "a", Expect::Absent)).await.unwrap();
    for name in ["b", "c"] {
        let refused = store.write(put("s", name, Expect::Absent)).await;
        assert!(
            matches!(&refused, Err(WriteError::Engine(why)) if why.contains("the disk is full")),
            "{refused:?}"
        );
    }
    assert_eq!(store.revision(), Revision(1));
    assert_eq!(listed(&store, None, None).unwrap().len(), 1);
}
