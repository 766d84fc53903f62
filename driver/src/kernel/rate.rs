//! Token bucket filters as root queue disciplines of our links (see `Key::Rate`, tc-tbf(8), net/sched/sch_tbf.c).

use netlink_packet_core::{DefaultNla, NLA_F_NESTED, NLM_F_CREATE, NLM_F_REPLACE, NetlinkMessage};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcHeader, TcMessage};
use tombolo_core::model::IfName;

use super::attributes::{self, written};
use super::netlink::Links;
use super::socket::{Failure, Reply, unless};

/// Length of `struct tcmsg`, in bytes: attributes follow it.
const TCMSG: usize = 20;

/// Attribute numbers (`TCA_*`, `TCA_TBF_*`).
const KIND: u16 = 1;
const OPTIONS: u16 = 2;
const PARMS: u16 = 1;
const RATE64: u16 = 4;
const BURST: u16 = 6;

/// `struct tc_tbf_qopt`: two rates of 12 bytes, limit, buffer, mtu.
const QOPT: usize = 36;
/// Where in a rate (`struct tc_ratespec`) the bytes a second stand, and where its sort of link stands.
const RATE_BYTES: usize = 8;
const LINK_LAYER: usize = 1;
/// `TC_LINKLAYER_ETHERNET`: the kernel reckons for itself, without a table.
const ETHERNET: u8 = 1;
/// Where the limit stands.
const LIMIT: usize = 24;

/// At least this much passes at once, in bytes: the largest packet that a link hands over in one piece.
const BURST_LEAST: u64 = 64 << 10;
/// As much passes at once as comes in a hundredth of a second, and a twentieth of a second's worth waits.
const BURST_PART: u64 = 100;
const WAIT_PART: u64 = 20;

impl Links {
    /// The indices of links that have a limit, with the limits in bits a second.
    pub(super) async fn rates(&mut self) -> Result<Vec<(u32, u64)>, Failure> {
        let dump = RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default());
        let replies = self.socket.dump(NetlinkMessage::from(dump)).await?;
        Ok(replies.iter().filter_map(rate_of).collect())
    }

    /// Limits what is sent through a link.
    pub(super) async fn limit(&mut self, name: &IfName, bits: u64) -> Result<(), Failure> {
        let link = self.ours(name).await?;
        let mut message = root(link.index);
        message.attributes = vec![
            TcAttribute::Kind("tbf".to_owned()),
            TcAttribute::Other(DefaultNla::new(OPTIONS | NLA_F_NESTED, options(bits / 8))),
        ];
        let told = self
            .tell(
                RouteNetlinkMessage::NewQueueDiscipline(message),
                NLM_F_CREATE | NLM_F_REPLACE,
            )
            .await;
        if told.as_ref().err().and_then(Failure::errno) == Some(libc::ENOENT) {
            return Failure::ours(
                "this kernel has no token bucket filter (sch_tbf); leave the option rate out",
            );
        }
        told
    }

    /// Ends a limit.
    pub(super) async fn unlimit(&mut self, name: &IfName) -> Result<(), Failure> {
        let Some(link) = self.find_ours(name).await? else {
            return Ok(());
        };
        let gone = self
            .tell(RouteNetlinkMessage::DelQueueDiscipline(root(link.index)), 0)
            .await;
        unless(gone, &[libc::ENOENT, libc::EINVAL, libc::ENODEV])
    }
}

fn root(index: u32) -> TcMessage {
    let header = TcHeader {
        // An index is a positive number in every message of the kernel.
        index: index as i32,
        parent: TcHandle::ROOT,
        ..TcHeader::default()
    };
    TcMessage::from_parts(header, Vec::new())
}

fn options(bytes: u64) -> Vec<u8> {
    let clip = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    let burst = clip((bytes / BURST_PART).max(BURST_LEAST));
    let mut qopt = [0; QOPT];
    qopt[LINK_LAYER] = ETHERNET;
    qopt[RATE_BYTES..RATE_BYTES + 4].copy_from_slice(&clip(bytes).to_ne_bytes());
    let limit = clip(u64::from(burst) + bytes / WAIT_PART);
    qopt[LIMIT..LIMIT + 4].copy_from_slice(&limit.to_ne_bytes());
    let mut options = [written(PARMS, &qopt), written(BURST, &burst.to_ne_bytes())].concat();
    if bytes > u64::from(u32::MAX) {
        options.extend(written(RATE64, &bytes.to_ne_bytes()));
    }
    options
}

fn rate_of(reply: &Reply) -> Option<(u32, u64)> {
    let index = attributes::number(reply.payload.get(4..)?)?;
    let listed = reply.payload.get(TCMSG..)?;
    if attributes::text(attributes::one(listed, KIND)?) != "tbf" {
        return None;
    }
    let options = attributes::one(listed, OPTIONS)?;
    let wide = attributes::one(options, RATE64).and_then(|v| v.try_into().ok().map(u64::from_ne_bytes));
    let narrow = || {
        let parms = attributes::one(options, PARMS)?;
        attributes::number(parms.get(RATE_BYTES..)?).map(u64::from)
    };
    Some((index, wide.or_else(narrow)? * 8))
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::NetlinkHeader;

    use super::*;

    #[test]
    fn a_limit_reads_back_as_it_was_asked() {
        for bits in [8, 10_000_000, 8 * u64::from(u32::MAX), 100_000_000_000] {
            let mut payload = vec![0; TCMSG];
            payload[4] = 7;
            payload.extend(written(KIND, b"tbf\0"));
            payload.extend(written(OPTIONS, &options(bits / 8)));
            let reply = Reply {
                header: NetlinkHeader::default(),
                payload,
            };
            assert_eq!(rate_of(&reply), Some((7, bits)));
        }
    }
}
