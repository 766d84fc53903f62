//! The tombolo daemon and its command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    tombolo::cli::main()
}
