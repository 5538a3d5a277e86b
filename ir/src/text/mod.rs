//! `.gir`: the text form of a module. [`print()`] and [`parse()`] are inverse: `parse(print(m)) == m` for every module
//! whose ids are in range, whose names are unique and whose numbers are finite; the other way round, comments and
//! spacing are lost.
//!
//! ```text
//! // A comment runs to the end of its line; line ends mean nothing else.
//! module "tiny" {chunk = 8, outs = 1, context = 32, slots = 1, arena_bytes = 4096}
//!
//! weight @embed : bf16[64, 32] = tensor "model.embed_tokens.weight"
//! weight @up : q4[64, 32] rows16 = interleave @gate, @ups block 16
//! weight @all : q4[96, 32] rows16 = concat @q, @k, @v
//! weight @norm1 : f32[32] = offset @norm by 1.0
//! cache @l0.kv : f16 {kv_heads = 1, head_dim = 16, window = 8, capacity = 15} at 1024+960
//!
//! func prefill(%0 : i32[?seq], %1 : i32[?seq], %2 : i32[?seq], %3 : i32[?out]) {
//!   %4 : f32[?seq, 32] at 0+1024 = embed %0, @embed {scale = 5.6568546}
//!   %5 : f32[?seq, 32], %6 : f32[?seq, 64] = fused_linear %4, %4, @up {norm = @norm1, eps = 1e-6} scratch 2048+128
//!   return %6
//! }
//! ```
//!
//! `%n` is entry `n` of the function's value table, so text and module number values alike. An entry that nothing
//! defines is spelled out (`unused %7 : f32[?seq, 32]`), since the numbers must leave no gap. Operands come first, then
//! the weights and caches an op cannot do without, in the order of the op's table entry; optional weights and numbers
//! stand in braces, an absent one is left out. Names are plain (`@l0.norm`) or quoted (`@"any \"text\""`).
//! Numbers print in the fewest digits that give back the same f32; NaN and infinities have no spelling that parses.

mod attributes;
mod lexer;
mod parse;
mod print;

#[cfg(test)]
mod tests;

pub use parse::{Lines, ParseError, parse, parse_with_lines};
pub use print::{print, print_op};
