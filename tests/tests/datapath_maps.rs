//! The data plane in the kernel, as the agent handles it: loading, attaching, taking over what a
//! killed agent left, refusing what is not its own, and the speed of the maps.
#![expect(
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test: a wrong index fails it, and figures are for whoever runs it"
)]

mod common;
mod maps;

use std::path::Path;
use std::process::ExitCode;

use maps::{HOLD, hold, life, tables};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, verb, dir] = arguments.as_slice()
        && verb == HOLD
    {
        return match hold(Path::new(dir)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                println!("{error:#}");
                ExitCode::FAILURE
            }
        };
    }
    common::run(
        &["ip"],
        &[],
        &[
            (
                "every_map_operation_works_and_batches_are_faster",
                tables::operations,
            ),
            ("both_families_are_kept_apart", tables::families),
            ("stages_outlive_the_agent_that_filled_them", life::stages),
            (
                "a_large_empty_table_is_read_in_short_calls",
                tables::short_calls,
            ),
            (
                "the_janitor_deletes_what_is_idle_and_only_that",
                tables::janitor,
            ),
            ("a_killed_agent_is_succeeded", life::succession),
            ("programs_are_loaded_once", life::loaded_once),
            ("a_clean_stop_leaves_nothing", life::clean_stop),
            ("a_foreign_program_is_named_and_spared", life::foreign),
            ("pins_of_another_layout_are_refused", life::layouts),
            ("without_native_mode_generic_is_used", life::generic),
            ("a_replaced_interface_is_attached_anew", life::replaced),
            ("a_bpf_file_system_is_mounted_where_none_is", life::mounting),
            ("missing_privileges_are_named", life::privileges),
        ],
    )
}
