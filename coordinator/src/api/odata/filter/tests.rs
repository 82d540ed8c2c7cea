//! Filters by table and by property: what they select, what they refuse, and that nothing makes them panic.

use super::*;
use proptest::prelude::*;

const FIELDS: [Field; 7] = [
    Field { path: "id", kind: Kind::Text, operators: Operators::OrderedAndPrefix },
    Field { path: "state", kind: Kind::Text, operators: Operators::Equality },
    Field { path: "creationTime", kind: Kind::Time, operators: Operators::Ordered },
    Field { path: "executionInfo/exitCode", kind: Kind::Number, operators: Operators::Ordered },
    Field { path: "enableAutoScale", kind: Kind::Boolean, operators: Operators::Equality },
    Field { path: "poolId", kind: Kind::Text, operators: Operators::Equal },
    Field { path: "name", kind: Kind::Text, operators: Operators::Prefix },
];

/// A thing named `Task-7`, active, made 2025-01-01T12:00Z, exit code 3, no pool.
fn member(path: &str) -> Value<'static> {
    match path {
        "id" => Value::Text("Task-7"),
        "state" => Value::Text("active"),
        "creationTime" => Value::time(Timestamp::parse("2025-01-01T12:00:00Z")),
        "executionInfo/exitCode" => Value::Number(3),
        "enableAutoScale" => Value::Boolean(false),
        "name" => Value::Text("wd/out'1.txt"),
        _ => Value::Absent,
    }
}

fn check(text: &str, expected: bool) {
    let filter = Filter::parse(text, &FIELDS).unwrap_or_else(|error| panic!("{text}: {error}"));
    assert_eq!(filter.matches(&member), expected, "{text}");
}

#[test]
fn typical_filters() {
    check("state eq 'active'", true);
    check("state eq 'Active'", true);
    check("state ne 'active'", false);
    check("(state eq 'running') or (state eq 'completed')", false);
    check("(state eq 'running') or (state eq 'active')", true);
    check("startswith(id, 'task')", true);
    check("STARTSWITH(id,'task-8')", false);
    check("startswith(id,'Task-7 and more')", false);
    check("id eq 'tASK-7' and executionInfo/exitCode ne 0", true);
    check("id gt 'task-10'", true);
    check("id lt 'task-10'", false);
    check("creationTime gt DateTime'2025-01-01T00:00:00Z'", true);
    check("creationTime lt datetime'Wed, 01 Jan 2025 11:00:00 GMT'", false);
    check("executionInfo/exitCode ge 3 and executionInfo/exitCode le 3", true);
    check("executionInfo/exitCode lt -1", false);
    check("enableAutoScale eq false", true);
    check("enableAutoScale EQ TRUE", false);
    check("startswith(name,'wd/out''1')", true);
    // `and` binds closer than `or`.
    check("state eq 'active' or state eq 'x' and id eq 'y'", true);
    check("(state eq 'active' or state eq 'x') and id eq 'y'", false);
}

#[test]
fn what_is_absent_equals_nothing_and_differs_from_all() {
    let absent = |_: &str| Value::Absent;
    for (text, expected) in [
        ("executionInfo/exitCode eq 0", false),
        ("executionInfo/exitCode ne 0", true),
        ("executionInfo/exitCode lt 5", false),
        ("startswith(id,'')", false),
    ] {
        assert_eq!(Filter::parse(text, &FIELDS).unwrap().matches(&absent), expected, "{text}");
    }
}

#[test]
fn refusals_say_where() {
    let check = |text: &str, position: usize| {
        let error = Filter::parse(text, &FIELDS).expect_err(text);
        assert_eq!(error.position, position, "{text}: {error}");
    };
    check("", 0);
    check("state", 5);
    check("State eq 'x'", 0);
    check("state eq", 8);
    check("state eq active", 9);
    check("state eq 'x", 9);
    check("state gt 'x'", 6);
    check("state eq 5", 9);
    check("state eq 'a' or", 15);
    check("state eq 'a' state", 13);
    check("(state eq 'a'", 13);
    check("state eq 'a')", 12);
    check("startswith(state,'a')", 11);
    check("startswith(id,5)", 14);
    check("creationTime gt '2025-01-01'", 16);
    check("creationTime gt DateTime'soon'", 24);
    check("name eq 'x'", 5);
    check("poolId ne 'x'", 7);
    check("not (state eq 'a')", 0);
}

#[test]
fn length_depth_and_number_are_bounded() {
    let nested = |depth: usize| "(".repeat(depth) + "id eq 'a'" + &")".repeat(depth);
    assert!(Filter::parse(&nested(DEPTH_MAX), &FIELDS).is_ok());
    assert!(Filter::parse(&nested(DEPTH_MAX + 1), &FIELDS).is_err());
    let many = |count: usize| vec!["id eq 'a'"; count].join(" or ");
    assert!(Filter::parse(&many(COMPARISONS_MAX), &FIELDS).is_ok());
    assert!(Filter::parse(&many(COMPARISONS_MAX + 1), &FIELDS).is_err());
    assert!(Filter::parse(&format!("id eq '{}'", "a".repeat(LENGTH_MAX)), &FIELDS).is_err());
}

#[test]
fn pinned_values_are_an_upper_bound() {
    let pinned = |text: &str| {
        let pinned = Filter::parse(text, &FIELDS).unwrap().pinned("state");
        pinned.map(|set| set.into_iter().collect::<Vec<_>>().join(","))
    };
    assert_eq!(pinned("state eq 'Active'").as_deref(), Some("active"));
    assert_eq!(pinned("state eq 'a' or state eq 'b'").as_deref(), Some("a,b"));
    assert_eq!(pinned("id eq 'x' and (state eq 'a' or state eq 'b')").as_deref(), Some("a,b"));
    assert_eq!(pinned("state eq 'a' or id eq 'x'"), None);
    assert_eq!(pinned("state ne 'a'"), None);
    let filter = Filter::parse("startswith(name,'wd/')", &FIELDS).unwrap();
    assert_eq!(filter.only_prefix("name"), Some("wd/"));
    assert_eq!(filter.only_prefix("id"), None);
}

/// Pieces that make up near-filters.
fn piece() -> impl Strategy<Value = String> {
    const WORDS: [&str; 26] = [
        "id",
        "state",
        "executionInfo/exitCode",
        "creationTime",
        "eq",
        "ne",
        "gt",
        "le",
        "and",
        "or",
        "(",
        ")",
        ",",
        "startswith",
        "startswith(",
        "'a'",
        "'it''s'",
        "'",
        "DateTime",
        "DateTime'2025-01-01'",
        "5",
        "-5",
        "true",
        "é",
        "99999999999999999999",
        "''",
    ];
    prop_oneof![proptest::sample::select(&WORDS[..]).prop_map(str::to_owned), any::<String>()]
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in any::<String>()) {
        let _ = Filter::parse(&text, &FIELDS).map(|filter| filter.matches(&member));
    }

    #[test]
    fn no_near_filter_makes_it_panic(pieces in proptest::collection::vec(piece(), 0..24), glue in "[ ]?") {
        let _ = Filter::parse(&pieces.join(&glue), &FIELDS).map(|filter| filter.matches(&member));
    }

    /// Any text can be asked for, once its quotes are doubled.
    #[test]
    fn quoted_texts_come_back(text in "[^\u{0}]{0,40}") {
        let filter = Filter::parse(&format!("startswith(name,'{}')", text.replace('\'', "''")), &FIELDS).unwrap();
        prop_assert_eq!(filter.only_prefix("name"), Some(text.as_str()));
    }

    #[test]
    fn comparisons_agree_with_numbers(a in -50_i64..50, b in -50_i64..50) {
        let member = |_: &str| Value::Number(a);
        for (word, expected) in
            [("eq", a == b), ("ne", a != b), ("gt", a > b), ("ge", a >= b), ("lt", a < b), ("le", a <= b)]
        {
            let filter = Filter::parse(&format!("executionInfo/exitCode {word} {b}"), &FIELDS).unwrap();
            prop_assert_eq!(filter.matches(&member), expected);
        }
    }
}
