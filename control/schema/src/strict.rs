//! What a body holds that its kind does not: unknown and duplicate fields, values of the wrong type.

use serde_json::{Map, Value};

use crate::Resource;
use crate::types::{self, Field, Shape, Type};

mod duplicates;

/// Checks that every known field has a value of its type; the error is upstream's text for a 400.
pub fn check_types(res: &Resource, object: &Value) -> Result<(), String> {
    let Some(kind) = types::of(res) else {
        return Ok(());
    };
    check_object(kind, object, kind.short_name(), "").map_err(|mismatch| {
        format!(
            "{kind} in version \"{version}\" cannot be handled as a {kind}: {mismatch}",
            kind = res.kind,
            version = res.version
        )
    })
}

/// Names fields the kind does not have, each as `unknown field "spec.foo"`.
pub fn unknown_fields(res: &Resource, object: &Value) -> Vec<String> {
    let mut found = Vec::new();
    if let Some(kind) = types::of(res) {
        walk_unknown(&kind.shape(), object, "", &mut found);
    }
    found
}

/// Names keys that occur twice in an object of the raw JSON text, each as `duplicate field "spec.foo"`.
///
/// Text that is not JSON has no duplicates: parsing it reports the error.
pub fn duplicate_fields(json: &[u8]) -> Vec<String> {
    let found = std::cell::RefCell::new(Vec::new());
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let scan = duplicates::Scan {
        path: String::new(),
        found: &found,
    };
    match serde::de::DeserializeSeed::deserialize(scan, &mut deserializer) {
        Ok(()) => found.into_inner(),
        Err(_) => Vec::new(),
    }
}

/// Drops unknown fields, nulls and the empty values that upstream's encoder leaves out.
pub fn prune(res: &Resource, object: &mut Value) {
    if let (Some(kind), Value::Object(map)) = (types::of(res), object) {
        prune_object(kind, map);
    }
}

// ---- Types ----

fn check_object(
    kind: &'static Type,
    value: &Value,
    holder: &str,
    path: &str,
) -> Result<(), String> {
    let map = match value {
        Value::Null => return Ok(()),
        Value::Object(map) => map,
        other => return Err(mismatch(other, holder, path, kind.go_name())),
    };
    for (name, inner) in map {
        if let Some(field) = kind.field(name) {
            check(&field.shape, inner, kind.short_name(), &join(path, name))?;
        }
    }
    Ok(())
}

fn check(shape: &Shape, value: &Value, holder: &str, path: &str) -> Result<(), String> {
    match (shape, value) {
        (_, Value::Null) => Ok(()),
        (Shape::Object(id), _) => check_object(types::get(*id), value, holder, path),
        (Shape::List(element), Value::Array(items)) => items
            .iter()
            .try_for_each(|item| check(element, item, holder, path)),
        (Shape::Map(element), Value::Object(map)) => map
            .values()
            .try_for_each(|item| check(element, item, holder, path)),
        (Shape::Bytes, Value::String(text)) => check_base64(text),
        (Shape::Time | Shape::MicroTime, Value::String(text)) => check_time(text),
        (Shape::Quantity, Value::String(text)) => text
            .parse::<crate::quantity::Quantity>()
            .map(drop)
            .map_err(|e| e.to_string()),
        (Shape::Quantity, Value::Number(_))
        | (Shape::String | Shape::IntOrString, Value::String(_))
        | (Shape::Bool, Value::Bool(_))
        | (Shape::Raw, Value::Object(_)) => Ok(()),
        (Shape::Int64, Value::Number(n)) if n.is_i64() => Ok(()),
        (Shape::Int32 | Shape::IntOrString, Value::Number(n))
            if n.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) =>
        {
            Ok(())
        }
        (_, other) => Err(mismatch(other, holder, path, &go_type(shape))),
    }
}

fn check_base64(text: &str) -> Result<(), String> {
    use base64::Engine as _;
    match base64::engine::general_purpose::STANDARD.decode(text) {
        Ok(_) => Ok(()),
        Err(base64::DecodeError::InvalidByte(at, _)) => {
            Err(format!("illegal base64 data at input byte {at}"))
        }
        Err(_) => Err(format!(
            "illegal base64 data at input byte {}",
            text.len().saturating_sub(text.len() % 4)
        )),
    }
}

fn check_time(text: &str) -> Result<(), String> {
    text.parse::<jiff::Timestamp>().map(drop).map_err(|_| {
        format!("parsing time {text:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse {text:?} as \"2006\"")
    })
}

fn mismatch(value: &Value, holder: &str, path: &str, expected: &str) -> String {
    let found = match value {
        Value::Bool(_) => "bool".to_owned(),
        Value::Number(n) if expected.starts_with("int") => format!("number {n}"),
        Value::Number(_) => "number".to_owned(),
        Value::String(_) => "string".to_owned(),
        Value::Array(_) => "array".to_owned(),
        Value::Object(_) | Value::Null => "object".to_owned(),
    };
    format!(
        "json: cannot unmarshal {found} into Go struct field {holder}.{path} of type {expected}"
    )
}

/// The Go type upstream names in a mismatch.
fn go_type(shape: &Shape) -> String {
    let name = match shape {
        Shape::String => "string",
        Shape::Bool => "bool",
        Shape::Int32 => "int32",
        Shape::Int64 => "int64",
        Shape::Bytes => "[]uint8",
        Shape::Time => "v1.Time",
        Shape::MicroTime => "v1.MicroTime",
        Shape::Quantity => "resource.Quantity",
        Shape::IntOrString => "intstr.IntOrString",
        Shape::Raw => "map[string]interface {}",
        Shape::Object(id) => types::get(*id).go_name(),
        Shape::List(element) => return format!("[]{}", go_type(element)),
        Shape::Map(element) => return format!("map[string]{}", go_type(element)),
    };
    name.to_owned()
}

// ---- Unknown fields ----

fn walk_unknown(shape: &Shape, value: &Value, path: &str, found: &mut Vec<String>) {
    match (shape, value) {
        (Shape::Object(id), Value::Object(map)) => {
            for (name, inner) in map {
                let path = join(path, name);
                match types::get(*id).field(name) {
                    Some(field) => walk_unknown(&field.shape, inner, &path, found),
                    None => found.push(format!("unknown field {path:?}")),
                }
            }
        }
        (Shape::List(element), Value::Array(items)) => {
            for (i, item) in items.iter().enumerate() {
                walk_unknown(element, item, &format!("{path}[{i}]"), found);
            }
        }
        (Shape::Map(element), Value::Object(map)) => {
            for (name, item) in map {
                walk_unknown(element, item, &join(path, name), found);
            }
        }
        _ => {}
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

// ---- Pruning ----

fn prune_object(kind: &'static Type, map: &mut Map<String, Value>) {
    map.retain(|name, value| match kind.field(name) {
        Some(field) => {
            prune_value(&field.shape, value);
            is_kept(field, value)
        }
        None => false,
    });
}

fn prune_value(shape: &Shape, value: &mut Value) {
    match (shape, value) {
        (Shape::Object(id), Value::Object(map)) => prune_object(types::get(*id), map),
        (Shape::List(element), Value::Array(items)) => {
            items.iter_mut().for_each(|i| prune_value(element, i))
        }
        (Shape::Map(element), Value::Object(map)) => {
            map.values_mut().for_each(|v| prune_value(element, v))
        }
        _ => {}
    }
}

/// Whether upstream's encoder would write this value of the field.
pub(crate) fn is_kept(field: &Field, value: &Value) -> bool {
    match (&field.shape, value) {
        (_, Value::Null) => false,
        // Structs are written even when empty; empty maps and lists are not.
        (Shape::Object(_) | Shape::Raw, Value::Object(_)) => true,
        _ if field.required || field.pointer => true,
        (_, Value::Bool(b)) => *b,
        (Shape::Quantity | Shape::IntOrString, _) => true,
        (_, Value::Number(n)) => n.as_i64() != Some(0),
        (_, Value::String(s)) => !s.is_empty(),
        (_, Value::Array(items)) => !items.is_empty(),
        (_, Value::Object(map)) => !map.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn res(kind: &str) -> &'static Resource {
        crate::resources()
            .iter()
            .find(|r| r.kind == kind)
            .expect("a served kind")
    }

    #[test]
    fn unknown_fields_are_named_by_path() {
        let pod = json!({"spec": {"containers": [{"name": "a", "imagee": "b"}], "foo": 1}, "metadata": {"labels": {"x": "y"}}});
        let mut found = unknown_fields(res("Pod"), &pod);
        found.sort();
        assert_eq!(
            found,
            [
                "unknown field \"spec.containers[0].imagee\"",
                "unknown field \"spec.foo\""
            ]
        );
    }

    #[test]
    fn duplicate_fields_are_named_by_path() {
        let found =
            duplicate_fields(br#"{"spec":{"a":1,"b":[{"c":1,"c":2}],"a":{"x":"","x":2.5}}}"#);
        assert_eq!(
            found,
            [
                "duplicate field \"spec.b[0].c\"",
                "duplicate field \"spec.a\"",
                "duplicate field \"spec.a.x\""
            ]
        );
        assert!(duplicate_fields(b"{\"a\":1,\"a\":").is_empty());
    }

    #[test]
    fn wrong_types_are_refused_in_upstreams_words() {
        let check =
            |kind: &str, object: Value| check_types(res(kind), &object).expect_err("a wrong type");
        assert_eq!(
            check("Deployment", json!({"spec": {"replicas": "three"}})),
            "Deployment in version \"v1\" cannot be handled as a Deployment: json: cannot unmarshal string into Go \
             struct field DeploymentSpec.spec.replicas of type int32"
        );
        assert!(check("Pod", json!({"spec": {"containers": {}}})).contains(
            "json: cannot unmarshal object into Go struct field PodSpec.spec.containers of type []v1.Container"
        ));
        assert!(
            check("Secret", json!({"data": {"a": "b!"}}))
                .ends_with("illegal base64 data at input byte 1")
        );
        assert!(check("Service", json!({"spec": {"ports": [{"port": 4_000_000_000_u32}]}})).contains(
            "cannot unmarshal number 4000000000 into Go struct field ServicePort.spec.ports.port of type int32"
        ));
        assert_eq!(
            check_types(res("Pod"), &json!({"spec": null, "foo": 1})),
            Ok(())
        );
    }

    #[test]
    fn pruning_leaves_what_upstream_writes() {
        let mut object = json!({
            "kind": "Deployment", "bogus": 1,
            "metadata": {"name": "a", "labels": {}, "creationTimestamp": null, "generateName": ""},
            "spec": {"replicas": 0, "minReadySeconds": 0, "paused": false, "strategy": {}, "template": {"spec": {
                "containers": [{"name": "", "resources": {"limits": {}}, "securityContext": {"privileged": false}}],
                "volumes": []}}},
        });
        prune(res("Deployment"), &mut object);
        assert_eq!(
            object,
            json!({
                "kind": "Deployment",
                "metadata": {"name": "a"},
                "spec": {"replicas": 0, "strategy": {}, "template": {"spec": {
                    "containers": [{"name": "", "resources": {}, "securityContext": {"privileged": false}}]}}},
            })
        );
    }
}
