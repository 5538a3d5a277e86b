//! Collects what a kernel binds: for each buffer its number in the template, its need in the spec, its resource in the step.

use crate::lowering::Piece;
use gembin_bundle::cpu::{CacheIdx, WeightIdx};
use gembin_bundle::gpu::{Access, BindingNeed, CALL_HEADER_WORDS, CALL_ROW_WORDS, Resource};
use gembin_bundle::manifest::{Buffer, Cache, Span, WeightEntry};

/// The bindings of one dispatch, in order.
#[derive(Default)]
pub(crate) struct Bindings {
    /// For the spec.
    pub(crate) needs: Vec<BindingNeed>,
    /// For the step.
    pub(crate) resources: Vec<Resource>,
}

impl Bindings {
    fn add(&mut self, access: Access, fixed: u64, row: u64, resource: Resource) -> u32 {
        self.needs.push(BindingNeed {
            access,
            fixed_bytes: fixed,
            row_bytes: row,
        });
        self.resources.push(resource);
        self.needs.len() as u32 - 1
    }

    /// A value that is read.
    pub(crate) fn read(&mut self, buffer: Buffer) -> u32 {
        let row = u64::from(buffer.cols) * 4;
        self.add(Access::Read, 0, row, Resource::Value(buffer))
    }

    /// A value that is written.
    pub(crate) fn write(&mut self, buffer: Buffer) -> u32 {
        let row = u64::from(buffer.cols) * 4;
        self.add(Access::Write, 0, row, Resource::Value(buffer))
    }

    /// The call, with tokens, positions, slots and rows asked for.
    pub(crate) fn call(&mut self) -> u32 {
        self.add(
            Access::Read,
            4 * CALL_HEADER_WORDS,
            4 * CALL_ROW_WORDS,
            Resource::Call,
        )
    }

    /// A weight that is a vector.
    pub(crate) fn vector(&mut self, weight: WeightIdx, entry: &WeightEntry) -> u32 {
        let piece = Span {
            offset: 0,
            bytes: u64::from(entry.cols) * 4,
        };
        let resource = Resource::Data {
            weight,
            piece,
            gathered: false,
        };
        self.add(Access::Read, piece.bytes, 0, resource)
    }

    /// A piece of a matrix's data.
    pub(crate) fn data(&mut self, weight: WeightIdx, piece: &Piece, gathered: bool) -> u32 {
        let piece = piece.data;
        let resource = Resource::Data {
            weight,
            piece,
            gathered,
        };
        self.add(Access::Read, piece.bytes, 0, resource)
    }

    /// A piece of a quantized matrix's scales.
    pub(crate) fn scales(&mut self, weight: WeightIdx, piece: &Piece, gathered: bool) -> u32 {
        let piece = piece.scales;
        let resource = Resource::Scales {
            weight,
            piece,
            gathered,
        };
        self.add(Access::Read, piece.bytes, 0, resource)
    }

    /// Keys and values of a cache.
    pub(crate) fn cache(&mut self, access: Access, index: CacheIdx, cache: &Cache) -> [u32; 2] {
        [Resource::Keys(index), Resource::Values(index)]
            .map(|resource| self.add(access, cache.bytes / 2, 0, resource))
    }
}
