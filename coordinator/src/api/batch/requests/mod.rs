//! From request bodies to what the state machine takes.
//!
//! Every body passes the schema walk first ([`super::schema`]: syntax), then a builder here checks values and makes
//! the domain type. What changes what runs and is not built is refused by name, what only a cloud could use is kept
//! as `echo` text and shown again.

pub mod job;
pub mod parts;
pub mod pool;
pub mod schedule;
mod special;
pub mod task;
pub mod ties;

use super::errors::{Code, Error};
use super::schema::schema;
use lote_shared::model::{Span, Timestamp};
use serde_json::{Map, Value};

/// Reads a body that must be there.
pub fn body(bytes: &[u8], model: &'static str) -> Result<Members, Error> {
    Members::of(model, json(bytes)?)
}

/// Reads a body that may be left out: nothing and `{}` are the same.
pub fn optional_body(bytes: &[u8], model: &'static str) -> Result<Members, Error> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(Members { members: Map::new(), path: String::new() });
    }
    body(bytes, model)
}

fn json(bytes: &[u8]) -> Result<Value, Error> {
    serde_json::from_slice(bytes).map_err(|error| {
        let reason = if bytes.is_empty() { "the body is empty".to_owned() } else { error.to_string() };
        Error::new(Code::InvalidRequestBody).with("Reason", reason)
    })
}

/// The members of one object that passed the schema walk: types are as the tables say, nulls are gone.
#[derive(Debug)]
pub struct Members {
    members: Map<String, Value>,
    /// Where the object stands in the body; empty at its top.
    path: String,
}

impl Members {
    fn of(model: &'static str, value: Value) -> Result<Members, Error> {
        Ok(Members { members: schema().normalise(model, value)?, path: String::new() })
    }

    /// A member's place in the body, for errors.
    pub fn path(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    pub fn has(&self, name: &str) -> bool {
        self.members.contains_key(name)
    }

    pub fn text(&mut self, name: &str) -> Option<String> {
        match self.members.remove(name)? {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// A text that must be there and may not be empty or hold a NUL.
    pub fn required_text(&mut self, name: &str) -> Result<String, Error> {
        let text = self.text(name).ok_or_else(|| Error::missing(&self.path(name)))?;
        if text.is_empty() {
            return Err(Error::property(&self.path(name), "", "it is empty"));
        }
        self.without_nul(name, text)
    }

    /// Refuses what no process can be given.
    pub fn without_nul(&self, name: &str, text: String) -> Result<String, Error> {
        if text.contains('\0') {
            return Err(Error::property(&self.path(name), &text, "it contains a NUL character"));
        }
        Ok(text)
    }

    pub fn integer(&mut self, name: &str) -> Option<i64> {
        self.members.remove(name)?.as_i64()
    }

    /// An integer within bounds, both included.
    pub fn within(&mut self, name: &str, least: i64, most: i64) -> Result<Option<i64>, Error> {
        let Some(number) = self.integer(name) else { return Ok(None) };
        if (least..=most).contains(&number) {
            return Ok(Some(number));
        }
        let reason = format!("it must be from {least} to {most}");
        Err(Error::property(&self.path(name), &number.to_string(), reason))
    }

    pub fn boolean(&mut self, name: &str) -> Option<bool> {
        self.members.remove(name)?.as_bool()
    }

    pub fn span(&mut self, name: &str) -> Option<Span> {
        self.members.remove(name).as_ref().and_then(Value::as_str).and_then(Span::parse)
    }

    pub fn time(&mut self, name: &str) -> Option<Timestamp> {
        self.members.remove(name).as_ref().and_then(Value::as_str).and_then(Timestamp::parse)
    }

    pub fn object(&mut self, name: &str) -> Option<Members> {
        match self.members.remove(name)? {
            Value::Object(members) => Some(Members { members, path: self.path(name) }),
            _ => None,
        }
    }

    /// The objects of a list; none if the list is absent.
    pub fn objects(&mut self, name: &str) -> Vec<Members> {
        let Some(Value::Array(items)) = self.members.remove(name) else { return Vec::new() };
        let path = self.path(name);
        let objects = items.into_iter().enumerate().filter_map(|(index, item)| match item {
            Value::Object(members) => Some(Members { members, path: format!("{path}[{index}]") }),
            _ => None,
        });
        objects.collect()
    }

    /// The texts of a list; none if the list is absent.
    pub fn texts(&mut self, name: &str) -> Vec<String> {
        let Some(Value::Array(items)) = self.members.remove(name) else { return Vec::new() };
        let texts = items.into_iter().filter_map(|item| match item {
            Value::String(text) => Some(text),
            _ => None,
        });
        texts.collect()
    }

    /// Forgets members that mean nothing in this request.
    pub fn ignore(&mut self, names: &[&str]) {
        names.iter().for_each(|name| drop(self.members.remove(*name)));
    }

    /// Refuses what is not built, if it asks for anything: `false`, empty lists and empty objects do not.
    pub fn refuse_unbuilt(&mut self, names: &[&str]) -> Result<(), Error> {
        for name in names {
            let asks = match self.members.remove(*name) {
                None | Some(Value::Bool(false)) => false,
                Some(Value::Array(items)) => !items.is_empty(),
                Some(Value::Object(members)) => members.values().any(|value| !is_blank(value)),
                Some(_) => true,
            };
            if asks {
                return Err(Error::not_built(&self.path(name)));
            }
        }
        Ok(())
    }

    /// The members of these names as JSON text, without secrets; empty if there are none.
    pub fn echo(&mut self, names: &[&str]) -> String {
        let mut kept = Map::new();
        for name in names {
            if let Some(mut value) = self.members.remove(*name) {
                remove_secrets(&mut value);
                if !is_blank(&value) {
                    kept.insert((*name).to_owned(), value);
                }
            }
        }
        if kept.is_empty() { String::new() } else { Value::Object(kept).to_string() }
    }

    /// Looks at a member that stays where it is.
    pub fn peek(&self, name: &str) -> Option<&Value> {
        self.members.get(name)
    }

    pub fn set_default(&mut self, name: &str, value: Value) {
        self.members.entry(name.to_owned()).or_insert(value);
    }

    /// Puts a member back that was taken out and looked at.
    pub fn put_back(&mut self, name: &str, object: Members) {
        self.members.insert(name.to_owned(), Value::Object(object.members));
    }
}

fn is_blank(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
        _ => false,
    }
}

/// Members that are never shown again (`pools-and-nodes.md` §12.2), so they are not kept either.
const SECRETS: [&str; 6] =
    ["password", "sshPrivateKey", "accountKey", "sasKey", "protectedSettings", "secretUrl"];

fn remove_secrets(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|name, _| !SECRETS.contains(&name.as_str()));
            members.values_mut().for_each(remove_secrets);
        }
        Value::Array(items) => items.iter_mut().for_each(remove_secrets),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
