//! A frame made for the CARP group, turned to the partner's own address.

use std::net::IpAddr;
use std::ops::Range;

use ha_common::{checksum, proto};

use super::{BROADCAST, IPV4_HEADER, IPV6_HEADER, Mac};

const L3: usize = 14;
const V4_CHECKSUM: Range<usize> = L3 + 10..L3 + 12;
const V4_DESTINATION: Range<usize> = L3 + 16..L3 + 20;
const V6_NEXT_HEADER: usize = L3 + 6;
const V6_DESTINATION: Range<usize> = L3 + 24..L3 + 40;
/// Of UDP, which covers the address. That of CARP does not.
const V6_UDP_CHECKSUM: Range<usize> = L3 + IPV6_HEADER + 6..L3 + IPV6_HEADER + 8;

/// The frame, but to the one of these addresses that is of its family; `None` if none is. As long as nobody
/// knows the partner's MAC, all hosts on the link get it, and its data plane takes it all the same.
pub fn to_partner(group: &[u8], mac: Option<Mac>, partners: &[IpAddr]) -> Option<Vec<u8>> {
    let v6 = match group.get(L3)? >> 4 {
        4 => false,
        6 => true,
        _ => return None,
    };
    let partner = partners.iter().find(|partner| partner.is_ipv6() == v6)?;
    let mut frame = group.to_vec();
    frame
        .get_mut(..6)?
        .copy_from_slice(&mac.unwrap_or(BROADCAST));
    match partner {
        IpAddr::V4(partner) => {
            frame
                .get_mut(V4_DESTINATION)?
                .copy_from_slice(&partner.octets());
            frame.get_mut(V4_CHECKSUM)?.fill(0);
            let sum = checksum::internet(frame.get(L3..L3 + IPV4_HEADER)?);
            frame
                .get_mut(V4_CHECKSUM)?
                .copy_from_slice(&sum.to_be_bytes());
        }
        IpAddr::V6(partner) => {
            let destination = frame.get_mut(V6_DESTINATION)?;
            let mut delta = 0;
            let pairs = destination.chunks_exact(2).zip(partner.segments());
            for (old, new) in pairs {
                let old = u16::from_be_bytes(old.try_into().ok()?);
                delta += checksum::delta16(old, new);
            }
            destination.copy_from_slice(&partner.octets());
            if frame.get(V6_NEXT_HEADER) == Some(&proto::UDP) {
                let field = frame.get_mut(V6_UDP_CHECKSUM)?;
                let old = u16::from_be_bytes((&*field).try_into().ok()?);
                // Zero would mean that there is none.
                let sum = match checksum::apply(old, delta) {
                    0 => u16::MAX,
                    sum => sum,
                };
                field.copy_from_slice(&sum.to_be_bytes());
            }
        }
    }
    Some(frame)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;
    use crate::shell::frame::{advertisement, checksum6, hello, parse_hello};

    const OWN4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 11);
    const OWN6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 11);
    const PARTNER4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 12);
    const PARTNER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0xffff, 7, 0, 12);
    const PARTNERS: [IpAddr; 2] = [IpAddr::V6(PARTNER6), IpAddr::V4(PARTNER4)];

    #[test]
    fn each_family_goes_to_the_address_of_its_own() {
        for source in [IpAddr::V4(OWN4), IpAddr::V6(OWN6)] {
            for group in [
                hello([2; 6], source, b"payload"),
                advertisement([2; 6], source, &[0x21; 36]),
            ] {
                let turned = to_partner(&group, None, &PARTNERS).unwrap();
                assert_eq!(turned[..6], [0xff; 6]);
                assert_eq!(parse_hello(&turned), parse_hello(&group));
                if source.is_ipv6() {
                    assert_eq!(turned[38..54], PARTNER6.octets());
                } else {
                    assert_eq!(turned[30..34], PARTNER4.octets());
                    assert_eq!(checksum::internet(&turned[14..34]), 0);
                }
                for length in 0..group.len().min(54) {
                    // Never a panic, whatever is missing.
                    let _cut = to_partner(&group[..length], None, &PARTNERS);
                }
            }
        }
    }

    #[test]
    fn the_checksum_of_udp_follows_the_address() {
        for last in 0..=u16::MAX {
            let partner = Ipv6Addr::new(0xfe80, 0, 0, 0, 1, 2, 3, last);
            let group = hello([2; 6], OWN6.into(), b"payload");
            let turned = to_partner(&group, Some([4; 6]), &[partner.into()]).unwrap();
            assert_eq!(turned[..6], [4; 6]);
            assert_eq!(checksum6(OWN6, partner, proto::UDP, &turned[54..]), 0);
            assert_ne!(turned[60..62], [0, 0]);
        }
    }

    #[test]
    fn without_an_address_of_the_family_there_is_no_such_frame() {
        let group = hello([2; 6], OWN4.into(), b"payload");
        assert_eq!(to_partner(&group, None, &[PARTNER6.into()]), None);
        assert_eq!(to_partner(&group, None, &[]), None);
        assert_eq!(to_partner(&[0; 100], None, &PARTNERS), None);
    }
}
