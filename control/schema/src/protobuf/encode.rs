//! The decoder's counterpart, for tests only: encodes as Go does, with every non-pointer scalar written.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::types::{self, Field, Shape, Type};

/// A whole body with its envelope.
pub(super) fn body(object: &Value) -> Vec<u8> {
    let text = |key: &str| object[key].as_str().unwrap_or_default().to_owned();
    let kind = types::by_kind(&text("apiVersion"), &text("kind")).expect("a known kind");
    let mut meta = Vec::new();
    bytes(&mut meta, 1, text("apiVersion").as_bytes());
    bytes(&mut meta, 2, text("kind").as_bytes());
    let mut out = b"k8s\0".to_vec();
    bytes(&mut out, 1, &meta);
    bytes(
        &mut out,
        2,
        &message(kind, 0, object.as_object().expect("an object")),
    );
    bytes(&mut out, 3, b"");
    out
}

fn message(kind: &'static Type, inlined_at: u16, object: &Map<String, Value>) -> Vec<u8> {
    let mut out = Vec::new();
    for field in kind
        .fields
        .iter()
        .filter(|f| f.inlined_at == inlined_at && f.tag != 0)
    {
        match object.get(field.name) {
            Some(value) => write(&mut out, field.tag, &field.shape, value),
            None => write_zero(&mut out, field),
        }
    }
    if inlined_at == 0 {
        let mut inlined: Vec<u16> = kind
            .fields
            .iter()
            .map(|f| f.inlined_at)
            .filter(|&n| n != 0)
            .collect();
        inlined.dedup();
        inlined.sort_unstable();
        inlined.dedup();
        for number in inlined {
            bytes(&mut out, number, &message(kind, number, object));
        }
    }
    out
}

fn write_zero(out: &mut Vec<u8>, field: &Field) {
    if field.pointer || field.required {
        return;
    }
    match field.shape {
        Shape::String => write(out, field.tag, &field.shape, &json!("")),
        Shape::Bool => write(out, field.tag, &field.shape, &json!(false)),
        Shape::Int32 | Shape::Int64 => write(out, field.tag, &field.shape, &json!(0)),
        Shape::Time | Shape::MicroTime => bytes(out, field.tag, b""),
        _ => {}
    }
}

fn write(out: &mut Vec<u8>, tag: u16, shape: &Shape, value: &Value) {
    match shape {
        Shape::List(element) => {
            value
                .as_array()
                .expect("a list")
                .iter()
                .for_each(|item| write(out, tag, element, item));
        }
        Shape::Map(element) => {
            for (key, item) in value.as_object().expect("a map") {
                let mut entry = Vec::new();
                bytes(&mut entry, 1, key.as_bytes());
                match **element {
                    Shape::List(ref inner) => {
                        let mut wrapped = Vec::new();
                        write(&mut wrapped, 1, &Shape::List(inner.clone()), item);
                        bytes(&mut entry, 2, &wrapped);
                    }
                    ref element => write(&mut entry, 2, element, item),
                }
                bytes(out, tag, &entry);
            }
        }
        Shape::Bool => number(out, tag, u64::from(value.as_bool().expect("a boolean"))),
        Shape::Int32 | Shape::Int64 => {
            number(out, tag, value.as_i64().expect("a number").cast_unsigned())
        }
        Shape::String => bytes(out, tag, value.as_str().expect("a string").as_bytes()),
        Shape::Bytes => bytes(
            out,
            tag,
            &STANDARD
                .decode(value.as_str().expect("text"))
                .expect("base64"),
        ),
        Shape::Object(id) => bytes(
            out,
            tag,
            &message(types::get(*id), 0, value.as_object().expect("an object")),
        ),
        _ => bytes(out, tag, &special(shape, value)),
    }
}

fn special(shape: &Shape, value: &Value) -> Vec<u8> {
    let mut inner = Vec::new();
    match (shape, value) {
        (Shape::Time | Shape::MicroTime, Value::String(text)) => {
            let time: jiff::Timestamp = text.parse().expect("a time");
            number(&mut inner, 1, time.as_second().cast_unsigned());
            number(
                &mut inner,
                2,
                i64::from(time.subsec_nanosecond()).cast_unsigned(),
            );
        }
        (Shape::Quantity, Value::String(text)) => bytes(&mut inner, 1, text.as_bytes()),
        (Shape::IntOrString, Value::Number(n)) => {
            number(&mut inner, 1, 0);
            number(
                &mut inner,
                2,
                n.as_i64().expect("an integer").cast_unsigned(),
            );
            bytes(&mut inner, 3, b"");
        }
        (Shape::IntOrString, Value::String(text)) => {
            number(&mut inner, 1, 1);
            number(&mut inner, 2, 0);
            bytes(&mut inner, 3, text.as_bytes());
        }
        (_, value) => bytes(&mut inner, 1, value.to_string().as_bytes()),
    }
    inner
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn number(out: &mut Vec<u8>, tag: u16, value: u64) {
    varint(out, u64::from(tag) << 3);
    varint(out, value);
}

fn bytes(out: &mut Vec<u8>, tag: u16, content: &[u8]) {
    varint(out, u64::from(tag) << 3 | 2);
    varint(out, content.len() as u64);
    out.extend_from_slice(content);
}
