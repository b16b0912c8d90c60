//! What operators find among many, page by page, and the numbers that they give a branch.

use super::*;

#[tokio::test]
async fn a_branch_gets_the_numbers_that_are_named_and_keeps_the_others() {
    let Place { url, admin } = coordinator().await;
    let xid = submit(&url, "absent", "wait", pb::Wait::Accepted, 60_000).await;
    let set = format!("tx set-retry {xid} --attempts 9 --first-delay-ms 250 --delay-max-ms 7000 --as ann");
    let (text, code) = tercet(&admin, &format!("{set} --dry-run")).await;
    assert!(text.starts_with("Would be done; nothing has been changed:\n  branch 0") && code == 0, "{text}");
    for moved in ["attempts at most 1500 -> 9\n", "first delay 50 -> 250ms\n", "delay at most 60000 -> 7000ms\n"] {
        assert!(text.contains(moved), "{text}");
    }
    assert_eq!(json(&admin, &format!("{set} --dry-run")).await["dry_run"], true);
    let told = json(&admin, &set).await;
    let branch = &told["difference"]["branches"][0];
    let (before, after) = (&branch["retry_before"], &branch["retry_after"]);
    assert_eq!((&told["dry_run"], &before["attempts"]), (&false.into(), &1_500.into()), "it was a dry run: {told}");
    let found = [&after["attempts"], &after["first_delay_ms"], &after["delay_max_ms"]];
    assert_eq!(found, [9, 250, 7_000].map(Value::from).each_ref());
    assert_eq!(after["factor_percent"], before["factor_percent"]);
    // One number alone, and a branch that there is not.
    let told = json(&admin, &format!("tx set-retry {xid} --branch 0 --attempts 8")).await;
    let after = &told["difference"]["branches"][0]["retry_after"];
    assert_eq!((&after["attempts"], &after["delay_max_ms"]), (&8.into(), &7_000.into()));
    assert_eq!(tercet(&admin, &format!("tx set-retry {xid} --branch 7 --attempts 7")).await.1, 2);
    assert_eq!(tercet(&admin, &format!("tx set-retry {xid}")).await.1, 2);
    let rows = &json(&admin, "audit list").await["rows"];
    let acts: Vec<_> = rows.as_array().expect("a list").iter().map(|row| (&row["act"], &row["who"])).collect();
    assert_eq!(acts.len(), 2, "{rows}");
    assert!(acts.iter().any(|act| *act == (&"set-retry".into(), &"ann".into())), "{rows}");
}

#[tokio::test]
async fn transactions_are_found_by_service_age_and_what_waits_for_a_person() {
    let Place { url, admin } = coordinator().await;
    stock(&url).await;
    let done = submit(&url, "stock", "yes", pb::Wait::Ended, 0).await;
    let stuck = submit(&url, "stock", "stuck", pb::Wait::Decided, 0).await;
    let waiting = submit(&url, "absent", "wait", pb::Wait::Accepted, 60_000).await;
    parked(&admin).await;
    let listed = async |filter: &str| {
        let page = json(&admin, &format!("tx list {filter}")).await;
        let xids = page["transactions"].as_array().expect("a list").iter();
        let xids = xids.map(|transaction| transaction["xid"].as_str().expect("text").to_owned()).collect::<Vec<_>>();
        (xids, page["next"].clone())
    };
    assert_eq!(listed("--parked").await, (vec![stuck.clone()], Value::Null));
    assert_eq!(listed("--service stock").await, (vec![stuck.clone(), done.clone()], Value::Null));
    assert_eq!(listed("--service stock --limit 1").await, (vec![stuck.clone()], stuck.clone().into()));
    assert_eq!(listed(&format!("--service stock --limit 1 --before {stuck}")).await.0, [&*done]);
    assert_eq!(listed("--service nobody").await, (vec![], Value::Null));
    assert_eq!(listed("--older 1h").await, (vec![], Value::Null));
    assert_eq!(listed("--younger 1h").await.0, [&*waiting, &*stuck, &*done]);
    assert_eq!(listed("--younger 0ms").await, (vec![], Value::Null));
    // A place and an age: what both allow.
    assert_eq!(listed(&format!("--older 0ms --before {stuck}")).await.0, [&*done]);
    for more in ["0", "1001"] {
        for command in ["tx", "compensation"] {
            assert!(Cli::try_parse_from(["tercet", command, "list", "--limit", more]).is_err(), "{command} {more}");
        }
    }
}

/// Lets so many confirms be refused.
async fn stick(url: &str, count: usize) {
    let client = CoordinatorClient::connect(url.to_owned()).await.expect("it listens");
    let submit = async |n: usize| {
        let branch = pb::Branch { service: "stock".into(), action: "stuck".into(), ..pb::Branch::default() };
        let (mode, branches, idempotency_key) = (pb::Mode::Tcc as i32, vec![branch], n.to_string());
        let transaction = pb::Transaction { mode, branches, idempotency_key, ..pb::Transaction::default() };
        let request = pb::SubmitRequest { transaction: Some(transaction), wait: pb::Wait::Decided as i32 };
        client.clone().submit(request).await.expect("it is accepted")
    };
    // No more at a time than the service keeps up with.
    for few in (0..count).collect::<Vec<_>>().chunks(16) {
        futures_util::future::join_all(few.iter().map(|n| submit(*n))).await;
    }
}

/// The first page of rows that wait for a person, once so many are on it.
async fn stuck(admin: &str, count: usize) -> Value {
    // Bounded: parking is durable a moment after the decision.
    for _ in 0..200 {
        let page = json(admin, &format!("compensation list --status failed --limit {}", limits::PAGE_MAX)).await;
        if page["compensations"].as_array().is_some_and(|rows| rows.len() == count) {
            return page;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("they are not parked");
}

#[tokio::test]
async fn whatever_the_log_holds_is_counted_when_a_drain_ends_and_no_page_is_above_its_limit() {
    let Place { url, admin } = coordinator().await;
    stock(&url).await;
    let count = limits::PAGE_MAX as usize + 1;
    stick(&url, count).await;
    let page = stuck(&admin, count - 1).await;
    assert!(page["next"].is_u64(), "{}", page["next"]);
    let told = json(&admin, "drain --wait").await;
    assert_eq!((&told["log"][0]["parked"], &told["log"][0]["pending"]), (&count.into(), &0.into()));
    let (text, code) = tercet(&admin, "compensation retry --service stock --dry-run").await;
    assert!(text.ends_with(&format!("{count} would be called\n")) && code == 0, "{code}");
    // Whoever does not use the program is refused, rather than given less than he asked for.
    let mut client = tercet_proto::admin::v1::admin_client::AdminClient::connect(admin).await.expect("it listens");
    let asked = tercet_proto::admin::v1::ListCompensationsRequest { limit: 1_001, ..Default::default() };
    let refused = client.list_compensations(asked).await.expect_err("it is too much");
    assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused}");
}

#[tokio::test]
async fn rows_are_listed_and_retried_page_by_page() {
    let Place { url, admin } = coordinator().await;
    stock(&url).await;
    stick(&url, 3).await;
    let ids = |page: &Value| {
        let rows = page["compensations"].as_array().expect("a list").iter();
        rows.map(|row| row["id"].as_u64().expect("a number")).collect::<Vec<_>>()
    };
    let all = ids(&stuck(&admin, 3).await);
    let page = json(&admin, "compensation list --limit 2").await;
    assert_eq!((ids(&page), &page["next"]), (all[..2].to_vec(), &all[1].into()));
    let (text, _) = tercet(&admin, "compensation list --limit 2").await;
    assert!(text.ends_with(&format!("\nNewer ones: --after {}\n", all[1])), "{text}");
    let page = json(&admin, &format!("compensation list --limit 2 --after {}", all[1])).await;
    assert_eq!((ids(&page), &page["next"]), (all[2..].to_vec(), &Value::Null));

    let told = json(&admin, "compensation retry --status failed --dry-run").await;
    assert_eq!((&told["dry_run"], ids(&told)), (&true.into(), all.clone()));
    let (text, code) = tercet(&admin, "compensation retry --status pending --service stock").await;
    assert!(text.contains("no row of stock waits like that") && code == 5, "{text}");
    let (text, code) = tercet(&admin, "compensation retry --service stock").await;
    assert!(text.ends_with("3 called\n") && code == 0, "{text}");
}
