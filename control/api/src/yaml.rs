//! YAML from untrusted hands.
//!
//! An alias is one character and stands for a whole tree, so a small document can expand to more than any memory holds.
//! What is built out of one document is therefore counted while it is built.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Values and characters of text that one document may become: several times what the largest request can say plainly.
const BUDGET: usize = 16 << 20;

/// Parses one document, of bounded size after expansion.
pub(crate) fn parse(text: &[u8]) -> Result<Value, serde_norway::Error> {
    parse_within(BUDGET, text)
}

fn parse_within(budget: usize, text: &[u8]) -> Result<Value, serde_norway::Error> {
    let left = Cell::new(budget);
    Counted(&left).deserialize(serde_norway::Deserializer::from_slice(text))
}

/// Builds a value and pays for each part of it.
#[derive(Clone, Copy)]
struct Counted<'a>(&'a Cell<usize>);

impl Counted<'_> {
    fn pay<E: Error>(self, cost: usize) -> Result<(), E> {
        let left = self.0.get().checked_sub(cost);
        self.0.set(
            left.ok_or_else(|| {
                E::custom("the document is too large when its aliases are expanded")
            })?,
        );
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Counted<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.pay(1)?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Counted<'_> {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a YAML value")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        self.pay(value.len())?;
        Ok(value.into())
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            list.push(item);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(Key(key)) = entries.next_key()? {
            self.pay(key.len())?;
            map.insert(key, entries.next_value_seed(self)?);
        }
        Ok(map.into())
    }
}

/// A key; plain scalars such as `8080:` and `true:` become text, as upstream makes them. Anything larger is no key.
struct Key(String);

impl<'de> serde::Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(KeyVisitor)
    }
}

struct KeyVisitor;

impl Visitor<'_> for KeyVisitor {
    type Value = Key;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a key of plain text")
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Key, E> {
        Ok(Key(value.to_owned()))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Key, E> {
        Ok(Key(value.to_string()))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Key, E> {
        Ok(Key(value.to_string()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Key, E> {
        Ok(Key(value.to_string()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Key, E> {
        Ok(Key(value.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_manifest_is_what_it_says() {
        let text = b"a: [1, -2, 1.5, true, null, ~, x]\nb: {8080: y, true: z}\n";
        let value = parse(text).expect("legal YAML");
        assert_eq!(
            value,
            json!({"a": [1, -2, 1.5, true, null, null, "x"], "b": {"8080": "y", "true": "z"}})
        );
    }

    #[test]
    fn aliases_are_expanded() {
        let value = parse(b"a: &x {k: v}\nb: *x\n").expect("legal YAML");
        assert_eq!(value, json!({"a": {"k": "v"}, "b": {"k": "v"}}));
    }

    #[test]
    fn aliases_that_multiply_are_refused() {
        let text = "a: &a [x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a]\nc: [*b, *b, *b, *b, *b, *b, *b, *b]\n";
        assert!(parse(text.as_bytes()).is_ok());
        let error = parse_within(200, text.as_bytes()).expect_err("more than it may become");
        assert!(error.to_string().contains("too large"), "{error}");
    }
}
