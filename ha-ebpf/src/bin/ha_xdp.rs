//! The data plane's BPF object: `ha_xdp` on every interface of the pair, and `ha_janitor`, which is
//! attached nowhere and is run by the agent to expire connections.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod programs {
    use aya_ebpf::macros::xdp;
    use aya_ebpf::programs::XdpContext;
    use ha_ebpf::kernel::{Frame, Maps};
    use ha_ebpf::tables::Tables;
    use ha_ebpf::{janitor, process, verdict};

    #[xdp]
    fn ha_xdp(ctx: XdpContext) -> u32 {
        let reason = process(&mut Frame::new(&ctx), Maps);
        Maps.count(reason as u32);
        verdict::action(reason)
    }

    #[xdp]
    fn ha_janitor(ctx: XdpContext) -> u32 {
        janitor::sweep(&mut Frame::new(&ctx), Maps)
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
