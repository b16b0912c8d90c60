//! The embedded default as a program.

use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use tercet_integration::platform::Platform;
use tokio::time::{Instant, sleep};

#[tokio::test]
async fn it_ends_well_when_nobody_reads_what_it_prints() {
    let folder = tempfile::tempdir().expect("a folder");
    let (spec, _) = Platform::spec(folder.path()).expect("it is built");
    let mut command = Command::new(&spec.program);
    let command = command.args(&spec.arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    // As `head` does once it has its lines.
    drop(child.stdout.take());
    let until = Instant::now() + Duration::from_secs(30);
    while child.try_wait().expect("it is ours").is_none() {
        if Instant::now() > until {
            child.kill().expect("it is ours");
            panic!("it goes on");
        }
        sleep(Duration::from_millis(50)).await;
    }
    let ended = child.wait_with_output().expect("it is ours");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success() && !said.contains("panicked"), "{}: {said}", ended.status);
}

#[tokio::test]
async fn nobody_else_may_read_the_keys_of_tokens_that_it_makes() {
    let folder = tempfile::tempdir().expect("a folder");
    let platform = Platform::start(folder.path(), &[]).await.expect("it starts");
    let keys = std::fs::metadata(platform.jwks()).expect("they are there");
    assert_eq!(keys.permissions().mode() & 0o777, 0o600);
}
