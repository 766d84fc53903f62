//! `tombolo version`: this binary's version, whether a daemon runs or not.

use clap::Args;
use serde_json::{Value, json};

use super::failure::Failure;
use super::output::{Output, cell};

/// The flags of `tombolo version`.
#[derive(Debug, Args)]
pub struct Flags {
    #[command(flatten)]
    output: Output,
}

impl Flags {
    /// Shows the version.
    pub fn run(&self, out: &mut Vec<u8>) -> Result<(), Failure> {
        let document = json!({
            "name": "tombolo",
            "version": env!("CARGO_PKG_VERSION"),
            "schema": crate::serve::SCHEMA,
            "target": format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
        });
        self.output.show(&document, render, out)
    }
}

fn render(document: &Value) -> String {
    format!(
        "tombolo {} ({}), state schema {}\n",
        cell(&document["version"]),
        cell(&document["target"]),
        cell(&document["schema"])
    )
}
