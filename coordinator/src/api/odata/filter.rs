//! `$filter`: parser and evaluator for the grammar of WIRE.md §8.1.
//!
//! ```text
//! expr := and ('or' and)* ; and := prim ('and' prim)*
//! prim := '(' expr ')' | startswith '(' path ',' string ')' | path op literal
//! op := eq|ne|gt|ge|lt|le ; literal := 'string' | integer | true | false | DateTime'…'
//! ```
//!
//! What may be compared with what is a table per list ([`Field`]). Filters come from the network: length, depth and
//! number of comparisons are bounded. A member that is absent equals nothing and differs from everything.

use lote_shared::model::Timestamp;
use std::cmp::Ordering;
use std::collections::BTreeSet;

const LENGTH_MAX: usize = 16 * 1024;
const DEPTH_MAX: usize = 32;
const COMPARISONS_MAX: usize = 512;

/// Type of a filterable member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Ids and enums: compared without case.
    Text,
    Number,
    Boolean,
    Time,
}

/// Which operators a member takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operators {
    /// `eq`
    Equal,
    /// `eq`, `ne`
    Equality,
    /// All six.
    Ordered,
    /// All six and `startswith`.
    OrderedAndPrefix,
    /// `startswith` alone.
    Prefix,
}

/// A member that a list can be filtered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// As in filters: `executionInfo/exitCode`.
    pub path: &'static str,
    pub kind: Kind,
    pub operators: Operators,
}

/// A member's value, as an evaluator looks it up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value<'a> {
    Absent,
    Text(&'a str),
    Number(i64),
    Boolean(bool),
    Time(Timestamp),
}

impl<'a> Value<'a> {
    pub fn time(value: Option<Timestamp>) -> Value<'a> {
        value.map_or(Value::Absent, Value::Time)
    }

    pub fn number(value: Option<i32>) -> Value<'a> {
        value.map_or(Value::Absent, |value| Value::Number(value.into()))
    }

    pub fn text(value: Option<&'a str>) -> Value<'a> {
        value.map_or(Value::Absent, Value::Text)
    }
}

/// Why a filter is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} at position {position}")]
pub struct Error {
    pub what: String,
    /// Byte in the filter, from 0.
    pub position: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Eq,
    Ne,
    Gt,
    Ge,
    Lt,
    Le,
}

impl Operator {
    fn parse(word: &str) -> Option<Operator> {
        const WORDS: [(&str, Operator); 6] = [
            ("eq", Operator::Eq),
            ("ne", Operator::Ne),
            ("gt", Operator::Gt),
            ("ge", Operator::Ge),
            ("lt", Operator::Lt),
            ("le", Operator::Le),
        ];
        WORDS.iter().find(|(name, _)| name.eq_ignore_ascii_case(word)).map(|(_, operator)| *operator)
    }

    fn holds(self, ordering: Option<Ordering>) -> bool {
        match (self, ordering) {
            (Operator::Ne, None) => true,
            (_, None) => false,
            (Operator::Eq, Some(o)) => o.is_eq(),
            (Operator::Ne, Some(o)) => o.is_ne(),
            (Operator::Gt, Some(o)) => o.is_gt(),
            (Operator::Ge, Some(o)) => o.is_ge(),
            (Operator::Lt, Some(o)) => o.is_lt(),
            (Operator::Le, Some(o)) => o.is_le(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Literal {
    Text(String),
    Number(i64),
    Boolean(bool),
    Time(Timestamp),
}

impl Literal {
    fn kind(&self) -> Kind {
        match self {
            Literal::Text(_) => Kind::Text,
            Literal::Number(_) => Kind::Number,
            Literal::Boolean(_) => Kind::Boolean,
            Literal::Time(_) => Kind::Time,
        }
    }

    fn compare(&self, value: &Value) -> Option<Ordering> {
        match (value, self) {
            (Value::Text(value), Literal::Text(literal)) => Some(compare_texts(value, literal)),
            (Value::Number(value), Literal::Number(literal)) => Some(value.cmp(literal)),
            (Value::Boolean(value), Literal::Boolean(literal)) => Some(value.cmp(literal)),
            (Value::Time(value), Literal::Time(literal)) => Some(value.cmp(literal)),
            _ => None,
        }
    }
}

fn compare_texts(a: &str, b: &str) -> Ordering {
    let fold = |text: &str| text.bytes().map(|b| b.to_ascii_lowercase()).collect::<Vec<u8>>();
    if a.eq_ignore_ascii_case(b) { Ordering::Equal } else { fold(a).cmp(&fold(b)) }
}

fn starts_with(text: &str, prefix: &str) -> bool {
    let start = text.as_bytes().get(..prefix.len());
    start.is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Expression {
    And(Vec<Expression>),
    Or(Vec<Expression>),
    Compare(&'static str, Operator, Literal),
    StartsWith(&'static str, String),
}

/// A filter that was read and may be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter(Expression);

impl Filter {
    /// Reads a filter over these members.
    pub fn parse(text: &str, fields: &[Field]) -> Result<Filter, Error> {
        if text.len() > LENGTH_MAX {
            let what = format!("the filter has more than {LENGTH_MAX} characters");
            return Err(Error { what, position: LENGTH_MAX });
        }
        let mut parser = Parser { tokens: tokens(text)?, next: 0, end: text.len(), fields, comparisons: 0 };
        let expression = parser.or(0)?;
        match parser.peek() {
            None => Ok(Filter(expression)),
            Some(_) => Err(parser.unexpected("`and`, `or` or the end")),
        }
    }

    /// Whether something with these members passes.
    pub fn matches<'a>(&self, member: &impl Fn(&str) -> Value<'a>) -> bool {
        fn holds<'a>(expression: &Expression, member: &impl Fn(&str) -> Value<'a>) -> bool {
            match expression {
                Expression::And(all) => all.iter().all(|inner| holds(inner, member)),
                Expression::Or(any) => any.iter().any(|inner| holds(inner, member)),
                Expression::Compare(path, operator, literal) => {
                    operator.holds(literal.compare(&member(path)))
                }
                Expression::StartsWith(path, prefix) => match member(path) {
                    Value::Text(text) => starts_with(text, prefix),
                    _ => false,
                },
            }
        }
        holds(&self.0, member)
    }

    /// Lower-cased values outside which nothing can pass, if the filter pins this member by `eq`.
    pub fn pinned(&self, path: &str) -> Option<BTreeSet<String>> {
        fn pinned(expression: &Expression, path: &str) -> Option<BTreeSet<String>> {
            match expression {
                Expression::Compare(found, Operator::Eq, Literal::Text(text)) if *found == path => {
                    Some(BTreeSet::from([text.to_ascii_lowercase()]))
                }
                Expression::And(all) => all.iter().find_map(|inner| pinned(inner, path)),
                Expression::Or(any) => {
                    let sets: Option<Vec<_>> = any.iter().map(|inner| pinned(inner, path)).collect();
                    Some(sets?.into_iter().flatten().collect())
                }
                _ => None,
            }
        }
        pinned(&self.0, path)
    }

    /// The text of a filter that is nothing but `startswith(path, 'text')`.
    pub fn only_prefix(&self, path: &str) -> Option<&str> {
        match &self.0 {
            Expression::StartsWith(found, prefix) if *found == path => Some(prefix),
            _ => None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Open,
    Close,
    Comma,
    /// A keyword, a path, an operator or a number.
    Word(String),
    Text(String),
    Time(Timestamp),
}

/// Cuts a filter into tokens and where each begins.
fn tokens(text: &str) -> Result<Vec<(Token, usize)>, Error> {
    let mut tokens = Vec::new();
    let mut rest = text.char_indices().peekable();
    while let Some((at, c)) = rest.next() {
        let token = match c {
            c if c.is_whitespace() => continue,
            '(' => Token::Open,
            ')' => Token::Close,
            ',' => Token::Comma,
            '\'' => {
                let mut content = String::new();
                loop {
                    match rest.next() {
                        None => return Err(Error { what: "a quoted text has no end".into(), position: at }),
                        // Two quotes are one inside the text.
                        Some((_, '\'')) if rest.next_if(|(_, c)| *c == '\'').is_some() => content.push('\''),
                        Some((_, '\'')) => break,
                        Some((_, c)) => content.push(c),
                    }
                }
                time_or_text(&mut tokens, content, at)?
            }
            first => {
                let mut word = String::from(first);
                while let Some((_, c)) = rest.next_if(|(_, c)| !c.is_whitespace() && !"(),'".contains(*c)) {
                    word.push(c);
                }
                Token::Word(word)
            }
        };
        tokens.push((token, at));
    }
    Ok(tokens)
}

/// `DateTime'…'` is one literal: a quoted text directly behind that word.
fn time_or_text(tokens: &mut Vec<(Token, usize)>, content: String, at: usize) -> Result<Token, Error> {
    const PREFIX: &str = "datetime";
    let is_time = matches!(tokens.last(), Some((Token::Word(word), start))
        if word.eq_ignore_ascii_case(PREFIX) && start + PREFIX.len() == at);
    if !is_time {
        return Ok(Token::Text(content));
    }
    tokens.pop();
    let what = "a DateTime is neither ISO 8601 nor RFC 1123";
    Timestamp::parse(&content).map(Token::Time).ok_or(Error { what: what.into(), position: at })
}

struct Parser<'f> {
    tokens: Vec<(Token, usize)>,
    next: usize,
    /// Length of the filter, for errors at its end.
    end: usize,
    fields: &'f [Field],
    comparisons: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.next).map(|(token, _)| token)
    }

    fn position(&self) -> usize {
        self.tokens.get(self.next).map_or(self.end, |(_, at)| *at)
    }

    fn unexpected(&self, expected: &str) -> Error {
        Error { what: format!("expected {expected}"), position: self.position() }
    }

    fn take(&mut self, token: &Token, name: &str) -> Result<(), Error> {
        if self.peek() != Some(token) {
            return Err(self.unexpected(name));
        }
        self.next += 1;
        Ok(())
    }

    fn take_keyword(&mut self, keyword: &str) -> bool {
        let found = matches!(self.peek(), Some(Token::Word(word)) if word.eq_ignore_ascii_case(keyword));
        self.next += usize::from(found);
        found
    }

    fn or(&mut self, depth: usize) -> Result<Expression, Error> {
        let mut any = vec![self.and(depth)?];
        while self.take_keyword("or") {
            any.push(self.and(depth)?);
        }
        Ok(if any.len() == 1 { any.remove(0) } else { Expression::Or(any) })
    }

    fn and(&mut self, depth: usize) -> Result<Expression, Error> {
        let mut all = vec![self.primary(depth)?];
        while self.take_keyword("and") {
            all.push(self.primary(depth)?);
        }
        Ok(if all.len() == 1 { all.remove(0) } else { Expression::And(all) })
    }

    fn primary(&mut self, depth: usize) -> Result<Expression, Error> {
        let begin = self.position();
        if self.peek() == Some(&Token::Open) {
            if depth >= DEPTH_MAX {
                let what = format!("more than {DEPTH_MAX} nested parentheses");
                return Err(Error { what, position: begin });
            }
            self.next += 1;
            let inner = self.or(depth + 1)?;
            self.take(&Token::Close, "`)`")?;
            return Ok(inner);
        }
        self.comparisons += 1;
        if self.comparisons > COMPARISONS_MAX {
            return Err(Error { what: format!("more than {COMPARISONS_MAX} comparisons"), position: begin });
        }
        let prefixed = matches!(self.peek(), Some(Token::Word(word)) if word.eq_ignore_ascii_case("startswith"))
            && matches!(self.tokens.get(self.next + 1), Some((Token::Open, _)));
        if prefixed { self.starts_with() } else { self.comparison() }
    }

    fn starts_with(&mut self) -> Result<Expression, Error> {
        self.next += 2;
        let begin = self.position();
        let field = self.field()?;
        if !matches!(field.operators, Operators::OrderedAndPrefix | Operators::Prefix) {
            return Err(Error {
                what: format!("`{}` cannot be used in startswith", field.path),
                position: begin,
            });
        }
        self.take(&Token::Comma, "`,`")?;
        let Some(Token::Text(prefix)) = self.peek().cloned() else {
            return Err(self.unexpected("a quoted text"));
        };
        self.next += 1;
        self.take(&Token::Close, "`)`")?;
        Ok(Expression::StartsWith(field.path, prefix))
    }

    fn field(&mut self) -> Result<Field, Error> {
        let Some(Token::Word(path)) = self.peek() else {
            return Err(self.unexpected("the name of a property"));
        };
        let field = self.fields.iter().find(|field| field.path == path);
        let field = *field.ok_or_else(|| Error {
            what: format!("`{path}` is not a property that this list can be filtered by"),
            position: self.position(),
        })?;
        self.next += 1;
        Ok(field)
    }

    fn comparison(&mut self) -> Result<Expression, Error> {
        let field = self.field()?;
        let at = self.position();
        let operator = match self.peek() {
            Some(Token::Word(word)) => Operator::parse(word),
            _ => None,
        };
        let Some(operator) = operator else {
            return Err(self.unexpected("one of eq, ne, gt, ge, lt, le"));
        };
        let allowed = match field.operators {
            Operators::Equal => operator == Operator::Eq,
            Operators::Equality => matches!(operator, Operator::Eq | Operator::Ne),
            Operators::Ordered | Operators::OrderedAndPrefix => true,
            Operators::Prefix => false,
        };
        if !allowed {
            let what = format!("`{}` does not take this operator", field.path);
            return Err(Error { what, position: at });
        }
        self.next += 1;
        let at = self.position();
        let literal = match self.peek() {
            Some(Token::Text(text)) => Some(Literal::Text(text.clone())),
            Some(Token::Time(time)) => Some(Literal::Time(*time)),
            Some(Token::Word(word)) if word.eq_ignore_ascii_case("true") => Some(Literal::Boolean(true)),
            Some(Token::Word(word)) if word.eq_ignore_ascii_case("false") => Some(Literal::Boolean(false)),
            Some(Token::Word(word)) => word.parse().ok().map(Literal::Number),
            _ => None,
        };
        match literal {
            Some(literal) if literal.kind() == field.kind => {
                self.next += 1;
                Ok(Expression::Compare(field.path, operator, literal))
            }
            Some(_) => {
                let what = format!("`{}` cannot be compared with this kind of value", field.path);
                Err(Error { what, position: at })
            }
            None => Err(self.unexpected("a value")),
        }
    }
}

#[cfg(test)]
mod tests;
