//! The words of `tombolo cluster`: addresses of hosts, spans of time, and secrets, which are never shown again.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::str::FromStr;

use tombolo_core::model::cut;

use crate::cli::failure::Failure;

/// The port that hosts of a cluster speak at where nobody names another.
pub const PORT: u16 = 7947;
/// The longest secret that is read, in bytes: far more than any has.
const LONGEST: usize = 4096;
/// The longest time that a token may be asked for, in seconds: 365 days.
const VALID_MAX_S: u64 = 365 * 86_400;
/// The units of a span of time, in seconds, from the largest one.
const UNITS: [(&str, u64); 4] = [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];

/// A text that is neither shown nor logged: a token or a key, or what may be one.
#[derive(Clone, PartialEq, Eq)]
pub struct Quiet(String);

impl Quiet {
    /// The text, to be handed on.
    pub fn text(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Quiet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({} bytes)", self.0.len())
    }
}

impl FromStr for Quiet {
    type Err = std::convert::Infallible;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

/// A sort of secret that a user may hand in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Secret {
    /// What lets a host join.
    Token,
    /// What all of a cluster is sealed with.
    Key,
}

impl Secret {
    fn noun(self) -> &'static str {
        match self {
            Self::Token => "join token",
            Self::Key => "cluster key",
        }
    }

    fn head(self) -> &'static str {
        match self {
            Self::Token => "tombolo-join-",
            Self::Key => "tombolo-cluster-key-",
        }
    }

    /// Checks that a text looks like one. Whether it is good the daemon says.
    ///
    /// # Errors
    /// What is wrong with it, without a piece of it. `whence` is what it came from.
    pub fn check(self, whence: &str, text: &str) -> Result<Quiet, Failure> {
        let word = text.trim();
        let fits = |c: char| c.is_ascii_alphanumeric() || "._:+/=-".contains(c);
        let what = match word.split_whitespace().count() {
            0 => "is empty".to_owned(),
            _ if word.len() > LONGEST => format!("has more than {LONGEST} bytes"),
            1 if !word.starts_with(self.head()) => format!("doesn't begin with '{}'", self.head()),
            1 => match word.chars().position(|c| !fits(c)) {
                Some(at) => format!("has a character that none has, the {}th", at + 1),
                None => return Ok(Quiet(word.to_owned())),
            },
            words => format!("has {words} words"),
        };
        Err(usage(format!(
            "{whence}: the text is no {}: it {what}; one word that begins with '{}' is allowed",
            self.noun(),
            self.head()
        )))
    }

    /// The secret that a file holds; `-` is standard input. A key's file that others may read is refused.
    ///
    /// # Errors
    /// A file that can't be read, or that holds something else.
    pub fn read(self, flag: &str, path: &Path) -> Result<Quiet, Failure> {
        let failure = |source| Failure::File {
            doing: "reading",
            path: path.to_owned(),
            source,
        };
        let whence = format!("{flag} {}", path.display());
        let bytes = if path == Path::new("-") {
            first_of(io::stdin().lock()).map_err(failure)?
        } else {
            let file = File::open(path).map_err(failure)?;
            let about = file.metadata().map_err(failure)?;
            let mode = about.permissions().mode() & 0o7777;
            if self == Self::Key && about.is_file() && mode & 0o077 != 0 {
                return Err(usage(format!(
                    "{whence}: others than its owner may use it (mode {mode:04o}); 0600 or less is allowed: \
                     `chmod 600 {}`. If others could read it until now, make a new key",
                    path.display()
                )));
            }
            first_of(file).map_err(failure)?
        };
        // What is no UTF-8 becomes U+FFFD, which no secret has.
        self.check(&whence, &String::from_utf8_lossy(&bytes))
    }
}

/// As much as a secret may have, and enough more to see that there is more.
fn first_of(reader: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(2 * LONGEST as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Where a host is reached: an address, with the usual port where none is named. IPv6 with or without brackets.
///
/// # Errors
/// What came and what is allowed; a token that stands here by mistake is not repeated.
pub fn address(text: &str) -> Result<SocketAddr, Failure> {
    if text.contains(Secret::Token.head()) {
        let message =
            "ADDRESS: a join token stands where the host's address belongs; the token follows --token"
                .to_owned();
        return Err(usage(message));
    }
    let wrong = |what: &str| {
        usage(format!(
            "ADDRESS: '{}' {what}; ADDRESS[:PORT] of a host is allowed, such as 192.0.2.1, 192.0.2.1:{PORT}, fd00::1 or \
             [fd00::1]:{PORT}",
            cut(text)
        ))
    };
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    let bare = match bare {
        Some(inside) => inside.parse().map(IpAddr::V6),
        None => text.parse(),
    };
    let socket = match bare {
        Ok(address) => SocketAddr::new(address, PORT),
        Err(_) => text.parse().map_err(|_| wrong("is no IP address"))?,
    };
    let nobody = match socket.ip() {
        IpAddr::V4(address) => address.is_broadcast() || address.is_multicast() || address.is_unspecified(),
        IpAddr::V6(address) => address.is_multicast() || address.is_unspecified(),
    };
    if nobody {
        return Err(wrong("is an address that no host has"));
    }
    match socket.port() {
        0 => Err(wrong("has port 0")),
        _ => Ok(socket),
    }
}

/// An address as [`address`] reads it, without the usual port.
pub fn place(socket: SocketAddr) -> String {
    match socket.port() {
        PORT => socket.ip().to_string(),
        _ => socket.to_string(),
    }
}

/// How long a token is to be good for, in seconds: a number and its unit.
///
/// # Errors
/// What is wrong with it and what is allowed; what came is told by whoever asks.
pub fn valid(text: &str) -> Result<u64, String> {
    let seconds = UNITS.iter().find_map(|(unit, seconds)| {
        let number = text.strip_suffix(unit)?;
        let digits = number.bytes().all(|byte| byte.is_ascii_digit());
        number
            .parse::<u64>()
            .ok()
            .filter(|_| digits)?
            .checked_mul(*seconds)
    });
    match seconds {
        Some(seconds @ 1..=VALID_MAX_S) => Ok(seconds),
        _ => Err("a number and s, m, h or d is allowed, such as 90m or 24h, up to 365d".to_owned()),
    }
}

/// Seconds in the largest unit that takes no fraction.
pub fn span(seconds: u64) -> String {
    let whole = |(_, unit): &&(&str, u64)| seconds >= *unit && seconds.is_multiple_of(*unit);
    match UNITS.iter().find(whole) {
        Some(("m", unit)) => format!("{} min", seconds / unit),
        Some((name, unit)) => format!("{} {name}", seconds / unit),
        None => format!("{seconds} s"),
    }
}

/// Words on the command line that cannot be.
pub fn usage(message: String) -> Failure {
    Failure::Usage { message }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Setting;

    #[test]
    fn the_usual_port_is_that_of_the_setting() {
        assert_eq!(Setting::ClusterPort.default_text(), PORT.to_string());
    }

    #[test]
    fn addresses_come_with_or_without_port_and_brackets() {
        for (text, read, written) in [
            ("192.0.2.1", "192.0.2.1:7947", "192.0.2.1"),
            ("192.0.2.1:7947", "192.0.2.1:7947", "192.0.2.1"),
            ("192.0.2.1:80", "192.0.2.1:80", "192.0.2.1:80"),
            ("fd00::1", "[fd00::1]:7947", "fd00::1"),
            ("[fd00::1]", "[fd00::1]:7947", "fd00::1"),
            ("[fd00::1]:7947", "[fd00::1]:7947", "fd00::1"),
            ("[fd00::1]:1", "[fd00::1]:1", "[fd00::1]:1"),
        ] {
            let socket = address(text).unwrap();
            assert_eq!(socket.to_string(), read, "{text}");
            assert_eq!(place(socket), written, "{text}");
            assert_eq!(address(&place(socket)).unwrap(), socket, "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_what_is() {
        for (text, why) in [
            ("", "is no IP address"),
            ("a", "is no IP address"),
            ("192.0.2", "is no IP address"),
            ("192.0.2.1:", "is no IP address"),
            ("192.0.2.1:65536", "is no IP address"),
            ("[192.0.2.1]", "is no IP address"),
            ("[fd00::1]]", "is no IP address"),
            ("[fd00::1", "is no IP address"),
            ("fe80::1%eth0", "is no IP address"),
            ("192.0.2.1:0", "has port 0"),
            ("[fd00::1]:0", "has port 0"),
            ("0.0.0.0", "no host has"),
            ("255.255.255.255", "no host has"),
            ("224.0.0.1:7947", "no host has"),
            ("::", "no host has"),
            ("ff02::1", "no host has"),
        ] {
            let failure = address(text).unwrap_err();
            assert_eq!(failure.exit_code(), 2);
            let said = failure.chain();
            assert!(said.starts_with(&format!("ADDRESS: '{text}' ")), "{said}");
            assert!(said.contains(why), "{text}: {said}");
            assert!(said.contains("ADDRESS[:PORT] of a host is allowed"), "{said}");
        }
    }

    #[test]
    fn a_token_in_the_place_of_an_address_is_not_repeated() {
        for text in ["tombolo-join-1.c2VjcmV0", "192.0.2.1/tombolo-join-1.c2VjcmV0"] {
            let said = address(text).unwrap_err().chain();
            assert!(said.contains("--token") && !said.contains("c2VjcmV0"), "{said}");
        }
    }

    #[test]
    fn secrets_are_trimmed_and_never_shown() {
        let token = Secret::Token.check("--token", " tombolo-join-1.aB-_9\n").unwrap();
        assert_eq!(token.text(), "tombolo-join-1.aB-_9");
        assert_eq!(format!("{token:?}"), "(20 bytes)");
        let long = format!("tombolo-join-1.{}", "q".repeat(LONGEST));
        for (text, why) in [
            ("", "is empty"),
            (" \n", "is empty"),
            ("qqqq", "doesn't begin with 'tombolo-join-'"),
            ("tombolo-cluster-key-1:qqqq", "doesn't begin with"),
            ("tombolo-join-1.qqqq qqqq", "has 2 words"),
            ("tombolo-join-1.q;qqqq", "has a character that none has, the 17th"),
            ("tombolo-join-1.\u{1b}qqqq", "the 16th"),
            (&long, "has more than 4096 bytes"),
        ] {
            let failure = Secret::Token.check("--token", text).unwrap_err();
            assert_eq!(failure.exit_code(), 2);
            let said = failure.chain();
            assert!(
                said.starts_with("--token: the text is no join token: it "),
                "{said}"
            );
            assert!(
                said.contains(why) && said.ends_with("'tombolo-join-' is allowed"),
                "{said}"
            );
            assert!(!said.contains("qqqq"), "{said}");
        }
    }

    #[test]
    fn a_key_file_is_for_its_owner_only_and_a_token_file_is_as_one_likes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        let read = |secret: Secret, mode: u32, text: &[u8]| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            secret
                .read("--FILE", &path)
                .map(|quiet| quiet.text().to_owned())
                .map_err(|failure| failure.chain())
        };
        let (token, key) = ("tombolo-join-1.a", "tombolo-cluster-key-1:a");
        assert_eq!(read(Secret::Token, 0o644, b"tombolo-join-1.a\n").unwrap(), token);
        assert_eq!(
            read(Secret::Key, 0o600, b"tombolo-cluster-key-1:a\n").unwrap(),
            key
        );
        assert_eq!(read(Secret::Key, 0o400, key.as_bytes()).unwrap(), key);
        for mode in [0o640, 0o604, 0o620] {
            let said = read(Secret::Key, mode, key.as_bytes()).unwrap_err();
            assert!(said.contains(&format!("(mode {mode:04o})")), "{said}");
            assert!(
                said.contains(&format!("`chmod 600 {}`", path.display())),
                "{said}"
            );
        }
        let said = read(Secret::Key, 0o600, b"tombolo-cluster-key-1:\xff").unwrap_err();
        assert!(
            said.starts_with(&format!("--FILE {}: ", path.display())),
            "{said}"
        );
        let endless = Secret::Token.read("--FILE", Path::new("/dev/zero")).unwrap_err();
        assert!(endless.chain().contains("more than 4096 bytes"), "{endless}");
        let none = Secret::Token
            .read("--FILE", &directory.path().join("none"))
            .unwrap_err();
        assert_eq!(none.exit_code(), 1);
        assert!(none.chain().starts_with("reading "), "{none}");
    }

    #[test]
    fn spans_of_time_are_a_number_and_a_unit() {
        for (text, seconds) in [("1s", 1), ("90m", 5_400), ("24h", 86_400), ("365d", 31_536_000)] {
            assert_eq!(valid(text), Ok(seconds), "{text}");
        }
        for text in [
            "",
            "24",
            "h",
            "0h",
            "-1h",
            "+1h",
            "1.5h",
            "1 h",
            "366d",
            "8761h",
            "1w",
            "18446744073709551615d",
        ] {
            assert!(
                valid(text).unwrap_err().contains("s, m, h or d is allowed"),
                "{text}"
            );
        }
    }

    #[test]
    fn spans_are_told_in_the_largest_unit_without_a_fraction() {
        let spans = [0, 59, 60, 5_400, 86_400, 86_401].map(span);
        assert_eq!(spans, ["0 s", "59 s", "1 min", "90 min", "1 d", "86401 s"]);
    }
}
