//! Frames that the data plane has addressed to this node: table `netdev ha_agent`.
//!
//! A frame to the virtual MAC that is the kernel's is given the interface's own address by XDP. Most drivers
//! decide afterwards for whom a frame is. veth has decided before, if a local sender made the frame, and
//! would have the kernel ignore it, so the decision is made again here.

use std::io;

use super::nfnetlink::{Attributes, Family, Operation, Transaction};
use super::{REGISTER, TABLE, equal, expression, load};
use crate::shell::frame::Mac;

/// `NFT_PAYLOAD_LL_HEADER`, which begins with the destination.
const LINK: u32 = 0;
/// `NFT_META_PKTTYPE`.
const PACKET_TYPE: u32 = 19;
/// `PACKET_HOST`, as of `linux/if_packet.h`.
const HOST: u8 = 0;
const HOOK: u16 = 4;
/// `NF_NETDEV_INGRESS`.
const INGRESS: u32 = 0;

/// Puts the table into the kernel, in place of one that is there.
pub fn install(stations: &[(String, Mac)]) -> io::Result<()> {
    let mut transaction = Transaction::new(Family::Netdev);
    let table = Attributes::new().text(1, TABLE);
    // A table that is not there cannot be deleted: make it first.
    transaction.add(Operation::NewTable, &table);
    transaction.add(Operation::DeleteTable, &table);
    transaction.add(Operation::NewTable, &table);
    for (number, (device, mac)) in stations.iter().enumerate() {
        let chain = format!("ingress{number}");
        let hook = Attributes::new()
            .number(1, INGRESS)
            .number(2, 0)
            .text(3, device);
        let new = Attributes::new()
            .text(1, TABLE)
            .text(3, &chain)
            .nested(HOOK, &hook)
            .text(7, "filter");
        transaction.add(Operation::NewChain, &new);
        let value = Attributes::new().bytes(1, &[HOST]);
        let value = Attributes::new().number(1, REGISTER).nested(2, &value);
        let set = Attributes::new().number(2, PACKET_TYPE).number(3, REGISTER);
        let expressions = [
            load(LINK, 0, mac.len() as u32, 0),
            equal(mac),
            expression("immediate", &value),
            expression("meta", &set),
        ];
        let list = expressions
            .iter()
            .fold(Attributes::new(), |list, found| list.nested(1, found));
        let rule = Attributes::new()
            .text(1, TABLE)
            .text(2, &chain)
            .nested(4, &list);
        transaction.add(Operation::NewRule, &rule);
    }
    transaction.commit()
}

/// Removes the table, if it is there.
pub fn remove() -> io::Result<()> {
    let mut transaction = Transaction::new(Family::Netdev);
    let table = Attributes::new().text(1, TABLE);
    transaction.add(Operation::NewTable, &table);
    transaction.add(Operation::DeleteTable, &table);
    transaction.commit()
}
