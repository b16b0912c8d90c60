//! The OpenAPI 3.1 document, made from the table of routes.

use serde_json::{Map, Value, json};
use tercet_rules::{Code, Language};

use crate::problem::Problem;
use crate::route::{Given, Key, Route};
use crate::schema::{Schema as _, Schemas};

/// What any route may fail with, the others only where there is a token, a user's consent or a body.
const ANYWHERE: [Code; 6] =
    [Code::SystemBusy, Code::Invalid, Code::TooMany, Code::Internal, Code::Timeout, Code::NoMethod];
const WITH_TOKEN: [Code; 11] = [
    Code::Unauthenticated,
    Code::TokenInvalid,
    Code::TokenKey,
    Code::TokenAlgorithm,
    Code::TokenSignature,
    Code::TokenExpired,
    Code::TokenEarly,
    Code::TokenRevoked,
    Code::TokenIssuer,
    Code::TokenAudience,
    Code::Forbidden,
];
const WITH_CONSENT: [Code; 3] = [Code::ConsentNeeded, Code::ConsentOtherShop, Code::ConsentOtherOrder];
const WITH_BODY: [Code; 4] = [Code::Malformed, Code::TooLarge, Code::TooSlow, Code::NotJson];

/// The document of these routes.
pub(crate) fn document(routes: &[Route]) -> Value {
    let mut schemas = Schemas::default();
    let problem = Problem::schema(&mut schemas);
    let mut paths = Map::new();
    for route in routes {
        let operation = operation(route, &problem, &mut schemas);
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.as_str().to_lowercase()] = operation;
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Tercet coupons",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Coupons for users, shops and operators. Money is in cents, times are milliseconds since \
                            1970 UTC, numbers of things are text. Errors are application/problem+json, in Chinese or \
                            English by Accept-Language.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas.into_value(),
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer", "bearerFormat": "JWT" } },
        },
        "x-codes": Code::ALL.iter().map(|code| code_of(*code)).collect::<Vec<_>>(),
    })
}

fn code_of(code: Code) -> Value {
    json!({
        "code": code.name(),
        "status": code.http(),
        "en": code.pattern(Language::En),
        "zh": code.pattern(Language::Zh),
    })
}

fn operation(route: &Route, problem: &Value, schemas: &mut Schemas) -> Value {
    let mut parameters: Vec<Value> = (route.params)(schemas)
        .into_iter()
        .map(|field| {
            let in_path = route.path.contains(&format!("{{{}}}", field.name));
            json!({
                "name": field.name,
                "in": if in_path { "path" } else { "query" },
                "required": in_path || field.required,
                "description": field.says.trim(),
                "schema": field.schema,
            })
        })
        .collect();
    if route.key != Key::Unused {
        let required = route.key == Key::Needed;
        let once = "1 to 128 bytes: the same request again is done once, and answered alike";
        let without = "; left out: each request is another one, and refused the quickest";
        parameters.push(json!({
            "name": "Idempotency-Key",
            "in": "header",
            "required": required,
            "description": format!("{once}{}", if required { "" } else { without }),
            "schema": { "type": "string", "minLength": 1, "maxLength": 128 },
        }));
    }
    if route.is_consented {
        parameters.push(json!({
            "name": "X-User-Authorization",
            "in": "header",
            "required": true,
            "description": "Bearer, and a token of the user whose coupons they are, with this shop's shop_id; \
                with an order_id it is good for that order alone",
            "schema": { "type": "string" },
        }));
    }
    let mut operation = json!({
        "operationId": route.name,
        "summary": route.says,
        "parameters": parameters,
        "responses": responses(route, problem, schemas),
    });
    if let Some(role) = route.role {
        operation["tags"] = json!([role.name()]);
        operation["security"] = json!([{ "token": [] }]);
        operation["x-role"] = json!(role.name());
    }
    if let Some(body) = route.body {
        let content = json!({ "application/json": { "schema": body(schemas) } });
        operation["requestBody"] = json!({ "required": true, "content": content });
    }
    operation
}

fn responses(route: &Route, problem: &Value, schemas: &mut Schemas) -> Value {
    let mut responses = Map::new();
    let content = match route.answer {
        Given::Json(schema) => json!({ "application/json": { "schema": schema(schemas) } }),
        Given::Lines(schema) => json!({ "application/x-ndjson": { "schema": schema(schemas) } }),
        Given::Document(kind) => json!({ kind: {} }),
    };
    for status in route.statuses {
        let says = match status {
            201 => "It is made",
            202 => "It will be done",
            _ => "It is done, or was before",
        };
        responses.insert(status.to_string(), json!({ "description": says, "content": content }));
    }
    let mut codes: Vec<Code> = ANYWHERE.into_iter().chain(route.codes.iter().copied()).collect();
    codes.extend(WITH_TOKEN.iter().filter(|_| route.role.is_some()));
    codes.extend(WITH_CONSENT.iter().filter(|_| route.is_consented));
    codes.extend(WITH_BODY.iter().filter(|_| route.body.is_some()));
    for code in codes {
        let status = responses.entry(code.http().to_string()).or_insert_with(|| {
            json!({
                "description": "",
                "content": { "application/problem+json": { "schema": problem } },
            })
        });
        let before = status["description"].as_str().unwrap_or_default();
        let joint = if before.is_empty() { "" } else { ", " };
        status["description"] = json!(format!("{before}{joint}{}", code.name()));
    }
    responses.into()
}
