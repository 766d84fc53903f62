//! The cluster's secret, and all that is derived from it.
//!
//! A secret is 32 random bytes and a number; a rotation makes another with the next number. Nothing uses the bytes
//! themselves: each use has a key of its own by HKDF-SHA256 (RFC 5869), whose info is the use's label, a zero byte, the
//! number and what else is bound, so that no use gives away another's key, and the same bytes under another number give
//! other keys.
//!
//! A key file is one line: `tombolo-cluster-key-1:<number>:<64 hexadecimal digits>`.

use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use aws_lc_rs::hmac;
use zeroize::Zeroizing;

use super::{Refused, draw, private};

/// What a key file begins with. The 1 is the version of the form.
const HEAD: &str = "tombolo-cluster-key-1:";
/// The salt of the first half of HKDF.
const SALT: &[u8] = b"tombolo cluster secret 1";

/// A key, a print or another 32 bytes of HKDF; overwritten when dropped.
pub(super) type Derived = Zeroizing<[u8; 32]>;

/// Why a secret could not be read or written. Never says what the file holds.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file.
    #[error(transparent)]
    File(#[from] private::Error),
    /// What it holds.
    #[error("{} holds no cluster key", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Malformed,
    },
}

/// What is wrong with the text of a secret. The text is never repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It begins otherwise.
    #[error("the text doesn't begin with '{HEAD}', as one line {HEAD}NUMBER:KEY does")]
    Head,
    /// The number is none.
    #[error(
        "the number behind '{HEAD}' is not one of 0 to 4294967295, without sign or leading zeros, and a colon"
    )]
    Number,
    /// The key has another length.
    #[error("the key has {got} characters: 64 hexadecimal digits are allowed, and a line's end")]
    Length {
        /// How many characters there are.
        got: usize,
    },
    /// The key has something else than digits.
    #[error("character {at} of the key is no hexadecimal digit: 64 of 0-9 and a-f are allowed")]
    Digit {
        /// Which one, from 1.
        at: usize,
    },
}

/// A cluster's secret: a number and 32 bytes, which are overwritten when dropped.
#[derive(Clone)]
pub struct Secret {
    number: u32,
    bytes: Derived,
}

impl Secret {
    /// The secret of these bytes. They have to be random: nothing can be told from their look.
    pub fn new(number: u32, bytes: [u8; 32]) -> Self {
        Self {
            number,
            bytes: Zeroizing::new(bytes),
        }
    }

    /// A new one.
    pub fn draw(number: u32) -> Result<Self, Refused> {
        Ok(Self::new(number, draw()?))
    }

    /// Which of the cluster's secrets, in the order in which they were made.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// The bytes themselves, to be handed to a new member or another holder. Nothing else has a use for them.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.bytes
    }

    /// What may be shown and compared: equal for equal secrets with equal numbers, and nothing follows from it.
    pub fn check(&self) -> [u8; 32] {
        *self.derive("check", &[])
    }

    /// 32 bytes for one use. `bound` are further parts of HKDF's info, each of a fixed length.
    pub(super) fn derive(&self, label: &str, bound: &[&[u8]]) -> Derived {
        let root = mac(&hmac::Key::new(hmac::HMAC_SHA256, SALT), [self.bytes.as_slice()]);
        let root = hmac::Key::new(hmac::HMAC_SHA256, root.as_slice());
        let number = self.number.to_be_bytes();
        let head = [label.as_bytes(), &[0], &number];
        mac(
            &root,
            head.into_iter()
                .chain(bound.iter().copied())
                .chain([[1].as_slice()]),
        )
    }

    /// The one line of a key file, with its end.
    pub fn text(&self) -> Zeroizing<String> {
        // All room at once: a string that grew would leave pieces of the key behind.
        let mut text = Zeroizing::new(String::with_capacity(HEAD.len() + 80));
        // Writing to a string doesn't fail.
        let _ = write!(text, "{HEAD}{}:", self.number);
        for byte in self.bytes.iter() {
            let _ = write!(text, "{byte:02x}");
        }
        text.push('\n');
        text
    }

    /// Reads a key file, which others than its owner may not read.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let bytes = private::read(path)?;
        // No character of a key file is longer than a byte, so what isn't UTF-8 is told by its first strange byte.
        let text = str::from_utf8(&bytes).map_err(|_| Malformed::Head);
        text.and_then(str::parse).map_err(|source| Error::Content {
            path: path.to_owned(),
            source,
        })
    }

    /// Writes a key file with mode 0600, whole or not at all; durable when this returns.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        Ok(private::write(path, self.text().as_bytes())?)
    }
}

impl FromStr for Secret {
    type Err = Malformed;
    /// Reads the line that `text` gives, with or without its end; nothing else.
    fn from_str(text: &str) -> Result<Self, Malformed> {
        let text = text.strip_suffix('\n').unwrap_or(text);
        let rest = text.strip_prefix(HEAD).ok_or(Malformed::Head)?;
        let (digits, key) = rest.split_once(':').ok_or(Malformed::Number)?;
        let number = digits.parse::<u32>().map_err(|_| Malformed::Number)?;
        // One text for each number: no sign, no leading zeros.
        if number.to_string() != digits {
            return Err(Malformed::Number);
        }
        let got = key.chars().count();
        if got != 64 {
            return Err(Malformed::Length { got });
        }
        let mut bytes: Derived = Zeroizing::new([0; 32]);
        for (at, digit) in key.chars().enumerate() {
            let value = match digit {
                '0'..='9' | 'a'..='f' => digit.to_digit(16).and_then(|value| u8::try_from(value).ok()),
                _ => None,
            };
            let (Some(value), Some(byte)) = (value, bytes.get_mut(at / 2)) else {
                return Err(Malformed::Digit { at: at + 1 });
            };
            *byte = *byte << 4 | value;
        }
        Ok(Self { number, bytes })
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({})", self.number)
    }
}

/// HMAC-SHA256 of parts one after the other. With a last part of one byte 1 it is the second half of HKDF for 32 bytes.
pub(super) fn mac<'a>(key: &hmac::Key, parts: impl IntoIterator<Item = &'a [u8]>) -> Derived {
    let mut context = hmac::Context::with_key(key);
    for part in parts {
        context.update(part);
    }
    let mut out: Derived = Zeroizing::new([0; 32]);
    // SHA-256 gives 32 bytes.
    out.copy_from_slice(context.sign().as_ref());
    out
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use aws_lc_rs::hkdf;
    use proptest::prelude::*;

    use super::*;

    fn secret() -> Secret {
        Secret::new(7, [0xab; 32])
    }

    #[test]
    fn what_is_derived_is_hkdf_of_label_number_and_what_is_bound() {
        struct Bytes32;
        impl hkdf::KeyType for Bytes32 {
            fn len(&self) -> usize {
                32
            }
        }
        let root = hkdf::Salt::new(hkdf::HKDF_SHA256, SALT).extract(&[0xab; 32]);
        let mut wanted = [0; 32];
        root.expand(&[b"use", b"\0", &[0, 0, 0, 7], b"one", b"two"], Bytes32)
            .unwrap()
            .fill(&mut wanted)
            .unwrap();
        assert_eq!(*secret().derive("use", &[b"one", b"two"]), wanted);
    }

    #[test]
    fn each_use_number_and_secret_has_a_key_of_its_own() {
        let mut seen = BTreeSet::new();
        for number in [0, 7, u32::MAX] {
            for bytes in [[0; 32], [0xab; 32]] {
                for label in ["check", "authority", "token", "datagrams"] {
                    assert!(seen.insert(*Secret::new(number, bytes).derive(label, &[])));
                }
            }
        }
        // Computed by another program, from the description alone.
        let check: String = secret()
            .check()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(
            check,
            "ab90b0db64c52450dd4b5f6c19c5c6ea05bc149452d600442327984776b956c4"
        );
    }

    #[test]
    fn debug_says_the_number_and_no_more() {
        assert_eq!(format!("{:?}", secret()), "Secret(7)");
    }

    #[test]
    fn a_key_file_is_one_line_and_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cluster.key");
        secret().write(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, format!("tombolo-cluster-key-1:7:{}\n", "ab".repeat(32)));
        assert_eq!(Secret::read(&path).unwrap().check(), secret().check());
        std::fs::write(&path, [0xff, 0xfe]).unwrap();
        let error = Secret::read(&path).unwrap_err();
        assert!(error.to_string().contains("holds no cluster key"), "{error}");
    }

    #[test]
    fn what_is_no_key_is_refused_and_never_repeated() {
        let key = "ab".repeat(32);
        let cases = [
            (String::new(), Malformed::Head),
            (key.clone(), Malformed::Head),
            (format!("tombolo-cluster-key-2:7:{key}"), Malformed::Head),
            (format!(" {HEAD}7:{key}"), Malformed::Head),
            (format!("{HEAD}{key}"), Malformed::Number),
            (format!("{HEAD}:{key}"), Malformed::Number),
            (format!("{HEAD}+7:{key}"), Malformed::Number),
            (format!("{HEAD}07:{key}"), Malformed::Number),
            (format!("{HEAD}4294967296:{key}"), Malformed::Number),
            (format!("{HEAD}7:"), Malformed::Length { got: 0 }),
            (format!("{HEAD}7:{key}a"), Malformed::Length { got: 65 }),
            (format!("{HEAD}7:{key}\n\n"), Malformed::Length { got: 65 }),
            (format!("{HEAD}7:{key}\r\n"), Malformed::Length { got: 65 }),
            (
                format!("{HEAD}7:{}", key.replacen('b', "B", 1)),
                Malformed::Digit { at: 2 },
            ),
            (
                format!("{HEAD}7:{}", key.replacen("ab", "é+", 1)),
                Malformed::Digit { at: 1 },
            ),
        ];
        for (text, wanted) in cases {
            let error = text.parse::<Secret>().unwrap_err();
            assert_eq!(error, wanted);
            assert!(!error.to_string().contains("abab"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn every_secret_reads_back(number: u32, bytes: [u8; 32]) {
            let secret = Secret::new(number, bytes);
            let read: Secret = secret.text().parse().unwrap();
            prop_assert_eq!((read.number, *read.bytes), (number, bytes));
        }

        /// Only the one text of a secret is read, whatever is changed in it.
        #[test]
        fn a_changed_text_is_refused_or_another_secrets_own(at in 0usize..90, to in any::<char>(), cut: bool) {
            let text = secret().text();
            let mut chars: Vec<char> = text.chars().collect();
            let at = at % chars.len();
            if cut { chars.truncate(at) } else { chars[at] = to }
            let changed: String = chars.into_iter().collect();
            if let Ok(read) = changed.parse::<Secret>() {
                let own = read.text();
                prop_assert_eq!(own.trim_end(), changed.trim_end_matches('\n'));
            }
        }

        #[test]
        fn random_text_is_never_a_secret(text in ".{0,120}") {
            prop_assert!(text.parse::<Secret>().is_err());
            let tail = format!("{HEAD}{text}");
            prop_assert!(tail.parse::<Secret>().is_err());
        }
    }
}
