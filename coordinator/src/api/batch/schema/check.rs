//! Holds an answer against the tables: every member known, of the right type, enum values exact, and what the newest
//! clients rely on present.

use super::{Presence, Schema, Type};
use lote_shared::model::{Span, Timestamp};
use serde_json::Value;

/// Complaints about `value` as an answer of the given model; `all` = nothing was trimmed by `$select`.
pub fn complaints(schema: &Schema, model: &str, value: &Value, all: bool) -> Vec<String> {
    let mut found = Vec::new();
    check_model(schema, model, value, model, all, &mut found);
    found
}

fn check_model(schema: &Schema, model: &str, value: &Value, path: &str, all: bool, found: &mut Vec<String>) {
    let (Some(fields), Some(members)) = (schema.model(model), value.as_object()) else {
        found.push(format!("{path}: no object of the model {model}"));
        return;
    };
    for (name, value) in members {
        if name.starts_with("odata.") {
            continue;
        }
        let here = format!("{path}.{name}");
        match fields.get(name.as_str()) {
            None => found.push(format!("{here}: unknown member")),
            Some(field) => check_value(schema, &field.kind, value, &here, found),
        }
    }
    for (name, field) in fields {
        if all && field.presence != Presence::Optional && !members.contains_key(*name) {
            found.push(format!("{path}.{name}: missing"));
        }
    }
}

fn check_value(schema: &Schema, kind: &Type, value: &Value, path: &str, found: &mut Vec<String>) {
    let text = value.as_str();
    let good = match kind {
        Type::Any => true,
        Type::Text => text.is_some(),
        Type::Boolean => value.is_boolean(),
        Type::Int32 => value.as_i64().is_some_and(|number| i32::try_from(number).is_ok()),
        Type::Int64 => value.is_i64(),
        Type::Int64Text => text.is_some_and(|text| text.parse::<i64>().is_ok()),
        Type::Double => value.is_number(),
        Type::Date => text.is_some_and(|text| text.ends_with('Z') && Timestamp::parse(text).is_some()),
        Type::Duration => text.is_some_and(|text| Span::parse(text).is_some()),
        Type::Map => value.is_object(),
        Type::Enum(name) => text.is_some_and(|text| schema.values(name).contains(&text)),
        Type::List(inner) => {
            let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
            for (index, item) in items.iter().enumerate() {
                check_value(schema, inner, item, &format!("{path}[{index}]"), found);
            }
            // Some callers take any list, even an empty one, for a failure.
            !items.is_empty()
        }
        Type::Model(name) => {
            check_model(schema, name, value, path, true, found);
            true
        }
    };
    if !good {
        found.push(format!("{path}: {value} is no {kind:?}"));
    }
}
