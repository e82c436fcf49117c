//! The test rig's BPF object: `ha_pass` for the far ends of veth pairs, which need an XDP program to
//! receive transmitted and redirected frames; `ha_port` (XDP) and `ha_egress` (traffic control) on the
//! switch's ports, to cut them with the carrier up; `ha_flood`, which is run with live frames and sends
//! them at a steady pace.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod programs {
    use aya_ebpf::bindings::{BPF_F_MMAPABLE, TC_ACT_OK, TC_ACT_SHOT, xdp_action};
    use aya_ebpf::btf_maps::{Array, HashMap};
    use aya_ebpf::helpers::generated::{bpf_get_prandom_u32, bpf_ktime_get_ns};
    use aya_ebpf::macros::{btf_map, classifier, xdp};
    use aya_ebpf::programs::{TcContext, XdpContext};
    use ha_common::rig::{Flood, PORTS, PortCtl, port_flags};

    #[btf_map(name = "ha_port_ctl")]
    static PORT_CTL: Array<PortCtl, { PORTS as usize }, { BPF_F_MMAPABLE as usize }> = Array::new();

    #[btf_map(name = "ha_port_slot")]
    static PORT_SLOT: HashMap<u32, u32, { PORTS as usize }> = HashMap::new();

    #[btf_map(name = "ha_flood_ctl")]
    static FLOOD_CTL: Array<Flood, 1, 0> = Array::new();

    /// Looks at the clock this often before a frame leaves early.
    const PATIENCE: u32 = 200;

    #[xdp]
    fn ha_flood(_: XdpContext) -> u32 {
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
        flood.sent += 1;
        xdp_action::XDP_TX
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
        if lost || port.flags & port_flags::CUT_FROM_NODE != 0 {
            xdp_action::XDP_DROP
        } else {
            xdp_action::XDP_PASS
        }
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
