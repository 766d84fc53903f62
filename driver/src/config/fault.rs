//! What can be wrong with the settings, and where a value came from.

use std::fmt;
use std::path::PathBuf;

use super::Setting;

/// Where a setting's value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A flag of the command line, such as `--log`.
    Flag(String),
    /// An environment variable, such as `TOMBOLO_LOG`.
    Environment(String),
    /// The file of settings.
    File {
        /// The file.
        path: PathBuf,
        /// The line of the key, from 1.
        line: usize,
    },
    /// Nothing gave a value.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => write!(f, "flag {flag}"),
            Self::Environment(variable) => write!(f, "environment {variable}"),
            Self::File { path, line } => write!(f, "{} line {line}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

/// One thing that is wrong with the settings.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// A value that its setting cannot have.
    #[error("{setting} (from {origin}): '{got}': {why}; allowed: {allowed}", allowed = .setting.allowed())]
    Value {
        /// The setting.
        setting: Setting,
        /// Where the value came from.
        origin: Origin,
        /// The part of the value that is wrong.
        got: String,
        /// What is wrong with it.
        why: String,
    },
    /// A key of the file that is no setting.
    #[error("'{key}' (from {origin}) is no setting{}; allowed: {}", hint(.nearest), keys())]
    UnknownKey {
        /// The key.
        key: String,
        /// Where it stands.
        origin: Origin,
        /// The setting that is spelled most like it, where one comes near.
        nearest: Option<&'static str>,
    },
    /// A file that is no TOML.
    #[error("{origin}: not TOML: {why}")]
    Syntax {
        /// Where reading stopped.
        origin: Origin,
        /// What was expected.
        why: String,
    },
    /// A file that cannot be read. Its settings are unknown.
    #[error("the file of settings {} (from {origin}) cannot be read: {source}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Who named it.
        origin: Origin,
        /// What the system said.
        source: std::io::Error,
    },
}

fn hint(nearest: &Option<&'static str>) -> String {
    nearest.map_or_else(String::new, |key| format!(", did you mean '{key}'?"))
}

fn keys() -> String {
    Setting::ALL.map(Setting::key).join(", ")
}

/// All that is wrong with the settings: at least one fault.
#[derive(Debug)]
pub struct Faults(pub Vec<Fault>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let many = if self.0.len() == 1 { "fault" } else { "faults" };
        write!(f, "{} {many} in the settings:", self.0.len())?;
        self.0.iter().try_for_each(|fault| write!(f, "\n  - {fault}"))
    }
}

impl std::error::Error for Faults {}
