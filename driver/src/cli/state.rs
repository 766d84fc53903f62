//! `tombolo state`: save all that the daemon remembers, and restore it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::de::IgnoredAny;

use super::client::Client;
use super::failure::Failure;

const HELP: &str = "\
Examples:
  tombolo state export before-upgrade.json
  tombolo state export | jq .
  tombolo state import before-upgrade.json";

/// The flags of `tombolo state`.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct Flags {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Save the state as JSON
    Export {
        /// The file to write (mode 0600, replaced whole or not at all); `-`, or none, is standard output
        file: Option<PathBuf>,
    },
    /// Put a saved state in the place of the present one
    ///
    /// What the saved state does not know is taken out of the kernel, so containers whose networks came later lose
    /// them. Docker is told nothing.
    Import {
        /// The file to read; `-` is standard input
        file: PathBuf,
    },
}

impl Flags {
    /// Saves or restores the state.
    pub fn run(&self, client: &Client, out: &mut Vec<u8>) -> Result<(), Failure> {
        match &self.what {
            What::Export { file } if file.as_deref().is_none_or(is_stream) => {
                out.extend_from_slice(&client.get("/v1/state")?);
                if out.last() != Some(&b'\n') {
                    out.push(b'\n');
                }
                Ok(())
            }
            // Without a file it went to standard output.
            What::Export { file } => {
                let file = file.as_deref().unwrap_or(Path::new("-"));
                let state = client.get("/v1/state")?;
                replace(file, &state).map_err(|source| Failure::File {
                    doing: "writing",
                    path: file.to_owned(),
                    source,
                })
            }
            What::Import { file } => {
                let state = read(file).map_err(|source| Failure::File {
                    doing: "reading",
                    path: file.clone(),
                    source,
                })?;
                // Said here, because the daemon does not know the file's name.
                serde_json::from_slice::<IgnoredAny>(&state).map_err(|source| Failure::NoState {
                    file: file.clone(),
                    source,
                })?;
                client.put("/v1/state", state)?;
                out.extend_from_slice(format!("The state of {} is in place.\n", file.display()).as_bytes());
                Ok(())
            }
        }
    }
}

/// Whether a file's name stands for standard input or output.
fn is_stream(file: &Path) -> bool {
    file == Path::new("-")
}

fn read(file: &Path) -> io::Result<Vec<u8>> {
    if !is_stream(file) {
        return fs::read(file);
    }
    let mut state = Vec::new();
    io::stdin().lock().read_to_end(&mut state)?;
    Ok(state)
}

/// Writes a file so that after a power cut there is the old one or the new one, and never half of one.
fn replace(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let name = file
        .file_name()
        .ok_or_else(|| io::Error::from(io::ErrorKind::IsADirectory))?;
    let beside = file.with_file_name(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
    let result = write_durably(&beside, bytes).and_then(|()| fs::rename(&beside, file));
    if result.is_err() {
        // The first error is the one to tell; what is left over is a hidden file of ours.
        let _ = fs::remove_file(&beside);
        return result;
    }
    let directory = file
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    File::open(directory)?.sync_all()
}

fn write_durably(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)?;
    file.write_all(bytes)?;
    file.sync_all()
}
