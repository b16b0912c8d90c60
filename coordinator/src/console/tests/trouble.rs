//! What operators are told when something is wrong, or when they ask for what is not there.

use super::*;

#[tokio::test]
async fn whoever_waits_for_a_drain_waits_though_another_began_it_and_hears_what_the_log_holds() {
    let Place { url, admin } = coordinator().await;
    stock(&url).await;
    submit(&url, "stock", "stuck", pb::Wait::Decided, 0).await;
    parked(&admin).await;
    // It is cancelled once nobody has come for its try.
    submit(&url, "absent", "wait", pb::Wait::Accepted, 5_000).await;
    assert_eq!(tercet(&admin, "drain").await.1, 0);
    let (text, code) = tercet(&admin, "drain --wait").await;
    assert!(text.starts_with("It drains already\n  1 left\n") && code == 0, "{text}");
    assert!(text.contains("\n  stock: 0 rows are retried, 1 waits for a person"), "{text}");
    let told = json(&admin, "drain --wait").await;
    assert_eq!((&told["difference"], &told["live"], &told["log"][0]["parked"]), (&Value::Null, &0.into(), &1.into()));
}

#[tokio::test]
async fn a_full_disk_is_what_doctor_stats_and_top_say_first() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().to_str().expect("it is text");
    let reserve = ["--data", data, "--disk-reserve-mib", "100000000000"];
    let Place { admin, .. } = coordinator_with(&reserve, std::future::pending()).await;
    // Bounded: the disk is looked at four times a second.
    for _ in 0..200 {
        if json(&admin, "stats").await["disk_full"] == true {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(json(&admin, "stats").await["disk_full"], true);
    for command in ["stats", "top --once"] {
        assert!(tercet(&admin, command).await.0.contains("\n  DISK FULL  nothing new is taken"), "{command}");
    }
    let (text, code) = tercet(&admin, "doctor").await;
    assert!(text.contains("failed   space         the disk under its store is full") && code == 1, "{text}");
}

/// What is written can be read meanwhile.
#[derive(Clone, Default)]
struct Shared(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("nobody panics").write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Shared {
    async fn says(&self, what: &str) {
        // Bounded: it looks once a second.
        for _ in 0..400 {
            if String::from_utf8_lossy(&self.0.lock().expect("nobody panics")).contains(what) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("it never says {what:?}");
    }
}

#[tokio::test]
async fn top_goes_on_looking_when_the_coordinator_is_gone() {
    let (stop, stopped) = oneshot::channel::<()>();
    let Place { admin, .. } = coordinator_with(&[], async move { drop(stopped.await) }).await;
    let cli = Cli::try_parse_from(["tercet", "--admin", &admin, "top"]).expect("good arguments");
    let Command::Ask(ask) = cli.command else { panic!("it asks") };
    let mut out = Shared::default();
    let seen = out.clone();
    let mut screen = Screen::new(&mut out, false, false, SystemClock::start());
    let watched = async {
        seen.says("  in memory  0 of").await;
        stop.send(()).expect("it runs");
        seen.says("looking again every second").await;
    };
    tokio::select! {
        ended = run(ask, &cli.common, &mut screen) => panic!("it ends: {ended:?}"),
        () = watched => {}
    }
}

#[tokio::test]
async fn a_watch_whose_coordinator_stops_says_that_it_saw_no_end() {
    let (stop, stopped) = oneshot::channel::<()>();
    let Place { url, admin } = coordinator_with(&[], async move { drop(stopped.await) }).await;
    let xid = submit(&url, "absent", "wait", pb::Wait::Accepted, 60_000).await;
    let cli = Cli::try_parse_from(["tercet", "--admin", &admin, "tx", "watch", &xid]).expect("good arguments");
    let Command::Ask(ask) = cli.command else { panic!("it asks") };
    let mut out = Shared::default();
    let seen = out.clone();
    let mut screen = Screen::new(&mut out, false, false, SystemClock::start());
    let stopping = async {
        seen.says("trying").await;
        stop.send(()).expect("it runs");
    };
    let (watched, ()) = tokio::join!(run(ask, &cli.common, &mut screen), stopping);
    let error = watched.expect_err("it has not ended");
    assert!(matches!(&error, Error::Unwatched(watched) if *watched == xid), "{error}");
}

#[tokio::test]
async fn rows_that_are_not_there_are_named_and_the_others_are_called() {
    let Place { url, admin } = coordinator().await;
    stock(&url).await;
    submit(&url, "stock", "stuck", pb::Wait::Decided, 0).await;
    let id = parked(&admin).await;
    let (text, code) = tercet(&admin, &format!("compensation retry {id} 999 --dry-run")).await;
    assert!(
        text.contains("999\n  left as it is: there is no such row\n") && text.contains("1 would be called"),
        "{text}"
    );
    assert!(text.ends_with("1 of 2 could not be retried: see above") && code == 1, "{text}");
    // What went wrong comes after the document, on standard error.
    let (text, _) = tercet(&admin, &format!("compensation retry {id} 999 --dry-run --json")).await;
    let mut documents = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
    let told = documents.next().expect("there is one").expect("it is JSON");
    let rows = &told["compensations"];
    assert_eq!((&told["dry_run"], &rows[0]["id"], &rows[1]["id"]), (&true.into(), &999.into(), &id.into()));
    assert_eq!(rows[1]["difference"]["calls"][0]["operation"], "confirm");
    let (text, code) = tercet(&admin, "compensation retry 999").await;
    assert!(text.contains("there is no compensation 999") && code == 4, "{text}");
    let (text, code) = tercet(&admin, "compensation retry --service typo").await;
    assert!(text.contains("nothing was changed: no row of typo waits like that") && code == 5, "{text}");
    assert_eq!(tercet(&admin, &format!("compensation retry {id}")).await.1, 0);
    let last = u64::MAX;
    assert_eq!(tercet(&admin, &format!("compensation list --after {last}")).await.0, "No such compensations\n");
}

#[tokio::test]
async fn an_explanation_for_programs_has_its_parts() {
    let Place { url, admin } = coordinator().await;
    let xid = submit(&url, "absent", "wait", pb::Wait::Accepted, 60_000).await;
    let told = json(&admin, &format!("tx explain {xid}")).await;
    let waits = &told["waits"][0];
    let found = (&waits["branch"], &waits["service"], &waits["operation"], &waits["connected"]);
    assert_eq!(found, (&0.into(), &"absent".into(), &"try".into(), &false.into()), "{told}");
    assert_eq!(told["next_kind"], "cancel", "{told}");
    assert!(told["next_at"].is_string(), "{told}");
    begin(&url, "elsewhere").await;
    let listed = json(&admin, "tx list --limit 1").await;
    let xid = listed["transactions"][0]["xid"].as_str().expect("text");
    let told = json(&admin, &format!("tx explain {xid}")).await;
    let waits = told["waits"].as_array().expect("a list").iter().find(|waits| waits["state"] == "begun");
    let waits = waits.expect("its initiator has the word");
    assert!(waits["until"].is_string() && waits["branch"].is_null(), "{told}");
}

#[tokio::test]
async fn whoever_is_not_let_in_is_told_which_flag_it_takes() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str| folder.path().join(name).to_str().expect("it is text").to_owned();
    let mut lines = Vec::new();
    for (name, role) in [("ann", &["operator", "view"][..]), ("bob", &["initiator"])] {
        let secret = file(name);
        let all = [&["tercet", "token", name, "--secret", &secret], role].concat();
        let Command::Token(options) = Cli::try_parse_from(all).expect("good arguments").command else {
            panic!("it makes tokens")
        };
        token::run(&options, &mut lines).expect("it is made");
    }
    std::fs::write(file("tokens"), lines).expect("it can be written");
    let Place { admin, .. } = coordinator_with(&["--tokens", &file("tokens")], std::future::pending()).await;
    let doctor = async |more: &str| tercet(&admin, &format!("doctor {more}")).await;
    let (text, code) = doctor("").await;
    assert!(
        text.contains("failed   version") && text.contains("with\n            --token-file") && code == 1,
        "{text}"
    );
    let (text, code) = doctor(&format!("--token-file {}", file("bob"))).await;
    assert!(text.contains("its token is not an operator's") && code == 1, "{text}");
    let (text, code) = doctor(&format!("--token-file {}", file("ann"))).await;
    assert!(text.ends_with("13 passed, 0 failed, 0 skipped\n") && code == 0, "{text}");

    // As a port with TLS does to who speaks none.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let deaf = format!("http://{}", listener.local_addr().expect("it is bound"));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            drop(stream);
        }
    });
    let (text, code) = tercet(&deaf, "participants").await;
    assert!(text.contains("; if its port has TLS, name it https://HOST:PORT and give --ca") && code == 3, "{text}");
    let (text, code) = tercet(&deaf, "doctor").await;
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(line.contains("failed health") && line.contains("if its port has TLS") && code == 1, "{text}");
}
