//! What the kernel table and each dispatch must satisfy: kernels that a device could take, bindings that hold what the
//! kernel touches, grids within every device's limits, and a barrier wherever two dispatches touch the same bytes.

use super::program::StepChecker;
use super::{CheckError, MAX_DIM, name, within};
use crate::gpu::{
    Access, BindingNeed, CALL_HEADER_WORDS, CALL_ROW_WORDS, Extent, GpuStep, Hazards, Kernel,
    MAX_BINDINGS, MAX_GROUPS, MAX_IMMEDIATES, MIN_STORAGE_RANGE, PIECE_ALIGN, Resource, Touch,
    Variant,
};
use crate::manifest::{Cache, RowSet, Span};
use std::collections::HashSet;
use std::mem::discriminant;

/// First word of every SPIR-V module.
const SPIRV_MAGIC: u32 = 0x0723_0203;
/// Most words of a kernel's code.
const MAX_CODE_WORDS: usize = 1 << 20;
/// Most invocations of a workgroup.
const MAX_INVOCATIONS: u32 = 1024;
/// Most workgroup memory.
const MAX_WORKGROUP_BYTES: u32 = 1 << 16;

pub(super) fn check_kernels(kernels: &[Kernel]) -> Result<(), CheckError> {
    let mut names = HashSet::new();
    for kernel in kernels {
        name("kernels", "name", &kernel.name)?;
        let place = format!("kernel {:?}", kernel.name);
        if !names.insert(kernel.name.as_str()) {
            return Err(CheckError::at(place, "the name is used twice"));
        }
        let counts = [
            ("bindings", kernel.bindings.len(), 1, MAX_BINDINGS),
            (
                "push constant words",
                kernel.immediates as usize,
                0,
                MAX_IMMEDIATES,
            ),
            ("variants", kernel.variants.len(), 1, 16),
        ];
        for (what, count, least, most) in counts {
            if !(least..=most).contains(&count) {
                return Err(CheckError::at(
                    place,
                    format_args!("{count} {what}, must be in {least}..={most}"),
                ));
            }
        }
        let mut variants = HashSet::new();
        for variant in &kernel.variants {
            name(&place, "variant name", &variant.name)?;
            if !variants.insert(variant.name.as_str()) {
                return Err(CheckError::at(
                    place,
                    format_args!("variant {:?} is there twice", variant.name),
                ));
            }
            check_variant(&format!("{place}, variant {:?}", variant.name), variant)?;
        }
        let role = |variant: &Variant| variant.activations.as_ref().map(discriminant);
        let first = kernel.variants.first().and_then(role);
        if kernel.variants.iter().any(|variant| role(variant) != first) {
            return Err(CheckError::at(
                place,
                "its variants do not agree on whether they prepare or read activations",
            ));
        }
    }
    Ok(())
}

fn check_variant(place: &str, variant: &Variant) -> Result<(), CheckError> {
    let code = &variant.code;
    if code.first() != Some(&SPIRV_MAGIC) || code.len() > MAX_CODE_WORDS {
        return Err(CheckError::at(
            place,
            format_args!("{} words that are not SPIR-V", code.len()),
        ));
    }
    let mut invocations: u32 = 1;
    for size in variant.workgroup {
        within(place, "workgroup size", size, MAX_INVOCATIONS)?;
        invocations = invocations.saturating_mul(size);
    }
    within(place, "workgroup invocations", invocations, MAX_INVOCATIONS)?;
    for size in variant.tile {
        within(place, "tile", size, MAX_DIM)?;
    }
    if let Some(size) = variant.subgroup
        && !(size.is_power_of_two() && (4..=128).contains(&size))
    {
        return Err(CheckError::at(
            place,
            format_args!("subgroup size {size}, must be a power of two in 4..=128"),
        ));
    }
    if variant.workgroup_bytes > MAX_WORKGROUP_BYTES {
        return Err(CheckError::at(
            place,
            format_args!(
                "{} bytes of workgroup memory, at most {MAX_WORKGROUP_BYTES} are allowed",
                variant.workgroup_bytes
            ),
        ));
    }
    Ok(())
}

impl StepChecker<'_> {
    pub(super) fn gpu_step(
        &mut self,
        step: &GpuStep,
        in_flight: &mut Hazards,
    ) -> Result<(), CheckError> {
        let kernels = &self.manifest.kernels;
        let Some(kernel) = kernels.get(step.kernel as usize) else {
            return self.fault(format_args!(
                "runs kernel {} of a table of {}",
                step.kernel,
                kernels.len()
            ));
        };
        if step.bindings.len() != kernel.bindings.len() {
            return self.fault(format_args!(
                "binds {} buffers, kernel {:?} has {}",
                step.bindings.len(),
                kernel.name,
                kernel.bindings.len()
            ));
        }
        if step.immediates.len() != kernel.immediates as usize {
            return self.fault(format_args!(
                "gives {} push constant words, kernel {:?} reads {}",
                step.immediates.len(),
                kernel.name,
                kernel.immediates
            ));
        }
        self.grid(step, kernel)?;
        let mut touches = Vec::new();
        for (index, (need, resource)) in kernel.bindings.iter().zip(&step.bindings).enumerate() {
            let touched = self.binding(index, *need, *resource)?;
            touches.extend(touched.map(|touched| (need.access, touched)));
        }
        if step.barrier {
            *in_flight = Hazards::default();
        } else if in_flight.conflicts(&touches) {
            return self
                .fault("touches what a dispatch before it works on, with no barrier in between");
        }
        in_flight.note(&touches);
        Ok(())
    }

    fn grid(&self, step: &GpuStep, kernel: &Kernel) -> Result<(), CheckError> {
        for (dimension, extent) in step.work.iter().enumerate() {
            let items = match *extent {
                Extent::Fixed(0) => {
                    return self.fault(format_args!("dimension {dimension} of its work is empty"));
                }
                Extent::Fixed(items) => items,
                Extent::Rows(set) => self.max_rows(set),
            };
            for variant in &kernel.variants {
                let groups = items.div_ceil(variant.tile[dimension]);
                if groups > MAX_GROUPS {
                    return self.fault(format_args!(
                        "{groups} workgroups in dimension {dimension}, at most {MAX_GROUPS} are allowed"
                    ));
                }
            }
        }
        Ok(())
    }

    /// Checks that a binding holds what the kernel touches. Returns what others could touch too.
    fn binding(
        &mut self,
        index: usize,
        need: BindingNeed,
        resource: Resource,
    ) -> Result<Option<Touch>, CheckError> {
        let wrong_access = |checker: &Self, what: &str| {
            checker.fault(format_args!(
                "binding {index} is {what}, which a kernel cannot {}",
                match need.access {
                    Access::Read => "read",
                    Access::Write => "write",
                    Access::ReadWrite => "read and write",
                }
            ))
        };
        match resource {
            Resource::Value(buffer) => {
                const NAMES: [&str; MAX_BINDINGS] = [
                    "binding 0",
                    "binding 1",
                    "binding 2",
                    "binding 3",
                    "binding 4",
                    "binding 5",
                    "binding 6",
                    "binding 7",
                    "binding 8",
                    "binding 9",
                    "binding 10",
                    "binding 11",
                    "binding 12",
                    "binding 13",
                    "binding 14",
                    "binding 15",
                ];
                match need.access {
                    Access::Read => self.reads(NAMES[index], buffer)?,
                    Access::Write => self.writes(NAMES[index], buffer)?,
                    Access::ReadWrite => return wrong_access(self, "a value"),
                }
                let rows = u64::from(self.max_rows(buffer.rows));
                let bytes = rows * u64::from(buffer.cols) * 4;
                let needed = need
                    .row_bytes
                    .checked_mul(rows)
                    .and_then(|bytes| bytes.checked_add(need.fixed_bytes));
                self.enough(index, bytes, needed)?;
                Ok(Some(Touch::Bytes(Span {
                    offset: buffer.offset,
                    bytes,
                })))
            }
            Resource::Data { weight, piece, .. } => {
                if need.access != Access::Read {
                    return wrong_access(self, "a weight");
                }
                let plane = self.matrix_or_vector("binding", weight)?.data;
                self.piece(index, piece, plane)?;
                self.enough(index, piece.bytes, fixed(need))?;
                Ok(None)
            }
            Resource::Scales { weight, piece, .. } => {
                if need.access != Access::Read {
                    return wrong_access(self, "a weight");
                }
                let plane = self.matrix_or_vector("binding", weight)?.scales;
                self.piece(index, piece, plane)?;
                self.enough(index, piece.bytes, fixed(need))?;
                Ok(None)
            }
            Resource::Keys(cache) | Resource::Values(cache) => {
                let c: &Cache = self.cache(cache)?;
                // Equal, not just enough: that ties the kernel's strides to the shape, slots included.
                if fixed(need) != Some(c.bytes / 2) {
                    return self.fault(format_args!(
                        "binding {index} is made for a cache of another shape than {:?}",
                        c.name
                    ));
                }
                match need.access {
                    Access::Read => {
                        if !self.is_stored(cache) {
                            return self.fault(format_args!(
                                "reads cache {:?}, into which no earlier step stores",
                                c.name
                            ));
                        }
                    }
                    Access::Write | Access::ReadWrite => self.stores(cache),
                }
                Ok(Some(match resource {
                    Resource::Values(_) => Touch::Values(cache),
                    _ => Touch::Keys(cache),
                }))
            }
            Resource::Call => {
                if need.access != Access::Read {
                    return wrong_access(self, "the call");
                }
                let rows = u64::from(self.max_rows(RowSet::Seq));
                let needed = need
                    .row_bytes
                    .checked_mul(rows)
                    .and_then(|bytes| bytes.checked_add(need.fixed_bytes));
                let bytes = 4 * (CALL_HEADER_WORDS + rows * CALL_ROW_WORDS);
                self.enough(index, bytes, needed)?;
                Ok(None)
            }
        }
    }

    fn piece(&self, index: usize, piece: Span, plane: Span) -> Result<(), CheckError> {
        let end = piece.offset.checked_add(piece.bytes);
        if !piece.offset.is_multiple_of(PIECE_ALIGN)
            || piece.bytes == 0
            || piece.bytes > MIN_STORAGE_RANGE
            || end.is_none_or(|end| end > plane.bytes)
        {
            return self.fault(format_args!(
                "binding {index}, {} bytes at {}, is no piece of a plane of {} bytes",
                piece.bytes, piece.offset, plane.bytes
            ));
        }
        Ok(())
    }

    fn enough(&self, index: usize, bytes: u64, needed: Option<u64>) -> Result<(), CheckError> {
        match needed {
            Some(needed) if needed <= bytes => Ok(()),
            _ => self.fault(format_args!(
                "binding {index} has {bytes} bytes, the kernel touches {}",
                needed.map_or("more".to_owned(), |needed| needed.to_string())
            )),
        }
    }
}

/// Bytes of a need that does not grow with rows.
fn fixed(need: BindingNeed) -> Option<u64> {
    (need.row_bytes == 0).then_some(need.fixed_bytes)
}
