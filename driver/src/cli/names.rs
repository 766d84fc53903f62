//! Who is meant: names that a user gives, and the documents that know them.

use std::collections::BTreeSet;

use serde_json::Value;

use super::failure::Failure;
use super::output::{items, name_or_id};

/// Whether something has a name, or an identifier that begins with it.
pub fn is_called(wanted: &str, what: &Value, (name, id): (&str, &str)) -> bool {
    let id = what[id].as_str().unwrap_or_default();
    what[name] == wanted || (!wanted.is_empty() && id.starts_with(wanted))
}

/// Refuses a name that nothing of a list has: an empty table would look like an answer.
pub fn known(sort: &str, wanted: &str, keys: (&str, &str), document: &Value) -> Result<(), Failure> {
    let all = items(document);
    if all.iter().any(|one| is_called(wanted, one, keys)) {
        return Ok(());
    }
    let names = all.iter().map(|one| name_or_id(&one[keys.0], &one[keys.1]));
    Err(unknown(sort, wanted, names.collect()))
}

/// The refusal of a name that nothing has, with the names that there are.
pub fn unknown(sort: &str, wanted: &str, names: BTreeSet<String>) -> Failure {
    let there = match names.is_empty() {
        true => "there is none".to_owned(),
        false => format!("there are: {}", names.into_iter().collect::<Vec<_>>().join(", ")),
    };
    let wanted = tombolo_core::model::cut(wanted);
    Failure::Refused {
        message: format!("no {sort} is called '{wanted}'; {there}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_name_that_nothing_has_is_refused_with_those_that_there_are() {
        let document = json!([
            {"network_name": "demo", "network_id": "aaaa"},
            {"network_name": null, "network_id": "dddddddddddddddd"},
        ]);
        let keys = ("network_name", "network_id");
        assert!(known("network", "demo", keys, &document).is_ok());
        assert!(known("network", "dddd", keys, &document).is_ok());
        let refused = known("network", "dem", keys, &document).unwrap_err();
        assert_eq!(refused.exit_code(), 1);
        assert_eq!(
            refused.chain(),
            "no network is called 'dem'; there are: dddddddddddd, demo"
        );
        let refused = known("network", "dem", keys, &json!([])).unwrap_err();
        assert_eq!(refused.chain(), "no network is called 'dem'; there is none");
    }
}
