//! Keys and certificates of connections.
//!
//! Each host has an Ed25519 key pair of its own, which never leaves it; the print of its public key stands in the
//! charter. The cluster's authority is a key that every member derives from the secret, so each host makes its own
//! certificate, anew whenever it starts or the secret is rotated, and no file of it is kept.
//!
//! A certificate has no end (1975 to 4096) and no clock is ever asked: who may connect is decided by the charter's
//! members, at each connection, so an expiry would add nothing but a day on which all hosts fall silent, and a clock that
//! is wrong can't keep a host out.

mod doors;
#[cfg(test)]
mod tests;
mod trust;

use std::fmt;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ED25519, PublicKeyData, SanType,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tombolo_cluster::HostId;
use zeroize::{Zeroize, Zeroizing};

use super::secret::Secret;
use super::{Refused, draw, private};
pub use doors::{Accepted, Acceptor, Connector, DoorError, HANDSHAKE, JOIN, MEMBER, Who, join};
pub use trust::{Judgement, Peer, SharedTrust, Trust, peer_of};

/// What stands before the 32 bytes of an Ed25519 key in PKCS#8 (RFC 8410, version 1).
const PKCS8_HEAD: [u8; 16] = [
    0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20,
];

/// Why a key or a certificate could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file.
    #[error(transparent)]
    File(#[from] private::Error),
    /// What the file holds, which is not repeated.
    #[error("{} holds no host key: one Ed25519 key in a PEM block 'PRIVATE KEY' (PKCS#8) is allowed", path.display())]
    Content {
        /// The file.
        path: PathBuf,
    },
    /// A certificate or key could not be made.
    #[error("{doing}")]
    Make {
        /// What was being done.
        doing: &'static str,
        /// What the library said.
        source: rcgen::Error,
    },
    /// TLS won't take what was made.
    #[error("{doing}")]
    Tls {
        /// What was being done.
        doing: &'static str,
        /// What the library said.
        source: rustls::Error,
    },
    /// The library.
    #[error(transparent)]
    Refused(#[from] Refused),
}

/// SHA-256 of a public key as certificates hold it (SubjectPublicKeyInfo). As text 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Print([u8; 32]);

impl Print {
    /// The print of these bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The print of a public key.
    fn of(public: &[u8]) -> Self {
        let mut print = [0; 32];
        // SHA-256 gives 32 bytes.
        print.copy_from_slice(digest(&SHA256, public).as_ref());
        Self(print)
    }
}

impl fmt::Display for Print {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Print {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.8}", self.to_string())
    }
}

/// A cluster's identifier: 128 random bits, drawn when it was founded. As text 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClusterId([u8; 16]);

impl ClusterId {
    /// The identifier of these bits.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The name under which a host of this cluster is certified: `<host>.<cluster>.tombolo.internal`.
    pub fn name_of(&self, host: HostId) -> String {
        format!("{host}.{self}.tombolo.internal")
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.8}", self.to_string())
    }
}

/// An Ed25519 key pair from its 32 secret bytes, and its PKCS#8.
fn pair(seed: &[u8; 32]) -> Result<(KeyPair, PrivatePkcs8KeyDer<'static>), Error> {
    let der = PrivatePkcs8KeyDer::from([PKCS8_HEAD.as_slice(), seed].concat());
    Ok((pair_of(&der)?, der))
}

fn pair_of(der: &PrivatePkcs8KeyDer<'_>) -> Result<KeyPair, Error> {
    KeyPair::from_pkcs8_der_and_sign_algo(der, &PKCS_ED25519).map_err(|source| Error::Make {
        doing: "reading an Ed25519 key",
        source,
    })
}

/// A host's own key pair.
pub struct HostKey {
    pair: KeyPair,
    der: PrivatePkcs8KeyDer<'static>,
}

impl HostKey {
    /// The key of these bytes, which have to be random.
    pub fn from_seed(seed: &[u8; 32]) -> Result<Self, Error> {
        let (pair, der) = pair(seed)?;
        Ok(Self { pair, der })
    }

    /// A new one.
    pub fn draw() -> Result<Self, Error> {
        Self::from_seed(&Zeroizing::new(draw()?))
    }

    /// Reads a file that others than its owner may not read: one key in PEM.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let bytes = private::read(path)?;
        Self::from_pem(&bytes).ok_or_else(|| Error::Content {
            path: path.to_owned(),
        })
    }

    fn from_pem(bytes: &[u8]) -> Option<Self> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(bytes).ok()?;
        let pair = pair_of(&der).ok()?;
        Some(Self { pair, der })
    }

    /// Writes it with mode 0600, whole or not at all; durable when this returns.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let text = Zeroizing::new(self.pair.serialize_pem());
        Ok(private::write(path, text.as_bytes())?)
    }

    /// What the charter knows it by.
    pub fn key_print(&self) -> Print {
        Print::of(&self.pair.subject_public_key_info())
    }
}

impl Drop for HostKey {
    fn drop(&mut self) {
        self.der.zeroize();
    }
}

impl fmt::Debug for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostKey({:?})", self.key_print())
    }
}

/// What certifies hosts: derived from a secret, so the same on every member.
pub struct Authority {
    number: u32,
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    print: Print,
}

impl Authority {
    /// The authority of a secret.
    pub fn of(secret: &Secret) -> Result<Self, Error> {
        let (key, mut der) = pair(&secret.derive("authority", &[]))?;
        der.zeroize();
        let mut params = params(format!("tombolo cluster authority {}", secret.number()));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&key).map_err(|source| Error::Make {
            doing: "making the authority's certificate",
            source,
        })?;
        Ok(Self {
            number: secret.number(),
            print: Print::of(&key.subject_public_key_info()),
            certificate: certificate.der().clone(),
            issuer: Issuer::new(params, key),
        })
    }

    /// The number of its secret.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// What join tokens know it by.
    pub fn print(&self) -> Print {
        self.print
    }

    /// Its certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The key and certificate with which a host shows itself.
    pub fn identity(&self, cluster: ClusterId, host: HostId, key: &HostKey) -> Result<Identity, Error> {
        let fault = |source| Error::Make {
            doing: "making this host's certificate",
            source,
        };
        let name = cluster.name_of(host);
        let mut params = params(name.clone());
        params.subject_alt_names = vec![SanType::DnsName(name.try_into().map_err(fault)?)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let leaf = params.signed_by(&key.pair, &self.issuer).map_err(fault)?;
        Ok(Identity {
            host,
            chain: vec![leaf.der().clone(), self.certificate.clone()],
            key: PrivateKeyDer::Pkcs8(key.der.clone_key()),
        })
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authority({}, {:?})", self.number, self.print)
    }
}

/// What all certificates share. The times are the library's, from 1975 to 4096, said here so that they stay.
fn params(name: String) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = rcgen::date_time_ymd(1975, 1, 1);
    params.not_after = rcgen::date_time_ymd(4096, 1, 1);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// A host's key with its certificate and the authority's: what it shows at connections.
pub struct Identity {
    host: HostId,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    /// Whose it is.
    pub fn host(&self) -> HostId {
        self.host
    }

    /// The host's certificate, and the authority's.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }
}

impl Drop for Identity {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({:?})", self.host)
    }
}
