//! Why JSON is not read: the field and its limit, in place of the words of the parser, which are for programmers and in
//! one language.

use serde_json::Error;
use serde_json::error::Category;
use tercet_rules::{Fault, Invalid, Limit};

/// What a record says that it expects.
pub(crate) const RECORD: &str = "a record";

/// What the number of something says that it expects.
pub(crate) const ID: &str = "a number or its text";

/// Of what was read at this path; the empty one is the whole body.
pub(crate) fn fault(path: &str, error: &Error) -> Fault {
    let (name, limit) = match error.classify() {
        Category::Data => said(&error.to_string()),
        Category::Syntax | Category::Eof | Category::Io => (None, Limit::Json(error.line(), error.column())),
    };
    // The path has led to it, or ends before it.
    let is_there = |name: &str| limit == Limit::Known && path.rsplit('.').next() == Some(name);
    let field = match name.filter(|name| !is_there(name)) {
        Some(name) if path.is_empty() => name,
        Some(name) => format!("{path}.{name}"),
        None if path.is_empty() => "body".to_owned(),
        None => path.to_owned(),
    };
    Invalid::new(&field, limit).malformed()
}

/// The name that is missing, unknown or there twice, where one is, and what is wanted.
fn said(text: &str) -> (Option<String>, Limit) {
    let text = text.rsplit_once(" at line ").map_or(text, |(said, _)| said);
    let of_name =
        [("missing field `", Limit::Given), ("duplicate field `", Limit::Once), ("unknown field `", Limit::Known)];
    for (said, limit) in of_name {
        if let Some((name, _)) = text.strip_prefix(said).and_then(|rest| rest.split_once('`')) {
            return (Some(name.to_owned()), limit);
        }
    }
    // Of what was sent there may be anything before it.
    (None, text.rsplit_once(", expected ").map_or(Limit::Documented, |(_, wanted)| limit(wanted)))
}

fn limit(wanted: &str) -> Limit {
    match wanted {
        RECORD => Limit::Record,
        ID => Limit::Whole(1, i64::MAX),
        "u32" => Limit::Whole(0, u32::MAX.into()),
        "u64" => Limit::Whole(0, i64::MAX),
        "i32" => Limit::Whole(i32::MIN.into(), i32::MAX.into()),
        "i64" => Limit::Whole(i64::MIN, i64::MAX),
        "a string" => Limit::Text,
        "a boolean" => Limit::Truth,
        "a sequence" => Limit::List,
        // Words that may be said: one in quotes, or more.
        words if words.contains('`') => {
            let words = words.split('`').skip(1).step_by(2).collect::<Vec<_>>();
            Limit::Words(words.join(", "))
        }
        _ => Limit::Documented,
    }
}

#[cfg(test)]
mod tests {
    use tercet_rules::{Code, Language};

    use crate::schema::{Body as _, Id, Nothing, records};

    records! {
        /// Of the test.
        Part {
            /// A number.
            number: Option<u32>,
            /// Another.
            sign: Option<i64>,
            /// Something.
            id: Option<Id>,
            /// Words.
            text: Option<String>,
            /// A thing that is there.
            all: Option<Nothing>,
        }

        /// Of the test.
        Whole {
            /// Has to be there.
            part: Part,
            /// More.
            parts: Option<Vec<Part>>,
        }
    }

    #[test]
    fn what_is_wrong_is_told_by_its_field_and_its_limit_in_both_languages() {
        let number = ["it is a whole number from 0 to 4294967295", "须为 0 到 4294967295 之间的整数"];
        let id = ["it is a whole number from 1 to 9223372036854775807", "须为 1 到 9223372036854775807 之间的整数"];
        let record = ["it is an object", "须为对象"];
        let unknown = ["nothing is called so here", "没有此名称的参数或字段"];
        for (text, field, [en, zh]) in [
            ("{", "body", ["it is not JSON from line 1, column 1 on", "第 1 行第 1 列起不是合法的 JSON"]),
            ("{}", "part", ["it has to be given", "必须填写"]),
            (r#"{"part":{},"parts":[{},7]}"#, "parts[1]", record),
            (r#"{"part":[]}"#, "part", record),
            (r#"{"part":[1,2,"3","4",{}]}"#, "part", record),
            (r#"[{}]"#, "body", record),
            (r#"{"part":{"number":"7"}}"#, "part.number", number),
            (r#"{"part":{"number":-1}}"#, "part.number", number),
            (r#"{"part":{"number":", expected a boolean"}}"#, "part.number", number),
            (r#"{"part":{"id":0}}"#, "part.id", id),
            (r#"{"part":{"text":7}}"#, "part.text", ["it is text in UTF-8", "须为 UTF-8 文本"]),
            (r#"{"part":{"text":"a","text":"b"}}"#, "part.text", ["it is given once", "只能填写一次"]),
            (r#"{"part":{},"parts":{}}"#, "parts", ["it is a list", "须为数组"]),
            (r#"{"part":{"none":1}}"#, "part.none", unknown),
            (r#"{"part":{"all":{"none":1}}}"#, "part.all.none", unknown),
            (r#"{"part":{"all":[]}}"#, "part.all", record),
        ] {
            let fault = Whole::read(text.as_bytes()).expect_err(text);
            assert_eq!((fault.code, fault.argument("field")), (Code::Malformed, Some(field)), "{text}");
            assert_eq!(fault.text(Language::En), format!("{field} can not be read: {en}"), "{text}");
            assert_eq!(fault.text(Language::Zh), format!("无法解析 {field}：{zh}"), "{text}");
        }
        let read = Whole::read(br#"{"part":{"all":{},"sign":-1}}"#).expect("it is one");
        assert_eq!((read.part.sign, read.part.all.is_some(), read.parts.is_none()), (Some(-1), true, true));
    }
}
