//! What tokens are taken for, and which are not taken.

use metrics_exporter_prometheus::PrometheusBuilder;
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::keys::base64url;
use super::*;

/// A public key of RSA, and a token of user 42 that its private key has signed once, until the year 9999.
const MODULUS: &str = "hdy7DZIeDUalIAchtfZ-mGUseqmgEfijoybsa_68iCJLKiiIVDng8o0myTdlU3LqFYXmoVBrcUa95qyNUKvKNphPQF\
     IhA45BaxAX4tp7KBL2mEtzitwoVto8NlPZNoleofa0dX654_foWh4LzyTiNhtQ0odXbpV7Gq4BbMCLHypu217OQqVN\
     i-zszZXuV-OMAVBY93ie8xmyk2-AN--DA6VqD5nvlG3h1OpZx4_AICMiAUcmJt2Fiw0MK3hrzZrBwKtEtSr66FdmCm\
     fEAl-OyBNeDnj4SAUQNJXuGtiKERMW-H13-Ao6-kh7Kkcn8rvPK9yr_GONdkKax5fmHVv8zw";
const RS256: &str = "eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCIsImtpZCI6InJzYSJ9.eyJzdWIiOiI0MiIsInJvbGUiOiJ1c2VyIiwiZ\
     XhwIjoyNTM0MDIzMDA3OTl9.Umc8zEdYpbAkb9h11uadzU2UXhaMMpm_yvrdG9S4N41Wb0ynTgZVNN4S9dICVVspH8\
     NiuuMgEWVOxrW59oN4pG2V-jbBZYZOGZTBePFbDfRVhstiBqCVcxyzEnlokP6ziMFO60yYCbR9eQH3eP1gXbJ6Vgnh\
     h-ND_HJccNuQ8qgNc46FhuC_m_fAxMwpZpUC5WzbWK-97lvPKSC6mw0bA5UCQk1kFT-CDPoIDFgiVOqeWuGS79Pgwu\
     sbos_OKj3ffkqZdC4c87mUPoymY41qR1l8x8bJzpgkfyM-F1h79fBcCf_10A5QLp-aOeVJVlTE1zHuXlVobKSjJw7n\
     NADPEg";

const SECRET: [u8; 32] = [7; 32];

/// Keys of all three kinds, and what checks tokens with them.
struct Stage {
    verifier: Verifier,
    point: EcdsaKeyPair,
    _folder: TempDir,
}

fn tokens(jwks: String, issuer: &[&str], audience: &[&str]) -> Tokens {
    let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
    let (issuer, audience) = (texts(issuer), texts(audience));
    Tokens {
        jwks,
        jwks_ca: None,
        insecure_jwks: false,
        jwks_refresh_seconds: 300,
        revoked: None,
        issuer,
        audience,
        leeway_seconds: 5,
    }
}

async fn verifier(settings: &Tokens) -> Verifier {
    let keys = Source::open(settings).await.expect("the set is sound");
    Verifier::new(keys, settings).expect("the list is sound")
}

async fn stage(issuer: &[&str], audience: &[&str]) -> Stage {
    let random = SystemRandom::new();
    let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).expect("there is chance");
    let point = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random).expect("a key");
    let place = point.public_key().as_ref();
    let set = json!({ "keys": [
        { "kty": "oct", "kid": "shared", "k": base64url(&SECRET) },
        { "kty": "EC", "kid": "point", "crv": "P-256", "x": base64url(&place[1..33]), "y": base64url(&place[33..]) },
        { "kty": "RSA", "kid": "rsa", "alg": "RS256", "use": "sig", "n": MODULUS, "e": "AQAB" },
        { "kty": "RSA", "kid": "sealed", "use": "enc", "n": MODULUS, "e": "AQAB" },
        { "kty": "RSA", "kid": "longer", "alg": "RS512", "n": MODULUS, "e": "AQAB" },
        { "kty": "OKP", "kid": "curve", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" },
        { "kty": "new" },
    ] });
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("jwks.json");
    std::fs::write(&path, set.to_string()).expect("it can be written");
    let settings = tokens(path.display().to_string(), issuer, audience);
    let verifier = verifier(&settings).await;
    Stage { verifier, point, _folder: folder }
}

/// A user's token that is good for a minute, with these changes; null takes a part out.
fn claims(changes: Value) -> Value {
    let mut claims = json!({ "sub": "42", "role": "user", "exp": get_current_timestamp() + 60 });
    for (name, value) in changes.as_object().expect("an object") {
        if value.is_null() {
            claims.as_object_mut().expect("an object").remove(name);
        } else {
            claims[name] = value.clone();
        }
    }
    claims
}

fn signed(header: &Value, claims: &Value, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let message = format!("{}.{}", base64url(header.to_string().as_bytes()), base64url(claims.to_string().as_bytes()));
    let signature = sign(message.as_bytes());
    format!("{message}.{}", base64url(&signature))
}

fn mac(secret: &[u8]) -> impl Fn(&[u8]) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    move |message| hmac::sign(&key, message).as_ref().to_vec()
}

fn shared(changes: Value) -> String {
    signed(&json!({ "alg": "HS256", "kid": "shared" }), &claims(changes), mac(&SECRET))
}

async fn code(stage: &Stage, token: &str) -> Result<Identity, Code> {
    stage.verifier.verify(token).await.map_err(|fault| fault.code)
}

fn user(user_id: i64) -> Identity {
    Identity::User { user_id, groups: Vec::new() }
}

#[tokio::test]
async fn tokens_of_all_three_kinds_name_their_bearers() {
    let stage = stage(&[], &[]).await;
    assert_eq!(code(&stage, &shared(json!({}))).await, Ok(user(42)));
    let random = SystemRandom::new();
    let sign = |message: &[u8]| stage.point.sign(&random, message).expect("there is chance").as_ref().to_vec();
    let point = signed(&json!({ "alg": "ES256", "kid": "point" }), &claims(json!({ "sub": "43" })), sign);
    assert_eq!(code(&stage, &point).await, Ok(user(43)));
    assert_eq!(code(&stage, RS256).await, Ok(user(42)));
    let shop = shared(json!({ "sub": "li", "role": "shop", "shop_id": 9 }));
    assert_eq!(code(&stage, &shop).await, Ok(Identity::Shop { shop_id: 9, name: "li".into() }));
    let operator = shared(json!({ "sub": "ann", "role": "operator", "aud": "anyone", "iss": "anyone" }));
    assert_eq!(code(&stage, &operator).await, Ok(Identity::Operator { name: "ann".into() }));
    let grouped = shared(json!({ "groups": ["staff"] }));
    let groups = vec!["staff".to_owned()];
    assert_eq!(code(&stage, &grouped).await, Ok(Identity::User { user_id: 42, groups }));
    let consent = shared(json!({ "shop_id": 9, "groups": ["staff"] }));
    assert_eq!(code(&stage, &consent).await, Ok(Identity::Consent { user_id: 42, shop_id: 9, order_id: None }));
    let consent = shared(json!({ "shop_id": 9, "order_id": "7" }));
    assert_eq!(code(&stage, &consent).await, Ok(Identity::Consent { user_id: 42, shop_id: 9, order_id: Some(7) }));
}

#[tokio::test]
async fn what_is_not_signed_with_its_key_in_its_way_is_refused() {
    let stage = stage(&[], &[]).await;
    let header = |alg: &str, kid: &str| json!({ "alg": alg, "kid": kid });
    let with = |header: Value, secret: &[u8]| signed(&header, &claims(json!({})), mac(secret));
    let point = stage.point.public_key().as_ref();
    let (head, rest) = RS256.split_once('.').expect("it has three parts");
    let (said, signature) = rest.split_once('.').expect("it has three parts");
    let other = base64url(claims(json!({ "sub": "1" })).to_string().as_bytes());
    let crit = json!({ "alg": "HS256", "kid": "shared", "crit": ["b64"], "b64": false });
    for (wanted, token) in [
        // Somebody else's secret under a name that is known here.
        (Code::TokenSignature, with(header("HS256", "shared"), &[8; 32])),
        (Code::TokenSignature, format!("{head}.{other}.{signature}")),
        (Code::TokenSignature, format!("{head}.{said}.")),
        // A public key is no secret, whatever the token says.
        (Code::TokenAlgorithm, with(header("HS256", "point"), point)),
        (Code::TokenAlgorithm, with(header("HS256", "rsa"), MODULUS.as_bytes())),
        (Code::TokenAlgorithm, with(header("HS512", "shared"), &SECRET)),
        (Code::TokenAlgorithm, with(header("RS256", "point"), point)),
        (Code::TokenAlgorithm, with(header("none", "shared"), &SECRET)),
        (Code::TokenAlgorithm, signed(&header("none", "shared"), &claims(json!({})), |_| Vec::new())),
        (Code::TokenKey, with(header("HS256", "nobody"), &SECRET)),
        (Code::TokenKey, with(json!({ "alg": "HS256" }), &SECRET)),
        (Code::TokenKey, with(header("RS256", "sealed"), &SECRET)),
        (Code::TokenKey, with(header("RS256", "longer"), &SECRET)),
        (Code::TokenKey, with(header("EdDSA", "curve"), &SECRET)),
        (Code::TokenInvalid, with(crit, &SECRET)),
    ] {
        assert_eq!(code(&stage, &token).await, Err(wanted), "{token}");
    }
}

#[tokio::test]
async fn times_and_parties_are_checked() {
    let stage = stage(&["https://id.example"], &["coupons", "shop"]).await;
    let now = get_current_timestamp();
    let with = |changes: Value| {
        let mut all = json!({ "iss": "https://id.example", "aud": "coupons" });
        for (name, value) in changes.as_object().expect("an object") {
            all[name] = value.clone();
        }
        shared(all)
    };
    for good in [json!({}), json!({ "exp": now - 2 }), json!({ "nbf": now + 2 }), json!({ "aud": ["x", "shop"] })] {
        assert_eq!(code(&stage, &with(good.clone())).await, Ok(user(42)), "{good}");
    }
    for (wanted, changes) in [
        (Code::TokenExpired, json!({ "exp": now - 60 })),
        (Code::TokenExpired, json!({ "exp": 0 })),
        (Code::TokenInvalid, json!({ "exp": null })),
        (Code::TokenInvalid, json!({ "exp": "tomorrow" })),
        (Code::TokenEarly, json!({ "nbf": now + 60 })),
        (Code::TokenIssuer, json!({ "iss": "https://id.example.evil" })),
        (Code::TokenIssuer, json!({ "iss": null })),
        (Code::TokenAudience, json!({ "aud": "other" })),
        (Code::TokenAudience, json!({ "aud": ["other"] })),
        (Code::TokenAudience, json!({ "aud": null })),
    ] {
        assert_eq!(code(&stage, &with(changes.clone())).await, Err(wanted), "{changes}");
    }
}

#[tokio::test]
async fn a_token_says_who_its_bearer_is_or_is_none() {
    let stage = stage(&[], &[]).await;
    let groups = vec!["g"; 33];
    for changes in [
        json!({ "sub": null }),
        json!({ "sub": "" }),
        json!({ "sub": "ann" }),
        json!({ "sub": "0" }),
        json!({ "sub": "-1" }),
        json!({ "sub": "9223372036854775808" }),
        json!({ "sub": 42 }),
        json!({ "role": null }),
        json!({ "role": "admin" }),
        json!({ "role": "shop" }),
        json!({ "role": "shop", "shop_id": 0 }),
        json!({ "role": "operator", "sub": "" }),
        json!({ "shop_id": 9, "order_id": 0 }),
        json!({ "shop_id": 9, "order_id": "" }),
        json!({ "shop_id": 9, "order_id": [7] }),
        // It would be good for more than the order that it names.
        json!({ "order_id": 7 }),
        json!({ "role": "shop", "shop_id": 9, "order_id": 7 }),
        json!({ "role": "operator", "order_id": 7 }),
        json!({ "groups": groups }),
        json!({ "groups": "staff" }),
    ] {
        assert_eq!(code(&stage, &shared(changes.clone())).await, Err(Code::TokenInvalid), "{changes}");
    }
    // Not left out, but null: whoever made it meant to name one.
    for name in ["shop_id", "order_id"] {
        let mut said = claims(json!({ "shop_id": 9 }));
        said[name] = Value::Null;
        let token = signed(&json!({ "alg": "HS256", "kid": "shared" }), &said, mac(&SECRET));
        assert_eq!(code(&stage, &token).await, Err(Code::TokenInvalid), "{name}");
    }
    let long = shared(json!({ "x": "x".repeat(8 << 10) }));
    for text in ["", ".", "..", "a.b", "a.b.c", "a.b.c.d", "e30.e30.e30", &long] {
        assert_eq!(code(&stage, text).await, Err(Code::TokenInvalid), "{text:?}");
    }
}

#[tokio::test]
async fn a_token_that_is_known_is_known_no_longer_than_its_keys_and_its_time() {
    let stage = stage(&[], &[]).await;
    let (known, keys, now) = (&stage.verifier.known, stage.verifier.keys.current(), get_current_timestamp());
    let revoked = stage.verifier.revoked.current();
    let force = (&keys, &revoked);
    let token = shared(json!({ "exp": now + 60 }));
    assert_eq!(known.find(&token, force, now), None);
    assert_eq!(code(&stage, &token).await, Ok(user(42)));
    // The leeway of five seconds counts as it does when it is checked.
    for (second, found) in [(now, Some(user(42))), (now + 65, Some(user(42))), (now + 66, None)] {
        assert_eq!(known.find(&token, force, second), found, "{}", second - now);
    }
    assert_eq!(known.find(&token, (&Arc::new(Keys::clone(&keys)), &revoked), now), None, "they were read again");
    assert_eq!(known.find(&token, (&keys, &Arc::default()), now), None, "there is another list of revoked ones");
    let other = with_signature_of(&token, &shared(json!({ "sub": "43" })));
    assert_eq!(code(&stage, &other).await, Err(Code::TokenSignature));
    assert_eq!(known.find(&other, force, now), None);
    let long = shared(json!({ "x": "x".repeat(1 << 10) }));
    assert_eq!(code(&stage, &long).await, Ok(user(42)));
    assert_eq!(known.find(&long, force, now), None, "it is too long to be kept");
}

#[tokio::test]
async fn the_tokens_of_a_key_that_has_gone_are_refused_though_they_were_taken() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("jwks.json");
    let write = |kids: &[&str]| {
        let key = |kid: &&str| json!({ "kty": "oct", "kid": kid, "k": base64url(&SECRET) });
        let set = json!({ "keys": kids.iter().map(key).collect::<Vec<_>>() });
        std::fs::write(&path, set.to_string()).expect("it can be written");
    };
    write(&["shared", "other"]);
    let settings = tokens(path.display().to_string(), &[], &[]);
    let verifier = verifier(&settings).await;
    let token = shared(json!({}));
    assert_eq!(verifier.verify(&token).await, Ok(user(42)));
    write(&["other"]);
    let mut tries = 0;
    // The file is looked at once a second.
    let fault = loop {
        match verifier.verify(&token).await {
            Ok(_) => assert!(tries < 100, "it is taken for ever"),
            Err(fault) => break fault,
        }
        tries += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(fault.code, Code::TokenKey);
}

/// The one token with the other's signature.
fn with_signature_of(token: &str, other: &str) -> String {
    let parts = [token, other].map(|token| token.rsplit_once('.').expect("it has three parts"));
    format!("{}.{}", parts[0].0, parts[1].1)
}

#[test]
fn a_set_is_refused_with_what_is_wrong_with_it() {
    let secret = base64url(&SECRET);
    let key = |kid: &str, k: &str| format!(r#"{{"kty":"oct","kid":"{kid}","k":"{k}"}}"#);
    let short = base64url(&[7; 31]);
    for (text, is_public, fault) in [
        ("{", false, "is no JWK set: EOF".to_owned()),
        ("[]", false, "it has no list of keys".to_owned()),
        (r#"{"keys":[]}"#, false, "has no key for".to_owned()),
        (&format!(r#"{{"keys":[{}]}}"#, key("a", &short)), false, "a secret of less than 32".to_owned()),
        (&format!(r#"{{"keys":[{}]}}"#, key("a", "!")), false, "has a key that is none".to_owned()),
        (&format!(r#"{{"keys":[{0},{0}]}}"#, key("a", &secret)), false, r#"two keys of the name "a""#.to_owned()),
        (&format!(r#"{{"keys":[{}]}}"#, key("a", &secret)), true, "has no key for".to_owned()),
    ] {
        let found = Keys::parse(text.as_bytes(), is_public).err().expect("it is refused");
        assert!(found.contains(&fault), "{text}: {found}");
    }
}

#[tokio::test]
async fn keys_are_read_without_https_from_this_machine_alone_unless_that_is_allowed() {
    let told = async |jwks: &str, insecure_jwks: bool| {
        let settings = Tokens { insecure_jwks, ..tokens(jwks.to_owned(), &[], &[]) };
        Source::open(&settings).await.err().expect("nobody is there").to_string()
    };
    let refusal = "anybody on the way could put own keys there: give an https URL, or allow it with --insecure-jwks";
    let elsewhere = "http://nobody.invalid/keys";
    assert_eq!(told(elsewhere, false).await, format!("jwks: {elsewhere}: {refusal}"));
    assert!(!told(elsewhere, true).await.contains(refusal));
    assert!(!told("http://127.0.0.1:1/keys", false).await.contains(refusal));
}

#[tokio::test]
async fn a_token_that_is_revoked_is_refused_though_it_was_taken() {
    let folder = tempfile::tempdir().expect("a folder");
    let [path, list] = ["jwks.json", "revoked.json"].map(|name| folder.path().join(name));
    let set = json!({ "keys": [{ "kty": "oct", "kid": "shared", "k": base64url(&SECRET) }] });
    std::fs::write(&path, set.to_string()).expect("it can be written");
    let settings = Tokens { revoked: Some(list.clone()), ..tokens(path.display().to_string(), &[], &[]) };
    let keys = Source::open(&settings).await.expect("the set is sound");
    let missing = Verifier::new(keys, &settings).err().expect("there is no list").to_string();
    assert!(missing.starts_with("revoked: can not read "), "{missing}");
    std::fs::write(&list, "{}").expect("it can be written");
    let verifier = verifier(&settings).await;
    let now = get_current_timestamp();
    let stolen = shared(json!({ "jti": "stolen", "iat": now }));
    let (old, new) = (shared(json!({ "sub": "43", "iat": now - 1 })), shared(json!({ "sub": "43", "iat": now })));
    for (token, user_id) in [(&stolen, 42), (&old, 43), (&new, 43)] {
        assert_eq!(verifier.verify(token).await, Ok(user(user_id)));
    }
    let bearer = json!({ "role": "user", "sub": "43", "issued_before": now });
    let revoked = json!({ "tokens": ["stolen"], "bearers": [bearer] });
    std::fs::write(&list, revoked.to_string()).expect("it can be written");
    // The file is looked at once a second.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    for token in [&stolen, &old] {
        assert_eq!(verifier.verify(token).await.map_err(|fault| fault.code), Err(Code::TokenRevoked));
    }
    assert_eq!(verifier.verify(&new).await, Ok(user(43)));
    assert_eq!(verifier.verify(&shared(json!({ "iat": now }))).await, Ok(user(42)));
}

#[tokio::test]
async fn files_that_can_not_be_used_are_told_of_until_they_can() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let _here = ::metrics::set_default_local_recorder(&recorder);
    let folder = tempfile::tempdir().expect("a folder");
    let [path, list] = ["jwks.json", "revoked.json"].map(|name| folder.path().join(name));
    let set = json!({ "keys": [{ "kty": "oct", "kid": "shared", "k": base64url(&SECRET) }] }).to_string();
    let settings = Tokens { revoked: Some(list.clone()), ..tokens(path.display().to_string(), &[], &[]) };
    let write = |keys: &str, revoked: &str| {
        std::fs::write(&path, keys).expect("it can be written");
        std::fs::write(&list, revoked).expect("it can be written");
    };
    write(&set, "{}");
    let verifier = verifier(&settings).await;
    for (keys, revoked, stale) in [("[]", "{}", [1, 0]), (&set, "{", [0, 1]), (&set, "{}", [0, 0])] {
        write(keys, revoked);
        // Each is looked at once a second.
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        assert_eq!(verifier.verify(&shared(json!({}))).await, Ok(user(42)), "the old stays in force");
        let told = recorder.handle().render();
        for (name, is_stale) in ["keys", "revoked"].into_iter().zip(stale) {
            let line = format!("tercet_gateway_list_stale{{list=\"{name}\"}} {is_stale}\n");
            assert!(told.contains(&line), "{keys} {revoked}: {told}");
        }
    }
}

#[tokio::test]
async fn a_token_that_is_made_here_is_taken_here() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("jwks.json");
    let keys = new_keys("first").expect("there is chance");
    std::fs::write(&path, &keys).expect("it can be written");
    let settings = tokens(path.display().to_string(), &["me"], &["you"]);
    let verifier = verifier(&settings).await;
    let bearer = Bearer {
        role: Role::Shop,
        subject: "li".into(),
        shop_id: Some(i64::MAX),
        order_id: None,
        groups: Vec::new(),
        issuer: Some("me".into()),
        audience: Some("you".into()),
    };
    let token = mint(keys.as_bytes(), bearer.clone(), Duration::from_secs(60)).expect("it has a secret");
    assert_eq!(verifier.verify(&token).await, Ok(Identity::Shop { shop_id: i64::MAX, name: "li".into() }));
    let bearer = Bearer { role: Role::User, subject: "42".into(), order_id: Some(7), ..bearer };
    let token = mint(keys.as_bytes(), bearer, Duration::from_secs(60)).expect("it has a secret");
    let consent = Identity::Consent { user_id: 42, shop_id: i64::MAX, order_id: Some(7) };
    assert_eq!(verifier.verify(&token).await, Ok(consent));
    let other = new_keys("first").expect("there is chance");
    assert_ne!(keys, other);
}
