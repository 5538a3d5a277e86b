//! Counts in the disassembly of RDNA code.
//!
//! Reads what the driver prints: one instruction a line, its mnemonic first, blocks marked by `BB3:`, with the mnemonics
//! of AMD's "RDNA3 Instruction Set Architecture". For chips that its disassembler does not know, the driver prints its
//! own intermediate form instead: results before the mnemonic, blocks marked by `BB3`, some mnemonics of older chips.
//! Counts lines, not executions; what stands in loops is counted apart, since that is where the time goes.

use serde::Serialize;
use std::collections::BTreeMap;

/// Counts of a kernel's code.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Listing {
    /// Of all of it.
    pub all: Counts,
    /// Of what stands in loops.
    pub in_loops: Counts,
}

/// Counts of instructions.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Counts {
    /// Instructions; two issued as one (`v_dual_*`) count as one.
    pub instructions: u32,
    /// Dot products of packed integers.
    pub dot4: u32,
    /// Matrix multiply-adds.
    pub wmma: u32,
    /// Multiply-adds of two f16 at once.
    pub packed_fma: u32,
    /// Multiply-adds that take f16 into f32.
    pub mix_fma: u32,
    /// Multiply-adds of f32; a dual instruction counts as one or two.
    pub fma: u32,
    /// Loads of vector memory by the bits that a lane gets.
    pub loads: BTreeMap<u32, u32>,
    /// Stores alike.
    pub stores: BTreeMap<u32, u32>,
    /// Loads of scalar memory.
    pub scalar_loads: u32,
    /// Loads of workgroup memory.
    pub lds_loads: u32,
    /// Stores to workgroup memory.
    pub lds_stores: u32,
    /// Accesses to scratch memory: spills and indexed arrays.
    pub scratch: u32,
}

impl Counts {
    /// Bits of the widest load of vector memory.
    pub fn widest_load(&self) -> Option<u32> {
        self.loads.keys().next_back().copied()
    }

    /// Loads of less than 32 bits.
    pub fn narrow_loads(&self) -> u32 {
        self.loads.range(..32).map(|(_, count)| count).sum()
    }

    fn add(&mut self, line: &str) {
        self.instructions += 1;
        // `v_dual_fmac_f32 v0, v1, v2 :: v_dual_mul_f32 v3, v4, v5`
        for part in line.split(" :: ") {
            let mnemonic = without_results(part).split_whitespace().next();
            self.add_operation(mnemonic.unwrap_or_default());
        }
    }

    fn add_operation(&mut self, mnemonic: &str) {
        let starts = |prefixes: &[&str]| prefixes.iter().any(|p| mnemonic.starts_with(p));
        if starts(&["v_dot4"]) {
            self.dot4 += 1;
        } else if starts(&["v_wmma"]) {
            self.wmma += 1;
        } else if starts(&["v_pk_fma", "v_pk_fmac"]) {
            self.packed_fma += 1;
        } else if starts(&["v_fma_mix"]) {
            self.mix_fma += 1;
        } else if starts(&["v_fma_f32", "v_fmac_f32", "v_fmaak_f32", "v_fmamk_f32"])
            || starts(&["v_dual_fmac_f32", "v_dual_fmaak_f32", "v_dual_fmamk_f32"])
        {
            self.fma += 1;
        } else if starts(&["s_load", "s_buffer_load"]) {
            self.scalar_loads += 1;
        } else if starts(&["ds_load", "ds_read"]) {
            self.lds_loads += 1;
        } else if starts(&["ds_store", "ds_write"]) {
            self.lds_stores += 1;
        } else if starts(&["scratch_load", "scratch_store"]) {
            self.scratch += 1;
        } else if let Some(of) = operand_of(mnemonic, "_load_") {
            *self.loads.entry(bits(of)).or_default() += 1;
        } else if let Some(of) = operand_of(mnemonic, "_store_") {
            *self.stores.entry(bits(of)).or_default() += 1;
        }
    }
}

impl Listing {
    /// Counts in a disassembly.
    pub fn of(assembly: &str) -> Self {
        let lines: Vec<Line> = assembly.lines().filter_map(Line::of).collect();
        let mut blocks = BTreeMap::new();
        // A branch back to where the code has been is the end of a loop.
        let mut looping = vec![false; lines.len()];
        for (at, line) in lines.iter().enumerate() {
            match line {
                Line::Block(name) => {
                    blocks.insert(*name, at);
                }
                Line::Instruction(text) => {
                    let start = branch_target(text).and_then(|name| blocks.get(name));
                    if let Some(&start) = start {
                        looping[start..=at].fill(true);
                    }
                }
            }
        }
        let mut listing = Self::default();
        for (line, looping) in lines.iter().zip(looping) {
            if let Line::Instruction(text) = line {
                listing.all.add(text);
                if looping {
                    listing.in_loops.add(text);
                }
            }
        }
        listing
    }
}

enum Line<'a> {
    Block(&'a str),
    Instruction(&'a str),
}

impl<'a> Line<'a> {
    fn of(line: &'a str) -> Option<Self> {
        let code = line.split(';').next().unwrap_or_default().trim();
        let name = code.strip_suffix(':').unwrap_or(code);
        if let Some(number) = name.strip_prefix("BB")
            && number.bytes().all(|byte| byte.is_ascii_digit())
        {
            return Some(Self::Block(name));
        }
        // Mnemonics say which unit executes them; anything else is the printer's remarks.
        let units = [
            "v_", "s_", "ds_", "global_", "buffer_", "scratch_", "flat_", "image_", "exp",
        ];
        let operation = without_results(code);
        let is_operation = units.iter().any(|unit| operation.starts_with(unit));
        // Moves of 16-bit halves are younger than the driver's disassembler.
        let is_unknown = code == "(invalid instruction)";
        (is_operation || is_unknown).then_some(Self::Instruction(code))
    }
}

/// What computes, without what it is assigned to: of `v1: %17:v[3] = v_add_u32 %11:s[0], 2` what follows the `=`.
fn without_results(code: &str) -> &str {
    code.split_once(" = ").map_or(code, |(_, rest)| rest).trim()
}

/// The block that a branch goes to.
fn branch_target(instruction: &str) -> Option<&str> {
    let (mnemonic, rest) = instruction.split_once(char::is_whitespace)?;
    let target = rest.trim().trim_start_matches("block:");
    (mnemonic == "s_branch" || mnemonic.starts_with("s_cbranch")).then_some(target)
}

/// What a load or store of vector memory moves: `d16_hi_u8` of `buffer_load_d16_hi_u8`.
fn operand_of<'a>(mnemonic: &'a str, verb: &str) -> Option<&'a str> {
    let memory = ["global", "buffer", "flat"];
    let (unit, of) = mnemonic.split_once(verb)?;
    memory.contains(&unit).then_some(of)
}

/// Bits of an operand: of `b128`, `u16`, `d16_hi_b16`, `dwordx4`, `ushort`, `format_xy`.
fn bits(of: &str) -> u32 {
    let times = |word: &str| {
        of.split_once(word)
            .map(|(_, n)| n.trim_start_matches('x').parse())
    };
    if let Some(times) = times("dword") {
        return 32 * times.unwrap_or(1);
    }
    if of.contains("byte") {
        return 8;
    }
    if of.contains("short") {
        return 16;
    }
    let last = of.rsplit('_').next().unwrap_or_default();
    let digits = last.trim_start_matches(|c: char| !c.is_ascii_digit());
    // Formatted loads name components of at most 32 bits.
    digits.parse().unwrap_or(32 * last.len() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOP: &str = "\
BB0:
\ts_load_b128 s[0:3], s[2:3], 0x0                             ; f4080001 f8000000
\ts_waitcnt lgkmcnt(0)                                        ; bf89fc07
BB1:
\tbuffer_load_b128 v[4:7], v1, s[0:3], 0 offen                ; e05c0000 80400401
\tbuffer_load_u16 v8, v1, s[0:3], 0 offen offset:16           ; e0480010 80400801
\tbuffer_load_d16_hi_b16 v9, v1, s[0:3], 0 offen              ; e08c0000 80400901
\tv_dot4_i32_iu8 v2, v4, v5, v2 neg_lo:[1,1,0]                ; cc164002 1c0a0b04
\tv_dual_fmac_f32 v0, v1, v2 :: v_dual_fmac_f32 v3, v4, v5    ; c8000501 00040905
\tv_dual_fmac_f32 v0, v1, v2 :: v_dual_mul_f32 v3, v4, v5     ; c8000501 00040905
\ts_cbranch_scc1 BB1                                          ; bfa2fff0
BB2:
\tv_fma_mix_f32 v2, v4, v5, v2 op_sel_hi:[1,0,0]              ; cc200002 1c0a0b04
(invalid instruction)                                        ; 7f50391a
\tglobal_store_b32 v0, v2, s[4:5]                             ; dc6a0000 00040200
\ts_cbranch_execz BB3                                         ; bfa50001
BB3:
\ts_endpgm                                                    ; bfb00000
";

    #[test]
    fn counts_by_what_instructions_do() {
        let Listing { all, .. } = Listing::of(LOOP);
        assert_eq!(all.instructions, 14);
        assert_eq!((all.dot4, all.fma, all.mix_fma, all.wmma), (1, 3, 1, 0));
        assert_eq!(all.loads, BTreeMap::from([(16, 2), (128, 1)]));
        assert_eq!(all.stores, BTreeMap::from([(32, 1)]));
        assert_eq!((all.scalar_loads, all.scratch), (1, 0));
        assert_eq!((all.widest_load(), all.narrow_loads()), (Some(128), 2));
    }

    #[test]
    fn a_branch_back_makes_a_loop_and_a_branch_on_does_not() {
        let Listing { all, in_loops } = Listing::of(LOOP);
        assert_eq!(in_loops.instructions, 7);
        assert_eq!((in_loops.dot4, in_loops.mix_fma), (1, 0));
        assert_eq!(in_loops.loads, all.loads);
    }

    #[test]
    fn reads_the_intermediate_form_too() {
        let Listing { all, in_loops } = Listing::of("\
After lowering to hw instructions:
ACO shader stage: SW (CS), HW (COMPUTE_SHADER)
BB0
/* logical preds: / linear preds: / kind: uniform, top-level, loop-preheader, */
\t v1: %0:v[2] = v_dual_fmac_f32 %58:v[0] :: v1: %0:v[1] = v_dual_mov_b32 0
BB1
/* logical preds: BB0, BB9, / linear preds: BB0, BB9, / kind: loop-header, branch, */
\t s4: %15:s[8-11] = s_load_dwordx4 %14:s[0-1], 0
\t v4: %18:v[3-6] = buffer_load_dwordx4 %15:s[8-11], %17:v[3], 0 offen storage:buffer semantics:private,reorder
\t v1: %24:v[1] = v_dot4_i32_iu8 %18:v[3], %21:v[4], %5:v[1] neg_lo:[1,1,0]
\ts_branch block:BB1
BB10
\ts_endpgm
");
        assert_eq!((all.instructions, in_loops.instructions), (6, 4));
        assert_eq!(
            (all.fma, all.dot4, in_loops.dot4, all.scalar_loads),
            (1, 1, 1, 1)
        );
        assert_eq!(in_loops.loads, BTreeMap::from([(128, 1)]));
    }

    #[test]
    fn widths_are_read_from_every_spelling() {
        for (of, expected) in [("b128", 128), ("u16", 16), ("i8", 8), ("d16_hi_b16", 16)] {
            assert_eq!(bits(of), expected, "{of}");
        }
        for (of, expected) in [
            ("d16_u8", 8),
            ("ubyte_d16_hi", 8),
            ("sshort", 16),
            ("short_d16", 16),
        ] {
            assert_eq!(bits(of), expected, "{of}");
        }
        for (of, expected) in [
            ("dword", 32),
            ("dwordx3", 96),
            ("dwordx4", 128),
            ("format_xy", 64),
        ] {
            assert_eq!(bits(of), expected, "{of}");
        }
    }
}
