//! Why a value can not be made: the field, and its limit as a value that reads in both languages.

use std::fmt;

use crate::catalogue::Language;

/// A field that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {limit}")]
pub struct Invalid {
    /// The path to it, such as `rules.discount.steps[1].off_cents`.
    pub field: String,
    /// What it has to be.
    pub limit: Limit,
}

/// What a field has to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Limit {
    /// There.
    Given,
    /// From the first to the second.
    Between(i64, i64),
    /// So many entries, from the first to the second.
    Entries(usize, usize),
    /// So many bytes, from the first to the second.
    Bytes(usize, usize),
    /// Made of these letters.
    Letters(&'static str),
    /// More than the same field of the entry before.
    Rising,
    /// Different from all other entries.
    Unique,
    /// A multiple of it.
    MultipleOf(i64),
    /// Of so many different products at most.
    Products(usize),
    /// At most what another field says.
    AtMost(&'static str, i64),
    /// At least what other fields say.
    AtLeast(&'static str, i64),
    /// After another field.
    After(&'static str),
    /// Somebody.
    Somebody,
    /// Free of control characters.
    Printable,
    /// Without these letters at its beginning.
    NotBegun(&'static str),
    /// One of those that the schema lists.
    Listed,
    /// What the page before has as its next.
    Page,
    /// Made of exactly one of its parts.
    OneOf,
}

/// A text that people read in a list or a log: 1 to so many bytes, and no control characters.
///
/// # Errors
/// When it is none.
pub fn text<'a>(field: &str, text: &'a str, bytes_max: usize) -> Result<&'a str, Invalid> {
    if !(1..=bytes_max).contains(&text.len()) {
        return Err(Invalid::new(field, Limit::Bytes(1, bytes_max)));
    }
    if text.chars().any(char::is_control) {
        return Err(Invalid::new(field, Limit::Printable));
    }
    Ok(text)
}

impl Invalid {
    /// One without a path yet.
    pub fn new(field: &str, limit: Limit) -> Self {
        Self { field: field.to_owned(), limit }
    }

    /// The same, seen from the value that has it as its field.
    #[must_use]
    pub fn within(mut self, outer: &str) -> Self {
        let joint = if self.field.is_empty() || self.field.starts_with('[') { "" } else { "." };
        self.field = format!("{outer}{joint}{}", self.field);
        self
    }
}

impl Limit {
    /// As a sentence about the field.
    pub fn text(&self, language: Language) -> String {
        match language {
            Language::En => self.english(),
            Language::Zh => self.chinese(),
        }
    }

    fn english(&self) -> String {
        match self {
            Self::Given => "it has to be given".to_owned(),
            Self::Between(least, most) => format!("it is {least} to {most}"),
            Self::Entries(least, most) => format!("it has {least} to {most} entries"),
            Self::Bytes(least, most) => format!("it has {least} to {most} bytes"),
            Self::Letters(letters) => format!("it is made of {letters}"),
            Self::Rising => "it is more than in the entry before".to_owned(),
            Self::Unique => "it is in no other entry".to_owned(),
            Self::MultipleOf(number) => format!("it is a multiple of {number}"),
            Self::Products(most) => format!("it has at most {most} different products"),
            Self::AtMost(other, most) => format!("it is at most {most}, by {other}"),
            Self::AtLeast(other, least) => format!("it is at least {least}, by {other}"),
            Self::After(other) => format!("it is later than {other}"),
            Self::Somebody => "it selects somebody".to_owned(),
            Self::Printable => "it has no control characters".to_owned(),
            Self::NotBegun(letters) => format!("it does not begin with {letters}"),
            Self::Listed => "it is one of those in the schema".to_owned(),
            Self::Page => "it is `next` of the page before".to_owned(),
            Self::OneOf => "it has exactly one of its parts".to_owned(),
        }
    }

    fn chinese(&self) -> String {
        match self {
            Self::Given => "必须填写".to_owned(),
            Self::Between(least, most) => format!("须在 {least} 到 {most} 之间"),
            Self::Entries(least, most) => format!("须有 {least} 到 {most} 项"),
            Self::Bytes(least, most) => format!("长度须为 {least} 到 {most} 字节"),
            Self::Letters(letters) => format!("只能由 {letters} 组成"),
            Self::Rising => "须大于前一项".to_owned(),
            Self::Unique => "不能与其他项重复".to_owned(),
            Self::MultipleOf(number) => format!("须为 {number} 的倍数"),
            Self::Products(most) => format!("最多 {most} 种不同商品"),
            Self::AtMost(other, most) => format!("按 {other} 不能超过 {most}"),
            Self::AtLeast(other, least) => format!("按 {other} 不能小于 {least}"),
            Self::After(other) => format!("须晚于 {other}"),
            Self::Somebody => "至少要选中一位用户".to_owned(),
            Self::Printable => "不能含控制字符".to_owned(),
            Self::NotBegun(letters) => format!("不能以 {letters} 开头"),
            Self::Listed => "须为接口定义中的取值".to_owned(),
            Self::Page => "须为上一页的 next".to_owned(),
            Self::OneOf => "须且只须填写其中一项".to_owned(),
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.english())
    }
}

/// The message of a field.
pub(crate) fn given<'a, T>(field: &str, value: Option<&'a T>) -> Result<&'a T, Invalid> {
    value.ok_or_else(|| Invalid::new(field, Limit::Given))
}

/// A number within its limits.
pub(crate) fn between<N: Copy + Into<i64>>(field: &str, value: N, least: i64, most: i64) -> Result<N, Invalid> {
    if (least..=most).contains(&value.into()) {
        Ok(value)
    } else {
        Err(Invalid::new(field, Limit::Between(least, most)))
    }
}

/// A number of entries within its limits.
pub(crate) fn entries<T>(field: &str, list: &[T], least: usize, most: usize) -> Result<(), Invalid> {
    let fits = (least..=most).contains(&list.len());
    if fits { Ok(()) } else { Err(Invalid::new(field, Limit::Entries(least, most))) }
}

/// A name of limited bytes, made of lower-case letters, digits, `_` and `-`.
pub(crate) fn name(field: &str, text: &str, bytes_max: usize) -> Result<(), Invalid> {
    if text.is_empty() || text.len() > bytes_max {
        return Err(Invalid::new(field, Limit::Bytes(1, bytes_max)));
    }
    let letters = text.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'_' | b'-'));
    if letters { Ok(()) } else { Err(Invalid::new(field, Limit::Letters("[a-z0-9_-]"))) }
}
