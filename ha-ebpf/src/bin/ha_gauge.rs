//! The object of the data plane's bench. A repeated test run hands a program what the run before left
//! of the packet; so the program that is run is `ha_gauge`, which restores the packet, makes it one of
//! another flow if that is asked for, and jumps to the program that is measured.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod programs {
    use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS};
    use aya_ebpf::btf_maps::{Array, HashMap, ProgramArray};
    use aya_ebpf::helpers::generated::{bpf_get_prandom_u32, bpf_xdp_adjust_head};
    use aya_ebpf::macros::{btf_map, xdp};
    use aya_ebpf::programs::XdpContext;
    use ha_common::conn::{Conn4, ConnKey4};
    use ha_common::gauge::{Gauge, HEAD_LEN, HEAD_WORDS};
    use ha_common::hash::reduce;
    use ha_ebpf::family::plain4;
    use ha_ebpf::kernel::Frame;
    use ha_ebpf::packet::Packet as _;
    use ha_ebpf::parse::{ethernet, ipv4, transport};

    /// Bound of the place of what varies, for the verifier.
    const OFFSET_MASK: usize = 63;

    #[btf_map(name = "ha_under_test")]
    static UNDER_TEST: ProgramArray<1> = ProgramArray::new();

    #[btf_map(name = "ha_gauge_ctl")]
    static CONTROL: Array<Gauge, 1> = Array::new();

    #[btf_map(name = "ha_gauge_flows")]
    static FLOWS: HashMap<ConnKey4, Conn4, { 1 << 21 }> = HashMap::new();

    #[xdp]
    fn ha_gauge(ctx: XdpContext) -> u32 {
        let Some(gauge) = CONTROL.get_ptr_mut(0) else {
            return XDP_ABORTED;
        };
        // SAFETY: an element of an array map; only one such program runs at a time.
        let gauge = unsafe { &mut *gauge };
        let mut frame = Frame::new(&ctx);
        // Else the compiler subtracts from the pointer, which the verifier does not allow.
        let len = core::hint::black_box(frame.frame_len());
        let moved = len as i32 - gauge.len as i32;
        if moved != 0 {
            // SAFETY: the context is the program's.
            unsafe { bpf_xdp_adjust_head(ctx.ctx.cast(), moved) };
        }
        let Some(mut head) = frame.window::<HEAD_LEN>(0) else {
            return XDP_ABORTED;
        };
        head.store::<0, [u64; HEAD_WORDS]>(gauge.head);
        if gauge.vary != 0 {
            let flow = if gauge.random != 0 {
                // SAFETY: no memory is involved.
                reduce(unsafe { bpf_get_prandom_u32() }, gauge.flows)
            } else {
                gauge.turn = if gauge.turn + 1 < gauge.flows {
                    gauge.turn + 1
                } else {
                    0
                };
                gauge.turn
            };
            let Some(mut word) = frame.window::<4>(gauge.vary as usize & (OFFSET_MASK)) else {
                return XDP_ABORTED;
            };
            word.store::<0, u32>((gauge.first + flow).to_be());
        }
        // SAFETY: a jump into a program of the same type, which takes the same context.
        unsafe { UNDER_TEST.tail_call(&ctx, 0) };
        XDP_ABORTED
    }

    #[xdp]
    fn ha_floor(_: XdpContext) -> u32 {
        XDP_PASS
    }

    #[xdp]
    fn ha_lookup(ctx: XdpContext) -> u32 {
        let mut frame = Frame::new(&ctx);
        let flow = ipv4::parse(&mut frame, ethernet::LEN)
            .filter(ipv4::Header::is_plain)
            .and_then(|ip| transport::parse(&mut frame, &plain4(&ip, ethernet::LEN)));
        let Some(flow) = flow else {
            return XDP_ABORTED;
        };
        match FLOWS.get_ptr(flow.key) {
            // SAFETY: a map value, read at once.
            Some(entry) if unsafe { (*entry).state } != 0 => XDP_PASS,
            _ => XDP_DROP,
        }
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
