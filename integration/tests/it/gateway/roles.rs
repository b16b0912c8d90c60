//! Who may ask what: each route is for one role, which its path tells, and for nobody else.

use super::stage::{Ask, Stage};

/// Who a path is for; `None`: everyone.
fn owner(path: &str) -> Option<&'static str> {
    match path.strip_prefix("/v1/").map(|rest| rest.split('/').next()) {
        None => None,
        Some(Some("operator")) => Some("operator"),
        Some(Some("shop")) => Some("shop"),
        Some(_) => Some("user"),
    }
}

#[tokio::test]
async fn each_route_is_for_one_role_alone() {
    let stage = Stage::start(&["--address-per-second", "0"]).await;
    let keys = &stage.keys;
    let bearers = [
        ("user", keys.user(42)),
        ("a user's consent", keys.consent(42, 9)),
        ("shop", keys.shop("bob")),
        ("operator", keys.operator("ann")),
    ];
    let document = stage.ask(Ask::get("/openapi.json")).await.good(200);
    let mut asked = 0;
    for (path, methods) in document["paths"].as_object().expect("paths") {
        let Some(owner) = owner(path) else { continue };
        let parts = path.split('/').map(|part| if part.starts_with('{') { "1" } else { part });
        let address = parts.collect::<Vec<_>>().join("/");
        for (method, operation) in methods.as_object().expect("methods") {
            assert_eq!(operation["x-role"], owner, "{method} {path}");
            for (role, token) in &bearers {
                let told = stage.ask(Ask::new(&method.to_uppercase(), &*address).by(token)).await;
                let refused = told.body["code"] == "FORBIDDEN";
                assert_eq!(refused, *role != owner, "{method} {path} by {role}: {told:?}");
                asked += 1;
            }
        }
    }
    assert!(asked > 160, "{asked}");
}
