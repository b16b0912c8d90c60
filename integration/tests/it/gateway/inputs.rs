//! What is said wrongly: by its field and its limit, in both languages.

use serde_json::{Value, json};
use tercet_gateway::token::Bearer;
use tercet_gateway::token::Role;
use tokio::time::Duration;

use super::coupons::{claim, published};
use super::stage::{Ask, Asks, Platform, Stage, Told, bearer};
use super::{TEMPLATES, create, raw, rules};

/// A request that fails with this code because of this field, and what is said of it.
type Wrong = (Ask, &'static str, &'static str, [&'static str; 2]);

async fn are_told(asks: &impl Asks, wrong: Vec<Wrong>) {
    for (ask, code, field, said) in wrong {
        for (language, limit) in ["en", "zh"].into_iter().zip(said) {
            let told: Told = asks.ask(ask.clone().with("accept-language", language)).await;
            assert_eq!((told.code(), told.status, &told.body["arguments"]["field"]), (code, 400, &json!(field)));
            let title = told.body["title"].as_str().expect("text");
            assert!(title.contains(field) && title.ends_with(limit), "{title} is not {limit}");
        }
    }
}

fn page(most: u32) -> [&'static str; 2] {
    match most {
        20 => ["it is 1 to 20", "须在 1 到 20 之间"],
        50 => ["it is 1 to 50", "须在 1 到 50 之间"],
        _ => ["it is 1 to 100", "须在 1 到 100 之间"],
    }
}

#[tokio::test]
async fn limits_names_and_bodies_are_told_by_their_fields() {
    let stage = Stage::start(&["--address-per-second", "0"]).await;
    let (ann, user) = (stage.keys.operator("ann"), stage.keys.user(42));
    let (get, of) = (|path: &str| Ask::get(path).by(&user), |path: &str| Ask::get(path).by(&ann));
    let post = |body: &Value| Ask::new("POST", TEMPLATES).by(&ann).with("idempotency-key", "k").json(body);
    let template = |name: &str, rules: &Value| json!({ "name": name, "rules": rules, "change": { "reason": "r" } });
    let unknown = ["nothing is called so here", "没有此名称的参数或字段"];
    let given = ["it has to be given", "必须填写"];
    let record = ["it is an object", "须为对象"];
    let whole = ["it is a whole number from 0 to 4294967295", "须为 0 到 4294967295 之间的整数"];
    let mut nameless = template("n", &rules());
    nameless.as_object_mut().expect("a record").remove("name");
    let with = |part: &str, value: Value| {
        let mut rules = rules();
        rules[part] = value;
        template("n", &rules)
    };
    let claim = |body: &Value| Ask::new("POST", "/v1/coupons").by(&user).with("idempotency-key", "k").json(body);
    let costly = with("budget", json!({ "coupons": 100, "cents": 1 }));
    let least =
        ["it is at least 50000, by budget.coupons and discount", "按 budget.coupons 与 discount 不能小于 50000"];
    let printable = ["it has no control characters", "不能含控制字符"];
    are_told(
        &stage,
        vec![
            (get("/v1/offers?limit=x"), "INVALID", "limit", page(50)),
            (get("/v1/coupons?limit=0"), "INVALID", "limit", page(100)),
            (get("/v1/coupons?limit=101"), "INVALID", "limit", page(100)),
            (of("/v1/operator/batches?limit=21"), "INVALID", "limit", page(20)),
            (of("/v1/operator/log?limit=-1"), "INVALID", "limit", page(100)),
            (get("/v1/offers?colour=red"), "INVALID", "colour", unknown),
            (get("/v1/offers?limit=1&limit=2"), "INVALID", "limit", ["it is given once", "只能填写一次"]),
            (claim(&json!(["1"])), "MALFORMED", "body", record),
            (claim(&json!({})), "MALFORMED", "template_id", given),
            (post(&nameless), "MALFORMED", "name", given),
            (
                post(&with("validity", json!({ "days_from_claim": 7 }))),
                "MALFORMED",
                "rules.validity.utc_offset_minutes",
                given,
            ),
            (post(&with("quota", json!([2, 1]))), "MALFORMED", "rules.quota", record),
            (
                post(&with("quota", json!({ "per_user": "2", "per_user_day": 1 }))),
                "MALFORMED",
                "rules.quota.per_user",
                whole,
            ),
            (post(&with("scope", json!({ "all": [] }))), "MALFORMED", "rules.scope.all", record),
            (post(&costly), "INVALID", "rules.budget.cents", least),
            (post(&template("ab\u{202e}c", &rules())), "INVALID", "name", printable),
        ],
    )
    .await;
    let head = format!("POST /v1/coupons HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {user}");
    let told = raw(&stage.gateway, &format!("{head}\r\nidempotency-key: é\r\ncontent-length: 0\r\n\r\n")).await;
    assert!(told.contains("idempotency-key: it is made of visible ASCII characters"), "{told}");
}

#[tokio::test]
async fn what_no_page_has_as_its_next_begins_none() {
    let platform = Platform::start(&[]).await;
    let (ann, user) = (platform.keys.operator("ann"), platform.keys.user(42));
    let mut two = rules();
    two["quota"] = json!({ "per_user": 2, "per_user_day": 2 });
    let id = published(&platform, &ann, "a", &two).await;
    published(&platform, &ann, "b", &rules()).await;
    for key in ["a", "b"] {
        platform.ask(claim(&user, &id, key)).await.good(201);
    }
    let said = ["it is `next` of the page before", "须为上一页的 next"];
    let mut wrong = Vec::new();
    for (path, by, made_up) in [
        ("/v1/operator/coupons?", &ann, &["999:0:0", "0:99:5", "0:0:5", "x"][..]),
        ("/v1/operator/coupons?user_id=42&", &ann, &["5"]),
        ("/v1/operator/templates?", &ann, &["9:9:9"]),
        ("/v1/operator/templates?status=published&", &ann, &["9:9:9"]),
        ("/v1/offers?", &user, &["9:9:9"]),
        ("/v1/coupons?", &user, &["5"]),
    ] {
        let list = async |more: &str| platform.ask(Ask::get(format!("{path}limit=1{more}")).by(by)).await.good(200);
        let first = list("").await;
        let next = first["next"].as_str().expect("there is another").to_owned();
        assert_ne!(list(&format!("&after={next}")).await["items"], first["items"], "{path}");
        let ask = |after: &str| Ask::get(format!("{path}limit=1&after={after}")).by(by);
        wrong.extend(made_up.iter().map(|after| (ask(after), "INVALID", "after", said)));
        wrong.push((ask(&format!("1{next}")), "INVALID", "after", said));
        // It is of another list.
        if path != "/v1/offers?" {
            wrong.push((Ask::get(format!("/v1/offers?after={next}")).by(&user), "INVALID", "after", said));
        }
    }
    are_told(&platform, wrong).await;
}

#[tokio::test]
async fn a_group_has_one_name_in_tokens_audiences_occasions_and_events() {
    const GROUP: &str = "华东 VIP";
    let platform = Platform::start(&[]).await;
    let ann = platform.keys.operator("ann");
    let of_group = Bearer { groups: vec![GROUP.to_owned()], ..bearer(Role::User, "42") };
    let one = platform.keys.mint(of_group, Duration::from_secs(60));
    let made = platform.ask(create(&ann, "k")).await.good(201);
    let id = made["template"]["template_id"].as_str().expect("numbers of things are text").to_owned();
    let gray = |group: &str| {
        let body = json!({ "audience": { "groups": [group] }, "change": { "expected_revision": 1, "reason": "r" } });
        Ask::new("POST", format!("{TEMPLATES}/{id}/gray")).by(&ann).json(&body)
    };
    let occasion = |group: &str| {
        let body = json!({ "on": { "registered": { "group": group } }, "template_id": id, "coupons_per_user": 1,
            "reason": "r" });
        Ask::new("POST", "/v1/operator/occasions").by(&ann).with("idempotency-key", group).json(&body)
    };
    let registered =
        |group: &str| Ask::new("POST", "/v1/operator/users/7/registered").by(&ann).json(&json!({ "groups": [group] }));
    let long = "x".repeat(65);
    let said = ["it has 1 to 64 bytes", "长度须为 1 到 64 字节"];
    are_told(
        &platform,
        vec![
            (gray(&long), "INVALID", "audience.groups[0]", said),
            (occasion(&long), "INVALID", "on.registered.group", said),
            (registered(&long), "INVALID", "groups[0]", said),
        ],
    )
    .await;
    platform.ask(gray(GROUP)).await.good(200);
    platform.ask(registered(GROUP)).await.good(202);
    platform.ask(claim(&one, &id, "k")).await.good(201);
    assert_eq!(platform.ask(claim(&platform.keys.user(43), &id, "k")).await.code(), "NOT_OFFERED");
}
