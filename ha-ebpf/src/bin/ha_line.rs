//! The link benchmark's BPF object: `ha_send`, which is run with live frames and sends them out of a port at a
//! steady pace, each with the time and its number in it, and `ha_receive`, where they end and are counted by age.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod programs {
    use core::hint::black_box;

    use aya_ebpf::bindings::xdp_action;
    use aya_ebpf::btf_maps::{Array, PerCpuArray};
    use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
    use aya_ebpf::macros::{btf_map, xdp};
    use aya_ebpf::programs::XdpContext;
    use ha_common::checksum::{apply, delta16, delta32};
    use ha_common::line::{BUCKETS, HEAD, Line, MAGIC, MARK, MIX, bucket};
    use ha_common::proto;
    use ha_common::rig::{FLOODERS, FLOODERS_COUNT};
    use ha_ebpf::kernel::Frame;
    use ha_ebpf::packet::Packet as _;
    use ha_ebpf::parse::ethernet::{self, ethertype};
    use ha_ebpf::parse::ipv4;
    use ha_ebpf::parse::transport::{SPORT, UDP_LEN};

    const L3: usize = ethernet::LEN;
    const L4: usize = L3 + ipv4::LEN;
    const UDP_TOTAL: usize = L4 + 4;
    const PAYLOAD: usize = L4 + UDP_LEN;
    const STAMP: usize = PAYLOAD + 2;
    const NUMBER: usize = STAMP + 8;
    /// Looks at the clock this often before a frame leaves early.
    const PATIENCE: u32 = 2000;
    /// What was missed for longer is not made up.
    const BEHIND_NS: u64 = 1_000_000;

    #[btf_map(name = "ha_line_ctl")]
    static LINE_CTL: Array<Line, 1> = Array::new();

    #[btf_map(name = "ha_line_ages")]
    static AGES: PerCpuArray<u64, BUCKETS> = PerCpuArray::new();

    #[xdp]
    fn ha_send(ctx: XdpContext) -> u32 {
        let Some(line) = LINE_CTL.get_ptr_mut(0) else {
            return xdp_action::XDP_ABORTED;
        };
        // SAFETY: an element of an array map; only one such program runs at a time.
        let line = unsafe { &mut *line };
        // SAFETY: no memory is involved.
        let mut now = unsafe { bpf_ktime_get_ns() };
        for _ in 0..PATIENCE {
            if now >= line.next_ns {
                break;
            }
            // SAFETY: no memory is involved.
            now = unsafe { bpf_ktime_get_ns() };
        }
        let next = line.next_part + line.step;
        line.next_part = next & 1023;
        line.next_ns = (line.next_ns + (next >> 10)).max(now.saturating_sub(BEHIND_NS));
        let nth = line.sent;
        line.sent += 1;
        // Hidden, or the compiler leaves out the comparison: it knows of remainders, the verifier does not.
        let turn = black_box((nth % MIX as u64) as usize);
        let Some(len) = line.lens.get(turn) else {
            return xdp_action::XDP_ABORTED;
        };
        let flow = u64::from(line.first) + nth % u64::from(line.flows.max(1));
        if send(&mut Frame::new(&ctx), line, *len, flow as u32, nth, now).is_none() {
            return xdp_action::XDP_ABORTED;
        }
        xdp_action::XDP_TX
    }

    #[inline(always)]
    fn send(frame: &mut Frame, line: &Line, len: u16, flow: u32, nth: u64, now: u64) -> Option<()> {
        if !frame.truncate(len as usize) {
            return None;
        }
        let mut head = frame.window::<{ PAYLOAD + MARK }>(0)?;
        head.store::<0, [u64; HEAD]>(line.head);
        let address = (FLOODERS + (flow & (FLOODERS_COUNT - 1))).to_be();
        // Not one of the reserved ports.
        let port = ((flow >> FLOODERS_COUNT.trailing_zeros()) as u16 | 0x0400).to_be();
        let total = len - L3 as u16;
        let whole = delta32(head.load::<{ L3 + ipv4::SRC }, u32>(), address)
            + delta16(head.load::<{ L3 + ipv4::TOTAL_LEN }, u16>(), total.to_be());
        let sum: u16 = head.load::<{ L3 + ipv4::CHECKSUM }, _>();
        head.store::<{ L3 + ipv4::SRC }, u32>(address);
        head.store::<{ L3 + ipv4::TOTAL_LEN }, u16>(total.to_be());
        head.store::<{ L3 + ipv4::CHECKSUM }, u16>(apply(sum, whole));
        head.store::<{ L4 + SPORT }, u16>(port);
        // Without a checksum, which IPv4 allows (RFC 768).
        head.store::<UDP_TOTAL, u16>((total - ipv4::LEN as u16).to_be());
        head.store::<PAYLOAD, u16>(MAGIC);
        head.store::<STAMP, u64>(now);
        head.store::<NUMBER, u64>(nth);
        Some(())
    }

    #[xdp]
    fn ha_receive(ctx: XdpContext) -> u32 {
        let mut frame = Frame::new(&ctx);
        let Some(head) = frame.window::<{ PAYLOAD + MARK }>(0) else {
            return xdp_action::XDP_PASS;
        };
        let ours = head.load::<{ ethernet::TYPE }, u16>() == ethertype::IPV4
            && head.load::<{ L3 + ipv4::PROTOCOL }, u8>() == proto::UDP
            && head.load::<PAYLOAD, u16>() == MAGIC;
        if !ours {
            return xdp_action::XDP_PASS;
        }
        // SAFETY: no memory is involved.
        let now = unsafe { bpf_ktime_get_ns() };
        let age = now.saturating_sub(head.load::<STAMP, u64>());
        if let Some(count) = AGES.get_ptr_mut(bucket(age) as u32) {
            // SAFETY: this CPU's element of the map.
            unsafe { *count += 1 };
        }
        xdp_action::XDP_DROP
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
