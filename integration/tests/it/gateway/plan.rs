//! The JMeter plan: it is XML, and what it asks for are routes of the document.

use std::collections::BTreeSet;

use super::stage::{Ask, Stage};

const PLAN: &str = include_str!("../../../jmeter/mixed.jmx");

/// The names of the elements, innermost last, and what stands in each of the innermost ones; or what is wrong.
///
/// Knows no more of XML than is in the plan: elements, attributes, comments, CDATA and the declaration.
fn texts(xml: &str) -> Result<Vec<(Vec<String>, String)>, String> {
    let (mut open, mut found, mut rest) = (Vec::<String>::new(), Vec::new(), xml);
    while let Some(at) = rest.find('<') {
        let text = rest[..at].trim();
        if !text.is_empty() {
            found.push((open.clone(), text.to_owned()));
        }
        rest = &rest[at..];
        let skip = |end: &str| rest.find(end).map(|at| at + end.len()).ok_or_else(|| format!("{end} is missing"));
        if let Some(data) = rest.strip_prefix("<![CDATA[") {
            let length = data.find("]]>").ok_or("a CDATA has no end")?;
            found.push((open.clone(), data[..length].to_owned()));
            rest = &rest[skip("]]>")?..];
        } else if rest.starts_with("<!--") {
            rest = &rest[skip("-->")?..];
        } else if rest.starts_with("<?") {
            rest = &rest[skip("?>")?..];
        } else {
            let end = skip(">")?;
            let tag = rest[1..end - 1].trim();
            rest = &rest[end..];
            if tag.matches('"').count() % 2 != 0 || tag.contains(['<', '&']) {
                return Err(format!("<{tag}> is no tag"));
            }
            let name = tag.trim_start_matches('/').split([' ', '/', '\n']).next().unwrap_or_default().to_owned();
            let named = tag.split_once("name=\"").and_then(|(_, text)| text.split('"').next());
            if tag.starts_with('/') {
                let last = open.pop().unwrap_or_default();
                if last.split(' ').next() != Some(&name) {
                    return Err(format!("</{name}> ends <{last}>"));
                }
            } else if !tag.ends_with('/') {
                open.push(named.map_or_else(|| name.clone(), |named| format!("{name} {named}")));
            }
        }
    }
    if open.is_empty() { Ok(found) } else { Err(format!("{open:?} do not end")) }
}

/// What the properties of this name say, in their order.
fn property<'a>(texts: &'a [(Vec<String>, String)], name: &str) -> Vec<&'a str> {
    let named = |place: &[String]| place.last().is_some_and(|last| last.split(' ').nth(1) == Some(name));
    texts.iter().filter(|(place, _)| named(place)).map(|(_, text)| text.as_str()).collect()
}

#[tokio::test]
async fn the_plan_of_jmeter_is_xml_and_asks_what_the_document_knows() {
    let texts = texts(PLAN).unwrap_or_else(|fault| panic!("{fault}"));
    let document = Stage::start(&[]).await.ask(Ask::get("/openapi.json")).await.good(200);
    let (paths, methods) = (property(&texts, "HTTPSampler.path"), property(&texts, "HTTPSampler.method"));
    let asked: Vec<_> = methods.iter().copied().zip(paths).collect();
    assert_eq!(asked, [("GET", "/v1/coupons"), ("GET", "/v1/offers/${template}"), ("POST", "/v1/coupons")]);
    for (method, path) in asked {
        let path = path.replace("${template}", "{template_id}");
        let operation = &document["paths"][&path][method.to_lowercase()];
        assert_eq!(operation["x-role"], "user", "{method} {path} is no route of users");
    }
    let claim = property(&texts, "Argument.value").into_iter().find(|text| text.starts_with('{')).expect("a body");
    let body: serde_json::Value = serde_json::from_str(&claim.replace("${template}", "7")).expect("it is JSON");
    let wanted = &document["components"]["schemas"]["Claim"]["properties"];
    assert_eq!(
        body.as_object().expect("an object").keys().collect::<Vec<_>>(),
        wanted.as_object().expect("one").keys().collect::<Vec<_>>()
    );
    let headers: BTreeSet<_> = property(&texts, "Header.name").into_iter().collect();
    assert_eq!(headers, BTreeSet::from(["Authorization", "Content-Type", "Idempotency-Key"]));
}

#[test]
fn a_plan_that_is_no_xml_is_seen() {
    for (planted, by) in
        [("</TestPlan>", "</TestPlans>"), ("<hashTree/>", "<hashTree>"), ("testname=\"mixed\"", "testname=\"mixed")]
    {
        assert!(PLAN.contains(planted));
        assert!(texts(&PLAN.replacen(planted, by, 1)).is_err(), "{planted} as {by}");
    }
}
