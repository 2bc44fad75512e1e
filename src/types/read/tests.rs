//! Both languages, and what is wrong in them.

use super::super::bounds::DOCUMENT_VALUES;
use super::*;
use crate::types::oci::runtime::Spec;

#[test]
fn errors_name_the_field() {
    let cases = [
        (r#"{"hostname":7}"#, "hostname", "expected a string"),
        (
            r#"{"root":{"path":"x"},"process":{"terminal":"yes"}}"#,
            "process.terminal",
            "expected a boolean",
        ),
        (
            "{\"mounts\": [\n {\"destination\": \"/a\"},\n {\"destination\": \"/\\\"}b\", \"options\": {}}]}",
            "mounts[1].options",
            "expected a sequence",
        ),
        (
            r#"{"process":{"user":{"uid":-1}}}"#,
            "process.user.uid",
            "invalid value",
        ),
        (
            r#"{"process":{"user":{"additionalGids":[1,2,"x"]}}}"#,
            "process.user.additionalGids[2]",
            "expected u32",
        ),
        (r#"{"annotations":{"a":"b","c":1}}"#, "annotations.c", "string"),
        (
            r#"{"linux":{"namespaces":[{"type":"user"},{"type":"moon"}]}}"#,
            "linux.namespaces[1].type",
            "unknown variant `moon`",
        ),
        (r#"{"process":{"user":{}} }"#, "process", "missing field `cwd`"),
        (r#"{"root":{},"root":{}}"#, "", "duplicate field `root`"),
        ("[]", "", "invalid"),
        ("", "", "EOF"),
    ];
    for (text, field, problem) in cases {
        let error = json::<Spec>(text.as_bytes()).expect_err(text);
        assert_eq!(error.field, field, "{text}: {error}");
        assert!(error.problem.contains(problem), "{error}");
    }
    let error = json::<Spec>(br#"{"hostname":7}"#).expect_err("a number").to_string();
    assert!(error.starts_with("`hostname`: invalid type: integer `7`"), "{error}");
}

#[test]
fn names_of_fields_are_short() {
    let key = "k".repeat(1000);
    let deep = format!(r#"{{"annotations":{{"{key}":{}"#, "[".repeat(100));
    let error = json::<Spec>(deep.as_bytes()).expect_err("cut off");
    assert!(error.field.len() < 200, "{}", error.field);
}

#[derive(Debug, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    name: String,
    #[serde(default)]
    small: u8,
    #[serde(default)]
    below: i64,
    #[serde(default)]
    share: f64,
    #[serde(default)]
    inner: Vec<Inner>,
    #[serde(default)]
    way: Option<Way>,
}

#[derive(Debug, PartialEq, serde::Deserialize)]
struct Inner {
    yes: bool,
}

#[derive(Debug, PartialEq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum Way {
    Plain,
    Port(u16),
    Both { left: u8 },
}

#[test]
fn both_languages_make_the_same() {
    let make = |below, share, inner: &[bool], way| Table {
        name: "x\n".to_owned(),
        small: 200,
        below,
        share,
        inner: inner.iter().map(|yes| Inner { yes: *yes }).collect(),
        way,
    };
    let cases = [
        (
            "name='''x\n'''\nsmall=0xc8\nbelow=-1_000\nshare=0.5\nway='plain'\n[[inner]]\nyes=true\n[[inner]]\nyes=false",
            r#"{"name":"x\n","small":200,"below":-1000,"share":0.5,"way":"plain","inner":[{"yes":true},{"yes":false,"no":1}]}"#,
            make(-1000, 0.5, &[true, false], Some(Way::Plain)),
        ),
        (
            "name=\"x\\n\"\nsmall=200\nbelow=7\nshare=3\nway={port=8}",
            r#"{"name":"x\u000a","small":200,"below":7,"share":3,"way":{"port":8}}"#,
            make(7, 3.0, &[], Some(Way::Port(8))),
        ),
        (
            "name=\"x\\n\"\nsmall=0o310\nway.both.left=1",
            r#"{"name":"x\n","small":200,"way":{"both":{"left":1}}}"#,
            make(0, 0.0, &[], Some(Way::Both { left: 1 })),
        ),
    ];
    for (text, same, made) in cases {
        assert_eq!(toml::<Table>(text).as_ref(), Ok(&made), "{text}");
        assert_eq!(json::<Table>(same.as_bytes()), Ok(made), "{same}");
    }
}

#[test]
fn mistakes_in_toml_have_a_place_and_a_line() {
    let cases = [
        ("name='a'\nsmall=300", "small", "invalid value: integer `300`", 2),
        ("name='a'\n\n[[inner]]\nyes=1", "inner[0].yes", "expected a boolean", 4),
        ("name='a'\n[[inner]]\nno=1\n", "inner[0]", "missing field `yes`", 2),
        ("name='a'\nnaem='b'", "", "unknown field `naem`", 2),
        ("name='a'\nname='b'", "", "duplicate key", 2),
        ("name='a'\nbelow=9223372036854775808", "", "too large", 2),
        ("name='a'\nway={port='b'}", "way.port", "expected u16", 2),
        ("name='a'\nway='bend'", "way", "unknown variant `bend`", 2),
        ("name='a'\nway={port=1,both=2}", "way", "expected", 2),
        ("name=2026-11-22T10:00:00Z\nsmall='x'", "small", "expected u8", 2),
        ("name='a'\nsmall=", "", "", 2),
    ];
    for (text, field, problem, line) in cases {
        let error = toml::<Table>(text).expect_err(text);
        assert_eq!(error.field, field, "{text}: {error}");
        assert!(error.problem.contains(problem), "{text}: {error}");
        assert!(error.problem.ends_with(&format!(" at line {line}")), "{text}: {error}");
    }
    assert_eq!(toml::<Table>("").expect_err("no name").problem, "missing field `name`");
}

#[test]
fn what_is_there_twice_or_too_often_is_refused() {
    for text in [r#"{"name":"a","other":{"b":1,"b":1}}"#, r#"{"name":"a","name":"b"}"#] {
        let error = json_any(text.as_bytes()).expect_err(text);
        assert!(error.problem.starts_with("duplicate field"), "{error}");
    }
    let list = |values: usize| format!("[{}0]", "0,".repeat(values - 1));
    assert!(json_any(list(DOCUMENT_VALUES).as_bytes()).is_ok());
    let error = json_any(list(DOCUMENT_VALUES + 1).as_bytes()).expect_err("too many");
    assert!(error.problem.contains("more than 131072 values"), "{error}");
    let error = toml::<Table>(&format!("name={}", list(DOCUMENT_VALUES + 1))).expect_err("too many");
    assert!(error.problem.contains("more than 131072 values"), "{error}");
    // Depth is the parsers' to bound.
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    assert!(json_any(deep.as_bytes()).is_err());
    assert!(toml::<Table>(&format!("name={deep}")).is_err());
    assert!(json::<Table>(b"{\"name\":\"a\"} x").is_err());
    assert!(json::<Table>(b"[\"a\"]").is_err(), "fields have names");
}
