//! Messages in the shape of the `.proto` files, whatever they are: from a list of choices, which proptest makes shorter
//! and smaller until only what matters is left (as Hypothesis does it).

use std::collections::BTreeMap;

use prost::Message as _;
use prost::encoding::{encode_key, encode_varint};
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};

/// Messages within messages, at most.
const DEPTH_MAX: u32 = 6;

const TEXTS: [&str; 12] = [
    "shop",
    "act",
    "a.b-c_9",
    "",
    "X",
    "é\u{0}💥",
    "tercet.canary",
    "coupon/7",
    "live_max",
    "9",
    "00-1-2-01",
    "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901\
     0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901",
];

/// Bytes to decide by; zeros once they are used up, and zero is the plainest choice.
pub(super) struct Choices<'a>(pub(super) &'a [u8]);

impl Choices<'_> {
    pub(super) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    pub(super) fn below(&mut self, count: usize) -> usize {
        usize::from(self.byte()) % count
    }

    /// What numbers are at their edges, small ones above all.
    pub(super) fn number(&mut self) -> u64 {
        match self.below(16) {
            small @ 0..=8 => small as u64,
            9 => u64::from(self.byte()),
            10 => u64::from(self.byte()) * 1_000,
            11 => u64::from(u32::MAX),
            12 => u64::MAX,
            13 => i64::MAX as u64,
            _ => (0..8).fold(0, |number, _| number << 8 | u64::from(self.byte())),
        }
    }

    pub(super) fn text(&mut self) -> &'static str {
        TEXTS[self.below(TEXTS.len())]
    }

    fn bytes(&mut self) -> Vec<u8> {
        match self.below(3) {
            0 => vec![7; 16],
            1 => Vec::new(),
            _ => (0..self.below(40)).map(|_| self.byte()).collect(),
        }
    }

    /// The same bytes with some of them flipped, cut off, doubled or put in.
    pub(super) fn mutate(&mut self, mut bytes: Vec<u8>) -> Vec<u8> {
        for _ in 0..self.below(4) {
            let at = (self.below(256) << 8 | self.below(256)) % (bytes.len() + 1);
            match self.below(4) {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, self.byte()),
                2 if at < bytes.len() => bytes[at] ^= self.byte(),
                _ => bytes.extend_from_within(at..),
            }
        }
        bytes
    }
}

/// A method of a service.
pub(super) struct Method {
    /// `/package.Service/Method`.
    pub(super) path: String,
    /// Its request.
    pub(super) input: String,
}

/// Every message and method that Tercet has.
pub(super) struct Schema {
    messages: BTreeMap<String, DescriptorProto>,
    pub(super) methods: Vec<Method>,
}

impl Schema {
    pub(super) fn load() -> Self {
        let set = FileDescriptorSet::decode(tercet_proto::DESCRIPTORS).expect("the build made them");
        let (mut messages, mut methods) = (BTreeMap::new(), Vec::new());
        for file in set.file {
            let package = file.package().to_owned();
            for message in file.message_type {
                add(&mut messages, &format!(".{package}"), message);
            }
            for service in &file.service {
                methods.extend(service.method.iter().map(|method| Method {
                    path: format!("/{package}.{}/{}", service.name(), method.name()),
                    input: method.input_type().to_owned(),
                }));
            }
        }
        Self { messages, methods }
    }

    /// The bytes of a message of this kind, such as `.tercet.store.v1.Plan`.
    pub(super) fn message(&self, name: &str, choices: &mut Choices<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.write(name, choices, DEPTH_MAX, &mut bytes);
        bytes
    }

    /// A message of this kind, read as Rust has it.
    pub(super) fn value<M: prost::Message + Default>(&self, name: &str, choices: &mut Choices<'_>) -> M {
        M::decode(&*self.message(name, choices)).expect("it is in the schema's shape")
    }

    fn write(&self, name: &str, choices: &mut Choices<'_>, depth: u32, bytes: &mut Vec<u8>) {
        let message = self.messages.get(name).unwrap_or_else(|| panic!("no message {name}"));
        for field in &message.field {
            let count = match field.label() {
                Label::Repeated => choices.below(4),
                Label::Optional | Label::Required => usize::from(!choices.byte().is_multiple_of(4)),
            };
            for _ in 0..count {
                self.field(field, choices, depth, bytes);
            }
        }
    }

    fn field(&self, field: &FieldDescriptorProto, choices: &mut Choices<'_>, depth: u32, bytes: &mut Vec<u8>) {
        use prost::encoding::WireType::{LengthDelimited, SixtyFourBit, ThirtyTwoBit, Varint};
        let tag = field.number() as u32;
        let inner = match field.r#type() {
            Type::Message if depth == 0 => return,
            Type::Message | Type::Group => {
                let mut inner = Vec::new();
                self.write(field.type_name(), choices, depth - 1, &mut inner);
                inner
            }
            Type::String => choices.text().as_bytes().to_vec(),
            Type::Bytes => choices.bytes(),
            Type::Double | Type::Fixed64 | Type::Sfixed64 => {
                encode_key(tag, SixtyFourBit, bytes);
                return bytes.extend(choices.number().to_le_bytes());
            }
            Type::Float | Type::Fixed32 | Type::Sfixed32 => {
                encode_key(tag, ThirtyTwoBit, bytes);
                return bytes.extend((choices.number() as u32).to_le_bytes());
            }
            Type::Int64
            | Type::Uint64
            | Type::Int32
            | Type::Uint32
            | Type::Bool
            | Type::Enum
            | Type::Sint32
            | Type::Sint64 => {
                encode_key(tag, Varint, bytes);
                return encode_varint(choices.number(), bytes);
            }
        };
        encode_key(tag, LengthDelimited, bytes);
        encode_varint(inner.len() as u64, bytes);
        bytes.extend(inner);
    }
}

fn add(messages: &mut BTreeMap<String, DescriptorProto>, scope: &str, mut message: DescriptorProto) {
    let name = format!("{scope}.{}", message.name());
    for nested in std::mem::take(&mut message.nested_type) {
        add(messages, &name, nested);
    }
    messages.insert(name, message);
}
