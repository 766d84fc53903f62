//! Numbers by lot that nothing depends on: pauses, and which addresses are tried. Pure: the beginning is handed in.

use std::net::IpAddr;
use std::time::Duration;

/// A sequence of numbers (SplitMix64).
#[derive(Debug)]
pub(super) struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A time of at least `least`, and less than `spread` more.
    pub fn pause(&mut self, least: Duration, spread: Duration) -> Duration {
        let spread = (spread.as_micros() as u64).max(1);
        least + Duration::from_micros(self.next() % spread)
    }

    /// An address near another one: in its /24, but for the first and the last there, or in its /64.
    pub fn near(&mut self, address: IpAddr) -> IpAddr {
        let drawn = self.next();
        match address {
            IpAddr::V4(v4) => {
                let [a, b, c, _] = v4.octets();
                IpAddr::from([a, b, c, 1 + (drawn % 254) as u8])
            }
            IpAddr::V6(v6) => {
                let mut octets = v6.octets();
                octets[8..].copy_from_slice(&drawn.to_be_bytes());
                IpAddr::from(octets)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ipnet::IpNet;

    use super::*;

    #[test]
    fn what_is_drawn_is_near() {
        let mut random = Random::new(7);
        for (address, net) in [
            ("10.1.2.255", "10.1.2.0/24"),
            ("fd00:0:0:7::ffff", "fd00:0:0:7::/64"),
        ] {
            let net: IpNet = net.parse().unwrap();
            for _ in 0..1000 {
                let drawn = random.near(address.parse().unwrap());
                assert!(net.contains(&drawn) && drawn != net.network() && drawn != net.broadcast());
            }
        }
        let (least, spread) = (Duration::from_millis(60), Duration::from_millis(30));
        assert!((0..1000).all(|_| (least..least + spread).contains(&random.pause(least, spread))));
    }
}
