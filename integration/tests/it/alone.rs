//! A second coordinator on the same folder is refused, and the first one does not notice.

use std::time::Duration;

use tercet_integration::processes::{Coordinator, Spec};
use tokio::time::timeout;

/// How long a start that is refused may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a start says that ends by itself, and whether it ended well.
async fn says(spec: &Spec) -> (bool, String) {
    let mut command = tokio::process::Command::new(&spec.program);
    command.args(&spec.arguments).kill_on_drop(true);
    let output = timeout(PATIENCE, command.output()).await.expect("it ends").expect("it starts");
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test]
async fn one_process_at_a_time_has_a_folder_whatever_its_node_and_ports_are() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let mut first = Coordinator::start(folder.path()).await.expect("it starts");
    let epoch = first.statistics().await.expect("it answers").epoch;
    let other = |node: &str| Coordinator::spec(folder.path()).expect("it is built").0.with("--node", node);
    for node in ["0", "1"] {
        let (well, said) = says(&other(node)).await;
        assert!(!well && said.lines().count() == 1, "{said}");
        let data = folder.path().join("coordinator");
        let told = format!("another process runs a coordinator on the folder {}; stop that one", data.display());
        assert!(said.contains(&told), "{said}");
    }
    assert_eq!(first.statistics().await.expect("it goes on").epoch, epoch);

    // The system lets go of what a killed process had.
    first.process.as_mut().expect("it is its own").kill();
    let next = Coordinator::start(folder.path()).await.expect("it starts");
    assert_eq!(next.statistics().await.expect("it answers").epoch, epoch + 1, "nobody has started in between");
}
