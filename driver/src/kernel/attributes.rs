//! Netlink attributes by their numbers, read and written (`struct nlattr`, include/uapi/linux/netlink.h): for what the
//! crates' own types don't know, lose, or read slowly.

use std::net::IpAddr;

use netlink_packet_core::NLA_TYPE_MASK;

/// Length of an attribute's own length and number, in bytes.
const HEAD: usize = 4;

/// The attributes in some bytes, by their numbers. What is cut off ends them.
pub(super) fn all(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (head, _) = bytes.split_first_chunk::<HEAD>()?;
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let value = bytes.get(HEAD..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([head[2], head[3]]) & NLA_TYPE_MASK, value))
    })
}

/// The first attribute of a number.
pub(super) fn one(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    all(bytes)
        .find(|(kind, _)| *kind == wanted)
        .map(|(_, value)| value)
}

/// A text as the kernel writes it, with a zero at its end.
pub(super) fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).trim_end_matches('\0').to_owned()
}

/// A number of 32 bits.
pub(super) fn number(value: &[u8]) -> Option<u32> {
    value.first_chunk().copied().map(u32::from_ne_bytes)
}

/// An address, whose family its length tells.
pub(super) fn ip(value: &[u8]) -> Option<IpAddr> {
    let v4 = || <[u8; 4]>::try_from(value).ok().map(IpAddr::from);
    v4().or_else(|| <[u8; 16]>::try_from(value).ok().map(IpAddr::from))
}

/// An attribute as it stands in a message. Ours are a few bytes long; an attribute can have 64 KiB at most.
pub(super) fn written(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = ((value.len() + HEAD) as u16).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::NLA_F_NESTED;

    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let inner = written(3, b"abc");
        let bytes = [written(1, b"tbf\0"), written(2 | NLA_F_NESTED, &inner)].concat();
        assert_eq!(bytes.len(), 8 + 4 + 8);
        assert_eq!(one(&bytes, 1).map(text).as_deref(), Some("tbf"));
        assert_eq!(
            one(&bytes, 2).and_then(|nested| one(nested, 3)),
            Some(&b"abc"[..])
        );
        assert_eq!(one(&bytes, 3), None);
    }

    #[test]
    fn what_is_cut_off_or_impossible_ends_them() {
        let bytes = [written(1, &[1; 4]), written(2, &[2; 4])].concat();
        for length in 8..bytes.len() {
            assert_eq!(all(&bytes[..length]).count(), 1, "{length}");
        }
        // Shorter than its own head.
        assert_eq!(all(&[3, 0, 1, 0]).count(), 0);
        assert_eq!((number(&[1]), ip(&[1; 5])), (None, None));
    }
}
