//! Errors as callers see them: `application/problem+json` (RFC 9457), in their language.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::http::header::{self, HeaderMap, HeaderValue};
use axum::http::{Response, StatusCode};
use tercet_rules::{Code, Fault, Language};

use crate::limits::RETRY_AFTER;
use crate::schema::records;

records! {
    /// Why a request failed.
    Problem {
        /// Names the code as a URI.
        r#type: String,
        /// For people, in Chinese or English by Accept-Language.
        title: String,
        /// The status of HTTP again.
        status: u32,
        /// For programs; the document lists them all.
        code: String,
        /// What the title was made with, by name.
        arguments: BTreeMap<String, String>,
        /// To be told when asking for help.
        request_id: String,
    }
}

/// The language that the caller would rather read (RFC 9110, 12.5.4): English, unless Chinese is wanted more.
pub(crate) fn language(headers: &HeaderMap) -> Language {
    let mut best = (Language::En, 0);
    let lines = headers.get_all(header::ACCEPT_LANGUAGE).iter().filter_map(|line| line.to_str().ok());
    for part in lines.flat_map(|line| line.split(',')) {
        let (range, quality) = part.split_once(';').unwrap_or((part, "q=1"));
        let language = match range.trim().split('-').next() {
            Some(tag) if tag.eq_ignore_ascii_case("zh") => Language::Zh,
            Some(tag) if tag.eq_ignore_ascii_case("en") || tag == "*" => Language::En,
            _ => continue,
        };
        let quality = quality.trim().strip_prefix("q=").and_then(|text| text.parse::<f32>().ok()).unwrap_or(0.0);
        let thousandths = (quality * 1_000.0) as u32;
        if thousandths > best.1 {
            best = (language, thousandths);
        }
    }
    best.0
}

/// An error as JSON.
pub(crate) fn text(fault: &Fault, language: Language, request_id: &str) -> String {
    // Whoever helps looks for it in the logs.
    let internal = Code::Internal.fault([("request_id", request_id.to_owned())]);
    let fault = if fault.code == Code::Internal { &internal } else { fault };
    let code = fault.code;
    let problem = Problem {
        r#type: format!("urn:tercet:problem:{}", code.name()),
        title: fault.text(language),
        status: code.http().into(),
        code: code.name().to_owned(),
        arguments: fault.arguments().clone(),
        request_id: request_id.to_owned(),
    };
    serde_json::to_string(&problem).expect("texts and numbers have a form")
}

/// The answer to a request that failed.
pub(crate) fn response(fault: &Fault, language: Language, request_id: &str) -> Response<Body> {
    let code = fault.code;
    let mut response = Response::new(Body::from(text(fault, language, request_id)));
    *response.status_mut() = StatusCode::from_u16(code.http()).expect("the catalogue has statuses of HTTP");
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(header::VARY, HeaderValue::from_static("accept-language"));
    let tongue = match language {
        Language::En => "en",
        Language::Zh => "zh",
    };
    headers.insert(header::CONTENT_LANGUAGE, HeaderValue::from_static(tongue));
    let told = fault.argument("seconds").and_then(|text| text.parse().ok());
    let seconds = if code == Code::SystemBusy { Some(RETRY_AFTER.as_secs()) } else { told };
    if let Some(seconds) = seconds {
        headers.insert(header::RETRY_AFTER, seconds.into());
    }
    if code == Code::Unauthenticated {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    } else if code.http() == 401 {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer error=\"invalid_token\""));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_language_is_the_one_that_is_wanted_most() {
        let of = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_LANGUAGE, text.parse().unwrap());
            language(&headers)
        };
        for chinese in ["zh", "zh-CN,zh;q=0.9,en;q=0.8", "en;q=0.5, ZH-Hant", "fr, zh;q=0.1", "en;q=0, zh;q=0.001"] {
            assert_eq!(of(chinese), Language::Zh, "{chinese}");
        }
        for english in ["", "en", "en, zh;q=0.9", "zh;q=0.5, en-GB;q=0.7", "fr", "*", "zh;q=x", "zh;q=0", "zhx"] {
            assert_eq!(of(english), Language::En, "{english}");
        }
        assert_eq!(language(&HeaderMap::new()), Language::En);
    }
}
