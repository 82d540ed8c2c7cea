//! What may stand in a request body, over every api-version, and the one walk that checks it.
//!
//! [`Schema::normalise`] does the syntax part of validation for every operation: unknown members, JSON types,
//! required members, enum values, forms of durations and dates. It also irons out what clients send (numbers and
//! booleans as strings, enums in any case, nulls), so that the builders of requests see clean values only. The
//! tables are in `schema.txt`; the tests hold our answers against the same tables.

use super::errors::{Code, Error};
use lote_shared::model::{Span, Timestamp};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::OnceLock;

const TABLES: &str = include_str!("schema.txt");

/// Type of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Type {
    Text,
    Boolean,
    Int32,
    Int64,
    /// An integer that is written as a JSON string.
    Int64Text,
    Double,
    Date,
    Duration,
    Any,
    /// Names and texts.
    Map,
    List(Box<Type>),
    Model(&'static str),
    Enum(&'static str),
}

/// When a member must be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    Optional,
    Required,
    /// Always present in answers, by the newest version.
    InAnswers,
}

#[derive(Debug, Clone)]
pub struct Field {
    pub kind: Type,
    pub presence: Presence,
}

/// All tables.
#[derive(Debug, Default)]
pub struct Schema {
    models: BTreeMap<&'static str, BTreeMap<&'static str, Field>>,
    enums: BTreeMap<&'static str, Vec<&'static str>>,
}

/// The tables, read once.
pub fn schema() -> &'static Schema {
    static SCHEMA: OnceLock<Schema> = OnceLock::new();
    SCHEMA.get_or_init(|| Schema::read(TABLES))
}

impl Schema {
    fn read(text: &'static str) -> Schema {
        let mut schema = Schema::default();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let lines: Vec<_> = lines.filter_map(|line| line.split_once(" = ")).collect();
        for (name, values) in &lines {
            if let Some(name) = name.strip_prefix("enum ") {
                schema.enums.insert(name, values.split(' ').collect());
            }
        }
        for (name, fields) in lines {
            if name.starts_with("enum ") {
                continue;
            }
            let fields = fields.split(' ').filter_map(|field| field.split_once(':'));
            let fields = fields.map(|(name, kind)| (name, schema.read_field(kind))).collect();
            schema.models.insert(name, fields);
        }
        schema
    }

    fn read_field(&self, text: &'static str) -> Field {
        let (kind, presence) = match (text.strip_suffix('!'), text.strip_suffix('+')) {
            (Some(kind), _) => (kind, Presence::Required),
            (_, Some(kind)) => (kind, Presence::InAnswers),
            _ => (text, Presence::Optional),
        };
        Field { kind: self.read_type(kind), presence }
    }

    fn read_type(&self, text: &'static str) -> Type {
        if let Some(inner) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
            return Type::List(Box::new(self.read_type(inner)));
        }
        match text {
            "string" => Type::Text,
            "boolean" => Type::Boolean,
            "int32" => Type::Int32,
            "int64" => Type::Int64,
            "int64text" => Type::Int64Text,
            "double" => Type::Double,
            "date" => Type::Date,
            "duration" => Type::Duration,
            "any" => Type::Any,
            "map" => Type::Map,
            name if self.enums.contains_key(name) => Type::Enum(name),
            name => Type::Model(name),
        }
    }

    /// Members of a model.
    pub fn model(&self, name: &str) -> Option<&BTreeMap<&'static str, Field>> {
        self.models.get(name)
    }

    /// Values of an enum, as on the wire.
    pub fn values(&self, name: &str) -> &[&'static str] {
        self.enums.get(name).map_or(&[], Vec::as_slice)
    }

    /// Checks a request body against `model` and irons it out.
    pub fn normalise(&self, model: &'static str, body: Value) -> Result<Map<String, Value>, Error> {
        let Value::Object(mut members) = body else {
            return Err(wrong_type("", "an object"));
        };
        self.normalise_members(model, &mut members, &Path::Root)?;
        Ok(members)
    }

    fn normalise_members(
        &self,
        model: &'static str,
        members: &mut Map<String, Value>,
        path: &Path,
    ) -> Result<(), Error> {
        let Some(fields) = self.models.get(model) else {
            return Err(Code::InternalError.into());
        };
        members.retain(|name, value| !value.is_null() && !name.starts_with("odata."));
        for (name, value) in members.iter_mut() {
            let here = Path::Member(path, name);
            let Some(field) = fields.get(name.as_str()) else {
                return Err(Error::new(Code::UnsupportedProperty).with("PropertyName", here.to_string()));
            };
            self.normalise_value(&field.kind, value, &here)?;
        }
        for (name, field) in fields {
            if field.presence == Presence::Required && !members.contains_key(*name) {
                return Err(Error::missing(&Path::Member(path, name).to_string()));
            }
        }
        Ok(())
    }

    fn normalise_value(&self, kind: &Type, value: &mut Value, path: &Path) -> Result<(), Error> {
        match kind {
            Type::Any => {}
            Type::Text => {
                value.as_str().ok_or_else(|| wrong_type(&path.to_string(), "a string"))?;
            }
            Type::Boolean => {
                let read = match &*value {
                    Value::Bool(value) => Some(*value),
                    Value::String(text) if text.eq_ignore_ascii_case("true") => Some(true),
                    Value::String(text) if text.eq_ignore_ascii_case("false") => Some(false),
                    _ => None,
                };
                *value = read.ok_or_else(|| wrong_type(&path.to_string(), "a boolean"))?.into();
            }
            Type::Int32 | Type::Int64 | Type::Int64Text => {
                let number = integer(value).ok_or_else(|| wrong_type(&path.to_string(), "an integer"))?;
                if *kind == Type::Int32 && i32::try_from(number).is_err() {
                    let reason = "it does not fit into 32 bits";
                    return Err(Error::property(&path.to_string(), &number.to_string(), reason));
                }
                *value = number.into();
            }
            Type::Double => {
                let number = match &*value {
                    Value::String(text) => text.trim().parse().ok(),
                    other => other.as_f64(),
                };
                *value = number.ok_or_else(|| wrong_type(&path.to_string(), "a number"))?.into();
            }
            Type::Date => {
                let text = value.as_str().ok_or_else(|| wrong_type(&path.to_string(), "a date"))?;
                if Timestamp::parse(text).is_none() {
                    return Err(Error::property(
                        &path.to_string(),
                        text,
                        "it is not an ISO 8601 date and time",
                    ));
                }
            }
            Type::Duration => {
                let text = value.as_str().ok_or_else(|| wrong_type(&path.to_string(), "a duration"))?;
                if Span::parse(text).is_none() {
                    return Err(Error::property(&path.to_string(), text, "it is not an ISO 8601 duration"));
                }
            }
            Type::Enum(name) => {
                let text = value.as_str().ok_or_else(|| wrong_type(&path.to_string(), "a string"))?;
                let values = self.values(name);
                let exact = values.iter().find(|value| **value == text);
                let found = exact.or_else(|| values.iter().find(|value| value.eq_ignore_ascii_case(text)));
                let Some(found) = found else {
                    let reason = format!("it must be one of {}", values.join(", "));
                    return Err(Error::property(&path.to_string(), text, reason));
                };
                if *found != text {
                    *value = (*found).into();
                }
            }
            Type::Map => {
                let members = value.as_object().ok_or_else(|| wrong_type(&path.to_string(), "an object"))?;
                if !members.values().all(Value::is_string) {
                    return Err(wrong_type(&path.to_string(), "an object of strings"));
                }
            }
            Type::List(inner) => {
                let items = value.as_array_mut().ok_or_else(|| wrong_type(&path.to_string(), "a list"))?;
                for (index, item) in items.iter_mut().enumerate() {
                    self.normalise_value(inner, item, &Path::Item(path, index))?;
                }
            }
            Type::Model(name) => {
                let members =
                    value.as_object_mut().ok_or_else(|| wrong_type(&path.to_string(), "an object"))?;
                self.normalise_members(name, members, path)?;
            }
        }
        Ok(())
    }
}

/// An integer however it is written: `3`, `3.0`, `"3"`.
fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64().or_else(|| {
            let float = number.as_f64()?;
            // Exact up to 2^53, far beyond what any member takes.
            (float.fract() == 0.0 && float.abs() < 9.0e15).then_some(float as i64)
        }),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

fn wrong_type(path: &str, expected: &str) -> Error {
    let place = if path.is_empty() { "The body".to_owned() } else { format!("`{path}`") };
    Error::new(Code::InvalidRequestBody)
        .because(format!("{place} must be {expected}."))
        .with("PropertyName", path)
        .with("Reason", format!("it must be {expected}"))
}

/// Where in a body; only written out when something is wrong there.
enum Path<'a> {
    Root,
    Member(&'a Path<'a>, &'a str),
    Item(&'a Path<'a>, usize),
}

impl std::fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Path::Root => Ok(()),
            Path::Member(Path::Root, name) => f.write_str(name),
            Path::Member(parent, name) => write!(f, "{parent}.{name}"),
            Path::Item(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

#[cfg(test)]
pub mod check;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_type_named_in_the_tables_is_defined() {
        fn inner(kind: &Type) -> &Type {
            if let Type::List(kind) = kind { inner(kind) } else { kind }
        }
        let schema = schema();
        assert!(schema.models.len() > 80 && schema.enums.len() > 30);
        for (model, fields) in &schema.models {
            assert!(!fields.is_empty(), "{model}");
            for (name, field) in fields {
                if let Type::Model(other) = inner(&field.kind) {
                    assert!(schema.models.contains_key(other), "{model}.{name}: {other}");
                }
            }
        }
    }

    fn normalised(body: Value) -> Value {
        Value::Object(schema().normalise("BatchPoolCreateOptions", body).unwrap())
    }

    #[test]
    fn irons_out_what_clients_send() {
        let sent = json!({
            "id": "p", "vmSize": "x", "displayName": null, "targetDedicatedNodes": "3",
            "targetLowPriorityNodes": 2.0, "enableAutoScale": "False",
            "taskSchedulingPolicy": {"nodeFillType": "Spread"}, "odata.type": "x",
            "resizeTimeout": "PT20M00S", "resourceTags": {"a": "b"}, "metadata": [{"name": "n", "value": "v"}]
        });
        let expected = json!({
            "id": "p", "vmSize": "x", "targetDedicatedNodes": 3, "targetLowPriorityNodes": 2,
            "enableAutoScale": false, "taskSchedulingPolicy": {"nodeFillType": "spread"},
            "resizeTimeout": "PT20M00S", "resourceTags": {"a": "b"}, "metadata": [{"name": "n", "value": "v"}]
        });
        assert_eq!(normalised(sent), expected);
    }

    #[test]
    fn says_what_is_wrong_and_where() {
        let check = |more: Value, code: Code, name: &str| {
            let mut body = json!({"id": "p", "vmSize": "x"});
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let error = schema().normalise("BatchPoolCreateOptions", body).unwrap_err();
            assert_eq!(error.code, code, "{more}");
            let found = error.values.iter().find(|(key, _)| key == "PropertyName");
            assert_eq!(found.map(|(_, value)| value.as_str()), Some(name), "{more}");
        };
        check(json!({"vmsize": "x"}), Code::UnsupportedProperty, "vmsize");
        check(json!({"startTask": {"commandLine": "a", "x": 1}}), Code::UnsupportedProperty, "startTask.x");
        check(json!({"startTask": {}}), Code::MissingRequiredProperty, "startTask.commandLine");
        check(json!({"vmSize": null}), Code::MissingRequiredProperty, "vmSize");
        check(json!({"id": 7}), Code::InvalidRequestBody, "id");
        check(json!({"targetDedicatedNodes": "many"}), Code::InvalidRequestBody, "targetDedicatedNodes");
        check(json!({"targetDedicatedNodes": 1.5}), Code::InvalidRequestBody, "targetDedicatedNodes");
        check(
            json!({"targetDedicatedNodes": 3_000_000_000_i64}),
            Code::InvalidPropertyValue,
            "targetDedicatedNodes",
        );
        check(json!({"enableAutoScale": 1}), Code::InvalidRequestBody, "enableAutoScale");
        check(json!({"resizeTimeout": "20M"}), Code::InvalidPropertyValue, "resizeTimeout");
        check(
            json!({"metadata": [{"name": "a", "value": "b"}, {"name": "c"}]}),
            Code::MissingRequiredProperty,
            "metadata[1].value",
        );
        let policy = json!({"taskSchedulingPolicy": {"nodeFillType": "heap"}});
        check(policy, Code::InvalidPropertyValue, "taskSchedulingPolicy.nodeFillType");
        let error = schema().normalise("BatchPoolCreateOptions", json!([1])).unwrap_err();
        assert_eq!(error.code, Code::InvalidRequestBody);
    }
}
