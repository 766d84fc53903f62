use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsConnector, TlsStream};

use super::trust::{ByToken, Members};
use super::*;
use crate::cluster::token::Token;

fn host(number: u8) -> HostId {
    HostId::from_bytes([number; 16])
}

fn key(number: u8) -> HostKey {
    HostKey::from_seed(&[number; 32]).unwrap()
}

fn secret(number: u32) -> Secret {
    Secret::new(number, [number as u8; 32])
}

fn authority(number: u32) -> Authority {
    Authority::of(&secret(number)).unwrap()
}

fn cluster() -> ClusterId {
    ClusterId::from_bytes([0xc1; 16])
}

/// Host n has key n.
fn identity(authority: &Authority, number: u8) -> Identity {
    authority.identity(cluster(), host(number), &key(number)).unwrap()
}

fn trust(authorities: &[&Authority], members: &[u8]) -> Trust {
    let members: BTreeMap<_, _> = members
        .iter()
        .map(|number| (host(*number), key(*number).key_print()))
        .collect();
    Trust::new(cluster(), authorities, &members).unwrap()
}

fn shared(numbers: &[u32], members: &[u8]) -> SharedTrust {
    let authorities: Vec<_> = numbers.iter().map(|number| authority(*number)).collect();
    SharedTrust::new(trust(&authorities.iter().collect::<Vec<_>>(), members))
}

/// Both ends of a connection on this machine.
async fn wire() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (client, listener.accept().await.unwrap().0)
}

/// The innermost reason of an error.
fn root(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text = format!("{text}: {error}");
        next = error.source();
    }
    text
}

/// Says a word each way.
async fn talk(mut client: TlsStream<TcpStream>, mut server: TlsStream<TcpStream>) {
    let mut word = [0; 4];
    client.write_all(b"ping").await.unwrap();
    server.read_exact(&mut word).await.unwrap();
    assert_eq!(&word, b"ping");
    server.write_all(b"pong").await.unwrap();
    client.read_exact(&mut word).await.unwrap();
    assert_eq!(&word, b"pong");
}

/// Host 1 calls host 2: both outcomes.
async fn meet(
    connector: &Connector,
    acceptor: &Acceptor,
) -> (
    Result<(TlsStream<TcpStream>, Peer), DoorError>,
    Result<Accepted<TcpStream>, DoorError>,
) {
    let (client, server) = wire().await;
    tokio::join!(connector.connect(client, host(2)), acceptor.accept(server))
}

/// A client that was let in by its own view and refused by the server learns of it when it reads.
async fn refused_at_read(client: Result<(TlsStream<TcpStream>, Peer), DoorError>) {
    let (mut stream, _) = client.unwrap();
    assert!(stream.read_u8().await.is_err());
}

#[tokio::test]
async fn two_members_meet_and_know_each_other() {
    let (authority, trust) = (authority(1), shared(&[1], &[1, 2]));
    let connector = Connector::new(&identity(&authority, 1), &trust).unwrap();
    let acceptor = Acceptor::new(&identity(&authority, 2), &trust).unwrap();
    let (client, server) = meet(&connector, &acceptor).await;
    let ((client, answered), server) = (client.unwrap(), server.unwrap());
    assert_eq!(
        answered,
        Peer {
            host: host(2),
            authority: Some(1)
        }
    );
    assert_eq!(
        server.who,
        Who::Member(Peer {
            host: host(1),
            authority: Some(1)
        })
    );
    assert_eq!(peer_of(server.stream.get_ref().1, &trust).unwrap().host, host(1));
    assert_eq!(
        client.get_ref().1.protocol_version(),
        Some(rustls::ProtocolVersion::TLSv1_3)
    );
    talk(client, server.stream).await;
}

#[tokio::test]
async fn a_stranger_is_refused_at_either_end_whatever_its_authority_and_name() {
    let good = authority(1);
    let trust = shared(&[1], &[1, 2]);
    let acceptor = Acceptor::new(&identity(&good, 2), &trust).unwrap();
    let strange = Authority::of(&Secret::new(1, [0x66; 32])).unwrap();
    let as_host_1 = |authority: &Authority| authority.identity(cluster(), host(1), &key(66)).unwrap();
    // The cluster's own authority doesn't make a key a member's.
    for identity in [identity(&strange, 66), as_host_1(&strange), as_host_1(&good)] {
        let connector = Connector::new(&identity, &trust).unwrap();
        let (client, server) = meet(&connector, &acceptor).await;
        let text = root(&server.unwrap_err());
        assert!(text.contains("is no member's"), "{text}");
        refused_at_read(client).await;
    }
    let as_host_2 = |authority: &Authority| authority.identity(cluster(), host(2), &key(66)).unwrap();
    let connector = Connector::new(&identity(&good, 1), &trust).unwrap();
    for identity in [as_host_2(&strange), as_host_2(&good)] {
        let acceptor = Acceptor::new(&identity, &trust).unwrap();
        let (client, server) = meet(&connector, &acceptor).await;
        let text = root(&client.unwrap_err());
        assert!(text.contains("is no member's"), "{text}");
        assert!(server.is_err());
    }
}

#[tokio::test]
async fn a_members_key_under_another_name_or_another_member_is_refused() {
    let (good, trust) = (authority(1), shared(&[1], &[1, 2, 3]));
    let connector = Connector::new(&identity(&good, 1), &trust).unwrap();
    let misnamed = good.identity(cluster(), host(2), &key(3)).unwrap();
    let other_cluster = good
        .identity(ClusterId::from_bytes([9; 16]), host(2), &key(2))
        .unwrap();
    for (identity, wanted) in [
        (misnamed, "in a certificate that doesn't name it"),
        (other_cluster, "in a certificate that doesn't name it"),
        (identity(&good, 3), "answered, and"),
    ] {
        let acceptor = Acceptor::new(&identity, &trust).unwrap();
        let (client, _) = meet(&connector, &acceptor).await;
        let text = root(&client.unwrap_err());
        assert!(text.contains(wanted), "{text}");
    }
}

#[tokio::test]
async fn a_member_that_was_removed_is_refused_from_the_next_connection_on() {
    let (authority, trust) = (authority(1), shared(&[1], &[1, 2]));
    let connector = Connector::new(&identity(&authority, 1), &trust).unwrap();
    let servers = shared(&[1], &[1, 2]);
    let acceptor = Acceptor::new(&identity(&authority, 2), &servers).unwrap();
    let (client, server) = meet(&connector, &acceptor).await;
    let open = server.unwrap().stream;
    assert!(client.is_ok());
    // The same connector, so that a session could be resumed if there were one.
    servers.set(super::tests::trust(&[&authority], &[2]));
    let (client, server) = meet(&connector, &acceptor).await;
    let text = root(&server.unwrap_err());
    assert!(text.contains("is no member's"), "{text}");
    refused_at_read(client).await;
    // Who holds the open connection can learn the same.
    assert!(matches!(
        peer_of(open.get_ref().1, &servers),
        Err(Judgement::Stranger { .. })
    ));
}

#[tokio::test]
async fn a_member_that_missed_a_rotation_is_let_in_by_its_key_and_told_apart() {
    let (old, new) = (authority(1), authority(3));
    let away = shared(&[1], &[1, 2]);
    let here = shared(&[2, 3], &[1, 2]);
    let connector = Connector::new(&identity(&old, 1), &away).unwrap();
    let acceptor = Acceptor::new(&identity(&new, 2), &here).unwrap();
    let (client, server) = meet(&connector, &acceptor).await;
    let ((client, answered), server) = (client.unwrap(), server.unwrap());
    assert_eq!(
        answered,
        Peer {
            host: host(2),
            authority: None
        }
    );
    assert_eq!(
        server.who,
        Who::Member(Peer {
            host: host(1),
            authority: None
        })
    );
    talk(client, server.stream).await;
    // While the previous secret is valid its authority is known.
    let connector = Connector::new(&identity(&authority(2), 1), &here).unwrap();
    let (_, server) = meet(&connector, &acceptor).await;
    assert_eq!(
        server.unwrap().who,
        Who::Member(Peer {
            host: host(1),
            authority: Some(2)
        })
    );
}

#[tokio::test]
async fn a_joiner_meets_the_authority_of_its_token_and_no_other() {
    let authority = authority(1);
    let acceptor = Acceptor::new(&identity(&authority, 2), &shared(&[1], &[2])).unwrap();
    let token = Token::issue(&secret(1), authority.print(), 1_800_000_000, 3600, [0; 8]);
    let token = Token::parse(&token.text()).unwrap();
    let (client, server) = wire().await;
    let (client, server) = tokio::join!(join(client, token.authority()), acceptor.accept(server));
    let server = server.unwrap();
    assert_eq!(server.who, Who::Joiner);
    assert_eq!(
        peer_of(server.stream.get_ref().1, &shared(&[1], &[2])),
        Err(Judgement::None)
    );
    talk(client.unwrap(), server.stream).await;

    for wrong in [
        Print::from_bytes([0; 32]),
        key(2).key_print(),
        super::tests::authority(2).print(),
    ] {
        let (client, server) = wire().await;
        let (client, server) = tokio::join!(join(client, wrong), acceptor.accept(server));
        let text = root(&client.unwrap_err());
        assert!(text.contains("doesn't lead to authority"), "{text}");
        assert!(server.is_err());
    }
}

#[tokio::test]
async fn a_server_that_shows_the_right_authority_and_isnt_signed_by_it_is_refused() {
    let (good, strange) = (authority(1), Authority::of(&Secret::new(1, [0x66; 32])).unwrap());
    let mut forged = identity(&strange, 2);
    forged.chain[1] = good.certificate().clone();
    let mut alone = identity(&good, 2);
    alone.chain.truncate(1);
    // The authority is no host, even with its own key.
    let (_, der) = pair(&secret(1).derive("authority", &[])).unwrap();
    let chain = vec![good.certificate().clone(), good.certificate().clone()];
    let itself = Identity {
        host: host(2),
        chain,
        key: PrivateKeyDer::Pkcs8(der),
    };
    for identity in [forged, alone, itself] {
        let acceptor = Acceptor::new(&identity, &shared(&[1], &[2])).unwrap();
        let (client, server) = wire().await;
        let (client, _) = tokio::join!(join(client, good.print()), acceptor.accept(server));
        let text = root(&client.unwrap_err());
        assert!(text.contains("doesn't lead to authority"), "{text}");
    }
}

#[tokio::test]
async fn a_purpose_that_is_not_ours_is_refused() {
    let authority = authority(1);
    let acceptor = Acceptor::new(&identity(&authority, 2), &shared(&[1], &[2])).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(authority.certificate().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    for purposes in [vec![], vec![b"h2".to_vec()], vec![b"tombolo/2".to_vec()]] {
        let mut config = config.clone();
        config.alpn_protocols = purposes;
        let (client, server) = wire().await;
        let name = ServerName::try_from(cluster().name_of(host(2))).unwrap();
        let connecting = TlsConnector::from(Arc::new(config)).connect(name, client);
        let (client, server) = tokio::join!(connecting, acceptor.accept(server));
        assert!(matches!(server, Err(DoorError::Purpose)), "{server:?}");
        assert!(client.is_err());
    }
}

#[tokio::test]
async fn a_joiner_is_no_member_and_a_member_shows_a_certificate() {
    let authority = authority(1);
    let acceptor = Acceptor::new(&identity(&authority, 2), &shared(&[1], &[2])).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(authority.certificate().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    for purposes in [vec![MEMBER.to_vec()], vec![JOIN.to_vec(), MEMBER.to_vec()]] {
        config.alpn_protocols = purposes;
        let (client, server) = wire().await;
        let name = ServerName::try_from(cluster().name_of(host(2))).unwrap();
        let connecting = TlsConnector::from(Arc::new(config.clone())).connect(name, client);
        let (_, server) = tokio::join!(connecting, acceptor.accept(server));
        let text = root(&server.unwrap_err());
        assert!(text.contains("no certificates"), "{text}");
    }
}

#[tokio::test]
async fn garbage_and_silence_end_the_handshake() {
    let acceptor = Acceptor::new(&identity(&authority(1), 2), &shared(&[1], &[2])).unwrap();
    let (mut client, server) = wire().await;
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert!(matches!(
        acceptor.accept(server).await,
        Err(DoorError::Handshake(_))
    ));
    let (client, server) = wire().await;
    drop(client);
    assert!(matches!(
        acceptor.accept(server).await,
        Err(DoorError::Handshake(_))
    ));
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_stops_half_way_is_given_up() {
    let acceptor = Acceptor::new(&identity(&authority(1), 2), &shared(&[1], &[2])).unwrap();
    let (_client, server) = tokio::io::duplex(64);
    let began = tokio::time::Instant::now();
    assert!(matches!(acceptor.accept(server).await, Err(DoorError::Late)));
    assert_eq!(began.elapsed(), HANDSHAKE);
}

#[test]
fn no_clock_matters() {
    let good = authority(1);
    let identity = identity(&good, 2);
    let (leaf, rest) = (&identity.chain[0], &identity.chain[1..]);
    let members = Members(shared(&[1], &[2]));
    let name = ServerName::try_from(cluster().name_of(host(2))).unwrap();
    for seconds in [0, 1_750_000_000, 67_090_000_000, u64::MAX] {
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        assert!(members.verify_server_cert(leaf, rest, &name, &[], now).is_ok());
        assert!(members.verify_client_cert(leaf, rest, now).is_ok());
        assert!(
            ByToken(good.print())
                .verify_server_cert(leaf, rest, &name, &[], now)
                .is_ok()
        );
    }
}

#[test]
fn an_authority_and_a_certificate_are_the_same_on_every_host() {
    let (one, other) = (authority(1), authority(1));
    assert_eq!(one.certificate(), other.certificate());
    assert_eq!(identity(&one, 2).chain, identity(&other, 2).chain);
    // Computed by another program, from the description alone.
    let print = "10ebd2197c36e60944722e32746ed9fe591b1487ded6b47503ab5d7cc28e290d";
    assert_eq!(one.print().to_string(), print);
    assert_ne!(one.print(), authority(2).print());
    assert_ne!(
        Authority::of(&Secret::new(1, [9; 32])).unwrap().print(),
        one.print()
    );
}

#[test]
fn a_print_is_of_the_key_as_the_certificate_holds_it() {
    let identity = identity(&authority(1), 2);
    let parsed = rustls::server::ParsedCertificate::try_from(&identity.chain[0]).unwrap();
    assert_eq!(Print::of(&parsed.subject_public_key_info()), key(2).key_print());
    // A key of all zeros has this public key by RFC 8032's arithmetic, whoever computes it.
    assert_eq!(
        HostKey::from_seed(&[0; 32]).unwrap().pair.public_key_raw()[..4],
        [0x3b, 0x6a, 0x27, 0xbc]
    );
}

#[test]
fn a_host_key_reads_back_from_its_file_and_nothing_else_does() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("host.key");
    let drawn = HostKey::draw().unwrap();
    drawn.write(&path).unwrap();
    assert_eq!(HostKey::read(&path).unwrap().key_print(), drawn.key_print());
    assert!(
        std::fs::read_to_string(&path)
            .unwrap()
            .starts_with("-----BEGIN PRIVATE KEY-----")
    );
    let p256 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)
        .unwrap()
        .serialize_pem();
    for text in [
        "",
        "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        &p256,
    ] {
        private::write(&path, text.as_bytes()).unwrap();
        let error = HostKey::read(&path).unwrap_err();
        assert!(matches!(error, Error::Content { .. }), "{error}");
    }
    let shown = format!("{drawn:?} {:?} {:?}", identity(&authority(1), 2), authority(1));
    assert!(shown.len() < 100, "{shown}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// A certificate with anything changed is refused, or it is let in by the member's own key without any authority: then
    /// its key and its name are still the member's.
    #[test]
    fn a_changed_certificate_is_never_an_authoritys(at in any::<prop::sample::Index>(), by in 1u8.., cut: bool) {
        let good = authority(1);
        let identity = identity(&good, 2);
        let mut der = identity.chain[0].to_vec();
        let at = at.index(der.len());
        if cut { der.truncate(at) } else { der[at] ^= by }
        let changed = CertificateDer::from(der);
        if let Ok(peer) = trust(&[&good], &[1, 2]).judge(&changed) {
            prop_assert_eq!(peer, Peer { host: host(2), authority: None });
        }
        let name = ServerName::try_from("join.tombolo.internal").unwrap();
        let now = UnixTime::since_unix_epoch(std::time::Duration::ZERO);
        let by_token = ByToken(good.print());
        prop_assert!(by_token.verify_server_cert(&changed, &identity.chain[1..], &name, &[], now).is_err());
    }

    /// A changed authority is refused, or only what its own signature covers was changed: what matters of it is its key.
    #[test]
    fn a_changed_authority_has_another_print_or_the_same_key(at in any::<prop::sample::Index>(), by in 1u8..) {
        let good = authority(1);
        let identity = identity(&good, 2);
        let mut der = good.certificate().to_vec();
        let at = at.index(der.len());
        der[at] ^= by;
        let changed = CertificateDer::from(der);
        let name = ServerName::try_from("join.tombolo.internal").unwrap();
        let now = UnixTime::since_unix_epoch(std::time::Duration::ZERO);
        let outcome = ByToken(good.print()).verify_server_cert(&identity.chain[0], std::slice::from_ref(&changed), &name, &[], now);
        if outcome.is_ok() {
            let parsed = rustls::server::ParsedCertificate::try_from(&changed).unwrap();
            prop_assert_eq!(Print::of(&parsed.subject_public_key_info()), good.print());
        }
    }

    #[test]
    fn random_bytes_are_no_certificate_and_no_key(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(trust(&[], &[1, 2]).judge(&CertificateDer::from(bytes.clone())).is_err());
        prop_assert!(HostKey::from_pem(&bytes).is_none());
        let wrapped = [b"-----BEGIN PRIVATE KEY-----\n", bytes.as_slice(), b"\n-----END PRIVATE KEY-----\n"].concat();
        prop_assert!(HostKey::from_pem(&wrapped).is_none());
    }

    /// A changed key file is refused, or it holds some key as well as any file does.
    #[test]
    fn a_changed_key_file_is_refused_or_holds_a_key(at in any::<prop::sample::Index>(), to: u8) {
        let mut text = key(1).pair.serialize_pem().into_bytes();
        let at = at.index(text.len());
        text[at] = to;
        if let Some(read) = HostKey::from_pem(&text) {
            let again = HostKey::from_pem(read.pair.serialize_pem().as_bytes()).unwrap();
            prop_assert_eq!(again.key_print(), read.key_print());
            let shown = authority(1).identity(cluster(), host(1), &read).unwrap();
            let trust = Trust::new(cluster(), &[], &BTreeMap::from([(host(1), read.key_print())])).unwrap();
            prop_assert_eq!(trust.judge(&shown.chain()[0]), Ok(Peer { host: host(1), authority: None }));
        }
    }
}
