//! The file of settings: TOML in, one text a setting out, with the line that each stands on.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::fault::{Fault, Origin};
use super::{Setting, parse};

/// How alike a key must be to a setting's to be suggested for it (Jaro-Winkler, 1 for the same word).
const ALIKE: f64 = 0.8;

/// The settings that a file's text gives, and all that is wrong with it.
pub fn entries(path: &Path, text: &str) -> (BTreeMap<Setting, (String, Origin)>, Vec<Fault>) {
    let origin = |span: Range<usize>| Origin::File {
        path: path.to_owned(),
        line: line_of(text, span.start),
    };
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        let fault = |error: toml::de::Error| Fault::Syntax {
            origin: origin(error.span().unwrap_or(0..0)),
            why: error.message().replace('\n', ", "),
        };
        return (BTreeMap::new(), errors.into_iter().map(fault).collect());
    }
    let (mut raw, mut faults) = (BTreeMap::new(), Vec::new());
    for (key, value) in table.get_ref() {
        let origin = origin(key.span());
        let Some(setting) = Setting::ALL
            .into_iter()
            .find(|setting| setting.key() == key.get_ref().as_ref())
        else {
            faults.push(Fault::UnknownKey {
                nearest: nearest(key.get_ref()),
                key: key.get_ref().to_string(),
                origin,
            });
            continue;
        };
        match text_of(setting, value.get_ref()) {
            Ok(text) => {
                raw.insert(setting, (text, origin));
            }
            Err(parse::Wrong { got, why }) => faults.push(Fault::Value {
                setting,
                origin,
                got,
                why,
            }),
        }
    }
    (raw, faults)
}

/// A value as the flag of the same setting would have it.
fn text_of(setting: Setting, value: &DeValue<'_>) -> Result<String, parse::Wrong> {
    match value {
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Integer(number) if matches!(setting, Setting::ClusterPort | Setting::VxlanPort) => {
            Ok(number.to_string())
        }
        DeValue::Array(items)
            if matches!(
                setting,
                Setting::AddressPools | Setting::Join | Setting::Advertise
            ) =>
        {
            let texts: Result<Vec<&str>, _> = items
                .iter()
                .map(|item| item.get_ref().as_str().ok_or_else(|| wrong_type(item.get_ref())))
                .collect();
            Ok(texts?.join(","))
        }
        other => Err(wrong_type(other)),
    }
}

fn wrong_type(value: &DeValue<'_>) -> parse::Wrong {
    let got = match value {
        DeValue::Integer(number) => Cow::Owned(number.to_string()),
        DeValue::Boolean(flag) => Cow::Owned(flag.to_string()),
        other => Cow::Borrowed(other.type_str()),
    };
    parse::Wrong {
        got: got.into_owned(),
        why: format!("a string in quotes is needed, not the type {}", value.type_str()),
    }
}

/// The setting whose key is spelled most like this one, where one comes near.
pub fn nearest(key: &str) -> Option<&'static str> {
    let key = key.to_ascii_lowercase().replace('-', "_");
    Setting::ALL
        .into_iter()
        .map(|setting| (strsim::jaro_winkler(&key, setting.key()), setting.key()))
        .filter(|(alike, _)| *alike >= ALIKE)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, known)| known)
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}
