//! How much stack a program in an object file uses, as the verifier adds it up: that of the deepest chain of
//! functions that call each other, each by its lowest offset from the frame pointer.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use aya_obj::Object;
use aya_obj::generated::bpf_insn;

/// `BPF_JMP | BPF_CALL`, and in the source register: to a function of the program.
const CALL: u8 = 0x85;
const PSEUDO_CALL: u8 = 1;
/// `BPF_ALU64 | BPF_MOV | BPF_X` and `BPF_ALU64 | BPF_ADD | BPF_K`.
const MOVE: u8 = 0xbf;
const ADD: u8 = 0x07;
/// The frame pointer.
const FRAME: u8 = 10;
/// Frames of functions that call each other, of at least a byte, are rounded up to this before Linux 6.8
/// (`kernel/bpf/verifier.c`, `check_max_stack_depth`); since then it is 16 where programs are compiled.
const ROUND: usize = 32;

/// Bytes of stack by program.
pub(crate) fn of_programs(object: &Path) -> Result<BTreeMap<String, usize>> {
    let bytes = std::fs::read(object)?;
    let mut object = Object::parse(&bytes)?;
    let sections: HashSet<usize> = object
        .functions
        .keys()
        .map(|(section, _)| *section)
        .collect();
    object.relocate_calls(&sections)?;
    let mut stacks = BTreeMap::new();
    for (name, program) in &object.programs {
        let function = object.functions.get(&program.function_key());
        let function = function.with_context(|| format!("{name} has no code"))?;
        let stack = Program::new(&function.instructions).depth(0, 0)?;
        stacks.insert(name.clone(), stack);
    }
    Ok(stacks)
}

/// A program with the functions it calls behind it.
struct Program<'a> {
    code: &'a [bpf_insn],
    /// Where functions begin.
    starts: Vec<usize>,
}

impl<'a> Program<'a> {
    fn new(code: &'a [bpf_insn]) -> Self {
        let mut starts = vec![0, code.len()];
        starts.extend(calls(code, 0));
        starts.sort_unstable();
        starts.dedup();
        Self { code, starts }
    }

    /// The stack of the function that begins here and of those it calls.
    fn depth(&self, start: usize, level: usize) -> Result<usize> {
        ensure!(
            level < 8,
            "functions call each other more than eight levels deep"
        );
        let end = self.starts.iter().find(|other| **other > start);
        let code = self.code.get(start..*end.context("an end")?);
        let code = code.context("a function")?;
        let mut called = 0;
        for target in calls(code, start) {
            called = called.max(self.depth(target, level + 1)?);
        }
        Ok(lowest(code).max(1).next_multiple_of(ROUND) + called)
    }
}

/// Where the calls in a piece of code go, which begins at `start`.
fn calls(code: &[bpf_insn], start: usize) -> impl Iterator<Item = usize> {
    code.iter()
        .enumerate()
        .filter(|(_, insn)| insn.code == CALL && insn.src_reg() == PSEUDO_CALL)
        .filter_map(move |(index, insn)| {
            (start + index + 1).checked_add_signed(isize::try_from(insn.imm).ok()?)
        })
}

/// The lowest place below the frame pointer that a function refers to.
fn lowest(code: &[bpf_insn]) -> usize {
    let mut lowest = 0;
    let mut copies = [false; 16];
    for insn in code {
        let (to, from) = (insn.dst_reg(), insn.src_reg());
        // Loads, and stores.
        let base = match insn.code & 7 {
            1 => Some(from),
            2 | 3 => Some(to),
            _ => None,
        };
        let offset = match (insn.code, base) {
            (_, Some(FRAME)) => i32::from(insn.off),
            (ADD, _) if copies[usize::from(to)] => insn.imm,
            _ => 0,
        };
        copies[usize::from(to)] = insn.code == MOVE && from == FRAME;
        lowest = lowest.min(offset);
    }
    lowest.unsigned_abs() as usize
}
