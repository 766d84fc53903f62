//! Values as a kernel takes them and fills them up.

use tombolo_core::model::IfName;
use tombolo_core::world::{Family, Setting, Value};

/// What a kernel takes as an MTU of a link.
const MTUS: std::ops::RangeInclusive<u32> = 68..=65_535;

/// The settings of a link that was just made.
pub(super) fn settings_of_new(link: &IfName) -> [(Setting, u32); 10] {
    Setting::of_link(link).map(|setting| {
        let number = match setting {
            Setting::AcceptRa(_) | Setting::AcceptDad(_) => 1,
            Setting::ProxyDelay(..) => 80,
            _ => 0,
        };
        (setting, number)
    })
}

pub(super) fn check_mtu(value: &Value) -> Result<(), String> {
    match value {
        Value::Bridge { mtu: Some(mtu), .. }
        | Value::Veth { mtu: Some(mtu), .. }
        | Value::Macvlan { mtu: Some(mtu), .. }
        | Value::Ipvlan { mtu: Some(mtu), .. }
        | Value::Vxlan { mtu: Some(mtu), .. }
            if !MTUS.contains(mtu) =>
        {
            Err("mtu greater than device maximum".into())
        }
        _ => Ok(()),
    }
}

/// Whether two values are VXLAN links with the same number, port and family. A host has one such link at most, and what
/// else there is to it can be changed.
pub(super) fn same_tunnel(one: &Value, other: &Value) -> bool {
    let tunnel = |value: &Value| match value {
        Value::Vxlan { vni, local, port, .. } => Some((*vni, *port, Family::of(*local))),
        _ => None,
    };
    tunnel(one).is_some() && tunnel(one) == tunnel(other)
}

/// A link's value with an MTU, if it asks for none.
pub(super) fn with_mtu(value: &Value, own: Option<u32>) -> Value {
    let mut value = value.clone();
    if let Value::Bridge { mtu, .. }
    | Value::Veth { mtu, .. }
    | Value::Vxlan { mtu, .. }
    | Value::Macvlan { mtu, .. }
    | Value::Ipvlan { mtu, .. } = &mut value
    {
        *mtu = mtu.or(own);
    }
    value
}
