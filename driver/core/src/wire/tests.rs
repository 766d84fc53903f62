//! Docker's words in, commands and answers out.

use super::*;
use crate::model::PortWish;

fn command(method: &str, body: &str) -> Command {
    match read(method, body.as_bytes()) {
        Ok(Call::Do(command)) => *command,
        other => panic!("{method}: {other:?}"),
    }
}

fn refused(method: &str, body: &str) -> String {
    read(method, body.as_bytes()).unwrap_err().to_string()
}

#[test]
fn an_empty_body_is_refused_where_one_is_due_and_ignored_elsewhere() {
    for method in [
        "Plugin.Activate",
        "NetworkDriver.GetCapabilities",
        "IpamDriver.GetDefaultAddressSpaces",
        // Its answer is always the same, so a repeat that has lost its body gets it too.
        "NetworkDriver.EndpointOperInfo",
    ] {
        assert!(matches!(read(method, b""), Ok(Call::Fixed(_))), "{method}");
    }
    for method in [
        "NetworkDriver.CreateNetwork",
        "NetworkDriver.DeleteNetwork",
        "NetworkDriver.CreateEndpoint",
        "NetworkDriver.DeleteEndpoint",
        "NetworkDriver.Join",
        "NetworkDriver.Leave",
        "NetworkDriver.ProgramExternalConnectivity",
        "NetworkDriver.RevokeExternalConnectivity",
        "NetworkDriver.AllocateNetwork",
        "NetworkDriver.FreeNetwork",
        "NetworkDriver.DiscoverNew",
        "NetworkDriver.DiscoverDelete",
        "NetworkDriver.GwAllocCheck",
        "IpamDriver.RequestPool",
        "IpamDriver.ReleasePool",
        "IpamDriver.RequestAddress",
        "IpamDriver.ReleaseAddress",
    ] {
        assert!(matches!(read(method, b""), Err(Error::Empty { .. })), "{method}");
        assert!(matches!(read(method, b"{"), Err(Error::Shape { .. })), "{method}");
    }
    assert!(matches!(
        read("NetworkDriver.Nope", b""),
        Err(Error::NoMethod { .. })
    ));
    assert!(matches!(read("Nope", b""), Err(Error::NoMethod { .. })));
}

#[test]
fn a_network_is_read_with_nulls_and_unknown_fields() {
    let body = r#"{"NetworkID":"n1","Options":{"com.docker.network.generic":null,"com.docker.network.internal":true},
        "IPv4Data":[{"AddressSpace":"tombolo-local","Pool":"10.1.0.0/24","Gateway":"10.1.0.1/24",
        "AuxAddresses":{"printer":"10.1.0.9/24"}}],"IPv6Data":null,"Later":[1]}"#;
    let Command::CreateNetwork(network) = command("NetworkDriver.CreateNetwork", body) else {
        panic!()
    };
    assert!(network.internal && network.subnets[0].ours);
    assert_eq!(
        network.subnets[0].aux,
        ["10.1.0.9".parse::<std::net::IpAddr>().unwrap()]
    );
}

#[test]
fn a_wrong_type_is_told_with_its_field() {
    let error = refused(
        "NetworkDriver.CreateNetwork",
        r#"{"NetworkID":"n","IPv4Data":[{"Pool":7}]}"#,
    );
    assert!(error.starts_with("IPv4Data[0].Pool: invalid type"), "{error}");
    let error = refused(
        "NetworkDriver.CreateNetwork",
        r#"{"NetworkID":"n","IPv4Data":[{"Pool":"ten"}]}"#,
    );
    assert_eq!(error, "Pool: 'ten' is not a subnet such as 10.208.0.0/24");
    let body = r#"{"NetworkID":"n","Options":{"com.docker.network.generic":{"mtu":9000}}}"#;
    assert!(refused("NetworkDriver.CreateNetwork", body).contains("mtu: '9000' is not a text"));
    for list in [
        "[]",
        r#"{"NetworkID":"n","IPv4Data":[["tombolo-local","10.0.0.0/24","10.0.0.1/24",{}]]}"#,
    ] {
        let error = refused("NetworkDriver.CreateNetwork", list);
        assert!(
            error.contains("invalid type: sequence, expected an object"),
            "{error}"
        );
    }
    let error = refused("IpamDriver.RequestAddress", r#"{"PoolID":"nonsense"}"#);
    assert_eq!(error, "PoolID: 'nonsense' is no pool of tombolo's");
}

#[test]
fn identifiers_of_any_length_are_refused_or_unknown_but_never_cut() {
    let long = "a".repeat(10_000);
    let create =
        format!(r#"{{"NetworkID":"{long}","IPv4Data":[{{"Pool":"10.0.0.0/24","Gateway":"10.0.0.1/24"}}]}}"#);
    let error = refused("NetworkDriver.CreateNetwork", &create);
    assert!(error.starts_with("NetworkID: ") && error.len() < 300, "{error}");
    let delete = format!(r#"{{"NetworkID":"{long}"}}"#);
    assert_eq!(
        read("NetworkDriver.DeleteNetwork", delete.as_bytes()).unwrap(),
        Call::Fixed(json!({}))
    );
}

#[test]
fn published_ports_are_read_as_wishes() {
    let body = r#"{"NetworkID":"n","EndpointID":"e","Options":{"com.docker.network.portmap":[
        {"Proto":17,"IP":"","Port":53,"HostIP":"127.0.0.1","HostPort":5300,"HostPortEnd":5302}]}}"#;
    let Command::Publish { wishes, .. } = command("NetworkDriver.ProgramExternalConnectivity", body) else {
        panic!()
    };
    let host = Some("127.0.0.1".parse().unwrap());
    assert_eq!(
        wishes,
        [PortWish {
            proto: crate::model::Proto::Udp,
            host,
            first: 5300,
            last: 5302,
            port: 53
        }]
    );
    let bad = body.replace("17", "99");
    assert!(refused("NetworkDriver.ProgramExternalConnectivity", &bad).contains("Proto: 99 is not 6 (TCP)"));
}

#[test]
fn a_pool_of_any_address_means_any_pool_of_that_size() {
    let size = |pool: &str| {
        let body = format!(
            r#"{{"AddressSpace":"tombolo-local","Pool":"{pool}","SubPool":"","Options":null,"V6":false}}"#
        );
        let Command::RequestPool(request) = command("IpamDriver.RequestPool", &body) else {
            panic!()
        };
        (request.want, request.v6)
    };
    use tombolo_ipam::Want;
    assert_eq!(size(""), (Want::Any, false));
    assert_eq!(size("0.0.0.0/26"), (Want::Sized(26), false));
    assert_eq!(size("::/64"), (Want::Sized(64), true));
    assert_eq!(
        size("10.0.0.0/24"),
        (Want::Exactly("10.0.0.0/24".parse().unwrap()), false)
    );
    let error = refused("IpamDriver.RequestPool", r#"{"Options":{"colour":"red"}}"#);
    assert!(
        error.contains("unknown option colour; the IPAM driver knows: dhcp, net, parent"),
        "{error}"
    );
}

#[test]
fn refusals_speak_each_interfaces_language() {
    assert_eq!(refusal("IpamDriver.RequestPool", "no"), json!({ "Error": "no" }));
    assert_eq!(refusal("NetworkDriver.Join", "no"), json!({ "Err": "no" }));
}
