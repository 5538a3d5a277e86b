//! placeholder
use super::vector::schedule::Round;
use super::vector::Vector;
use super::vector::program::{Memory, Program};
use crate::aie::Body;
use crate::array::Array;
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Rope;
impl Rope {
    pub fn name(&self) -> String { String::new() }
    pub fn buffer_bytes(&self, _: &Vector, _: &Array) -> Vec<u64> { vec![] }
    pub(crate) fn rounds(&self, _: &Vector, _: &Array) -> Vec<Vec<Round>> { vec![] }
}
impl Program<'_> {
    pub(crate) fn rope<'c>(&self, _: &Body<'c, '_>, _: &Memory<'c, '_>) {}
}
