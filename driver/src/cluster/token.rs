//! The token that lets a host join: what an operator carries from a member to the new host.
//!
//! ```text
//!   tombolo-join-1.<92 characters of base64url> = 69 bytes, numbers with their highest byte first:
//!   version 1 │ authority's print 32 │ secret's number 4 │ expiry 8 │ nonce 8 │ MAC 16
//! ```
//!
//! The new host believes nobody but a server whose certificate that authority has signed; the member believes a token
//! whose MAC (HMAC-SHA256, its first 16 bytes) the secret's key for tokens makes. A token opens the door to join and no
//! other, and to whoever holds it, as often as they like, until it expires or the secret is rotated.

use std::fmt;

use aws_lc_rs::{constant_time, hmac};

use super::certs::Print;
use super::secret::{Secret, mac};

/// What a token begins with. The 1 is the version, and stands among the bytes again, so that the MAC covers it.
const HEAD: &str = "tombolo-join-1.";
const VERSION: u8 = 1;
/// Bytes that the MAC covers, of the MAC, and characters of both.
const BODY: usize = 53;
const MAC: usize = 16;
const CHARS: usize = (BODY + MAC) / 3 * 4;
/// By how many seconds the clocks of two hosts may differ.
pub const SLACK_S: u64 = 300;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Why a token is not good. The token is never repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It begins otherwise.
    #[error("a join token begins with '{HEAD}', and this text doesn't")]
    Head,
    /// A part is missing, or there is more.
    #[error(
        "the join token has {got} characters behind '{HEAD}': {CHARS} are allowed; was it cut when copied?"
    )]
    Length {
        /// How many there are.
        got: usize,
    },
    /// It has a character that no token has.
    #[error("character {at} behind '{HEAD}' is not allowed in a join token: A-Z, a-z, 0-9, '-' and '_' are")]
    Character {
        /// Which one, from 1.
        at: usize,
    },
    /// The bytes are of another version.
    #[error("the join token is of version {got}: {VERSION} is allowed")]
    Version {
        /// The version.
        got: u8,
    },
    /// Its time is over.
    #[error("the join token expired {ago_s} s ago, at {expiry_s} in seconds since 1970: make a new one")]
    Expired {
        /// When, in seconds since 1970.
        expiry_s: u64,
        /// How long ago.
        ago_s: u64,
    },
    /// It is of an earlier secret.
    #[error(
        "the join token was made before the key was rotated (with key {got}; now {current}): make a new one"
    )]
    Rotated {
        /// The token's number.
        got: u32,
        /// The number in force.
        current: u32,
    },
    /// It is of a later secret.
    #[error(
        "the join token was made with key {got}, and this host knows of none after {current}: \
         ask a member that is up to date"
    )]
    Ahead {
        /// The token's number.
        got: u32,
        /// The number in force here.
        current: u32,
    },
    /// The cluster didn't make it.
    #[error("the join token was not made by this cluster, or was changed since")]
    Forged,
}

/// A token that reads well. Whether it is good only `verify` knows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Token {
    authority: Print,
    number: u32,
    expiry_s: u64,
    nonce: [u8; 8],
    mac: [u8; MAC],
}

impl Token {
    /// A new one, good from now (seconds since 1970) for `ttl_s` seconds. The nonce is random.
    pub fn issue(secret: &Secret, authority: Print, now_s: u64, ttl_s: u64, nonce: [u8; 8]) -> Self {
        let expiry_s = now_s.saturating_add(ttl_s);
        let mut token = Self {
            authority,
            number: secret.number(),
            expiry_s,
            nonce,
            mac: [0; MAC],
        };
        token.mac = token.mac_by(secret);
        token
    }

    /// A new one, good from now by this host's clock.
    ///
    /// # Errors
    /// Where the library or the system fails, in words.
    pub fn issue_now(secret: &Secret, ttl_s: u64) -> Result<Self, String> {
        let authority = super::certs::Authority::of(secret).map_err(|e| e.to_string())?;
        let nonce = super::draw().map_err(|e| e.to_string())?;
        Ok(Self::issue(
            secret,
            authority.print(),
            crate::host::now_s(),
            ttl_s,
            nonce,
        ))
    }

    /// Reads a token; blanks and line ends around it are the copying's, and don't matter.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let rest = text.trim().strip_prefix(HEAD).ok_or(Error::Head)?;
        let bytes = decode(rest)?;
        let parts = || {
            let (&version, rest) = bytes.split_first()?;
            let (authority, rest) = rest.split_first_chunk::<32>()?;
            let (number, rest) = rest.split_first_chunk::<4>()?;
            let (expiry, rest) = rest.split_first_chunk::<8>()?;
            let (nonce, rest) = rest.split_first_chunk::<8>()?;
            let token = Self {
                authority: Print::from_bytes(*authority),
                number: u32::from_be_bytes(*number),
                expiry_s: u64::from_be_bytes(*expiry),
                nonce: *nonce,
                mac: rest.try_into().ok()?,
            };
            Some((version, token))
        };
        match parts() {
            Some((VERSION, token)) => Ok(token),
            Some((got, _)) => Err(Error::Version { got }),
            None => Err(Error::Length {
                got: rest.chars().count(),
            }),
        }
    }

    /// The text to hand out. Whoever reads it can join, so it belongs in no log.
    pub fn text(&self) -> String {
        let mut bytes = self.body().to_vec();
        bytes.extend_from_slice(&self.mac);
        format!("{HEAD}{}", encode(&bytes))
    }

    /// The one authority that the new host believes.
    pub fn authority(&self) -> Print {
        self.authority
    }

    /// When it expires, in seconds since 1970.
    pub fn expiry_s(&self) -> u64 {
        self.expiry_s
    }

    /// What tells it from other tokens, such as in a log.
    pub fn nonce(&self) -> [u8; 8] {
        self.nonce
    }

    /// Whether its time is over by a clock, in seconds since 1970, that may be wrong by [`SLACK_S`]. All that a new host can check.
    pub fn in_time(&self, now_s: u64) -> Result<(), Error> {
        match now_s.saturating_sub(self.expiry_s) {
            ago_s if ago_s > SLACK_S => Err(Error::Expired {
                expiry_s: self.expiry_s,
                ago_s,
            }),
            _ => Ok(()),
        }
    }

    /// Whether the cluster made it, with the secret in force, and its time isn't over.
    pub fn verify(&self, secret: &Secret, authority: Print, now_s: u64) -> Result<(), Error> {
        let (got, current) = (self.number, secret.number());
        if got < current {
            return Err(Error::Rotated { got, current });
        }
        if got > current {
            return Err(Error::Ahead { got, current });
        }
        let equal = constant_time::verify_slices_are_equal(&self.mac, &self.mac_by(secret));
        if equal.is_err() || self.authority != authority {
            return Err(Error::Forged);
        }
        self.in_time(now_s)
    }

    /// All but the MAC.
    fn body(&self) -> [u8; BODY] {
        let mut body = [VERSION; BODY];
        let (_, rest) = body.split_at_mut(1);
        let fields = [
            self.authority.bytes().as_slice(),
            &self.number.to_be_bytes(),
            &self.expiry_s.to_be_bytes(),
            &self.nonce,
        ]
        .concat();
        // 32 + 4 + 8 + 8 = 52
        for (to, from) in rest.iter_mut().zip(fields) {
            *to = from;
        }
        body
    }

    fn mac_by(&self, secret: &Secret) -> [u8; MAC] {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.derive("token", &[]).as_slice());
        let whole = mac(&key, [HEAD.as_bytes(), &self.body()]);
        let mut cut = [0; MAC];
        for (to, from) in cut.iter_mut().zip(whole.iter()) {
            *to = *from;
        }
        cut
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token(key {}, expires {})", self.number, self.expiry_s)
    }
}

/// Base64 with the alphabet that is safe in addresses, of a multiple of three bytes, so there is nothing to pad.
fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(CHARS);
    for three in bytes.chunks(3) {
        let bits = three.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte));
        for shift in [18, 12, 6, 0] {
            let letter = ALPHABET.get((bits >> shift & 63) as usize);
            text.extend(letter.map(|letter| char::from(*letter)));
        }
    }
    text
}

/// The bytes of a text that `encode` has made of so many.
fn decode(text: &str) -> Result<Vec<u8>, Error> {
    let got = text.chars().count();
    if got != CHARS {
        return Err(Error::Length { got });
    }
    let (mut bytes, mut bits) = (Vec::with_capacity(BODY + MAC), 0u32);
    for (at, letter) in (1..).zip(text.chars()) {
        let value = ALPHABET.iter().position(|known| char::from(*known) == letter);
        let value = value
            .and_then(|value| u32::try_from(value).ok())
            .ok_or(Error::Character { at })?;
        bits = bits << 6 | value;
        if at % 4 == 0 {
            let [_, three @ ..] = bits.to_be_bytes();
            bytes.extend_from_slice(&three);
            bits = 0;
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW_S: u64 = 1_800_000_000;

    fn secret() -> Secret {
        Secret::new(7, [0xab; 32])
    }

    fn authority() -> Print {
        Print::from_bytes([0x5a; 32])
    }

    fn token() -> Token {
        Token::issue(&secret(), authority(), NOW_S, 3600, [1, 2, 3, 4, 5, 6, 7, 8])
    }

    #[test]
    fn a_token_reads_back_and_is_good_until_its_time_is_over() {
        let text = token().text();
        // Computed by another program, from the description alone.
        let head = "tombolo-join-1.AVpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaA";
        let tail = "AAABwAAAABrSeAQAQIDBAUGBwhrjC3U2A8ImwsOYYrfNJwn";
        assert_eq!(text, format!("{head}{tail}"));
        assert_eq!(text.len(), HEAD.len() + CHARS);
        let read = Token::parse(&format!("  {text}\n")).unwrap();
        assert_eq!(read, token());
        assert_eq!(
            (read.authority(), read.expiry_s(), read.nonce()),
            (authority(), NOW_S + 3600, [1, 2, 3, 4, 5, 6, 7, 8])
        );
        // A clock may be behind by any span, and ahead by five minutes.
        for now_s in [0, NOW_S, NOW_S + 3600, NOW_S + 3600 + SLACK_S] {
            assert_eq!(read.verify(&secret(), authority(), now_s), Ok(()));
        }
        let late = read.verify(&secret(), authority(), NOW_S + 3600 + 301);
        assert_eq!(
            late,
            Err(Error::Expired {
                expiry_s: NOW_S + 3600,
                ago_s: 301
            })
        );
        assert!(late.unwrap_err().to_string().contains("expired 301 s ago"));
    }

    #[test]
    fn a_token_of_another_secret_is_refused_and_says_how_it_differs() {
        let check = |secret: Secret| token().verify(&secret, authority(), NOW_S);
        assert_eq!(
            check(Secret::new(8, [0xab; 32])),
            Err(Error::Rotated { got: 7, current: 8 })
        );
        assert!(
            check(Secret::new(8, [1; 32]))
                .unwrap_err()
                .to_string()
                .contains("made before the key was rotated")
        );
        assert_eq!(
            check(Secret::new(6, [0xab; 32])),
            Err(Error::Ahead { got: 7, current: 6 })
        );
        assert_eq!(check(Secret::new(7, [0xac; 32])), Err(Error::Forged));
        assert_eq!(
            token().verify(&secret(), Print::from_bytes([0; 32]), NOW_S),
            Err(Error::Forged)
        );
    }

    #[test]
    fn what_is_no_token_is_refused_and_never_repeated() {
        let text = token().text();
        let body = text.strip_prefix(HEAD).unwrap();
        let other_version = encode(&[[2; 1].as_slice(), &[0; 68]].concat());
        let cases = [
            (String::new(), Error::Head),
            (body.to_owned(), Error::Head),
            (format!("tombolo-join-2.{body}"), Error::Head),
            (HEAD.to_owned(), Error::Length { got: 0 }),
            (text[..text.len() - 1].to_owned(), Error::Length { got: 91 }),
            (format!("{text}="), Error::Length { got: 93 }),
            (text.replacen("AVpa", "AV/a", 1), Error::Character { at: 3 }),
            (text.replacen("AVpa", "é pa", 1), Error::Character { at: 1 }),
            (format!("{HEAD}{other_version}"), Error::Version { got: 2 }),
        ];
        for (text, wanted) in cases {
            let error = Token::parse(&text).unwrap_err();
            assert_eq!(error, wanted);
            assert!(!error.to_string().contains("WlpaWl"), "{error}");
        }
        assert_eq!(
            format!("{:?}", token()),
            format!("Token(key 7, expires {})", NOW_S + 3600)
        );
    }

    #[test]
    fn every_changed_character_is_noticed() {
        let text = token().text();
        for at in HEAD.len()..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            let good = Token::parse(&changed).and_then(|token| token.verify(&secret(), authority(), NOW_S));
            assert!(good.is_err(), "character {at}");
        }
    }

    proptest! {
        #[test]
        fn every_token_reads_back(print: [u8; 32], number: u32, bytes: [u8; 32], now_s: u64, ttl_s: u64, nonce: [u8; 8]) {
            let (secret, authority) = (Secret::new(number, bytes), Print::from_bytes(print));
            let token = Token::issue(&secret, authority, now_s, ttl_s, nonce);
            let read = Token::parse(&token.text()).unwrap();
            prop_assert_eq!(read, token);
            prop_assert_eq!(read.verify(&secret, authority, now_s), Ok(()));
        }

        /// Each text that is read is the one that the token gives; none that the cluster didn't make is good.
        #[test]
        fn random_and_changed_texts_are_refused(tail in "[A-Za-z0-9_-]{92}|.{0,100}", at in 0usize..107, to in any::<char>()) {
            let mut chars: Vec<char> = token().text().chars().collect();
            chars[at] = to;
            for text in [format!("{HEAD}{tail}"), tail.clone(), chars.into_iter().collect()] {
                let Ok(read) = Token::parse(&text) else { continue };
                prop_assert_eq!(read.text(), text.trim());
                prop_assert!(read == token() || read.verify(&secret(), authority(), NOW_S).is_err());
            }
        }
    }
}
