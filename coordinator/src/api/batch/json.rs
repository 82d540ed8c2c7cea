//! Answers are written straight into a buffer, member by member: no tree in between, absent values and empty lists
//! left out, `$select` honoured where the object is written.

use lote_shared::model::{Span, Timestamp};

/// Names of the top-level members a client wants; `None` at the callers means all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Select(Vec<String>);

impl Select {
    /// Reads `$select`. A nested path counts as its first member.
    pub fn parse(text: &str) -> Option<Select> {
        let names = text.split(',').map(|name| name.trim().split('/').next().unwrap_or(""));
        let names: Vec<String> = names.filter(|name| !name.is_empty()).map(str::to_owned).collect();
        (!names.is_empty()).then_some(Select(names))
    }

    /// Whether the client asked for this member.
    pub fn wants(&self, name: &str) -> bool {
        name.starts_with("odata.") || self.0.iter().any(|wanted| wanted == name)
    }
}

/// The object being written.
#[derive(Debug)]
pub struct Object<'a> {
    out: &'a mut Vec<u8>,
    empty: bool,
    select: Option<&'a Select>,
}

/// One object as bytes.
pub fn object(select: Option<&Select>, fill: impl FnOnce(&mut Object)) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    write_object(&mut out, select, fill);
    out
}

/// Appends one object.
pub fn write_object(out: &mut Vec<u8>, select: Option<&Select>, fill: impl FnOnce(&mut Object)) {
    out.push(b'{');
    fill(&mut Object { out, empty: true, select });
    out.push(b'}');
}

fn write_text(out: &mut Vec<u8>, text: &str) {
    // Writing a string into memory cannot fail.
    let _ = serde_json::to_writer(out, text);
}

impl Object<'_> {
    /// Begins a member; false if the client did not ask for it.
    fn member(&mut self, name: &str) -> bool {
        if self.select.is_some_and(|select| !select.wants(name)) {
            return false;
        }
        if !self.empty {
            self.out.push(b',');
        }
        self.empty = false;
        write_text(self.out, name);
        self.out.push(b':');
        true
    }

    pub fn text(&mut self, name: &str, value: &str) {
        if self.member(name) {
            write_text(self.out, value);
        }
    }

    /// Left out if absent.
    pub fn maybe_text(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.text(name, value);
        }
    }

    /// Left out if empty.
    pub fn filled_text(&mut self, name: &str, value: &str) {
        if !value.is_empty() {
            self.text(name, value);
        }
    }

    pub fn number(&mut self, name: &str, value: i64) {
        if self.member(name) {
            self.out.extend_from_slice(value.to_string().as_bytes());
        }
    }

    pub fn count(&mut self, name: &str, value: u64) {
        self.number(name, i64::try_from(value).unwrap_or(i64::MAX));
    }

    pub fn maybe_number(&mut self, name: &str, value: Option<i64>) {
        if let Some(value) = value {
            self.number(name, value);
        }
    }

    pub fn boolean(&mut self, name: &str, value: bool) {
        if self.member(name) {
            self.out.extend_from_slice(if value { b"true" } else { b"false" });
        }
    }

    pub fn time(&mut self, name: &str, value: Timestamp) {
        self.text(name, &value.to_string());
    }

    pub fn maybe_time(&mut self, name: &str, value: Option<Timestamp>) {
        if let Some(value) = value {
            self.time(name, value);
        }
    }

    pub fn span(&mut self, name: &str, value: Span) {
        self.text(name, &value.to_string());
    }

    pub fn object(&mut self, name: &str, fill: impl FnOnce(&mut Object)) {
        if self.member(name) {
            write_object(self.out, None, fill);
        }
    }

    /// A list of texts; left out if there are none.
    pub fn texts<'a>(&mut self, name: &str, items: impl IntoIterator<Item = &'a str>) {
        let mut items = items.into_iter().peekable();
        if items.peek().is_some() && self.member(name) {
            self.out.push(b'[');
            for (at, item) in items.enumerate() {
                if at > 0 {
                    self.out.push(b',');
                }
                write_text(self.out, item);
            }
            self.out.push(b']');
        }
    }

    /// A list of objects; left out if there are none.
    pub fn list<T>(
        &mut self,
        name: &str,
        items: impl IntoIterator<Item = T>,
        mut each: impl FnMut(&mut Object, T),
    ) {
        let mut items = items.into_iter().peekable();
        if items.peek().is_some() && self.member(name) {
            self.out.push(b'[');
            let mut first = true;
            for item in items {
                if !std::mem::take(&mut first) {
                    self.out.push(b',');
                }
                write_object(self.out, None, |object| each(object, item));
            }
            self.out.push(b']');
        }
    }

    /// A list of objects written before, present even when empty.
    pub fn rows(&mut self, name: &str, rows: &[Vec<u8>]) {
        if self.member(name) {
            self.out.push(b'[');
            for (index, row) in rows.iter().enumerate() {
                if index > 0 {
                    self.out.push(b',');
                }
                self.out.extend_from_slice(row);
            }
            self.out.push(b']');
        }
    }

    /// Every member of a JSON object that was stored as text; text that is none adds nothing.
    pub fn echo(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        let Ok(members) = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(text) else {
            return;
        };
        for (name, value) in &members {
            if self.member(name) {
                let _ = serde_json::to_writer(&mut *self.out, value);
            }
        }
    }
}

/// `name`/`value` pairs, the way the API writes most lists.
pub fn name_value(object: &mut Object, (name, value): &(String, String)) {
    object.text("name", name);
    object.text("value", value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_and_empty_members_are_left_out() {
        let bytes = object(None, |o| {
            o.text("a", "x\"\n");
            o.maybe_text("b", None);
            o.filled_text("c", "");
            o.list("d", &[] as &[(String, String)], name_value);
            o.list("e", &[("n".to_owned(), "v".to_owned())], name_value);
            o.number("f", -1);
            o.boolean("g", true);
            o.time("h", Timestamp(1));
            o.span("i", Span::UNLIMITED);
            o.rows("j", &[]);
            o.object("k", |_| {});
            o.echo(r#"{"l":{"m":[1,"2"]}}"#);
            o.echo("not json");
        });
        assert_eq!(
            String::from_utf8(bytes).unwrap(),
            r#"{"a":"x\"\n","e":[{"name":"n","value":"v"}],"f":-1,"g":true,"h":"1970-01-01T00:00:00.001Z","#
                .to_owned()
                + r#""i":"P10675199DT2H48M5.4775807S","j":[],"k":{},"l":{"m":[1,"2"]}}"#
        );
    }

    #[test]
    fn select_trims_the_top_level_only() {
        let select = Select::parse("id, state,executionInfo/exitCode").unwrap();
        let bytes = object(Some(&select), |o| {
            o.text("odata.metadata", "m");
            o.text("id", "1");
            o.text("url", "u");
            o.object("executionInfo", |o| o.number("retryCount", 0));
            o.echo(r#"{"state":"s","other":1}"#);
        });
        assert_eq!(
            String::from_utf8(bytes).unwrap(),
            r#"{"odata.metadata":"m","id":"1","executionInfo":{"retryCount":0},"state":"s"}"#
        );
        assert_eq!(Select::parse(" , "), None);
    }
}
