//! Frames of ARP (RFC 826, RFC 5227) and of neighbour discovery (RFC 4861, RFC 4862) over Ethernet: those that we send, and what
//! others say in theirs.
//!
//! ```text
//!                 announcement                         probe
//!   IPv4   ARP request from the address for      ARP request from 0.0.0.0 for the address
//!          the address
//!   IPv6   neighbour advertisement that          neighbour solicitation from :: to the address's
//!          nobody asked for, to all nodes        group; who has the address answers to all nodes
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tombolo_core::model::Mac;

use super::checksum::checksum;

/// `ff:ff:ff:ff:ff:ff`, and what an address of a group of IPv6 begins with (RFC 2464, section 7).
const ALL: [u8; 6] = [0xff; 6];
const GROUP_MAC: [u8; 2] = [0x33, 0x33];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Types of frames: `ETH_P_ARP`, `ETH_P_IPV6`.
const ARP: [u8; 2] = [0x08, 0x06];
const IPV6: [u8; 2] = [0x86, 0xdd];

/// ARP for Ethernet and IPv4, before the number of the operation; the operations.
const ETHERNET_IPV4: [u8; 6] = [0, 1, 0x08, 0, 6, 4];
const REQUEST: [u8; 2] = [0, 1];
const REPLY: [u8; 2] = [0, 2];

/// The number of ICMP for IPv6 among the protocols, and of two messages in it.
pub(crate) const ICMPV6: u8 = 58;
pub(crate) const SOLICITATION: u8 = 135;
pub(crate) const ADVERTISEMENT: u8 = 136;

/// Options that hold the hardware address of who speaks, and of the target: their number, and their length in units of 8 bytes.
const SOURCE: [u8; 2] = [1, 1];
const TARGET: [u8; 2] = [2, 1];

/// The largest hop limit: no router has had the packet in its hands.
const NO_ROUTER: u8 = 255;

/// The frame that tells of an address.
pub(crate) fn announcement(address: IpAddr, mac: Mac) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => arp(mac, address, address),
        IpAddr::V6(address) => {
            const OVERRIDE: u8 = 0x20;
            let head = [ADVERTISEMENT, 0, 0, 0, OVERRIDE, 0, 0, 0];
            let message = [&head[..], &address.octets(), &TARGET, &mac.bytes()].concat();
            icmpv6(mac, address, ALL_NODES, message)
        }
    }
}

/// The frame that asks whether somebody has an address, in the name of nobody.
pub(crate) fn probe(address: IpAddr, mac: Mac) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => arp(mac, Ipv4Addr::UNSPECIFIED, address),
        IpAddr::V6(address) => {
            let message = [&[SOLICITATION, 0, 0, 0, 0, 0, 0, 0][..], &address.octets()].concat();
            icmpv6(mac, Ipv6Addr::UNSPECIFIED, solicited_node(address), message)
        }
    }
}

/// The group in which an address is asked for (RFC 4291, section 2.7.1).
pub(crate) fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    let (low, lowest) = (0xff00 | u16::from(a), u16::from_be_bytes([b, c]));
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, low, lowest)
}

/// A request of ARP to all.
fn arp(mac: Mac, from: Ipv4Addr, asked: Ipv4Addr) -> Vec<u8> {
    let mac = mac.bytes();
    [
        &ALL[..],
        &mac,
        &ARP,
        &ETHERNET_IPV4,
        &REQUEST,
        &mac,
        &from.octets(),
        &[0; 6],
        &asked.octets(),
    ]
    .concat()
}

/// A message to a group, with its checksum, which is zero in what comes in.
fn icmpv6(mac: Mac, from: Ipv6Addr, group: Ipv6Addr, mut message: Vec<u8>) -> Vec<u8> {
    let sum = checksum(&summed(from, group, &message));
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let [.., a, b, c, d] = group.octets();
    // Version 6, no class, no flow; the length, what follows, and the hop limit.
    let length = (message.len() as u16).to_be_bytes();
    let head = [0x60, 0, 0, 0, length[0], length[1], ICMPV6, NO_ROUTER];
    [
        &GROUP_MAC[..],
        &[a, b, c, d],
        &mac.bytes(),
        &IPV6,
        &head,
        &from.octets(),
        &group.octets(),
        &message,
    ]
    .concat()
}

/// What the checksum of a message is about (RFC 8200, section 8.1).
fn summed(from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> Vec<u8> {
    let length = (message.len() as u32).to_be_bytes();
    [
        &from.octets()[..],
        &to.octets(),
        &length,
        &[0, 0, 0, ICMPV6],
        message,
    ]
    .concat()
}

/// What a frame says of an address: who has it, or is about to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Word {
    /// The address.
    pub address: IpAddr,
    /// Who.
    pub mac: Mac,
    /// How it was said.
    pub sort: Sort,
}

/// How somebody says that an address is its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Sort {
    /// As an answer, or unasked: that can be said for somebody else as well (proxies).
    Answers,
    /// By asking for others from that address.
    Speaks,
    /// By asking whether somebody else has it already.
    Claims,
}

/// Reads a frame. None if it is of another sort, cut short, or not as it must be.
pub(crate) fn read(frame: &[u8]) -> Option<Word> {
    let (_, rest) = frame.split_first_chunk::<6>()?;
    let (from, rest) = rest.split_first_chunk::<6>()?;
    let (kind, packet) = rest.split_first_chunk::<2>()?;
    let word = match *kind {
        ARP => read_arp(packet)?,
        IPV6 => read_icmpv6(packet, *from)?,
        _ => return None,
    };
    let (one, group) = (!word.address.is_unspecified(), word.address.is_multicast());
    (one && !group && word.address != IpAddr::V4(Ipv4Addr::BROADCAST)).then_some(word)
}

fn read_arp(packet: &[u8]) -> Option<Word> {
    let (operation, rest) = packet.strip_prefix(&ETHERNET_IPV4)?.split_first_chunk::<2>()?;
    let (mac, rest) = rest.split_first_chunk::<6>()?;
    let (from, rest) = rest.split_first_chunk::<4>()?;
    let asked = rest.get(6..)?.first_chunk::<4>()?;
    let (from, asked) = (Ipv4Addr::from(*from), Ipv4Addr::from(*asked));
    let (address, sort) = match (*operation, from.is_unspecified()) {
        (REQUEST, true) => (asked, Sort::Claims),
        (REQUEST, false) => (from, Sort::Speaks),
        (REPLY, false) => (from, Sort::Answers),
        _ => return None,
    };
    Some(Word {
        address: address.into(),
        mac: Mac::from_bytes(*mac).ok()?,
        sort,
    })
}

fn read_icmpv6(packet: &[u8], ethernet: [u8; 6]) -> Option<Word> {
    let (head, rest) = packet.split_first_chunk::<8>()?;
    let (from, rest) = rest.split_first_chunk::<16>()?;
    let (to, rest) = rest.split_first_chunk::<16>()?;
    // A short frame is padded.
    let message = rest.get(..usize::from(u16::from_be_bytes([head[4], head[5]])))?;
    let (from, to) = (Ipv6Addr::from(*from), Ipv6Addr::from(*to));
    let near = head[0] >> 4 == 6 && head[6] == ICMPV6 && head[7] == NO_ROUTER;
    if !near || checksum(&summed(from, to, message)) != 0 {
        return None;
    }
    let (start, rest) = message.split_first_chunk::<8>()?;
    let (target, options) = rest.split_first_chunk::<16>()?;
    let target = Ipv6Addr::from(*target);
    let (address, sort, option) = match (start[0], start[1], from.is_unspecified()) {
        (SOLICITATION, 0, true) => (target, Sort::Claims, None),
        (SOLICITATION, 0, false) => (from, Sort::Speaks, Some(SOURCE)),
        (ADVERTISEMENT, 0, _) => (target, Sort::Answers, Some(TARGET)),
        _ => return None,
    };
    let told = option.and_then(|option| hardware(options, option));
    Some(Word {
        address: address.into(),
        mac: Mac::from_bytes(told.unwrap_or(ethernet)).ok()?,
        sort,
    })
}

/// The hardware address in an option. One of no length ends them.
fn hardware(mut options: &[u8], wanted: [u8; 2]) -> Option<[u8; 6]> {
    while let Some((head, _)) = options.split_first_chunk::<2>() {
        if *head == wanted {
            return options.get(2..)?.first_chunk().copied();
        }
        let length = usize::from(head[1]) * 8;
        options = options.get(length..).filter(|_| length > 0)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn mac() -> Mac {
        "02:7b:0a:00:00:07".parse().unwrap()
    }

    fn addresses() -> [IpAddr; 2] {
        ["10.0.0.7".parse().unwrap(), "fd00::12:3456".parse().unwrap()]
    }

    #[test]
    fn a_message_with_its_sum_sums_up_to_nothing() {
        let frame = announcement(addresses()[1], mac());
        assert_eq!(frame.len(), 14 + 40 + 32);
        // The addresses and the message stand in the frame; the rest of the pseudo header is its length and protocol.
        let summed = [&frame[22..], &[0, 0, 0, 32, 0, 0, 0, ICMPV6]].concat();
        assert_eq!(checksum(&summed), 0);
    }

    #[test]
    fn an_address_asks_for_itself() {
        let frame = announcement(addresses()[0], mac());
        assert_eq!(frame.len(), 14 + 28);
        assert_eq!(frame[6..12], frame[22..28]);
        assert_eq!(frame[28..32], frame[38..42]);
    }

    #[test]
    fn a_probe_goes_to_the_group_of_its_address() {
        let frame = probe(addresses()[1], mac());
        assert_eq!(frame[..6], [0x33, 0x33, 0xff, 0x12, 0x34, 0x56]);
        let group: Ipv6Addr = "ff02::1:ff12:3456".parse().unwrap();
        assert_eq!(frame[38..54], group.octets());
    }

    #[test]
    fn what_is_written_is_read() {
        for (address, announced) in addresses().into_iter().zip([Sort::Speaks, Sort::Answers]) {
            let word = |sort| Word {
                address,
                mac: mac(),
                sort,
            };
            assert_eq!(read(&announcement(address, mac())), Some(word(announced)));
            assert_eq!(read(&probe(address, mac())), Some(word(Sort::Claims)));
        }
    }

    #[test]
    fn an_answer_of_arp_is_read_and_a_strange_operation_is_not() {
        let mut frame = announcement(addresses()[0], mac());
        frame[21] = 2;
        assert_eq!(read(&frame).map(|word| word.sort), Some(Sort::Answers));
        frame[21] = 3;
        assert_eq!(read(&frame), None);
    }

    #[test]
    fn what_came_through_a_router_or_was_damaged_is_not_read() {
        let whole = announcement(addresses()[1], mac());
        let (mut routed, mut damaged) = (whole.clone(), whole.clone());
        routed[21] = 254;
        damaged[70] ^= 1;
        assert_eq!((read(&routed), read(&damaged)), (None, None));
        let padded = [&whole[..], &[0; 20]].concat();
        assert_eq!(read(&padded), read(&whole));
    }

    #[test]
    fn the_address_of_a_group_or_of_nobody_is_nobodys() {
        for address in ["224.0.0.1", "255.255.255.255", "ff02::1", "0.0.0.0", "::"] {
            let address = address.parse().unwrap();
            assert_eq!(read(&announcement(address, mac())), None, "{address}");
            assert_eq!(read(&probe(address, mac())), None, "{address}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(
            bytes in prop::collection::vec(any::<u8>(), 0..130),
            v6: bool,
            asks: bool,
            flips in prop::collection::vec((0_usize..90, any::<u8>()), 0..4),
            length in 0_usize..100,
        ) {
            read(&bytes);
            let address = addresses()[usize::from(v6)];
            let mut frame = if asks { probe(address, mac()) } else { announcement(address, mac()) };
            let whole = frame.len();
            frame.truncate(length);
            prop_assert_eq!(read(&frame).is_some(), length >= whole);
            for (at, bits) in flips {
                if let Some(byte) = frame.get_mut(at) {
                    *byte ^= bits;
                }
            }
            read(&frame);
        }

        #[test]
        fn any_options_are_read(options in prop::collection::vec(any::<u8>(), 0..60)) {
            let from: Ipv6Addr = "fe80::1".parse().unwrap();
            let head = [&[SOLICITATION, 0, 0, 0, 0, 0, 0, 0][..], &from.octets()].concat();
            let frame = icmpv6(mac(), from, ALL_NODES, [head, options].concat());
            if let Some(word) = read(&frame) {
                prop_assert_eq!((word.address, word.sort), (from.into(), Sort::Speaks));
            }
        }
    }
}
