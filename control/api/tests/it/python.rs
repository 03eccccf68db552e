//! The Python client from PyPI, in an environment of its own below the target directory.

use std::path::{Path, PathBuf};

use crate::support::{Server, furnish, run};

/// Makes the environment once; a lock file keeps other test processes out meanwhile.
async fn python() -> PathBuf {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let python = root.join("python/bin/python");
    let file = std::fs::File::create(root.join("python.lock")).unwrap();
    let _held = tokio::task::spawn_blocking(move || file.lock().map(|()| file))
        .await
        .unwrap()
        .unwrap();
    let there = python.exists()
        && run(&python, &["-c", "import kubernetes"], root, &[], "")
            .await
            .success;
    if !there {
        let made = run(
            Path::new("python3"),
            &["-m", "venv", "--clear", "python"],
            root,
            &[],
            "",
        )
        .await;
        assert!(made.success, "python3 -m venv: {}", made.err);
        let pip = [
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "kubernetes",
        ];
        let installed = run(&python, &pip, root, &[], "").await;
        assert!(
            installed.success,
            "pip install kubernetes: {}",
            installed.err
        );
    }
    python
}

#[tokio::test]
async fn the_python_client_works() {
    let python = python().await;
    let server = Server::start().await;
    furnish(&server.wire().await, "default").await;
    let home = tempfile::tempdir().unwrap();
    let config = server.kubeconfig_path();
    let script = include_str!("client.py");
    let outcome = run(
        &python,
        &["-", config.to_str().unwrap()],
        home.path(),
        &[],
        script,
    )
    .await;
    assert!(outcome.success, "{}\n{}", outcome.out, outcome.err);
    assert!(outcome.out.ends_with("done\n"), "{}", outcome.out);
}
