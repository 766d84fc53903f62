//! What keeps a command from doing its work, and the exit code that says so.

use std::error::Error;
use std::path::PathBuf;

use crate::config::Faults;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Settings that cannot be. Nothing was done.
    #[error(transparent)]
    Settings(#[from] Faults),
    /// Words on the command line that can't be. Nothing was done.
    #[error("{message}")]
    Usage {
        /// What is wrong with them.
        message: String,
    },
    /// No daemon listens on the control socket. Nothing was done.
    #[error(
        "the daemon is not running: nobody listens on {}\n\
         Start it with `systemctl start tombolo`, or in the foreground with `tombolo serve`. \
         If its control socket is elsewhere, say where with --control-socket.",
        .socket.display()
    )]
    NotRunning {
        /// The control socket.
        socket: PathBuf,
    },
    /// The daemon has ended while it was listened to.
    #[error(
        "the daemon has ended: nobody listens on {} any more\n\
         Once it runs again, say the same once more to go on.",
        .socket.display()
    )]
    Ended {
        /// The control socket.
        socket: PathBuf,
    },
    /// The control socket is not for this user. Nothing was done.
    #[error("{} is for root only: run this command as root, for example with sudo", .socket.display())]
    Denied {
        /// The control socket.
        socket: PathBuf,
    },
    /// The daemon took too long. Whether a change was made is unknown.
    #[error("the daemon did not answer on {} within {seconds} s; its log may say why", .socket.display())]
    NoAnswer {
        /// The control socket.
        socket: PathBuf,
        /// How long it was waited for.
        seconds: u64,
    },
    /// The conversation broke. Whether a change was made is unknown.
    #[error("speaking to the daemon on {}", .socket.display())]
    Broken {
        /// The control socket.
        socket: PathBuf,
        /// What broke.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The daemon said no. It changed nothing.
    #[error("{message}")]
    Refused {
        /// The daemon's words.
        message: String,
    },
    /// The daemon answered what is no JSON. Nothing was changed.
    #[error("the daemon's answer to {path} is no JSON")]
    NoJson {
        /// What it was asked for.
        path: &'static str,
        /// Where it stops being JSON.
        source: serde_json::Error,
    },
    /// The daemon's answer lacks what this command is for. What was asked for was done.
    #[error("the daemon's answer to {path} has no {key} that can be used")]
    Lacking {
        /// What it was asked for.
        path: &'static str,
        /// What its answer should have.
        key: &'static str,
    },
    /// A file to be restored that is no JSON. Nothing was changed.
    #[error("{} is no saved state: it is not JSON", .file.display())]
    NoState {
        /// The file.
        file: PathBuf,
        /// Where it stops being JSON.
        source: serde_json::Error,
    },
    /// A file could not be read or written.
    #[error("{doing} {}", .path.display())]
    File {
        /// What was being done: `reading` or `writing`.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// This process could not be made ready.
    #[error("getting ready to {doing}")]
    Process {
        /// What for.
        doing: &'static str,
        /// What the system said.
        source: Box<dyn Error + Send + Sync>,
    },
    /// `doctor` found what does not work. What it found was shown.
    #[error("{faults} {} found; what to do is written with each", if *.faults == 1 { "fault was" } else { "faults were" })]
    Faults {
        /// How many.
        faults: usize,
    },
    /// The daemon stopped with an error.
    #[error("serving failed")]
    Serve {
        /// The daemon's error.
        source: Box<dyn Error + Send + Sync>,
    },
}

impl Failure {
    /// The exit code, as `tombolo --help` lists them.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Settings(_) | Self::Usage { .. } => 2,
            Self::NotRunning { .. } | Self::Ended { .. } => 3,
            _ => 1,
        }
    }

    /// The message and all its causes.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        // A transparent variant's source is its own cause's, so that no text comes twice.
        let mut cause = self.source();
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}
