//! The boards, alerts and runbook of `charts/`: what they ask for is there. Promtool checks and tests the rules, and a
//! real Prometheus that scrapes a real coordinator in trouble answers every question of every board.

mod board;
mod prometheus;
mod stage;
mod taken;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tercet_integration::processes::Spec;

use board::{Board, boards};
use prometheus::{Prometheus, find};
use stage::Stage;

/// How long what is asked for may take to be there.
const PATIENCE: Duration = Duration::from_secs(40);

fn charts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts")
}

fn text(name: &str) -> String {
    std::fs::read_to_string(charts().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn promtool(arguments: &[&str]) -> (bool, String) {
    let output = Command::new(find("promtool")).args(arguments).current_dir(charts()).output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.success(), said.into_owned())
}

/// The alerts of the rules, in their order.
fn alerts() -> Vec<String> {
    let text = text("alerts.yaml");
    text.lines().filter_map(|line| Some(line.trim().strip_prefix("- alert: ")?.to_owned())).collect()
}

#[test]
fn promtool_finds_nothing_wrong_with_the_rules() {
    for arguments in [
        &["check", "config", "provisioning/prometheus.yml"][..],
        &["check", "rules", "--lint=all", "--lint-fatal", "alerts.yaml"],
        &["test", "rules", "alerts_test.yaml"],
    ] {
        let (passed, said) = promtool(arguments);
        assert!(passed, "promtool {arguments:?}: {said}");
    }
}

/// A test that an alert can not fail says nothing, and so does one that it can not pass.
#[test]
fn each_alert_is_seen_to_fire_and_not_to() {
    let mut seen = BTreeMap::<String, BTreeSet<bool>>::new();
    let mut name = String::new();
    for line in text("alerts_test.yaml").lines().map(str::trim) {
        if let Some(found) = line.strip_prefix("alertname: ") {
            found.clone_into(&mut name);
        } else if let Some(expected) = line.strip_prefix("exp_alerts:") {
            seen.entry(name.clone()).or_default().insert(expected.is_empty());
        }
    }
    let both = BTreeSet::from([false, true]);
    let alerts = alerts();
    assert!(alerts.len() >= 6, "{alerts:?}");
    for alert in alerts {
        assert_eq!(seen.get(&alert), Some(&both), "{alert} is not tested both ways");
    }
}

#[test]
fn every_board_is_complete() {
    let links: BTreeSet<_> = alerts().into_iter().map(|alert| alert.to_lowercase()).collect();
    let boards = boards(&charts().join("dashboards"));
    assert_eq!(boards.len(), 3);
    for board in &boards {
        let faults = board.faults(&links);
        assert!(faults.is_empty(), "{}: {faults:#?}", board.title());
    }
    let broken =
        r#"{"title": "x", "panels": [{"type": "stat", "title": "y", "gridPos": {"x": 20, "y": 0, "w": 8, "h": 4}}]}"#;
    let faults = Board::parse(broken).faults(&links);
    assert!(faults.len() > 8, "each of its faults is seen: {faults:?}");
}

/// What the runbook tells somebody to type at night is understood.
#[test]
fn every_command_of_the_runbook_exists() {
    let runbook = text("RUNBOOK.md").replace('\n', " ");
    let code = runbook.split('`').skip(1).step_by(2);
    let commands: Vec<_> =
        code.filter(|code| code.starts_with("tercet ") || code.starts_with("tercet-events ")).collect();
    assert!(commands.len() > 20, "{commands:?}");
    let folder = tempfile::tempdir().expect("a folder can be made");
    let file = |program, package| Spec::new(program, program, package, Path::new(".")).expect("it is built").program;
    let (tercet, events) = (file("tercet", "tercet-coordinator"), file("tercet-events", "tercet-events"));
    let understood = |command: &str| {
        let mut words = command.split_whitespace().map(|word| match word {
            "XID" => "01a20ca2-f242-7000-8000-000400000001",
            "ID" => "7",
            word => word,
        });
        let program = if words.next() == Some("tercet") { &tercet } else { &events };
        // Everything is read before anybody is asked, and nobody is there.
        let output = Command::new(program)
            .args(words)
            .current_dir(&folder)
            .env_clear()
            .envs([("TERCET_ADMIN", "http://127.0.0.1:1")])
            .stdin(Stdio::null())
            .output()
            .expect("it starts");
        output.status.code() != Some(2)
    };
    let strange: Vec<_> = commands.into_iter().filter(|command| !understood(command)).collect();
    assert!(strange.is_empty(), "{strange:?}");
    let wrong = ["tx explian XID", "drain --sooner", "compensation resolve XID", "compensation resolve ID", "tx retry"];
    let wrong = wrong.iter().map(|words| format!("tercet {words}"));
    for wrong in wrong.chain(["tercet-events back".into(), "tercet-events lits --database URL".into()]) {
        assert!(!understood(&wrong), "{wrong}");
    }
}

/// What a rule compares with a number. It is there though nothing is wrong: of a rule that has nothing to compare
/// nobody knows whether it would ever fire. `None` where it asks for more than one thing at a time.
fn compared(query: &str) -> Option<String> {
    let (left, right) = query.rsplit_once(['>', '<'])?;
    right.trim_start_matches('=').trim().parse::<f64>().ok()?;
    let is_one = ![" and", " or", " unless"].iter().any(|word| left.contains(word));
    is_one.then(|| left.trim().to_owned())
}

#[tokio::test]
async fn a_prometheus_of_a_coordinator_in_trouble_answers_every_board_and_alert() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let stage = Stage::start(folder.path()).await.expect("the servers run");
    let targets = [stage.metrics, stage.platform_metrics, stage.gateway_metrics];
    let prometheus = Prometheus::start(folder.path(), targets, &charts()).await.expect("it starts");
    let mut open = Vec::new();
    for board in boards(&charts().join("dashboards")) {
        for (panel, text) in board.expressions() {
            open.push((format!("{}: {panel}", board.title()), text, true));
        }
    }
    let listed = prometheus.rules().await.expect("it lists them");
    let compared: Vec<_> = listed.iter().filter_map(|rule| Some((rule.name.clone(), compared(&rule.query)?))).collect();
    assert!(compared.len() > 12, "{compared:?}");
    open.extend(compared.into_iter().map(|(name, query)| (name, query, false)));
    assert!(open.len() > 60, "{} expressions", open.len());
    let until = tokio::time::Instant::now() + PATIENCE;
    // Each has to have data at some moment; a rate has none before its second scrape.
    while !open.is_empty() {
        let mut without = Vec::new();
        for (panel, expression, is_shown) in open {
            let values = prometheus.query(&expression).await.unwrap_or_else(|error| panic!("{panel}: {error:#}"));
            // What is quiet is divided by nothing, and shown as a gap at most.
            let is_number = |(_, value): &(String, f64)| value.is_finite();
            if !values.iter().any(is_number) || is_shown && !values.iter().all(is_number) {
                without.push((panel, expression, is_shown));
            }
        }
        open = without;
        assert!(tokio::time::Instant::now() < until, "no data, or no number, for {open:#?}");
        tokio::time::sleep(Duration::from_millis(250)).await;
    }

    // Those of services that are as they should be stay silent.
    let rules = prometheus.rules().await.expect("it lists them");
    assert_eq!(rules.iter().map(|rule| rule.name.as_str()).collect::<Vec<_>>(), alerts());
    for rule in &rules {
        assert_eq!((rule.health.as_str(), rule.error.as_str()), ("ok", ""), "{rule:?}");
        prometheus.query(&rule.query).await.unwrap_or_else(|error| panic!("{}: {error:#}", rule.name));
    }
    let wanted = [
        ("TercetParked", "d"),
        ("TercetRefusedInPhaseTwo", "d"),
        ("TercetParticipantGone", "c"),
        ("TercetParticipantStuck", "e"),
        ("TercetSessionSilent", "f"),
        ("TercetInvariantBroken", "stock"),
    ];
    let firing_all = |firing: &[(String, String)]| {
        wanted.iter().all(|(alert, service)| firing.iter().any(|one| one.0 == *alert && one.1 == *service))
    };
    loop {
        let firing = prometheus.firing().await.expect("it lists them");
        if firing_all(&firing) {
            assert!(!firing.iter().any(|(_, service)| service == "a"), "{firing:?}");
            assert!(!firing.iter().any(|(alert, _)| alert == "TercetDown"), "{firing:?}");
            break;
        }
        assert!(tokio::time::Instant::now() < until, "only these fire: {firing:?}");
        tokio::time::sleep(Duration::from_millis(250)).await;
    }

    // What it shows is what operators are told.
    let parked = prometheus.query("sum(tercet_compensations_parked)").await.expect("it answers");
    let told = stage.parked().await.expect("it answers");
    assert!(parked[0].1 > 0.0 && parked[0].1 <= told as f64, "{parked:?} of {told}");
    // That nothing of a service waits is told too.
    let waiting = prometheus.query("tercet_compensations_parked{service='a'}").await.expect("it answers");
    assert!(matches!(waiting[..], [(_, 0.0)]), "{waiting:?}");
    stage.stop().await.expect("transactions were accepted all the time");
}
