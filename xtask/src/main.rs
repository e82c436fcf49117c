//! Commands that build, test and show the workspace: `cargo xtask --help`.

mod build;
mod counters;
mod dist;
mod fuzz;
mod setup;
mod stamp;
mod testing;
mod toolchain;
mod vm;
mod workspace;

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// Build, test and demonstrate the pair.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Find or install everything the build and the tests need; does nothing the second time.
    Setup,
    /// Build the BPF objects, with BTF and a stamp, into `target/bpf`.
    BuildEbpf,
    /// Build the BPF objects and the agent (release).
    Build,
    /// Run a pair in network namespaces, break it, and show what its clients noticed.
    ///
    /// Options are those of the demonstration itself: `cargo xtask demo --help`.
    #[command(disable_help_flag = true)]
    Demo(Passthrough),
    /// Measure, beside the rivals: without a name all benchmarks, which takes an hour.
    Bench(BenchArgs),
    /// Break a pair under traffic again and again, by a seeded schedule, and check from outside what must hold.
    ///
    /// Options are those of the program itself: `cargo xtask chaos --help`.
    #[command(disable_help_flag = true)]
    Chaos(Passthrough),
    /// Run the tests: host, kernel fixtures, simulation, namespaces, interoperation.
    Test(testing::TestArgs),
    /// Run the fuzz targets one after the other, and show what they executed and reached.
    Fuzz(fuzz::FuzzArgs),
    /// Run the data plane's fixtures and a short failover on other kernels, in an emulated machine.
    TestVm(vm::VmArgs),
    /// Check what a compiler does not: formatting, lints, layering, generated documents.
    Tidy(testing::TidyArgs),
    /// Make the Debian package, into `target/dist`.
    Dist(dist::DistArgs),
    /// Run many seeds of the simulator (release build).
    Sim {
        /// First seed.
        #[arg(long, default_value_t = 0)]
        seed: u64,
        /// How many seeds.
        #[arg(long, default_value_t = 10_000)]
        seeds: u64,
        /// Run the inputs of a log through the machine instead, and compare what it does.
        #[arg(long, value_name = "FILE")]
        replay: Option<std::path::PathBuf>,
    },
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
struct BenchArgs {
    #[command(subcommand)]
    bench: Option<Bench>,
    /// All benchmarks, with few runs.
    #[arg(long)]
    quick: bool,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// What clients notice of every kind of fault, beside keepalived and ucarp.
    ///
    /// Options are those of the benchmark itself: `cargo xtask bench failover --help`.
    #[command(disable_help_flag = true)]
    Failover(Passthrough),
    /// What a packet costs, program alone, beside one hash lookup.
    ///
    /// Options are those of the benchmark itself: `cargo xtask bench datapath --help`.
    #[command(disable_help_flag = true)]
    Datapath(Passthrough),
    /// How soon the standby has the active node's connections, and at what price, beside conntrackd.
    ///
    /// Options are those of the benchmark itself: `cargo xtask bench replication --help`.
    #[command(disable_help_flag = true)]
    Replication(Passthrough),
    /// What a device at the end of a wire bears, from another machine's ports.
    ///
    /// Options are those of the benchmark itself: `cargo xtask bench link --help`.
    #[command(disable_help_flag = true)]
    Link(Passthrough),
    /// Make docs/benchmarks.md and its pictures from what the benchmarks have written.
    ///
    /// Options are those of the program itself: `cargo xtask bench report --help`.
    #[command(disable_help_flag = true)]
    Report(Passthrough),
}

#[derive(Debug, Args)]
struct Passthrough {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

fn main() -> ExitCode {
    let result = match Cli::parse().verb {
        Verb::Setup => setup::setup_all(),
        Verb::BuildEbpf => build::build_ebpf(),
        Verb::Build => build::build(build::Profile::Release),
        Verb::Demo(Passthrough { args }) => return exit(build::rig("ha-demo", &args)),
        Verb::Chaos(Passthrough { args }) => return exit(build::rig("ha-chaos", &args)),
        Verb::Bench(args) => return exit(bench(args)),
        Verb::Test(args) => testing::test(&args),
        Verb::Fuzz(args) => fuzz::fuzz(&args),
        Verb::TestVm(args) => vm::test_vm(&args),
        Verb::Dist(args) => dist::dist(&args),
        Verb::Tidy(args) => testing::tidy(&args),
        Verb::Sim {
            replay: Some(log), ..
        } => testing::replay(&log),
        Verb::Sim { seed, seeds, .. } => testing::sim(seed, seeds),
    };
    exit(result.map(|()| ExitCode::SUCCESS))
}

fn bench(args: BenchArgs) -> anyhow::Result<ExitCode> {
    match args.bench {
        Some(Bench::Failover(Passthrough { args })) => build::rig("ha-bench", &args),
        Some(Bench::Datapath(Passthrough { args })) => build::rig("ha-gauge", &args),
        Some(Bench::Replication(Passthrough { args })) => build::rig("ha-replica", &args),
        Some(Bench::Link(Passthrough { args })) => build::rig("ha-link", &args),
        Some(Bench::Report(Passthrough { args })) => build::rig("ha-report", &args),
        None => {
            let options: &[String] = if args.quick {
                &["--quick".to_owned()]
            } else {
                &[]
            };
            let mut code = ExitCode::SUCCESS;
            for program in ["ha-bench", "ha-replica", "ha-gauge"] {
                // A broken promise must not keep the others from being measured.
                let ended = build::rig(program, options)?;
                if ended != ExitCode::SUCCESS {
                    code = ended;
                }
            }
            workspace::say("`cargo xtask bench report` makes docs/benchmarks.md of it");
            Ok(code)
        }
    }
}

fn exit(result: anyhow::Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        workspace::say(&format!("error: {error:#}"));
        ExitCode::FAILURE
    })
}
