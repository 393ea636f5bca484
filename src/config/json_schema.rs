//! JSON Schema of all keys, for editors: <https://json-schema.org/draft/2020-12>.

use serde_json::{Map, Value, json};

use super::schema::{DYNAMIC, Kind, STATIC, Scalar, Shape, Status};

/// The schema of a file, which may hold both what is read at start and what may change at any time.
pub fn of_files() -> Value {
    let mut properties = Map::new();
    for shape in [&*STATIC, &*DYNAMIC] {
        push_fields(shape, Status::Acts, &mut properties);
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Portcullis",
        "type": "object",
        "properties": properties,
    })
}

fn push_fields(shape: &Shape, status: Status, properties: &mut Map<String, Value>) {
    for field in &shape.fields {
        let status = field.status.unwrap_or(status);
        if status != Status::Removed {
            properties.insert(field.name.to_string(), describe(field, status));
        }
    }
}

fn describe(shape: &Shape, status: Status) -> Value {
    let mut schema = match (shape.kind, &shape.each) {
        (Kind::Section, _) => section(shape, status, &["object"]),
        (Kind::Switch, _) => section(shape, status, &["object", "boolean", "null"]),
        (Kind::Names, Some(each)) => {
            json!({"type": "object", "additionalProperties": describe(each, each.status.unwrap_or(status))})
        }
        (Kind::Items, Some(each)) => json!({"type": "array", "items": describe(each, each.status.unwrap_or(status))}),
        (Kind::One(scalar), _) => json!({"type": types(scalar)}),
        (Kind::Many(scalar), _) => json!({"type": "array", "items": {"type": types(scalar)}}),
        (Kind::Each(scalar), _) => json!({"type": "object", "additionalProperties": {"type": types(scalar)}}),
        (Kind::Names | Kind::Items | Kind::Any, _) => json!({}),
    };
    let description = match (shape.status, shape.note) {
        (_, "") => None,
        (Some(Status::Refused | Status::Ignored), note) => Some(format!("Not supported yet: {note}.")),
        (Some(Status::Inert), note) => Some(format!("Without effect: {note}.")),
        (_, note) => Some(format!("{note}.")),
    };
    if let Some(description) = description {
        schema["description"] = description.into();
    }
    if matches!(status, Status::Refused | Status::Ignored) {
        schema["deprecated"] = true.into();
    }
    if let Some(default) = default(shape) {
        schema["default"] = default;
    }
    schema
}

fn section(shape: &Shape, status: Status, types: &[&str]) -> Value {
    let mut properties = Map::new();
    push_fields(shape, status, &mut properties);
    json!({"type": types, "properties": properties, "additionalProperties": false})
}

fn types(scalar: Scalar) -> &'static [&'static str] {
    match scalar {
        Scalar::Bool => &["boolean"],
        Scalar::Int | Scalar::Int32 => &["integer"],
        Scalar::Float => &["number"],
        Scalar::Text => &["string", "number", "boolean"],
        Scalar::Duration => &["string", "integer"],
        Scalar::Name => &["string"],
    }
}

fn default(shape: &Shape) -> Option<Value> {
    if shape.default.is_empty() {
        return None;
    }
    match shape.kind {
        Kind::One(scalar) => value(scalar, shape.default),
        Kind::Many(scalar) => shape.default.split(',').map(|item| value(scalar, item)).collect(),
        _ => None,
    }
}

fn value(scalar: Scalar, text: &str) -> Option<Value> {
    match scalar {
        Scalar::Bool => text.parse::<bool>().ok().map(Value::from),
        Scalar::Int | Scalar::Int32 => text.parse::<i64>().ok().map(Value::from),
        Scalar::Float => text.parse::<f64>().ok().map(Value::from),
        Scalar::Text | Scalar::Duration | Scalar::Name => Some(text.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_types_defaults_and_notes() {
        let schema = of_files();
        for (pointer, expected) in [
            (
                "/properties/entryPoints/additionalProperties/properties/http/properties/sanitizePath",
                json!({"type": ["boolean"], "default": true}),
            ),
            ("/properties/metrics/properties/prometheus/properties/buckets/default", json!([0.1, 0.3, 1.2, 5.0])),
            ("/properties/http/properties/routers/additionalProperties/properties/parentRefs/deprecated", json!(true)),
            (
                "/properties/http/properties/services/additionalProperties/properties/loadBalancer/properties/servers/items/properties/url",
                json!({"type": ["string", "number", "boolean"]}),
            ),
            ("/properties/api/type", json!(["object", "boolean", "null"])),
        ] {
            assert_eq!(schema.pointer(pointer), Some(&expected), "{pointer}");
        }
        assert_eq!(schema.pointer("/properties/pilot"), None);
    }

    /// A default that is not of its key's type would be a slip in the tables.
    #[test]
    fn every_default_is_of_its_type() {
        fn walk(shape: &Shape) {
            assert!(shape.default.is_empty() || default(shape).is_some(), "{}: {}", shape.name, shape.default);
            shape.fields.iter().chain(shape.each.as_deref()).for_each(walk);
        }
        walk(&STATIC);
        walk(&DYNAMIC);
    }
}
