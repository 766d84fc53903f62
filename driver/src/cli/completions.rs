//! `tombolo completions`: what a shell needs to complete our commands and flags.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::Cli;
use super::failure::Failure;

const HELP: &str = "\
Examples:
  tombolo completions bash > /etc/bash_completion.d/tombolo
  tombolo completions zsh > /usr/local/share/zsh/site-functions/_tombolo
  tombolo completions fish > ~/.config/fish/completions/tombolo.fish";

/// The flags of `tombolo completions`.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct Flags {
    /// The shell
    shell: Shell,
}

impl Flags {
    /// Prints the completions.
    pub fn run(&self, out: &mut Vec<u8>) -> Result<(), Failure> {
        clap_complete::generate(self.shell, &mut Cli::command(), "tombolo", out);
        Ok(())
    }
}
