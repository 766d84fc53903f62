//! DHCP's way into a frame of Ethernet and out of it again: IPv4 and UDP, as a client without an address needs them.

use std::net::Ipv4Addr;

use dhcproto::v4::{CLIENT_PORT, MIN_PACKET_SIZE, SERVER_PORT};
use tombolo_core::model::Mac;

use crate::kernel::checksum::checksum;

const ALL: [u8; 6] = [0xff; 6];
/// `ETH_P_IP`.
pub const IPV4: [u8; 2] = [0x08, 0x00];
/// The number of UDP among the protocols.
pub const UDP: u8 = 17;

const ETHERNET: usize = 14;
const IP: usize = 20;
const UDP_HEADER: usize = 8;
/// A frame without its tag (802.1Q) and with a message of the size that is taken.
pub const LONGEST: usize = ETHERNET + 60 + UDP_HEADER + super::message::MOST as usize;

/// Where a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// To all on the wire.
    All {
        /// From this address; unspecified while there is none.
        from: Ipv4Addr,
    },
    /// To one server.
    Server {
        /// From this address.
        from: Ipv4Addr,
        /// The server's.
        server: Ipv4Addr,
        /// The hardware address that it is reached by.
        hop: Mac,
    },
}

impl To {
    /// To all, from nobody.
    pub const ALL: Self = Self::All {
        from: Ipv4Addr::UNSPECIFIED,
    };
}

/// A frame with a message from a client.
pub fn frame(mac: Mac, to: To, message: &[u8]) -> Vec<u8> {
    let (hop, from, address) = match to {
        To::All { from } => (ALL, from, Ipv4Addr::BROADCAST),
        To::Server { from, server, hop } => (hop.bytes(), from, server),
    };
    // Old servers and relays drop what is shorter than BOOTP was (RFC 1542, section 2.1); zeros follow the last option.
    let mut message = message.to_vec();
    message.resize(message.len().max(MIN_PACKET_SIZE), 0);
    let length = (UDP_HEADER + message.len()) as u16;
    let ends = [from.octets(), address.octets()].concat();
    let mut udp = [
        &CLIENT_PORT.to_be_bytes()[..],
        &SERVER_PORT.to_be_bytes(),
        &length.to_be_bytes(),
        &[0, 0],
        &message,
    ]
    .concat();
    let pseudo = [&ends[..], &[0, UDP], &length.to_be_bytes(), &udp].concat();
    // A sum of 0 would mean that there is none (RFC 768).
    let sum = match checksum(&pseudo) {
        0 => u16::MAX,
        sum => sum,
    };
    udp[6..8].copy_from_slice(&sum.to_be_bytes());
    // Version 4, five words; no class; the length; no identification, whole; 64 hops.
    let total = (IP as u16 + length).to_be_bytes();
    let mut ip = [
        &[0x45, 0, total[0], total[1], 0, 0, 0, 0, 64, UDP, 0, 0][..],
        &ends,
    ]
    .concat();
    let sum = checksum(&ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    [&hop[..], &mac.bytes(), &IPV4, &ip, &udp].concat()
}

/// From which hardware address a frame came, and the message in it, if it is for a client of DHCP.
///
/// The sum of UDP is not looked at: what comes from a container or a machine on this host has none yet, as its kernel leaves it
/// to hardware that is never met. That of the header of IP is always there.
pub fn read(frame: &[u8]) -> Option<(Mac, &[u8])> {
    let (ethernet, packet) = frame.split_at_checked(ETHERNET)?;
    let from = Mac::from_bytes(ethernet[6..12].try_into().ok()?).ok()?;
    let first = *packet.first()?;
    let (header, total) = (usize::from(first & 0xf) * 4, number(packet, 2)?);
    if ethernet[12..] != IPV4 || first >> 4 != 4 || header < IP || *packet.get(9)? != UDP {
        return None;
    }
    // Whether more follows, and what comes before: a part of a packet is no packet.
    let part = number(packet, 6)? & 0x3fff;
    let (ip, rest) = packet.get(..total)?.split_at_checked(header)?;
    if part != 0 || checksum(ip) != 0 || number(rest, 2)? != usize::from(CLIENT_PORT) {
        return None;
    }
    let message = rest.get(UDP_HEADER..number(rest, 4)?)?;
    Some((from, message))
}

fn number(bytes: &[u8], at: usize) -> Option<usize> {
    let bytes = bytes.get(at..at + 2)?;
    Some(usize::from(bytes[0]) << 8 | usize::from(bytes[1]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn mac(last: u8) -> Mac {
        Mac::from_bytes([2, 0, 0, 0, 0, last]).unwrap()
    }

    /// A frame as a server sends it: that of a client with its ports exchanged.
    fn answer(message: &[u8]) -> Vec<u8> {
        let mut frame = frame(mac(1), To::ALL, message);
        let udp = ETHERNET + IP;
        frame[udp..udp + 4].copy_from_slice(&[0, 67, 0, 68]);
        frame
    }

    #[test]
    fn a_frame_has_the_sums_that_its_headers_ask_for() {
        let to = To::Server {
            from: [192, 0, 2, 9].into(),
            server: [192, 0, 2, 1].into(),
            hop: mac(2),
        };
        let frame = frame(mac(1), to, &[7; 301]);
        assert_eq!(frame[..12], [mac(2).bytes(), mac(1).bytes()].concat());
        assert_eq!(frame.len(), ETHERNET + IP + UDP_HEADER + 301);
        assert_eq!(checksum(&frame[14..34]), 0);
        let pseudo = [&frame[26..34], &[0, UDP], &frame[38..40], &frame[34..]].concat();
        assert_eq!(checksum(&pseudo), 0);
    }

    #[test]
    fn what_is_put_into_a_frame_comes_out_of_it_and_little_is_padded() {
        let long = answer(&[9; 400]);
        assert_eq!(read(&long), Some((mac(1), &[9; 400][..])));
        let short = answer(&[9; 10]);
        let (_, message) = read(&short).unwrap();
        assert_eq!(message.len(), MIN_PACKET_SIZE);
        assert_eq!((&message[..10], message[10]), (&[9; 10][..], 0));
        // What Ethernet pads is not part of it.
        let padded = [&short[..], &[1; 20]].concat();
        assert_eq!(read(&padded).unwrap().1.len(), MIN_PACKET_SIZE);
    }

    #[test]
    fn what_is_not_for_a_client_is_passed_over() {
        let good = answer(&[9; 300]);
        assert!(read(&good).is_some());
        assert!(read(&frame(mac(1), To::ALL, &[9; 300])).is_none(), "for a server");
        // Another type of frame, another version, another protocol, a part, longer than it is, a wrong sum, a wrong length.
        for (at, byte) in [
            (12, 0x86),
            (14, 0x65),
            (23, 6),
            (20, 0x20),
            (16, 9),
            (24, 0),
            (38, 9),
            (6, 1),
        ] {
            let mut bad = good.clone();
            bad[at] = byte;
            assert!(read(&bad).is_none(), "byte {at}");
        }
        for length in 0..good.len() {
            assert!(read(&good[..length]).is_none(), "{length} bytes");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_strange(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            read(&bytes);
            read(&[&[2; 12][..], &IPV4, &bytes].concat());
        }
    }
}
