//! Short ways to look into JSON, with panics that show what was there instead.

use serde_json::Value;

/// Parses JSON that a command printed.
#[track_caller]
pub fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("no JSON ({e}): {text}"))
}

/// The text at a path such as `/0/State/Pid`.
#[track_caller]
pub fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    let found = value.pointer(path).and_then(Value::as_str);
    found.unwrap_or_else(|| panic!("no text at {path} in {value:#}"))
}

/// The elements of an array.
#[track_caller]
pub fn rows(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("no array: {value:#}"))
}
