//! The values of the API. One declaration is the type, its JSON, and its description in the OpenAPI document.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{MapAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value, json};
use tercet_rules::{Fault, Invalid, Limit};

use crate::malformed;

/// The named schemas of the document, collected while it is built.
#[derive(Debug, Default)]
pub(crate) struct Schemas(BTreeMap<&'static str, Value>);

impl Schemas {
    /// A reference to the schema of this name, which is made at its first mention.
    pub(crate) fn named(&mut self, name: &'static str, make: impl FnOnce(&mut Self) -> Value) -> Value {
        if !self.0.contains_key(name) {
            let made = make(self);
            self.0.insert(name, made);
        }
        json!({ "$ref": format!("#/components/schemas/{name}") })
    }

    /// All of them.
    pub(crate) fn into_value(self) -> Value {
        json!(self.0)
    }
}

/// A value of the API.
pub(crate) trait Schema {
    /// Whether it has to be there.
    const REQUIRED: bool = true;

    /// Its description, or a reference to it.
    fn schema(schemas: &mut Schemas) -> Value;

    /// Whether it is left out of its JSON.
    fn is_absent(&self) -> bool {
        false
    }
}

/// A part of a record.
#[derive(Debug)]
pub(crate) struct Field {
    /// Its name.
    pub(crate) name: &'static str,
    /// What it is for.
    pub(crate) says: &'static str,
    /// Whether it has to be there.
    pub(crate) required: bool,
    /// Its description.
    pub(crate) schema: Value,
}

/// The description of a record.
pub(crate) fn object(says: &str, fields: Vec<Field>) -> Value {
    let required: Vec<&str> = fields.iter().filter(|field| field.required).map(|field| field.name).collect();
    let mut properties = Map::new();
    for Field { name, says, mut schema, .. } in fields {
        schema["description"] = json!(says.trim());
        properties.insert(name.to_owned(), schema);
    }
    let mut made = json!({ "type": "object", "description": says.trim(), "properties": properties });
    if !required.is_empty() {
        made["required"] = json!(required);
    }
    made["additionalProperties"] = json!(false);
    made
}

/// Declares records: a struct each that is read from JSON and written to it.
macro_rules! records {
    ($($(#[doc = $says:literal])+ $name:ident { $($(#[doc = $part:literal])+ $field:ident: $kind:ty,)* })*) => {$(
        $(#[doc = $says])+
        #[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
        #[serde(remote = "Self", deny_unknown_fields)]
        pub(crate) struct $name {$(
            $(#[doc = $part])+
            #[serde(skip_serializing_if = "crate::schema::Schema::is_absent")]
            pub(crate) $field: $kind,
        )*}

        impl crate::schema::Schema for $name {
            fn schema(schemas: &mut crate::schema::Schemas) -> serde_json::Value {
                schemas.named(stringify!($name), |schemas| {
                    let fields = vec![$(crate::schema::Field {
                        name: stringify!($field).trim_start_matches("r#"),
                        says: concat!($($part),+),
                        required: <$kind as crate::schema::Schema>::REQUIRED,
                        schema: <$kind as crate::schema::Schema>::schema(schemas),
                    }),*];
                    crate::schema::object(concat!($($says),+), fields)
                })
            }
        }

        impl crate::schema::Body for $name {}

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                Self::serialize(self, serializer)
            }
        }

        // By its names alone: what serde makes of a struct would also take a list, part by part in their order.
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Parts;
                impl<'de> serde::de::Visitor<'de> for Parts {
                    type Value = $name;

                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str(crate::malformed::RECORD)
                    }

                    fn visit_map<A: serde::de::MapAccess<'de>>(self, parts: A) -> Result<$name, A::Error> {
                        $name::deserialize(serde::de::value::MapAccessDeserializer::new(parts))
                    }
                }
                deserializer.deserialize_map(Parts)
            }
        }
    )*};
}

/// Declares what an address and its query say: a struct each.
macro_rules! params {
    ($($(#[doc = $says:literal])+ $name:ident { $($(#[doc = $part:literal])+ $field:ident: $kind:ty,)* })*) => {$(
        $(#[doc = $says])+
        #[derive(Clone, Debug)]
        pub(crate) struct $name {$(
            $(#[doc = $part])+
            pub(crate) $field: $kind,
        )*}

        impl crate::schema::Params for $name {
            const NAMES: &'static [&'static str] = &[$(stringify!($field)),*];

            fn read(texts: &crate::schema::Texts<'_>) -> Result<Self, tercet_rules::Fault> {
                Ok(Self { $($field: texts.read(stringify!($field))?,)* })
            }

            fn fields(schemas: &mut crate::schema::Schemas) -> Vec<crate::schema::Field> {
                vec![$(crate::schema::Field {
                    name: stringify!($field),
                    says: concat!($($part),+),
                    required: <$kind as crate::schema::Schema>::REQUIRED,
                    schema: <$kind as crate::schema::Schema>::schema(schemas),
                }),*]
            }
        }
    )*};
}

/// Declares choices: an enum each, its words, and its place on the wire.
macro_rules! choices {
    ($($(#[doc = $says:literal])+ $name:ident: $wire:ty { $($variant:ident = $word:literal,)* })*) => {$(
        $(#[doc = $says])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        pub(crate) enum $name {$(
            #[serde(rename = $word)]
            $variant,
        )*}

        impl $name {
            /// What a service says; `None` where it is newer.
            pub(crate) fn of(number: i32) -> Option<Self> {
                [$(Self::$variant),*].into_iter().find(|own| own.number() == number)
            }

            /// For a service.
            pub(crate) const fn number(self) -> i32 {
                match self { $(Self::$variant => <$wire>::$variant as i32),* }
            }
        }

        impl crate::schema::Schema for $name {
            fn schema(schemas: &mut crate::schema::Schemas) -> serde_json::Value {
                schemas.named(stringify!($name), |_| {
                    serde_json::json!({
                        "type": "string", "description": concat!($($says),+).trim(), "enum": [$($word),*]
                    })
                })
            }
        }

        impl crate::schema::FromText for $name {
            fn from_text(text: &str) -> Result<Self, tercet_rules::Limit> {
                match text {
                    $($word => Ok(Self::$variant),)*
                    _ => Err(tercet_rules::Limit::Listed),
                }
            }
        }
    )*};
}

pub(crate) use {choices, params, records};

/// A body that is read from JSON.
pub(crate) trait Body: for<'a> Deserialize<'a> {
    /// Whether there is one.
    const EXPECTED: bool = true;

    /// From its bytes.
    ///
    /// # Errors
    /// [`Malformed`](tercet_rules::Code::Malformed) with the field that is not as it has to be.
    fn read(bytes: &[u8]) -> Result<Self, Fault> {
        let mut reader = serde_json::Deserializer::from_slice(bytes);
        let read = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
            // What has no name yet is told by what it is in.
            let path = error.path().to_string();
            let field = path.split('?').next().unwrap_or_default().trim_end_matches('.');
            malformed::fault(field, error.inner())
        })?;
        reader.end().map_err(|error| malformed::fault("", &error))?;
        Ok(read)
    }
}

/// What the address and the query of a request say.
pub(crate) trait Params: Sized {
    /// The names that it knows.
    const NAMES: &'static [&'static str];

    /// # Errors
    /// [`Invalid`](tercet_rules::Code::Invalid) with the name whose text is not as it has to be.
    fn read(texts: &Texts<'_>) -> Result<Self, Fault>;

    /// Their descriptions.
    fn fields(schemas: &mut Schemas) -> Vec<Field>;
}

/// Names and texts of an address and its query.
#[derive(Debug)]
pub(crate) struct Texts<'a>(pub(crate) Vec<(&'a str, std::borrow::Cow<'a, str>)>);

impl Texts<'_> {
    /// # Errors
    /// When it is given twice, is missing though it has to be there, or is not as it has to be.
    pub(crate) fn read<T: FromText>(&self, name: &str) -> Result<T, Fault> {
        let mut found = self.0.iter().filter(|(own, _)| *own == name).map(|(_, text)| text);
        let read = match (found.next(), found.next()) {
            (Some(text), None) => T::from_text(text),
            (None, _) => T::absent(),
            (Some(_), Some(_)) => Err(Limit::Once),
        };
        read.map_err(|limit| Invalid::new(name, limit).into())
    }

    /// # Errors
    /// When a name is none of these: a filter with a typing error would select everything.
    pub(crate) fn only(&self, names: &[&str]) -> Result<(), Fault> {
        let unknown = self.0.iter().find(|(name, _)| !names.contains(name));
        unknown.map_or(Ok(()), |(name, _)| Err(Invalid::new(name, Limit::Known).into()))
    }
}

/// A value that is read from an address.
pub(crate) trait FromText: Sized {
    /// # Errors
    /// What it has to be.
    fn from_text(text: &str) -> Result<Self, Limit>;

    /// Where there is none.
    ///
    /// # Errors
    /// When it has to be there.
    fn absent() -> Result<Self, Limit> {
        Err(Limit::Given)
    }
}

impl<T: FromText> FromText for Option<T> {
    fn from_text(text: &str) -> Result<Self, Limit> {
        T::from_text(text).map(Some)
    }

    fn absent() -> Result<Self, Limit> {
        Ok(None)
    }
}

impl FromText for String {
    fn from_text(text: &str) -> Result<Self, Limit> {
        Ok(text.to_owned())
    }
}

impl FromText for u32 {
    fn from_text(text: &str) -> Result<Self, Limit> {
        text.parse().map_err(|_| Limit::Between(0, Self::MAX.into()))
    }
}

/// How many entries a page has at most: 1 to `MOST`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entries<const MOST: u32>(u32);

impl<const MOST: u32> Entries<MOST> {
    /// For a service, to whom 0 says that nobody has said.
    pub(crate) fn number(own: Option<Self>) -> u32 {
        own.map_or(0, |own| own.0)
    }
}

impl<const MOST: u32> FromText for Entries<MOST> {
    fn from_text(text: &str) -> Result<Self, Limit> {
        let number = text.parse().ok().filter(|number| (1..=MOST).contains(number));
        number.map(Self).ok_or_else(|| Limit::Between(1, MOST.into()))
    }
}

impl<const MOST: u32> Schema for Entries<MOST> {
    fn schema(_: &mut Schemas) -> Value {
        json!({ "type": "integer", "minimum": 1, "maximum": MOST })
    }
}

impl FromText for i64 {
    fn from_text(text: &str) -> Result<Self, Limit> {
        text.parse().map_err(|_| Limit::Between(0, Self::MAX))
    }
}

/// Nothing at all: no parameters, no body, or a part that only has to be there.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Nothing {}

impl<'de> Deserialize<'de> for Nothing {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Empty;
        impl<'de> Visitor<'de> for Empty {
            type Value = Nothing;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(malformed::RECORD)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut parts: A) -> Result<Nothing, A::Error> {
                use serde::de::Error as _;
                let unknown = |name: String| Err(A::Error::unknown_field(&name, &[]));
                parts.next_key::<String>()?.map_or(Ok(Nothing {}), unknown)
            }
        }
        deserializer.deserialize_map(Empty)
    }
}

impl Schema for Nothing {
    fn schema(_: &mut Schemas) -> Value {
        json!({ "type": "object", "additionalProperties": false })
    }
}

impl Body for Nothing {
    const EXPECTED: bool = false;

    fn read(_: &[u8]) -> Result<Self, Fault> {
        Ok(Self {})
    }
}

impl Params for Nothing {
    const NAMES: &'static [&'static str] = &[];

    fn read(_: &Texts<'_>) -> Result<Self, Fault> {
        Ok(Self {})
    }

    fn fields(_: &mut Schemas) -> Vec<Field> {
        Vec::new()
    }
}

/// The number of something. Written as text, since JavaScript and others round numbers of more than 53 bits; read from
/// both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Id(pub(crate) i64);

const ID: Limit = Limit::Between(1, i64::MAX);

impl FromText for Id {
    fn from_text(text: &str) -> Result<Self, Limit> {
        // No sign and no leading zero: one number has one address.
        let plain = text.starts_with(|first: char| first.is_ascii_digit() && first != '0');
        text.parse().ok().filter(|_| plain).map(Self).ok_or(ID)
    }
}

impl Schema for Id {
    fn schema(_: &mut Schemas) -> Value {
        json!({ "type": "string", "pattern": "^[1-9][0-9]{0,18}$" })
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl Visitor<'_> for Either {
            type Value = Id;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(malformed::ID)
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Id, E> {
                Id::from_text(text).map_err(|_| E::invalid_value(Unexpected::Str(text), &self))
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Id, E> {
                let id = i64::try_from(number).ok().filter(|id| *id > 0).map(Id);
                id.ok_or_else(|| E::invalid_value(Unexpected::Unsigned(number), &self))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl Schema for u32 {
    fn schema(_: &mut Schemas) -> Value {
        json!({ "type": "integer", "minimum": 0, "maximum": Self::MAX })
    }
}

impl Schema for u64 {
    fn schema(_: &mut Schemas) -> Value {
        json!({ "type": "integer", "minimum": 0 })
    }
}

impl Schema for i32 {
    fn schema(_: &mut Schemas) -> Value {
        json!({ "type": "integer", "format": "int32" })
    }
}

impl Schema for i64 {
    fn schema(_: &mut Schemas) -> Value {
        json!({ "type": "integer", "format": "int64" })
    }
}

impl Schema for bool {
    fn schema(_: &mut Schemas) -> Value {
        json!({ "type": "boolean" })
    }
}

impl Schema for String {
    fn schema(_: &mut Schemas) -> Value {
        json!({ "type": "string" })
    }
}

impl<T: Schema> Schema for Option<T> {
    const REQUIRED: bool = false;

    fn schema(schemas: &mut Schemas) -> Value {
        T::schema(schemas)
    }

    fn is_absent(&self) -> bool {
        self.is_none()
    }
}

impl<T: Schema> Schema for Vec<T> {
    fn schema(schemas: &mut Schemas) -> Value {
        json!({ "type": "array", "items": T::schema(schemas) })
    }
}

impl Schema for BTreeMap<String, String> {
    fn schema(_: &mut Schemas) -> Value {
        json!({ "type": "object", "additionalProperties": { "type": "string" } })
    }
}

#[cfg(test)]
mod tests {
    use tercet_rules::Code;

    use super::*;

    records! {
        /// Of the test.
        Pair {
            /// The first.
            one: Id,
            /// The second.
            two: Option<Vec<u32>>,
        }
    }

    #[test]
    fn ids_are_written_as_text_and_read_from_both() {
        let read = |text: &str| Pair::read(text.as_bytes()).map(|pair| pair.one.0);
        assert_eq!(read(r#"{"one":"9223372036854775807"}"#), Ok(i64::MAX));
        assert_eq!(read(r#"{"one":7}"#), Ok(7));
        for wrong in [r#""0""#, r#""+7""#, r#""07""#, r#""9223372036854775808""#, "0", "-1", "1.5", "null", "[]"] {
            let fault = read(&format!(r#"{{"one":{wrong}}}"#)).unwrap_err();
            assert_eq!((fault.code, fault.argument("field")), (Code::Malformed, Some("one")), "{wrong}");
        }
        let pair = Pair { one: Id(i64::MAX), two: None };
        assert_eq!(serde_json::to_string(&pair).unwrap(), r#"{"one":"9223372036854775807"}"#);
    }

    #[test]
    fn what_can_not_be_read_is_named() {
        for (text, field) in [
            ("", "body"),
            ("{", "body"),
            (r#"{"two":["#, "two"),
            ("[]", "body"),
            ("{}", "one"),
            (r#"["1"]"#, "body"),
            (r#"{"one":1} 2"#, "body"),
            (r#"{"one":1,"three":3}"#, "three"),
            (r#"{"one":1,"two":[1,"x"]}"#, "two[1]"),
        ] {
            let fault = Pair::read(text.as_bytes()).unwrap_err();
            assert_eq!((fault.code, fault.argument("field")), (Code::Malformed, Some(field)), "{text}");
            assert!(!fault.text(tercet_rules::Language::Zh).contains("expected"), "{fault:?}");
        }
    }

    #[test]
    fn pages_have_as_many_entries_as_they_may() {
        type Own = Option<Entries<50>>;
        assert_eq!(Own::from_text("50").map(Entries::number), Ok(50));
        assert_eq!(Own::absent().map(Entries::number), Ok(0));
        for wrong in ["0", "51", "x", "", "-1", "4294967296"] {
            assert_eq!(Own::from_text(wrong), Err(Limit::Between(1, 50)), "{wrong}");
        }
    }

    #[test]
    fn a_record_is_described_once_with_what_has_to_be_there() {
        let mut schemas = Schemas::default();
        let reference = json!({ "$ref": "#/components/schemas/Pair" });
        assert_eq!([Pair::schema(&mut schemas), Pair::schema(&mut schemas)], [reference.clone(), reference]);
        let pair = &schemas.into_value()["Pair"];
        assert_eq!(pair["required"], json!(["one"]));
        assert_eq!(pair["properties"]["two"]["items"]["type"], "integer");
        assert_eq!(pair["properties"]["one"]["description"], "The first.");
    }

    #[test]
    fn parameters_are_there_once_or_not_at_all() {
        let texts = |pairs: &[(&'static str, &'static str)]| {
            Texts(pairs.iter().map(|(name, text)| (*name, (*text).into())).collect())
        };
        assert_eq!(texts(&[("id", "7")]).read::<Id>("id"), Ok(Id(7)));
        assert_eq!(texts(&[]).read::<Option<u32>>("limit"), Ok(None));
        for (given, limit) in [
            (&[][..], Limit::Given),
            (&[("id", "7"), ("id", "8")], Limit::Once),
            (&[("id", "x")], ID),
            (&[("id", "")], ID),
        ] {
            let wanted = Fault::from(Invalid::new("id", limit));
            assert_eq!(texts(given).read::<Id>("id"), Err(wanted), "{given:?}");
        }
        assert!(texts(&[("id", "7"), ("statsu", "used")]).only(&["id", "status"]).is_err());
    }
}
