//! Why a value can not be made: the field, and its limit as a value that reads in both languages.

use std::fmt;

use crate::catalogue::Language;
use crate::limits::GROUP_BYTES_MAX;

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
    /// At most so much, by what else is said.
    AtMost(Basis, i64),
    /// At least so much, by what else is said.
    AtLeast(Basis, i64),
    /// After another field.
    After(&'static str),
    /// Somebody.
    Somebody,
    /// Free of control characters, and of those that turn the direction of text.
    Printable,
    /// Made of visible ASCII characters.
    Ascii,
    /// Without these letters at its beginning.
    NotBegun(&'static str),
    /// One of those that the schema lists.
    Listed,
    /// One of these.
    Words(String),
    /// Known here by its name.
    Known,
    /// Given once.
    Once,
    /// A whole number from the first to the second.
    Whole(i64, i64),
    /// Text.
    Text,
    /// True or false.
    Truth,
    /// A list.
    List,
    /// A record.
    Record,
    /// JSON, which it is not from this line and column on.
    Json(usize, usize),
    /// There to its end.
    Complete,
    /// As the description of the API has it.
    Documented,
    /// What the page before has as its next.
    Page,
    /// Made of exactly one of its parts.
    OneOf,
}

/// What else a limit comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// Another field.
    Field(&'static str),
    /// How many coupons there are, and what one takes off.
    BudgetAndDiscount,
    /// What all lines of an order cost.
    SumOfAmounts,
    /// The units of one product in an order.
    UnitsOfProduct,
    /// What orders have.
    TakenByOrders,
}

impl Basis {
    const fn english(self) -> &'static str {
        match self {
            Self::Field(name) => name,
            Self::BudgetAndDiscount => "budget.coupons and discount",
            Self::SumOfAmounts => "the sum of their amounts",
            Self::UnitsOfProduct => "the units of one product",
            Self::TakenByOrders => "what orders have",
        }
    }

    const fn chinese(self) -> &'static str {
        match self {
            Self::Field(name) => name,
            Self::BudgetAndDiscount => "budget.coupons 与 discount",
            Self::SumOfAmounts => "各项金额之和",
            Self::UnitsOfProduct => "同一商品的件数",
            Self::TakenByOrders => "订单已占用的件数",
        }
    }
}

/// Whether it turns the direction of the text after it (Unicode Standard Annex 9, 2), or ends its line: what comes
/// after a name in a list or a log would be read another way than it is.
const fn turns(character: char) -> bool {
    matches!(
        character,
        '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    )
}

/// The name of a group of users, wherever one is told: in a token, an audience, an occasion or an event.
///
/// # Errors
/// When it is none: it has 1 to [`GROUP_BYTES_MAX`] bytes, and no control characters.
pub fn group<'a>(field: &str, name: &'a str) -> Result<&'a str, Invalid> {
    text(field, name, GROUP_BYTES_MAX)
}

/// A text that people read in a list or a log: 1 to so many bytes, and no control characters, those of direction among
/// them.
///
/// # Errors
/// When it is none.
pub fn text<'a>(field: &str, text: &'a str, bytes_max: usize) -> Result<&'a str, Invalid> {
    if !(1..=bytes_max).contains(&text.len()) {
        return Err(Invalid::new(field, Limit::Bytes(1, bytes_max)));
    }
    if text.chars().any(|character| character.is_control() || turns(character)) {
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
            Self::AtMost(other, most) => format!("it is at most {most}, by {}", other.english()),
            Self::AtLeast(other, least) => format!("it is at least {least}, by {}", other.english()),
            Self::After(other) => format!("it is later than {other}"),
            Self::Somebody => "it selects somebody".to_owned(),
            Self::Printable => "it has no control characters".to_owned(),
            Self::Ascii => "it is made of visible ASCII characters".to_owned(),
            Self::NotBegun(letters) => format!("it does not begin with {letters}"),
            Self::Listed => "it is one of those in the schema".to_owned(),
            Self::Words(words) => format!("it is one of {words}"),
            Self::Known => "nothing is called so here".to_owned(),
            Self::Once => "it is given once".to_owned(),
            Self::Whole(least, most) => format!("it is a whole number from {least} to {most}"),
            Self::Text => "it is text in UTF-8".to_owned(),
            Self::Truth => "it is true or false".to_owned(),
            Self::List => "it is a list".to_owned(),
            Self::Record => "it is an object".to_owned(),
            Self::Json(line, column) => format!("it is not JSON from line {line}, column {column} on"),
            Self::Complete => "it comes to its end".to_owned(),
            Self::Documented => "it is as the document describes it".to_owned(),
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
            Self::AtMost(other, most) => format!("按{}不能超过 {most}", spaced(other.chinese())),
            Self::AtLeast(other, least) => format!("按{}不能小于 {least}", spaced(other.chinese())),
            Self::After(other) => format!("须晚于 {other}"),
            Self::Somebody => "至少要选中一位用户".to_owned(),
            Self::Printable => "不能含控制字符".to_owned(),
            Self::Ascii => "只能含可见的 ASCII 字符".to_owned(),
            Self::NotBegun(letters) => format!("不能以 {letters} 开头"),
            Self::Listed => "须为接口定义中的取值".to_owned(),
            Self::Words(words) => format!("须为其中之一：{words}"),
            Self::Known => "没有此名称的参数或字段".to_owned(),
            Self::Once => "只能填写一次".to_owned(),
            Self::Whole(least, most) => format!("须为 {least} 到 {most} 之间的整数"),
            Self::Text => "须为 UTF-8 文本".to_owned(),
            Self::Truth => "须为 true 或 false".to_owned(),
            Self::List => "须为数组".to_owned(),
            Self::Record => "须为对象".to_owned(),
            Self::Json(line, column) => format!("第 {line} 行第 {column} 列起不是合法的 JSON"),
            Self::Complete => "须完整发送".to_owned(),
            Self::Documented => "须符合接口定义".to_owned(),
            Self::Page => "须为上一页的 next".to_owned(),
            Self::OneOf => "须且只须填写其中一项".to_owned(),
        }
    }
}

/// Between Chinese text and letters of a field's name there is a space, and between Chinese and Chinese none.
fn spaced(text: &str) -> String {
    let space = |is_letter: bool| if is_letter { " " } else { "" };
    let (first, last) = (text.starts_with(|c: char| c.is_ascii()), text.ends_with(|c: char| c.is_ascii()));
    format!("{}{text}{}", space(first), space(last))
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
