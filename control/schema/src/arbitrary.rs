//! Objects of every type of the schema, made from a random number, for tests.

use serde_json::{Map, Value, json};

use crate::strict::is_kept;
use crate::types::{self, Shape, Type};

/// Builds objects of a type from a stream of random numbers.
pub(crate) struct Builder(pub(crate) u64);

impl Builder {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }

    /// An object of a type.
    pub(crate) fn object(&mut self, kind: &'static Type, depth: u32) -> Value {
        let mut object = Map::new();
        for field in &kind.fields {
            let wanted = field.required || (field.tag != 0 && self.next(u64::from(depth) + 2) == 0);
            if wanted && (depth < 9 || field.required) {
                let value = self.value(&field.shape, depth + 1);
                if is_kept(field, &value) && value != json!([]) && value != json!({"": 0}) {
                    object.insert(field.name.to_owned(), value);
                }
            }
        }
        Value::Object(object)
    }

    fn value(&mut self, shape: &Shape, depth: u32) -> Value {
        match shape {
            Shape::String => json!(["", "web", "größer"][self.next(3) as usize]),
            Shape::Bool => json!(self.next(2) == 1),
            Shape::Int32 => json!([0, 1, -1, i32::MAX, i32::MIN][self.next(5) as usize]),
            Shape::Int64 => json!([0, 1, -1, i64::MAX, i64::MIN][self.next(5) as usize]),
            Shape::Bytes => json!(["", "AAH/", "eA=="][self.next(3) as usize]),
            Shape::Time => {
                json!(["2026-11-21T05:00:00Z", "1970-01-01T00:00:01Z"][self.next(2) as usize])
            }
            Shape::MicroTime => json!("2026-11-21T05:00:00.000001Z"),
            Shape::Quantity => json!(["0", "100m", "1Gi"][self.next(3) as usize]),
            Shape::IntOrString => {
                [json!(0), json!(80), json!("http"), json!("25%")][self.next(4) as usize].clone()
            }
            Shape::Raw => json!({"f:metadata": {"f:labels": {".": {}}}}),
            Shape::Object(id) => self.object(types::get(*id), depth),
            Shape::List(element) => (0..self.next(3) + 1)
                .map(|_| self.value(element, depth + 1))
                .collect(),
            Shape::Map(element) => (0..self.next(3) + 1)
                .map(|i| (format!("k{i}"), self.value(element, depth + 1)))
                .collect(),
        }
    }
}
