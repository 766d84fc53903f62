//! `tombolo manual`: the manual pages, one for each command, for whoever packages tombolo.

use std::path::PathBuf;

use clap::{Args, CommandFactory};

use super::Cli;
use super::failure::Failure;

/// The flags of `tombolo manual`.
#[derive(Debug, Args)]
pub struct Flags {
    /// Directory to write the pages to, which must be there
    directory: PathBuf,
}

impl Flags {
    /// Writes the pages.
    pub fn run(&self) -> Result<(), Failure> {
        let command = Cli::command();
        clap_mangen::generate_to(command, &self.directory).map_err(|source| Failure::File {
            doing: "writing manual pages to",
            path: self.directory.clone(),
            source,
        })
    }
}
