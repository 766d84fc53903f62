//! Who may connect: judged by the members' key prints, which the charter has.
//!
//! The print of the key that the handshake proved must be a current member's, and the certificate must name that
//! member; nothing else lets anybody in. Whether the chain leads to the authority of a valid secret is told apart: a
//! member who was away when the secret was rotated shows a certificate of an authority that nobody knows any more, and
//! its key alone suffices, so that it can come and hear what it missed. An authority's signature alone suffices never.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, CommonState, DigitallySignedStruct, DistinguishedName, OtherError, PeerIncompatible,
    RootCertStore, SignatureScheme,
};
use tombolo_cluster::HostId;

use super::{Authority, ClusterId, Error, Print};

/// The moment at which every certificate is judged: some time in 2025, whatever the clock says.
const ALWAYS: UnixTime = UnixTime::since_unix_epoch(Duration::from_secs(1_750_000_000));
/// Keys of hosts and authorities are Ed25519; nothing else is parsed further.
const SCHEME: SignatureScheme = SignatureScheme::ED25519;

/// Why a peer is not let in.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Judgement {
    /// It showed none.
    #[error("the peer showed no certificate")]
    None,
    /// It can't be read.
    #[error("the peer's certificate can't be read")]
    Unreadable(#[source] rustls::Error),
    /// Nobody's key.
    #[error("the peer's key {print} is no member's")]
    Stranger {
        /// The print of the key it showed.
        print: Print,
    },
    /// A member's key under another name.
    #[error("the peer has the key of member {host}, in a certificate that doesn't name it")]
    Misnamed {
        /// Whose key it is.
        host: HostId,
    },
    /// Another member than the one that was called.
    #[error("member {got} answered, and {wanted} was called")]
    Other {
        /// Who answered.
        got: HostId,
        /// The name that was called.
        wanted: String,
    },
    /// A server whose authority isn't the one of the join token.
    #[error("the server's certificate doesn't lead to authority {wanted}, which the join token names")]
    Authority {
        /// The print in the token.
        wanted: Print,
    },
}

impl From<Judgement> for rustls::Error {
    fn from(judgement: Judgement) -> Self {
        CertificateError::Other(OtherError(Arc::new(judgement))).into()
    }
}

/// A member at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Which.
    pub host: HostId,
    /// The number of the secret whose authority has signed its certificate. None if that is no valid one's: the peer has
    /// missed a rotation, or we have.
    pub authority: Option<u32>,
}

/// Who may connect, and by which authorities: one version of it.
pub struct Trust {
    cluster: ClusterId,
    authorities: Vec<(u32, RootCertStore)>,
    hosts: BTreeSet<(Print, HostId)>,
}

impl Trust {
    /// The members of `cluster` with the prints of their keys, and the authorities of the secrets that are valid.
    pub fn new(
        cluster: ClusterId,
        authorities: &[&Authority],
        members: &BTreeMap<HostId, Print>,
    ) -> Result<Self, Error> {
        let hosts = members.iter().map(|(host, print)| (*print, *host)).collect();
        let anchor = |authority: &&Authority| Ok((authority.number, anchor(&authority.certificate)?));
        let authorities = authorities
            .iter()
            .map(anchor)
            .collect::<Result<_, _>>()
            .map_err(|source| Error::Tls {
                doing: "trusting the authority's certificate",
                source,
            })?;
        Ok(Self {
            cluster,
            authorities,
            hosts,
        })
    }

    /// The name that a member's certificate bears.
    pub(super) fn name_of(&self, host: HostId) -> String {
        self.cluster.name_of(host)
    }

    /// Whose certificate this is. That the peer has the key is the handshake's to prove.
    pub fn judge(&self, certificate: &CertificateDer<'_>) -> Result<Peer, Judgement> {
        let parsed = ParsedCertificate::try_from(certificate).map_err(Judgement::Unreadable)?;
        let print = Print::of(&parsed.subject_public_key_info());
        let mut hosts = self
            .hosts
            .iter()
            .filter(|(known, _)| *known == print)
            .map(|(_, host)| *host)
            .peekable();
        let host = *hosts.peek().ok_or(Judgement::Stranger { print })?;
        let named = |host: &HostId| match ServerName::try_from(self.name_of(*host)) {
            Ok(name) => verify_server_name(&parsed, &name).is_ok(),
            Err(_) => false,
        };
        let host = hosts.find(named).ok_or(Judgement::Misnamed { host })?;
        let mut authorities = self.authorities.iter();
        let authority = authorities
            .find(|(_, roots)| leads_to(&parsed, roots))
            .map(|(number, _)| *number);
        Ok(Peer { host, authority })
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Trust({:?}, {} members)", self.cluster, self.hosts.len())
    }
}

/// The version of the trust that is in force: read by every handshake, replaced when the charter changes.
#[derive(Debug, Clone)]
pub struct SharedTrust(Arc<RwLock<Arc<Trust>>>);

impl SharedTrust {
    /// Begins with one.
    pub fn new(trust: Trust) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(trust))))
    }

    /// From now on this one is in force, for connections to come. Those that are open stay: whoever holds one asks
    /// [`peer_of`] again.
    pub fn set(&self, trust: Trust) {
        // Nothing can be half done under this lock, so whoever died holding it left a whole value.
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(trust);
    }

    /// The one in force.
    pub fn get(&self) -> Arc<Trust> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Which member is at the other end of a connection, by the trust in force now. For a joiner and a stranger an error.
pub fn peer_of(connection: &CommonState, trust: &SharedTrust) -> Result<Peer, Judgement> {
    let shown = connection.peer_certificates().and_then(|chain| chain.first());
    trust.get().judge(shown.ok_or(Judgement::None)?)
}

/// A store with one authority.
fn anchor(certificate: &CertificateDer<'static>) -> Result<RootCertStore, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone())?;
    Ok(roots)
}

/// Whether an authority has signed it, itself: there is nothing between the two.
fn leads_to(parsed: &ParsedCertificate<'_>, roots: &RootCertStore) -> bool {
    verify_server_cert_signed_by_trust_anchor(parsed, roots, &[], ALWAYS, algorithms().all).is_ok()
}

fn algorithms() -> WebPkiSupportedAlgorithms {
    aws_lc_rs::default_provider().signature_verification_algorithms
}

fn verify(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, rustls::Error> {
    match signed.scheme {
        SCHEME => verify_tls13_signature(message, certificate, signed, &algorithms()),
        _ => Err(PeerIncompatible::NoSignatureSchemesInCommon.into()),
    }
}

/// Judges members, at either end.
#[derive(Debug)]
pub(super) struct Members(pub SharedTrust);

impl ServerCertVerifier for Members {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let trust = self.0.get();
        let got = trust.judge(end_entity)?.host;
        let wanted = name.to_str();
        if trust.name_of(got) != wanted {
            return Err(Judgement::Other {
                got,
                wanted: wanted.into_owned(),
            }
            .into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::Tls12NotOfferedOrEnabled.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SCHEME]
    }
}

impl ClientCertVerifier for Members {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.0.get().judge(end_entity)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::Tls12NotOfferedOrEnabled.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SCHEME]
    }
}

/// Judges the server that a new host joins through, of which it knows one thing: the print of the authority.
#[derive(Debug)]
pub(super) struct ByToken(pub Print);

impl ServerCertVerifier for ByToken {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let refused = || Judgement::Authority { wanted: self.0 };
        let leaf = ParsedCertificate::try_from(end_entity).map_err(Judgement::Unreadable)?;
        // The authority's certificate is all that a member sends besides its own.
        let authority = others.first().ok_or_else(refused)?;
        let print =
            ParsedCertificate::try_from(authority).map(|read| Print::of(&read.subject_public_key_info()));
        let roots = anchor(&authority.clone().into_owned());
        match (print, roots) {
            (Ok(print), Ok(roots)) if print == self.0 && leads_to(&leaf, &roots) => {
                Ok(ServerCertVerified::assertion())
            }
            _ => Err(refused().into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::Tls12NotOfferedOrEnabled.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SCHEME]
    }
}
