//! The test rig's BPF object: `ha_pass` for the far ends of veth pairs, which need an XDP program to
//! receive transmitted and redirected frames; `ha_port` (XDP) and `ha_egress` (traffic control) on the
//! switch's ports, to cut them with the carrier up; `ha_flood`, which is run with live frames and sends
//! them at a steady pace; `ha_sink`, where they end; `ha_decap`, the end of the tunnels to a real server.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod programs {
    use aya_ebpf::bindings::{BPF_F_MMAPABLE, TC_ACT_OK, TC_ACT_SHOT, xdp_action};
    use aya_ebpf::btf_maps::{Array, HashMap};
    use aya_ebpf::helpers::generated::{
        bpf_get_prandom_u32, bpf_ktime_get_ns, bpf_xdp_adjust_head,
    };
    use aya_ebpf::macros::{btf_map, classifier, xdp};
    use aya_ebpf::programs::{TcContext, XdpContext};
    use ha_common::checksum::{apply, delta16, delta32};
    use ha_common::proto;
    use ha_common::rig::{FLOOD_HEAD, FLOODERS, FLOODERS_COUNT, Flood, PORTS, PortCtl, port_flags};
    use ha_ebpf::kernel::Frame;
    use ha_ebpf::packet::Packet as _;
    use ha_ebpf::parse::ethernet::{self, ethertype};
    use ha_ebpf::parse::transport::{SPORT, TCP_CHECKSUM, TCP_LEN, TCP_OFFSET, flag};
    use ha_ebpf::parse::{ipv4, ipv6};

    #[btf_map(name = "ha_port_ctl")]
    static PORT_CTL: Array<PortCtl, { PORTS as usize }, { BPF_F_MMAPABLE as usize }> = Array::new();

    #[btf_map(name = "ha_port_slot")]
    static PORT_SLOT: HashMap<u32, u32, { PORTS as usize }> = HashMap::new();

    #[btf_map(name = "ha_flood_ctl")]
    static FLOOD_CTL: Array<Flood, 1, 0> = Array::new();

    /// Looks at the clock this often before a frame leaves early.
    const PATIENCE: u32 = 200;

    #[xdp]
    fn ha_flood(ctx: XdpContext) -> u32 {
        let Some(flood) = FLOOD_CTL.get_ptr_mut(0) else {
            return xdp_action::XDP_ABORTED;
        };
        // SAFETY: an element of an array map; only one such program runs at a time.
        let flood = unsafe { &mut *flood };
        // SAFETY: no memory is involved.
        let mut now = unsafe { bpf_ktime_get_ns() };
        for _ in 0..PATIENCE {
            if now >= flood.next_ns {
                break;
            }
            // SAFETY: no memory is involved.
            now = unsafe { bpf_ktime_get_ns() };
        }
        // What was missed is made up within a millisecond or not at all.
        flood.next_ns = (flood.next_ns + flood.step_ns).max(now.saturating_sub(1_000_000));
        let nth = flood.sent;
        flood.sent += 1;
        let mut frame = Frame::new(&ctx);
        match frame.window::<{ 8 * FLOOD_HEAD }>(0) {
            Some(mut head) => head.store::<0, [u64; FLOOD_HEAD]>(flood.head),
            None => return xdp_action::XDP_ABORTED,
        }
        if flood.many_clients != 0 && from_another_client(&mut frame, flood.lives, nth).is_none() {
            return xdp_action::XDP_ABORTED;
        }
        xdp_action::XDP_TX
    }

    /// Makes a TCP segment with right checksums one of another client.
    #[inline(always)]
    fn from_another_client(frame: &mut Frame, lives: u64, nth: u64) -> Option<()> {
        const L4: usize = ethernet::LEN + ipv4::LEN;
        const FLAGS: usize = L4 + TCP_OFFSET;
        let mut head = frame.window::<{ L4 + TCP_LEN }>(0)?;
        let (client, port) = if lives == 0 {
            // SAFETY: no memory is involved.
            unsafe { (bpf_get_prandom_u32(), bpf_get_prandom_u32()) }
        } else {
            let begins = nth & 1 == 0;
            let number = if begins {
                nth / 2
            } else {
                (nth / 2).wrapping_sub(lives)
            };
            if !begins {
                let reset = u16::from(flag::RST).to_be();
                let flags: u16 = head.load::<FLAGS, _>();
                let sum: u16 = head.load::<{ L4 + TCP_CHECKSUM }, _>();
                head.store::<FLAGS, u16>(flags | reset);
                head.store::<{ L4 + TCP_CHECKSUM }, u16>(apply(sum, delta16(flags, flags | reset)));
            }
            (
                number as u32,
                (number >> FLOODERS_COUNT.trailing_zeros()) as u32,
            )
        };
        let address = (FLOODERS + (client & (FLOODERS_COUNT - 1))).to_be();
        // Not one of the reserved ports.
        let port = port as u16 | 0x0400;
        let addresses = delta32(head.load::<{ ethernet::LEN + ipv4::SRC }, u32>(), address);
        let ports = delta16(head.load::<{ L4 + SPORT }, u16>(), port);
        let ip_sum: u16 = head.load::<{ ethernet::LEN + ipv4::CHECKSUM }, _>();
        let tcp_sum: u16 = head.load::<{ L4 + TCP_CHECKSUM }, _>();
        head.store::<{ ethernet::LEN + ipv4::SRC }, u32>(address);
        head.store::<{ L4 + SPORT }, u16>(port);
        head.store::<{ ethernet::LEN + ipv4::CHECKSUM }, u16>(apply(ip_sum, addresses));
        head.store::<{ L4 + TCP_CHECKSUM }, u16>(apply(tcp_sum, addresses + ports));
        Some(())
    }

    /// Takes the outer header off a packet that came through a tunnel.
    #[xdp]
    fn ha_decap(ctx: XdpContext) -> u32 {
        let mut frame = Frame::new(&ctx);
        let outer = match frame.window::<{ ethernet::LEN + ipv4::LEN }>(0) {
            Some(head) => {
                let first: u8 = head.load::<{ ethernet::LEN }, _>();
                let kind: u8 = head.load::<{ ethernet::LEN + ipv4::PROTOCOL }, _>();
                let next: u8 = head.load::<{ ethernet::LEN + ipv6::NEXT }, _>();
                match (head.load::<{ ethernet::TYPE }, u16>(), first, kind, next) {
                    (ethertype::IPV4, ipv4::VERSION_4_NO_OPTIONS, proto::IPIP, _) => ipv4::LEN,
                    (ethertype::IPV6, _, _, proto::IPV6) => ipv6::LEN,
                    _ => return xdp_action::XDP_PASS,
                }
            }
            None => return xdp_action::XDP_PASS,
        };
        let Some(ethernet) = frame
            .window::<{ ethernet::LEN }>(0)
            .map(|head| head.load::<0, [u16; ethernet::LEN / 2]>())
        else {
            return xdp_action::XDP_PASS;
        };
        // SAFETY: the context is the program's.
        if unsafe { bpf_xdp_adjust_head(ctx.ctx.cast(), outer as i32) } != 0 {
            return xdp_action::XDP_ABORTED;
        }
        match frame.window::<{ ethernet::LEN }>(0) {
            Some(mut head) => {
                head.store::<0, [u16; ethernet::LEN / 2]>(ethernet);
                xdp_action::XDP_PASS
            }
            None => xdp_action::XDP_ABORTED,
        }
    }

    #[xdp]
    fn ha_sink(_: XdpContext) -> u32 {
        xdp_action::XDP_DROP
    }

    #[xdp]
    fn ha_pass(_: XdpContext) -> u32 {
        xdp_action::XDP_PASS
    }

    #[xdp]
    fn ha_port(ctx: XdpContext) -> u32 {
        let port = port(ctx.ingress_ifindex() as u32);
        // SAFETY: no memory is involved.
        let lost =
            port.loss_ppm != 0 && unsafe { bpf_get_prandom_u32() } % 1_000_000 < port.loss_ppm;
        let swallowed =
            port.flags & port_flags::SWALLOW_FLOOD != 0 && is_flood(&mut Frame::new(&ctx));
        if lost || swallowed || port.flags & port_flags::CUT_FROM_NODE != 0 {
            xdp_action::XDP_DROP
        } else {
            xdp_action::XDP_PASS
        }
    }

    /// Whether a frame is part of a flood, by its source.
    #[inline(always)]
    fn is_flood(frame: &mut Frame) -> bool {
        frame
            .window::<{ ethernet::LEN + ipv4::LEN }>(0)
            .is_some_and(|head| {
                let source: u32 = head.load::<{ ethernet::LEN + ipv4::SRC }, _>();
                head.load::<{ ethernet::TYPE }, u16>() == ethertype::IPV4
                    && u32::from_be(source) & !(FLOODERS_COUNT - 1) == FLOODERS
            })
    }

    #[classifier]
    fn ha_egress(ctx: TcContext) -> i32 {
        // SAFETY: the kernel called the program with this context.
        let ifindex = unsafe { (*ctx.skb.skb).ifindex };
        if port(ifindex).flags & port_flags::CUT_TO_NODE != 0 {
            TC_ACT_SHOT
        } else {
            TC_ACT_OK
        }
    }

    /// What is set for the port; a port without a slot is a plain one.
    #[inline(always)]
    fn port(ifindex: u32) -> PortCtl {
        PORT_SLOT
            .get_ptr(ifindex)
            // SAFETY: a map value, read at once.
            .and_then(|slot| PORT_CTL.get_ptr(unsafe { *slot }))
            // SAFETY: an element of an array map; volatile because the rig stores it at any time.
            .map_or(PortCtl::default(), |port| unsafe { port.read_volatile() })
    }

    #[unsafe(link_section = "license")]
    #[unsafe(no_mangle)]
    static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

    #[panic_handler]
    fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
        loop {}
    }
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
