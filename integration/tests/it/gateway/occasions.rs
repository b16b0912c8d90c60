//! Coupons for those who register and for campaigns, over HTTP: in the embedded default, and with what others write to
//! a real Kafka while issuing is killed.

use prost::Message as _;
use rdkafka::ClientConfig;
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde_json::{Value, json};
use tercet_events::bus::Bus;
use tercet_events::dead;
use tercet_proto::events::v1 as events;
use tokio::time::{Duration, Instant, sleep};

use super::apart::{Apart, SHARDS};
use super::coupons::published;
use super::rules;
use super::stage::{Ask, Asks, Keys, Platform};

const OCCASIONS: &str = "/v1/operator/occasions";

fn with_budget(coupons: i64) -> Value {
    let mut rules = rules();
    rules["budget"] = json!({ "coupons": coupons, "cents": 500 * coupons });
    rules
}

/// A new occasion.
async fn made(asks: &impl Asks, keys: &Keys, key: &str, on: Value, template_id: &str) -> Value {
    let body = json!({ "on": on, "template_id": template_id, "coupons_per_user": 1, "reason": "welcome" });
    let create = Ask::new("POST", OCCASIONS).by(&keys.operator("ann")).with("idempotency-key", key).json(&body);
    let made = asks.ask(create.clone()).await.good(201);
    assert_eq!(asks.ask(create).await.good(200)["occasion_id"], made["occasion_id"]);
    assert_eq!((&made["on"], &made["state"], &made["operator"]), (&on, &json!("active"), &json!("ann")));
    made
}

/// Waits until so many users were told, given and refused.
async fn until_counts(asks: &impl Asks, keys: &Keys, occasion: &Value, wanted: [u64; 3]) {
    let path = format!("{OCCASIONS}/{}", occasion["occasion_id"].as_str().expect("text"));
    let begun = Instant::now();
    loop {
        let told = asks.ask(Ask::get(&path).by(&keys.operator("ann"))).await;
        let now = ["users", "given", "refused"].map(|name| told.body[name].as_u64());
        if now == wanted.map(Some) {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{wanted:?} {told:?}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// The templates of a user's coupons.
async fn coupons(asks: &impl Asks, keys: &Keys, user_id: i64) -> Vec<Value> {
    let own = asks.ask(Ask::get("/v1/coupons").by(&keys.user(user_id))).await.good(200);
    own["items"].as_array().expect("a list").iter().map(|coupon| coupon["template_id"].clone()).collect()
}

#[tokio::test]
async fn whoever_registers_or_is_of_a_campaign_has_his_coupon_in_the_embedded_default() {
    let platform = Platform::start(&[]).await;
    let (keys, ann) = (&platform.keys, platform.keys.operator("ann"));
    let id = published(&platform, &ann, "welcome", &with_budget(3)).await;
    let welcome = made(&platform, keys, "a", json!({ "registered": { "group": "new" } }), &id).await;
    let spring = made(&platform, keys, "b", json!({ "campaign": { "campaign_id": "7" } }), &id).await;
    let registered = |user_id: i64, groups: Value| {
        let path = format!("/v1/operator/users/{user_id}/registered");
        Ask::new("POST", path).by(&ann).json(&json!({ "groups": groups }))
    };
    let body = json!({ "user_ids": ["42", "43", "44"], "reason": "spring" });
    let start = Ask::new("POST", "/v1/operator/campaigns/7/start").by(&ann).json(&body);
    for _ in 0..2 {
        assert_eq!(platform.ask(registered(41, json!(["new"]))).await.good(202), json!({ "users": 1 }));
        platform.ask(registered(40, json!([]))).await.good(202);
    }
    until_counts(&platform, keys, &welcome, [1, 1, 0]).await;
    for _ in 0..2 {
        assert_eq!(platform.ask(start.clone()).await.good(202), json!({ "users": 3 }));
    }
    // There were two left.
    until_counts(&platform, keys, &spring, [3, 2, 1]).await;
    let mut given = Vec::new();
    for user_id in 40..=44 {
        given.push(coupons(&platform, keys, user_id).await.len());
    }
    assert_eq!(given, [0, 1, 1, 1, 0]);
    let path = format!("{OCCASIONS}/{}", spring["occasion_id"].as_str().expect("text"));
    let runs = Ask::get(format!("{path}/runs?state=refused")).by(&ann).with("accept-language", "zh");
    let runs = platform.ask(runs).await.good(200);
    let run = &runs["items"][0];
    assert_eq!((&run["user_ids"], &run["refusal"]["code"]), (&json!(["44"]), &json!("SOLD_OUT")));
    assert_eq!(run["refusal"]["title"], "优惠券已被领完");

    let retry = Ask::new("POST", format!("{path}/retry")).by(&ann).json(&json!({ "reason": "perhaps" }));
    assert_eq!(platform.ask(retry).await.good(200)["refused"], 0);
    until_counts(&platform, keys, &spring, [3, 2, 1]).await;

    let stop = Ask::new("POST", format!("{path}/stop")).by(&ann).json(&json!({ "reason": "over" }));
    assert_eq!(platform.ask(stop).await.good(200)["state"], "stopped");
    let list = platform.ask(Ask::get(format!("{OCCASIONS}?state=active")).by(&ann)).await.good(200);
    let items: Vec<_> = list["items"].as_array().expect("a list").iter().map(|own| &own["occasion_id"]).collect();
    assert_eq!(items, [&welcome["occasion_id"]]);
    let logged = platform.logged("operator=ann&limit=100", 16).await;
    let actions: Vec<_> = logged.iter().map(|entry| entry["action"].as_str().expect("text")).collect();
    for (action, times) in [
        ("occasion create", 2),
        ("occasion retry", 1),
        ("occasion stop", 1),
        ("user registered", 4),
        ("campaign start", 2),
        ("coupon issued", 3),
    ] {
        assert_eq!(actions.iter().filter(|own| **own == action).count(), times, "{action} of {actions:?}");
    }
    let stopped = logged.iter().find(|entry| entry["action"] == "occasion stop").expect("it was stopped");
    for (name, state) in [("before", r#""state":"active""#), ("after", r#""state":"stopped""#)] {
        assert!(stopped[name].as_str().is_some_and(|text| text.contains(state)), "{stopped}");
    }
    for (code, ask) in [
        ("FORBIDDEN", Ask::get(OCCASIONS).by(&keys.user(41))),
        ("NOT_FOUND", Ask::get(format!("{OCCASIONS}/5")).by(&ann)),
        ("INVALID", Ask::get(format!("{OCCASIONS}?state=gone")).by(&ann)),
        ("MALFORMED", registered(5, json!("new"))),
    ] {
        assert_eq!(platform.ask(ask).await.code(), code);
    }
}

/// Somebody who knows the topics and the schema, and nothing else of us.
struct Outsider {
    producer: FutureProducer,
    prefix: String,
}

impl Outsider {
    async fn write(&self, topic: &str, key: i64, payload: &[u8]) {
        let (topic, key) = (format!("{}{topic}", self.prefix), key.to_string());
        let record = FutureRecord::to(&topic).key(&key).payload(payload);
        self.producer.send(record, Duration::from_secs(20)).await.expect("the broker takes it");
    }

    async fn registered(&self, user_id: i64) {
        let payload = events::event::Payload::UserRegistered(events::UserRegistered::default());
        let event = events::Event { version: 1, user_id, payload: Some(payload), ..Default::default() };
        self.write("user", user_id, &event.encode_to_vec()).await;
    }

    async fn started(&self, campaign_id: i64, user_ids: &[i64]) {
        let started = events::CampaignStarted { campaign_id, user_ids: user_ids.to_vec() };
        let payload = Some(events::event::Payload::CampaignStarted(started));
        let event = events::Event { version: 1, payload, ..Default::default() };
        self.write("campaign", campaign_id, &event.encode_to_vec()).await;
    }
}

#[tokio::test]
async fn what_others_write_to_kafka_gives_each_user_one_whenever_issuing_is_killed() {
    let Some(mut apart) = Apart::start(SHARDS).await else { return };
    let ann = apart.keys.operator("ann");
    let (many, few) = (
        published(&apart, &ann, "many", &with_budget(10_000)).await,
        published(&apart, &ann, "few", &with_budget(5)).await,
    );
    let welcome = made(&apart, &apart.keys, "a", json!({ "registered": {} }), &many).await;
    let spring = made(&apart, &apart.keys, "b", json!({ "campaign": { "campaign_id": "7" } }), &many).await;
    let scarce = made(&apart, &apart.keys, "c", json!({ "campaign": { "campaign_id": "8" } }), &few).await;
    let brokers = apart.kafka.brokers.clone().expect("there is one");
    let producer = ClientConfig::new().set("bootstrap.servers", brokers).create().expect("it is sound");
    let outsider = Outsider { producer, prefix: apart.kafka.prefix.clone() };

    // Nobody can read the one, and the other is about nobody.
    outsider.write("user", 1, b"{\"user\": 1}").await;
    outsider.registered(0).await;
    // Every event comes twice, and issuing dies in between.
    let users: Vec<i64> = (1..=3_000).collect();
    for round in 0..2 {
        outsider.started(7, &users).await;
        for user_id in 1..=300 {
            outsider.registered(user_id).await;
            if round == 0 && user_id % 100 == 0 {
                apart.issuing.restart().expect("it starts");
            }
        }
        outsider.started(8, &[1, 2, 3, 4, 5, 6, 7]).await;
    }
    apart.issuing.restart().expect("it starts");
    until_counts(&apart, &apart.keys, &welcome, [300, 300, 0]).await;
    until_counts(&apart, &apart.keys, &spring, [3_000, 3_000, 0]).await;
    until_counts(&apart, &apart.keys, &scarce, [7, 5, 2]).await;
    for (user_id, wanted) in [(1, 3), (5, 3), (6, 2), (300, 2), (301, 1), (3_000, 1), (3_001, 0)] {
        assert_eq!(coupons(&apart, &apart.keys, user_id).await.len(), wanted, "user {user_id}");
    }
    apart.coordinator.wait_idle(Duration::from_secs(20)).await.expect("all of them end");
    let tables = |table: &str| format!("SELECT COUNT(*) FROM {table}");
    let home = apart.home().await;
    let sql = tables("(SELECT 1 FROM occasion_run WHERE state <> 0) AS r");
    let runs: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(&home).await.expect("the table is there");
    assert!(runs < 300, "those who come together share a run: {runs}");

    let bus = Bus::kafka(&apart.kafka).expect("they are sound");
    let begun = Instant::now();
    let reasons = loop {
        let mut reasons = Vec::new();
        let show = |_: &str, one: &dead::InTopic| reasons.push(one.letter.reason.clone());
        let count = dead::in_topic(&bus, "user", "issuing", None, 10, show).await.expect("the topic is there");
        if count == 2 {
            break reasons;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{reasons:?}");
    };
    assert!(reasons.iter().any(|reason| reason.starts_with("user_id")), "{reasons:?}");
}
