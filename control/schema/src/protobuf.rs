//! Protobuf request bodies to JSON objects.
//!
//! One decoder for all kinds, driven by the table of types. A body is the envelope `k8s\0` + `runtime.Unknown` around the
//! kind's message. Go's encoder writes every non-pointer field, so zeros of those are dropped as its JSON encoder would;
//! zeros of pointer fields are values and stay.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use crate::strict::is_kept;
use crate::types::{self, Field, Shape, Type};
use wire::{Content, Reader};

mod wire;

#[cfg(test)]
mod encode;
#[cfg(test)]
mod tests;

const PREFIX: &[u8] = b"k8s\0";
/// Deeper than any kind goes.
const MAX_DEPTH: u32 = 64;

/// Why a body could not be decoded; 400.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// The first four bytes are not those of Kubernetes' envelope.
    #[error(
        "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]"
    )]
    Prefix,
    /// The envelope names a kind this server does not know.
    #[error("no kind \"{kind}\" is registered for version \"{api_version}\"")]
    UnknownKind {
        /// Version named by the envelope.
        api_version: String,
        /// Kind named by the envelope.
        kind: String,
    },
    /// The bytes are not a message of that kind.
    #[error("{0}")]
    Malformed(&'static str),
}

/// Decodes a body of `application/vnd.kubernetes.protobuf`; the object carries apiVersion and kind of its envelope.
pub fn decode(body: &[u8]) -> Result<Value, Error> {
    let envelope = Envelope::read(body.strip_prefix(PREFIX).ok_or(Error::Prefix)?)?;
    let Some(kind) = types::by_kind(&envelope.api_version, &envelope.kind) else {
        return Err(Error::UnknownKind {
            api_version: envelope.api_version,
            kind: envelope.kind,
        });
    };
    let mut object = Map::new();
    message(kind, 0, envelope.raw, 0, &mut object)?;
    object.insert("apiVersion".to_owned(), Value::String(envelope.api_version));
    object.insert("kind".to_owned(), Value::String(envelope.kind));
    Ok(Value::Object(object))
}

/// `runtime.Unknown`: what the body is, and its bytes.
#[derive(Default)]
struct Envelope<'a> {
    api_version: String,
    kind: String,
    raw: &'a [u8],
}

impl<'a> Envelope<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, Error> {
        let mut envelope = Self::default();
        for field in Reader(bytes) {
            match field? {
                (1, content) => {
                    for field in Reader(content.bytes()?) {
                        match field? {
                            (1, content) => envelope.api_version = text(content)?,
                            (2, content) => envelope.kind = text(content)?,
                            _ => {}
                        }
                    }
                }
                (2, content) => envelope.raw = content.bytes()?,
                _ => {}
            }
        }
        Ok(envelope)
    }
}

/// Decodes the message of `kind`, or the one JSON inlines from its field `inlined_at`, into `object`.
fn message(
    kind: &'static Type,
    inlined_at: u16,
    bytes: &[u8],
    depth: u32,
    object: &mut Map<String, Value>,
) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(Error::Malformed("proto: message nested too deeply"));
    }
    for field in Reader(bytes) {
        let (number, content) = field?;
        if let Some(field) = kind
            .fields
            .iter()
            .find(|f| f.tag == number && f.inlined_at == inlined_at && number != 0)
        {
            set(field, content, depth, object)?;
        } else if inlined_at == 0
            && kind
                .fields
                .iter()
                .any(|f| f.inlined_at == number && number != 0)
        {
            message(kind, number, content.bytes()?, depth + 1, object)?;
        }
    }
    Ok(())
}

/// Puts one occurrence of a field into its object: lists and maps grow, other values replace.
fn set(
    field: &Field,
    content: Content<'_>,
    depth: u32,
    object: &mut Map<String, Value>,
) -> Result<(), Error> {
    match &field.shape {
        Shape::List(element) => {
            let slot = object
                .entry(field.name)
                .or_insert_with(|| Value::Array(Vec::new()));
            if let Value::Array(items) = slot {
                push(element, content, depth, items)?;
            }
        }
        Shape::Map(element) => {
            let slot = object
                .entry(field.name)
                .or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(map) = slot {
                let (key, value) = entry(element, content.bytes()?, depth)?;
                map.insert(key, value);
            }
        }
        shape => {
            let value = single(shape, content, depth)?;
            if is_kept(field, &value) {
                object.insert(field.name.to_owned(), value);
            }
        }
    }
    Ok(())
}

fn push(
    element: &Shape,
    content: Content<'_>,
    depth: u32,
    items: &mut Vec<Value>,
) -> Result<(), Error> {
    match (element, content) {
        // Packed numbers: Go does not write them, other encoders may.
        (Shape::Int32 | Shape::Int64, Content::Bytes(bytes)) => {
            let mut rest = bytes;
            while !rest.is_empty() {
                items.push(Value::from(wire::varint(&mut rest)?.cast_signed()));
            }
        }
        (_, content) => items.push(single(element, content, depth)?),
    }
    Ok(())
}

/// One entry of a map: a message of key 1 and value 2.
fn entry(element: &Shape, bytes: &[u8], depth: u32) -> Result<(String, Value), Error> {
    let (mut key, mut value) = (String::new(), None);
    for field in Reader(bytes) {
        match field? {
            (1, content) => key = text(content)?,
            (2, content) => value = Some(single(element, content, depth)?),
            _ => {}
        }
    }
    let value = match value {
        Some(value) => value,
        None => single(element, Content::Bytes(&[]), depth)?,
    };
    Ok((key, value))
}

fn single(shape: &Shape, content: Content<'_>, depth: u32) -> Result<Value, Error> {
    Ok(match shape {
        Shape::String => Value::String(text(content)?),
        Shape::Bool => Value::Bool(content.varint()? != 0),
        // Negative numbers of 32 bits travel sign-extended to 64.
        Shape::Int32 => Value::from(wire::low_half(content.varint()?)),
        Shape::Int64 => Value::from(content.varint()?.cast_signed()),
        Shape::Bytes => Value::String(STANDARD.encode(content.bytes()?)),
        Shape::Time => time(content.bytes()?, false)?,
        Shape::MicroTime => time(content.bytes()?, true)?,
        Shape::Quantity => match first_text(content.bytes()?)?.as_str() {
            "" => Value::from("0"),
            number => Value::from(number),
        },
        Shape::IntOrString => int_or_string(content.bytes()?)?,
        Shape::Raw => raw(content.bytes()?)?,
        Shape::Object(id) => {
            let mut object = Map::new();
            message(types::get(*id), 0, content.bytes()?, depth + 1, &mut object)?;
            Value::Object(object)
        }
        // Lists as values of maps are wrapped in a message whose field 1 repeats.
        Shape::List(element) => {
            let mut items = Vec::new();
            for field in Reader(content.bytes()?) {
                if let (1, content) = field? {
                    items.push(single(element, content, depth + 1)?);
                }
            }
            Value::Array(items)
        }
        Shape::Map(_) => return Err(Error::Malformed("proto: map inside a list")),
    })
}

fn text(content: Content<'_>) -> Result<String, Error> {
    let text = std::str::from_utf8(content.bytes()?);
    text.map(str::to_owned)
        .map_err(|_| Error::Malformed("proto: string field contains invalid UTF-8"))
}

/// The string in field 1 of a message.
fn first_text(bytes: &[u8]) -> Result<String, Error> {
    let mut found = String::new();
    for field in Reader(bytes) {
        if let (1, content) = field? {
            found = text(content)?;
        }
    }
    Ok(found)
}

/// Seconds and nanoseconds since 1970; an empty message is Go's zero time, which JSON leaves out.
fn time(bytes: &[u8], micro: bool) -> Result<Value, Error> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let (mut seconds, mut nanos) = (0, 0);
    for field in Reader(bytes) {
        match field? {
            (1, content) => seconds = content.varint()?.cast_signed(),
            (2, content) => nanos = wire::low_half(content.varint()?),
            _ => {}
        }
    }
    let time = jiff::Timestamp::new(seconds, if micro { nanos } else { 0 })
        .map_err(|_| Error::Malformed("proto: time out of range"))?;
    Ok(Value::String(if micro {
        format!("{time:.6}")
    } else {
        format!("{time:.0}")
    }))
}

fn int_or_string(bytes: &[u8]) -> Result<Value, Error> {
    let (mut is_text, mut number, mut string) = (false, 0, String::new());
    for field in Reader(bytes) {
        match field? {
            (1, content) => is_text = content.varint()? == 1,
            (2, content) => number = wire::low_half(content.varint()?),
            (3, content) => string = text(content)?,
            _ => {}
        }
    }
    Ok(if is_text {
        Value::String(string)
    } else {
        Value::from(number)
    })
}

/// JSON text in field 1 of a message.
fn raw(bytes: &[u8]) -> Result<Value, Error> {
    let json = first_text(bytes)?;
    if json.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_str(&json).map_err(|_| Error::Malformed("proto: embedded JSON is malformed"))
}
