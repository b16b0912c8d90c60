//! The business log over HTTP, in the embedded default: what operators did, and what became of orders.

use std::time::Duration;

use serde_json::{Value, json};
use sqlx::Sqlite;
use tercet::client::{Client, Options, Outcome, Wait};
use tercet::fence::Dialect as _;
use tercet_platform::flows;
use tercet_proto::order::v1::Place;
use tokio::time::{Instant, sleep};

use super::coupons::published;
use super::rules;
use super::stage::{Ask, Asks as _, Platform};

const LOG: &str = "/v1/operator/log";

impl Platform {
    /// The entries of a search, once there are so many: events are written down a moment after what they tell of.
    pub(super) async fn logged(&self, query: &str, count: usize) -> Vec<Value> {
        let ann = self.keys.operator("ann");
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let found = self.ask(Ask::get(format!("{LOG}?{query}")).by(&ann)).await.good(200);
            let items = found["items"].as_array().expect("a list").clone();
            if items.len() >= count {
                return items;
            }
            assert!(Instant::now() < until, "{query}: {items:?}");
            sleep(Duration::from_millis(50)).await;
        }
    }
}

/// An order of this user, placed and refunded.
async fn refunded(platform: &Platform, order_id: i64, user_id: i64) {
    let stock = Sqlite::open(&platform.running.database("stock")).await.expect("it is there");
    tercet_stock::seed(&stock, &[(1, 10)]).await.expect("the item is sound");
    let coordinator = &platform.running.coordinator.url;
    let client = Client::connect([coordinator], Options::default()).expect("it is an address");
    let order = Place { order_id, user_id, item: 1, count: 1, coupon_id: 0, amount_cents: 900, ..Place::default() };
    let placed = client.submit(flows::checkout(&order).expect("it is sound"), Wait::Ended).await;
    assert_eq!(placed.expect("an answer").outcome(), Some(Outcome::Confirmed));
    let back = client.submit(flows::refund(&order).expect("it is sound"), Wait::Ended).await;
    assert_eq!(back.expect("an answer").outcome(), Some(Outcome::Confirmed));
}

#[tokio::test]
async fn operators_find_who_did_what_by_user_order_and_operator_page_by_page() {
    let platform = Platform::start(&[]).await;
    let (ann, bob, user) = (platform.keys.operator("ann"), platform.keys.operator("bob"), platform.keys.user(42));
    let id = published(&platform, &ann, "spring", &rules()).await;
    published(&platform, &bob, "summer", &rules()).await;
    refunded(&platform, 77, 42).await;

    let of_ann = platform.logged("operator=ann", 3).await;
    let actions: Vec<_> = of_ann.iter().map(|entry| entry["action"].as_str().expect("text")).collect();
    assert_eq!(actions, ["template promote", "template start_gray", "template create"], "newest first");
    let promoted = &of_ann[0];
    assert_eq!((&promoted["template_id"], &promoted["reason"]), (&json!(id), &json!("r")));
    let state = |entry: &Value, name: &str| -> Value {
        serde_json::from_str(entry[name].as_str().expect("text")).expect("it is JSON")
    };
    let revision = |name: &str| state(promoted, name)["template"]["revision"].clone();
    assert_eq!((revision("before"), revision("after")), (json!(2), json!(3)));
    assert!(of_ann[2].get("before").is_none() && promoted.get("user_id").is_none(), "{of_ann:?}");

    for query in ["shop_id=0&order_id=77", "user_id=42", "user_id=42&shop_id=0&order_id=77"] {
        let found = platform.logged(query, 1).await;
        let [entry] = &found[..] else { panic!("{query}: {found:?}") };
        assert_eq!(
            (&entry["action"], &entry["user_id"], &entry["order_id"]),
            (&json!("order closed"), &json!("42"), &json!("77"))
        );
        assert_eq!(state(entry, "after"), json!({ "status": "closed", "refunded_cents": 0 }));
        assert_eq!(entry["xid"].as_str().map(str::len), Some(36));
    }
    for nothing in [
        "user_id=43",
        "shop_id=0&order_id=78",
        "shop_id=9&order_id=77",
        "coupon_id=5",
        "operator=eve",
        "operator=ann&shop_id=0&order_id=77",
        "before_ms=1",
    ] {
        assert_eq!(platform.logged(nothing, 0).await, Vec::<Value>::new(), "{nothing}");
    }

    let all = platform.logged("limit=100", 7).await;
    let (mut pages, mut after) = (Vec::new(), String::new());
    loop {
        let page = platform.ask(Ask::get(format!("{LOG}?limit=2&after={after}")).by(&ann)).await.good(200);
        let items = page["items"].as_array().expect("a list");
        assert!(items.len() <= 2);
        pages.extend(items.clone());
        match page["next"].as_str() {
            Some(next) => after = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(pages, all, "pages are the whole");

    for (code, field, ask) in [
        ("FORBIDDEN", "", Ask::get(LOG).by(&user)),
        ("UNAUTHENTICATED", "", Ask::get(LOG)),
        ("INVALID", "limit", Ask::get(format!("{LOG}?limit=101")).by(&ann)),
        ("INVALID", "after", Ask::get(format!("{LOG}?after=x")).by(&ann)),
        ("INVALID", "user_id", Ask::get(format!("{LOG}?user_id=0")).by(&ann)),
        ("INVALID", "shop_id", Ask::get(format!("{LOG}?order_id=77")).by(&ann)),
        ("INVALID", "order_id", Ask::get(format!("{LOG}?shop_id=9")).by(&ann)),
        ("INVALID", "shop_id", Ask::get(format!("{LOG}?shop_id=-1&order_id=77")).by(&ann)),
        ("INVALID", "user", Ask::get(format!("{LOG}?user=42")).by(&ann)),
    ] {
        let told = platform.ask(ask).await;
        assert_eq!(told.code(), code);
        assert_eq!(told.body["arguments"]["field"].as_str().unwrap_or_default(), field, "{told:?}");
    }
}
