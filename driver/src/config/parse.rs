//! One setting's text to its value.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use tombolo_core::model::Attach;
use tracing_subscriber::EnvFilter;

/// The longest path of a Unix socket in bytes: `sun_path` of `sockaddr_un` holds 108 with the closing zero.
const SOCKET_PATH_MAX: usize = 107;
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// A part of a value that its setting cannot have.
#[derive(Debug, PartialEq, Eq)]
pub struct Wrong {
    /// The part.
    pub got: String,
    /// What is wrong with it.
    pub why: String,
}

impl Wrong {
    /// That `got` is wrong because of `why`.
    pub fn new(got: &str, why: impl Into<String>) -> Self {
        Self {
            got: tombolo_core::model::cut(got),
            why: why.into(),
        }
    }
}

/// A value, or all that is wrong with its text.
pub type Parsed<T> = Result<T, Vec<Wrong>>;

fn one<T>(got: &str, why: impl Into<String>) -> Parsed<T> {
    Err(vec![Wrong::new(got, why)])
}

/// Where the Docker engine answers.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum DockerHost {
    /// At a Unix socket of this host.
    Unix(PathBuf),
}

impl fmt::Display for DockerHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

/// A switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OnOff(pub bool);

impl fmt::Display for OnOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0 { "on" } else { "off" })
    }
}

/// A switch's text.
pub fn on_off(text: &str) -> Parsed<OnOff> {
    match text {
        "on" => Ok(OnOff(true)),
        "off" => Ok(OnOff(false)),
        other => one(other, "it is neither on nor off"),
    }
}

/// How containers come by their links.
pub fn attach(text: &str) -> Parsed<Attach> {
    match Attach::from_text(text) {
        Some(attach) => Ok(attach),
        None => one(text, "it is neither classic nor inside"),
    }
}

/// Where metrics are scraped; none for nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetricsAddr(pub Option<SocketAddr>);

impl fmt::Display for MetricsAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(addr) => addr.fmt(f),
            None => f.write_str("off"),
        }
    }
}

/// What log lines look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For a person: with colours where they go to a terminal.
    Human,
    /// For a machine: one JSON object a line.
    Json,
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Human => "human",
            Self::Json => "json",
        })
    }
}

/// An absolute path.
pub fn directory(text: &str) -> Parsed<PathBuf> {
    let path = Path::new(text);
    if text.contains(['\0', char::REPLACEMENT_CHARACTER]) {
        return one(
            text,
            "it holds bytes that no path of ours may hold (only UTF-8 without NUL)",
        );
    }
    if !path.is_absolute() {
        return one(text, "it is not absolute: it does not begin with '/'");
    }
    Ok(path.to_owned())
}

/// An address of this host.
pub fn address(text: &str) -> Parsed<IpAddr> {
    match text.parse::<IpAddr>() {
        Ok(address) if !address.is_multicast() => Ok(address),
        Ok(_) => one(text, "it is a multicast address"),
        Err(error) => one(text, error.to_string()),
    }
}

/// The path of a Unix socket.
pub fn socket(text: &str, is_directory: fn(&Path) -> bool) -> Parsed<PathBuf> {
    let path = directory(text)?;
    if !text.ends_with('/') && is_directory(&path) {
        return one(text, "it is a directory, so no socket can be made there");
    }
    if text.ends_with('/') {
        return one(text, "it ends with '/', so it names a directory and not a socket");
    }
    match path.as_os_str().as_bytes().len() {
        length if length > SOCKET_PATH_MAX => one(
            text,
            format!("it has {length} bytes, but the kernel allows a socket's path {SOCKET_PATH_MAX}"),
        ),
        _ => Ok(path),
    }
}

/// The place of the Docker engine, as in `DOCKER_HOST`.
pub fn docker_host(text: &str) -> Parsed<DockerHost> {
    match text.split_once("://") {
        Some(("unix", path)) => {
            let in_full = |wrong: Wrong| Wrong {
                got: tombolo_core::model::cut(text),
                ..wrong
            };
            socket(path, |_| false)
                .map(DockerHost::Unix)
                .map_err(|wrongs| wrongs.into_iter().map(in_full).collect())
        }
        Some((scheme @ ("tcp" | "http" | "https" | "ssh"), _)) => one(
            text,
            format!(
                "{scheme}:// is refused: tombolo changes this host's kernel, so it serves this host's engine only"
            ),
        ),
        Some((scheme, _)) => one(text, format!("{scheme}:// is unknown")),
        None if text.starts_with('/') => one(
            text,
            format!("the scheme is missing, did you mean unix://{text}?"),
        ),
        None => one(text, "the scheme is missing"),
    }
}

/// An address and a port to listen on, or `off`.
pub fn metrics_addr(text: &str) -> Parsed<MetricsAddr> {
    if text == "off" {
        return Ok(MetricsAddr(None));
    }
    if let Ok(addr) = text.parse::<SocketAddr>() {
        return match addr.port() {
            0 => one(
                text,
                "port 0 stands for any port, so nobody would know which to scrape",
            ),
            _ => Ok(MetricsAddr(Some(addr))),
        };
    }
    let why = match text.rsplit_once(':') {
        _ if text.parse::<IpAddr>().is_ok() => "the port is missing",
        Some(("", _)) => "the address is missing (0.0.0.0 or [::] is all of this host's)",
        Some((_, port)) if port.parse::<u16>().is_err() => "it does not end with a port from 1 to 65535",
        Some((host, _)) if host.parse::<Ipv6Addr>().is_ok() => {
            "an IPv6 address before a port stands in brackets"
        }
        Some(_) => "what stands before the port is no IP address",
        None => "it is no address and port",
    };
    one(text, why)
}

/// A filter of log lines.
pub fn filter(text: &str) -> Parsed<String> {
    // `EnvFilter` takes a lone word that is no level for the name of a target and then lets all of its lines through:
    // 'inof' would silence the rest. Brackets belong to its span syntax, where commas do not separate directives.
    if !text.contains(['[', '{']) {
        let odd = |word: &&str| !word.contains('=') && !is_level(word);
        if let Some(word) = text.split(',').map(str::trim).find(odd) {
            return one(word, format!("no level{}", nearest_level(word)));
        }
    }
    match EnvFilter::try_new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => one(text, error.to_string()),
    }
}

fn is_level(word: &str) -> bool {
    LEVELS.iter().any(|level| level.eq_ignore_ascii_case(word))
}

fn nearest_level(word: &str) -> String {
    let word = word.to_ascii_lowercase();
    let near = LEVELS
        .into_iter()
        .filter(|level| strsim::osa_distance(level, &word) <= 2);
    near.min_by_key(|level| strsim::osa_distance(level, &word))
        .map_or_else(String::new, |level| format!(", did you mean {level}?"))
}

/// What log lines should look like.
pub fn log_format(text: &str) -> Parsed<LogFormat> {
    match text {
        "human" => Ok(LogFormat::Human),
        "json" => Ok(LogFormat::Json),
        _ => one(text, "no format of log lines"),
    }
}
