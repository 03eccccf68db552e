//! What was acknowledged is there after any end of the process.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use control_store::{Draft, Expect, History, Index, Key, Query, Revision, Store, Write};

/// Set in the child: the file to write to until killed.
const CHILD: &str = "CONTROL_STORE_TEST_FILE";

fn open(path: &Path) -> Store {
    let index = |key: &Key, _: &[u8]| Index {
        labels: [("name".into(), (&*key.name).into())].into(),
        ..Index::default()
    };
    Store::open(path, &index, History::default()).unwrap()
}

fn put(name: &str, expect: Expect) -> Write {
    let draft = Draft::with_gap(format!("{name}@").into_bytes(), name.len() + 1);
    Write {
        key: Key::new("things", "s", name),
        expect,
        draft,
        index: Some(Index::default()),
    }
}

#[tokio::test]
async fn values_revisions_and_indices_survive_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let store = open(&path);
    for name in ["a", "b", "c"] {
        store.write(put(name, Expect::Absent)).await.unwrap();
    }
    let b = store.get(&Key::new("things", "s", "b")).unwrap();
    store
        .write(Write {
            index: None,
            ..put("b", Expect::At(b.revision))
        })
        .await
        .unwrap();
    store.close().await;
    assert!(store.write(put("d", Expect::Absent)).await.is_err());

    let store = open(&path);
    assert_eq!(store.revision(), Revision(4));
    let entries = store
        .list(&Query {
            table: "things",
            ..Query::default()
        })
        .unwrap()
        .entries;
    let values: Vec<_> = entries
        .iter()
        .map(|entry| std::str::from_utf8(&entry.value).unwrap())
        .collect();
    assert_eq!(values, ["a@1", "c@3"]);
    assert_eq!(&*entries[0].index.labels, [("name".into(), "a".into())]);
    assert!(
        store.watch("things", Revision(3)).is_err(),
        "history before the start is gone"
    );
    assert_eq!(
        store
            .write(put("d", Expect::Absent))
            .await
            .unwrap()
            .revision,
        Revision(5)
    );
}

/// Not a test of its own: what the killed child runs.
#[test]
fn child() {
    let Some(path) = std::env::var_os(CHILD) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .unwrap();
    let store = open(Path::new(&path));
    runtime.block_on(async {
        let writers = (0..8).map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                for number in 0u64.. {
                    let name = format!("{writer}-{number}");
                    let written = store.write(put(&name, Expect::Absent)).await.unwrap();
                    let line = format!("acknowledged {name} {}\n", written.revision);
                    std::io::stdout().write_all(line.as_bytes()).unwrap();
                }
            })
        });
        for writer in writers.collect::<Vec<_>>() {
            writer.await.unwrap();
        }
    });
}

/// Runs the child on a file, kills it after some acknowledgements, returns all of them.
fn write_until_killed(path: &Path, acknowledgements: usize) -> Vec<(String, u64)> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(CHILD, path)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut seen = Vec::new();
    let mut note = |line: String| {
        let mut words = line
            .split(' ')
            .skip_while(|word| !word.ends_with("acknowledged"))
            .skip(1);
        if let (Some(name), Some(Ok(revision))) = (words.next(), words.next().map(str::parse)) {
            seen.push((name.to_owned(), revision));
        }
        seen.len()
    };
    while note(lines.next().unwrap().unwrap()) < acknowledgements {}
    child.kill().unwrap();
    // What it said before it died counts as well; its last line may be cut off.
    for line in lines
        .map_while(Result::ok)
        .filter(|line| line.split(' ').count() == 3)
    {
        note(line);
    }
    child.wait().unwrap();
    seen
}

#[test]
fn every_acknowledged_write_survives_kill_9() {
    for acknowledgements in [1, 100, 700] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        let seen = write_until_killed(&path, acknowledgements);
        assert!(seen.len() >= acknowledgements);
        let store = open(&path);
        for (name, revision) in seen {
            let entry = store.get(&Key::new("things", "s", name.as_str()));
            let entry = entry
                .unwrap_or_else(|| panic!("{name} was acknowledged at {revision} and is gone"));
            assert_eq!(entry.revision, Revision(revision), "{name}");
        }
    }
}
