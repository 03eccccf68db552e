//! The Python client from PyPI, which `setup.sh test` puts below the target directory.

use std::path::Path;

use crate::support::{Server, furnish, run};

#[tokio::test]
async fn the_python_client_works() {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools/python/bin/python");
    assert!(
        python.exists(),
        "{} is missing: run ./setup.sh test",
        python.display()
    );
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
