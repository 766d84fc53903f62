//! Replays recorded conversations; `conversations/README.md` tells how they are written.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::json;
use crate::plugin::Client;

/// What the names of a conversation stand for.
#[derive(Debug, Default)]
struct Names(BTreeMap<String, String>);

/// Replays a conversation; panics at the first answer that does not match, with the command and exchange it was.
#[track_caller]
pub fn replay(client: &Client, recording: &str) {
    let mut names = Names::default();
    let mut command = String::new();
    for line in recording.lines() {
        let line = json::parse(line);
        if let Some(docker) = line["docker"].as_str() {
            docker.clone_into(&mut command);
            continue;
        }
        let method = json::text(&line, "/method");
        let request = names.fill_in(&line["request"]);
        let answer = client.call(method, &request);
        if let Err(difference) = names.compare(&line["answer"], &answer) {
            panic!(
                "{command}\n{method} {request}\nanswered {answer}\nand not {}: {difference}",
                line["answer"]
            );
        }
    }
}

impl Names {
    /// A request with names replaced by what they stand for.
    fn fill_in(&self, value: &Value) -> Value {
        match value {
            Value::String(text) if text.starts_with('$') => Value::String(self.meaning(text)),
            Value::Array(items) => items.iter().map(|item| self.fill_in(item)).collect(),
            Value::Object(fields) => Value::Object(
                fields
                    .iter()
                    .map(|(key, value)| (key.clone(), self.fill_in(value)))
                    .collect(),
            ),
            other => other.clone(),
        }
    }

    fn meaning(&self, name: &str) -> String {
        let (base, cut) = name
            .strip_suffix(".ip")
            .map_or((name, false), |base| (base, true));
        let text = self
            .0
            .get(base)
            .unwrap_or_else(|| panic!("{name} is used before it is answered"));
        if cut {
            text.split('/').next().unwrap_or_default().to_owned()
        } else {
            text.clone()
        }
    }

    /// Compares an answer with the expected one and learns what new names stand for.
    fn compare(&mut self, expected: &Value, found: &Value) -> Result<(), String> {
        match (expected, found) {
            (Value::String(name), Value::String(text)) if name.starts_with('$') => self.learn(name, text),
            (Value::Object(expected), Value::Object(found)) => {
                // A refusal is never what was expected, whatever else is in it.
                let refusal = ["Err", "Error"]
                    .iter()
                    .find_map(|key| found.get(*key).filter(|v| !is_empty(v)));
                if let Some(refusal) = refusal {
                    return Err(format!("refused: {refusal}"));
                }
                expected.iter().try_for_each(|(key, value)| {
                    let there = found.get(key).unwrap_or(&Value::Null);
                    self.compare(value, there)
                        .map_err(|difference| format!("{key}: {difference}"))
                })
            }
            _ if expected == found || is_empty(expected) && is_empty(found) => Ok(()),
            _ => Err(format!("{found} is not {expected}")),
        }
    }

    fn learn(&mut self, name: &str, text: &str) -> Result<(), String> {
        if let Some(known) = self.0.get(name) {
            return if known == text {
                Ok(())
            } else {
                Err(format!("'{text}', but {name} was '{known}'"))
            };
        }
        if text.is_empty() {
            return Err(format!("nothing for {name}"));
        }
        if let Some((other, _)) = self.0.iter().find(|(_, known)| *known == text) {
            return Err(format!("'{text}' for {name} is also {other}"));
        }
        self.0.insert(name.to_owned(), text.to_owned());
        Ok(())
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(true) | Value::Number(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn answers_match_by_what_is_written() {
        let mut names = Names::default();
        let mut compare = |expected: Value, found: Value| names.compare(&expected, &found).is_ok();
        assert!(compare(
            json!({ "A": "$a", "B": "", "C": [] }),
            json!({ "A": "10.0.0.2/24", "X": 1 })
        ));
        assert!(compare(json!({ "A": "$a" }), json!({ "A": "10.0.0.2/24" })));
        assert!(!compare(json!({ "A": "$a" }), json!({ "A": "10.0.0.3/24" })));
        assert!(!compare(json!({ "A": "$b" }), json!({ "A": "10.0.0.2/24" })));
        assert!(!compare(json!({ "A": "$b" }), json!({})));
        assert!(!compare(json!({ "B": "" }), json!({ "B": "x" })));
        assert!(!compare(json!({}), json!({ "Err": "no" })));
        assert_eq!(
            names.fill_in(&json!({ "A": ["$a", "$a.ip"] })),
            json!({ "A": ["10.0.0.2/24", "10.0.0.2"] })
        );
    }
}
