//! Values that are addresses: of hosts, with their subnets, of groups.

use std::net::{IpAddr, Ipv6Addr};

use super::diagnostic::quote;
use super::model::Cidr;
use super::values::{Fault, Parsed, Scalar};

/// An address a host can have.
pub(crate) fn address(scalar: Scalar<'_>) -> Parsed<IpAddr> {
    let text = scalar.text;
    if let Some((bare, _)) = text.split_once('/')
        && bare.parse::<IpAddr>().is_ok()
    {
        return Err(Fault::new(
            format!("{} has a prefix length", quote(text)),
            format!("write the address alone: `{bare}`"),
        ));
    }
    unicast(ip(text, "10.0.0.1")?)
}

/// A host address with the prefix length of its subnet.
pub(crate) fn cidr(scalar: Scalar<'_>) -> Parsed<Cidr> {
    let text = scalar.text;
    let Some((address, prefix)) = text.split_once('/') else {
        let address = ip(text, "10.0.0.1/24")?;
        return Err(Fault::new(
            format!("{} has no prefix length", quote(text)),
            format!("write for example `{address}/{}`", customary(address)),
        ));
    };
    let address = unicast(ip(address, "10.0.0.1/24")?)?;
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let prefix = match prefix.parse::<u8>() {
        Ok(prefix) if prefix <= bits && !prefix_is_sloppy(text) => prefix,
        _ => {
            return Err(Fault::new(
                format!("{} has no valid prefix length", quote(text)),
                format!(
                    "write a number from 1 to {bits} after the `/`, for example `{address}/{}`",
                    customary(address)
                ),
            ));
        }
    };
    if prefix == 0 {
        return Err(Fault::new(
            "a prefix length of 0 puts the whole Internet on this link",
            format!(
                "write the subnet's own, for example `{address}/{}`",
                customary(address)
            ),
        ));
    }
    let cidr = Cidr { address, prefix };
    match reserved(cidr) {
        Some(which) => Err(Fault::new(
            format!("{cidr} is the {which} address of its subnet"),
            "write the address of a host in it",
        )),
        None => Ok(cidr),
    }
}

/// A multicast group that replication can use.
pub(crate) fn group(scalar: Scalar<'_>) -> Parsed<IpAddr> {
    const REMEDY_4: &str = "write a group from 239.0.0.0/8 (administratively scoped, RFC 2365)";
    const REMEDY_6: &str =
        "write a transient group, for example `ff12::4549` (RFC 4291 section 2.7)";
    let group = ip(scalar.text, "239.255.69.73")?;
    let remedy = if group.is_ipv4() { REMEDY_4 } else { REMEDY_6 };
    if !group.is_multicast() {
        return Err(Fault::new(
            format!("{group} is not a multicast group"),
            remedy,
        ));
    }
    let why = match group {
        // RFC 5771 section 4; switches flood these.
        IpAddr::V4(v4) if v4.octets().starts_with(&[224, 0, 0]) => "reserved for routing protocols",
        // The T flag is clear: a permanently assigned group.
        IpAddr::V6(v6) if v6.octets()[1] & 0x10 == 0 => "a group that IANA assigns",
        IpAddr::V4(_) | IpAddr::V6(_) => return Ok(group),
    };
    Err(Fault::new(format!("{group} is {why}"), remedy))
}

/// The customary prefix length, for examples.
const fn customary(address: IpAddr) -> u8 {
    if address.is_ipv4() { 24 } else { 64 }
}

/// What an address of its subnet is, if it is no host's.
fn reserved(cidr: Cidr) -> Option<&'static str> {
    match cidr.address {
        IpAddr::V4(v4) => {
            let hosts = u32::MAX.checked_shr(u32::from(cidr.prefix)).unwrap_or(0);
            let host = u32::from(v4) & hosts;
            match host {
                _ if cidr.prefix >= 31 => None,
                0 => Some("network"),
                _ if host == hosts => Some("broadcast"),
                _ => None,
            }
        }
        IpAddr::V6(v6) => {
            let hosts = u128::MAX.checked_shr(u32::from(cidr.prefix)).unwrap_or(0);
            // RFC 4291 section 2.6.1; on a point-to-point /127 there is none (RFC 6164).
            (cidr.prefix < 127 && u128::from(v6) & hosts == 0).then_some("subnet-router anycast")
        }
    }
}

/// `+24`, `024`: accepted by number parsing, not by other tools.
fn prefix_is_sloppy(text: &str) -> bool {
    text.rsplit('/')
        .next()
        .is_none_or(|p| p.starts_with('+') || (p.len() > 1 && p.starts_with('0')))
}

fn ip(text: &str, example: &str) -> Parsed<IpAddr> {
    let bare = text.split('/').next().unwrap_or_default();
    if let Ok(address) = bare.parse() {
        return Ok(address);
    }
    let zone = bare.split_once('%');
    if let Some((address, _)) = zone.filter(|(address, _)| address.parse::<Ipv6Addr>().is_ok()) {
        return Err(Fault::new(
            format!("{} names a zone", quote(text)),
            format!("write `{address}` alone: the interface is known from where it stands"),
        ));
    }
    Err(Fault::new(
        format!("{} is not an IP address", quote(text)),
        format!("write for example `{example}`"),
    ))
}

fn unicast(address: IpAddr) -> Parsed<IpAddr> {
    let kind = match address {
        _ if address.is_loopback() => "a loopback address",
        _ if address.is_multicast() => "a multicast group",
        IpAddr::V4(v4) if v4.is_broadcast() => "the broadcast address",
        IpAddr::V4(v4) if v4.octets()[0] == 0 => "not the address of a host",
        IpAddr::V6(v6) if v6.is_unspecified() => "not the address of a host",
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => "an IPv4 address in disguise",
        IpAddr::V4(_) | IpAddr::V6(_) => return Ok(address),
    };
    Err(Fault::new(
        format!("{address} is {kind}"),
        "write the address of a host",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> Scalar<'_> {
        Scalar { text, plain: true }
    }

    #[test]
    fn addresses() {
        assert!(address(plain("10.0.0.1")).is_ok());
        assert!(address(plain("fd00::1")).is_ok());
        assert!(address(plain("fe80::1")).is_ok());
        for (text, remedy) in [
            ("10.0.0.1/24", "`10.0.0.1`"),
            ("fd00::1/64", "`fd00::1`"),
            ("fe80::1%eth0", "`fe80::1` alone"),
        ] {
            let fault = address(plain(text)).unwrap_err();
            assert!(fault.remedy.contains(remedy), "{}", fault.remedy);
        }
        for bad in [
            "",
            "10.0.0",
            "010.0.0.1",
            "127.0.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "0.0.0.0",
            "host",
            "::",
            "::1",
            "ff02::1",
            "::ffff:10.0.0.1",
            "fd00:::1",
            "%eth0",
        ] {
            assert!(address(plain(bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn subnets() {
        for good in [
            "10.0.0.1/24",
            "10.0.0.0/31",
            "10.0.0.1/32",
            "fd00::1/64",
            "fd00::/127",
            "fd00::1/128",
            "fe80::1/10",
        ] {
            assert!(cidr(plain(good)).is_ok(), "{good}");
        }
        for (text, remedy) in [
            ("10.0.0.1", "10.0.0.1/24"),
            ("fd00::1", "fd00::1/64"),
            ("fd00::1/129", "1 to 128"),
            ("10.0.0.1/33", "1 to 32"),
        ] {
            let fault = cidr(plain(text)).unwrap_err();
            assert!(fault.remedy.contains(remedy), "{}", fault.remedy);
        }
        for (text, what) in [
            ("10.0.0.0/24", "network address"),
            ("10.0.0.255/24", "broadcast"),
            ("fd00::/64", "anycast"),
        ] {
            let fault = cidr(plain(text)).unwrap_err();
            assert!(fault.what.contains(what), "{}", fault.what);
        }
        for bad in [
            "10.0.0.1/0",
            "10.0.0.1/",
            "10.0.0.1/+24",
            "10.0.0.1/024",
            "10.0.0.1/24/24",
            "fd00::1/0",
            "fd00::1/064",
        ] {
            assert!(cidr(plain(bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn groups() {
        assert!(group(plain("239.255.69.73")).is_ok());
        assert!(group(plain("ff12::4549")).is_ok());
        for bad in ["224.0.0.240", "10.0.0.1", "ff02::12", "fd00::1"] {
            assert!(group(plain(bad)).is_err(), "{bad}");
        }
    }
}
