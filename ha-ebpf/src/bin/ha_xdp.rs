//! The data plane's BPF object: `ha_xdp` on every interface of the pair, the stages it goes on in, and two
//! programs that are attached nowhere and are run by the agent: `ha_janitor` to expire connections, `ha_follow`
//! on fragments that were held.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod programs {
    use aya_ebpf::macros::xdp;
    use aya_ebpf::programs::XdpContext;
    use ha_common::reason::Reason;
    use ha_common::service::Addr6;
    use ha_ebpf::kernel::{Frame, Maps};
    use ha_ebpf::outcome::Outcome;
    use ha_ebpf::tables::Tables;
    use ha_ebpf::{entry, janitor, maps, sample, stage, verdict};

    // As a function of its own, which it is long enough to become, it costs a call that can end in a jump.
    #[xdp]
    #[inline(always)]
    fn ha_xdp(ctx: XdpContext) -> u32 {
        go_on(&ctx, entry(&mut Frame::new(&ctx), Maps))
    }

    #[xdp]
    fn ha_carp_in(ctx: XdpContext) -> u32 {
        end(&ctx, stage::carp(&mut Frame::new(&ctx), Maps))
    }

    #[xdp]
    fn ha_neigh(ctx: XdpContext) -> u32 {
        end(&ctx, stage::neighbour(&mut Frame::new(&ctx), Maps))
    }

    #[xdp]
    fn ha_flow4(ctx: XdpContext) -> u32 {
        end(&ctx, stage::flow::<u32, _, _>(&mut Frame::new(&ctx), Maps))
    }

    #[xdp]
    fn ha_flow6(ctx: XdpContext) -> u32 {
        end(
            &ctx,
            stage::flow::<Addr6, _, _>(&mut Frame::new(&ctx), Maps),
        )
    }

    #[xdp]
    fn ha_odd4(ctx: XdpContext) -> u32 {
        end(&ctx, stage::odd4(&mut Frame::new(&ctx), Maps))
    }

    #[xdp]
    fn ha_odd6(ctx: XdpContext) -> u32 {
        go_on(&ctx, stage::odd6(&mut Frame::new(&ctx), Maps))
    }

    #[xdp]
    fn ha_janitor(ctx: XdpContext) -> u32 {
        janitor::sweep(&mut Frame::new(&ctx), Maps)
    }

    #[xdp]
    fn ha_follow(ctx: XdpContext) -> u32 {
        end(&ctx, stage::follow(&mut Frame::new(&ctx), Maps))
    }

    /// Ends here, or in another program.
    #[inline(always)]
    fn go_on(ctx: &XdpContext, outcome: Outcome) -> u32 {
        match outcome {
            Outcome::Done(reason) => end(ctx, reason),
            Outcome::Next(stage) => {
                // SAFETY: a jump into a program of the same type, which takes the same context.
                unsafe { maps::STAGES.tail_call(ctx, stage as u32) };
                end(ctx, Reason::StageMissing)
            }
        }
    }

    #[inline(always)]
    fn end(ctx: &XdpContext, reason: Reason) -> u32 {
        Maps.count(reason as u32);
        sample::show(&Frame::new(ctx), Maps, reason);
        verdict::action(reason)
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
