//! What a person does with dead letters by the program.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::Ordering;

use prost::Message as _;
use sqlx::{MySql, Sqlite};
use tercet::fence::Dialect as _;
use tercet_events::dead::Letter;
use tercet_events::store::{Row, Store as _};
use tercet_integration::processes::Spec;
use tercet_proto::events::v1 as pb;

use super::stage::{LEDGER, Stage, eventually};

/// What the program says, on whichever of its outputs, and how it ends.
fn run(words: &str) -> (String, Option<i32>) {
    let program = Spec::new("tercet-events", "tercet-events", "tercet-events", Path::new(".")).expect("it is built");
    let mut command = Command::new(program.program);
    let output = command.args(words.split_whitespace()).env_clear().output().expect("it starts");
    let text = [output.stdout, output.stderr].concat();
    (String::from_utf8(text).expect("it is text"), output.status.code())
}

/// Where each letter that is listed is.
fn places(listed: &str) -> Vec<String> {
    let firsts = listed.lines().filter(|line| line.contains("  coupon/"));
    firsts.map(|line| line.split("  ").find(|word| !word.is_empty()).expect("its place").replace(' ', "")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_letter_of_a_broker_goes_back_before_those_that_are_older_and_once() {
    let Some(stage) = Stage::<MySql>::through_kafka().await else { return };
    let kafka = stage.kafka.clone().expect("it goes through one");
    let brokers = kafka.brokers.expect("there are some");
    let partitions: Vec<_> = kafka.partitions.iter().map(|(topic, n)| format!("{}={n}", topic.name())).collect();
    let topics = format!("--kafka-prefix {} --kafka-partitions {}", kafka.prefix, partitions.join(","));
    let place = format!("--kafka {brokers} {topics} --topic coupon --group {}", LEDGER.name);
    let tell = |words: &str| run(&format!("{words} {place}"));
    let (ledger, relay, sink_relay) = (stage.ledger(), stage.relay(), stage.sink_relay());
    for n in [3, 4] {
        stage.trap.refused.store(n, Ordering::SeqCst);
        stage.write(1, [n]).await;
        let count = n as usize - 2;
        let listed = async || Some(places(&tell("list").0)).filter(|listed| listed.len() == count);
        eventually("it is put away", listed).await;
    }
    stage.trap.refused.store(0, Ordering::SeqCst);
    let (listed, code) = tell("list");
    assert!(listed.contains("3 brings bad luck") && listed.ends_with("2 dead letters\n"), "{listed}");
    assert_eq!((code, places(&tell("list --limit 1").0)), (Some(0), places(&listed)[..1].to_vec()));
    let [_, second] = &places(&listed)[..] else { panic!("{listed}") };

    let (text, code) = tell(&format!("list --only {second}"));
    assert!(text.contains("4 brings bad luck") && text.ends_with("1 dead letters\n") && code == Some(0), "{text}");
    let (text, code) = tell(&format!("discard --only {second}"));
    assert!(text.contains("letters are given up from the oldest on") && code == Some(1), "{text}");
    let (partition, _) = second.split_once('/').expect("partition and offset");
    let (text, code) = tell(&format!("back --only {partition}/99"));
    assert!(text.contains(&format!("there is no dead letter at {partition}/99")) && code == Some(1), "{text}");
    let (text, code) = tell("back --only 7");
    assert!(text.contains("a letter of a broker is named PARTITION/OFFSET") && code == Some(1), "{text}");
    assert!(stage.noted(&LEDGER, 1).await.is_empty(), "nothing has gone back yet");

    let (text, code) = tell(&format!("back --only {second}"));
    assert!(text.contains("4 brings bad luck") && code == Some(0), "{text}");
    assert_eq!(stage.until(&LEDGER, 1, 1).await, [4]);
    assert_eq!(places(&tell("list").0).len(), 2, "it stays listed until the one before it is settled");
    let (text, code) = tell("back");
    assert!(text.ends_with("2 dead letters sent back\n") && code == Some(0), "{text}");
    stage.until(&LEDGER, 1, 2).await;
    assert_eq!(tell("list").0, "0 dead letters\n");
    // Behind all that has gone back.
    stage.write(1, [5]).await;
    assert_eq!(stage.until(&LEDGER, 1, 3).await, [4, 3, 5]);
    for running in [ledger, relay, sink_relay] {
        running.stop().await;
    }
}

#[tokio::test]
async fn letters_that_a_database_keeps_are_listed_sent_back_and_given_up_by_their_numbers() {
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("sqlite://{}/events.db", folder.path().display());
    let pool = Sqlite::open(&url).await.expect("a file");
    Sqlite::migrate_events(&pool).await.expect("the schema is sound");
    let rows = [4, 5, 6].map(|n: i64| {
        let (group, reason) = (LEDGER.name.to_owned(), format!("{n} is strange"));
        let (topic, source) = ("coupon".to_owned(), "s".to_owned());
        let letter = Letter { group, topic: topic.clone(), partition: 0, source, sequence: n, reason, attempts: 5 };
        let letter = Some(serde_json::to_string(&letter).expect("it has a form"));
        let event = pb::Event { occurred_ms: n, ..pb::Event::default() };
        Row { topic, key: n.to_string(), at_ms: None, letter, payload: event.encode_to_vec() }
    });
    let mut db = pool.acquire().await.expect("it is open");
    Sqlite::letter_keep(&mut db, &rows).await.expect("they are small");
    let tell = |words: &str| run(&format!("{words} --database {url}"));
    let (listed, code) = tell("list");
    assert!(listed.ends_with("3 dead letters\n") && code == Some(0), "{listed}");
    let [first, second, third] = &places(&listed)[..] else { panic!("{listed}") };

    assert_eq!(places(&tell("list --limit 2").0), [first.clone(), second.clone()]);
    let (text, code) = tell(&format!("list --only {second}"));
    assert!(text.contains("5 is strange") && !text.contains("4 is") && code == Some(0), "{text}");
    for command in ["back", "discard"] {
        let (text, code) = tell(&format!("{command} --only 99"));
        assert!(text.contains("there is no dead letter 99") && code == Some(1), "{text}");
    }
    let (text, code) = tell(&format!("back --only {second}"));
    assert!(text.ends_with("1 dead letters sent back\n") && code == Some(0), "{text}");
    let (text, code) = tell(&format!("discard --only {second}"));
    assert!(text.contains(&format!("there is no dead letter {second}")) && code == Some(1), "it has gone back: {text}");
    let (text, code) = tell(&format!("discard --only {first}"));
    assert!(text.ends_with("1 dead letters given up\n") && code == Some(0), "{text}");
    assert_eq!(places(&tell("list").0), std::slice::from_ref(third));
    let look = Sqlite::outbox_look(&mut db).await.expect("it is sound");
    assert_eq!((look.rows, look.dead), (1, 1), "one has gone back, and one waits");
    assert_eq!(tell("back --only 1x").1, Some(1));
    let (text, code) = run("list --database ftp://x");
    assert!(text.contains("no database of kind \"ftp\"") && code == Some(1), "{text}");
}
