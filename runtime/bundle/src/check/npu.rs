//! What the tables of designs and streams and each run of a stream must satisfy: configurations that an array could
//! take, buffers that hold what the stream touches, few enough designs for the hardware.

use super::program::StepChecker;
use super::{CheckError, name, within};
use crate::gpu::{Access, CALL_HEADER_WORDS, CALL_ROW_WORDS, Resource};
use crate::manifest::{Manifest, Plan, RowSet, Span};
use crate::npu::{
    ArgumentNeed, Code, Design, InstructionStream, MAX_ARGUMENTS, MAX_DESIGNS, Npu, NpuStep,
    WORD_BYTES, designs_of,
};
use std::collections::HashSet;

/// Largest configuration of an array.
const MAX_PDI_BYTES: usize = 16 << 20;
/// Longest text of a design.
const MAX_MLIR_BYTES: usize = 16 << 20;
/// Most words of a stream.
const MAX_STREAM_WORDS: usize = 1 << 20;
/// Most streams that a step chooses from.
const MAX_CHOICES: usize = 64;

pub(super) fn check_npu(npu: &Npu) -> Result<(), CheckError> {
    let mut names = HashSet::new();
    for design in &npu.designs {
        name("designs", "name", &design.name)?;
        let place = format!("design {:?}", design.name);
        if !names.insert(design.name.as_str()) {
            return Err(CheckError::at(place, "the name is used twice"));
        }
        check_design(&place, design)?;
    }
    names.clear();
    for stream in &npu.streams {
        name("instruction streams", "name", &stream.name)?;
        let place = format!("instruction stream {:?}", stream.name);
        if !names.insert(stream.name.as_str()) {
            return Err(CheckError::at(place, "the name is used twice"));
        }
        check_stream(&place, npu, stream)?;
    }
    Ok(())
}

fn check_design(place: &str, design: &Design) -> Result<(), CheckError> {
    within(
        place,
        "columns",
        design.columns,
        design.generation.columns(),
    )?;
    match &design.code {
        Code::Pdi(pdi) => {
            if pdi.is_empty() || pdi.len() > MAX_PDI_BYTES || !pdi.len().is_multiple_of(4) {
                return Err(CheckError::at(
                    place,
                    format_args!(
                        "a configuration of {} bytes, must be whole words, 1 to {MAX_PDI_BYTES} bytes",
                        pdi.len()
                    ),
                ));
            }
        }
        Code::NotBuilt { mlir } => {
            if mlir.is_empty() || mlir.len() > MAX_MLIR_BYTES {
                return Err(CheckError::at(
                    place,
                    format_args!(
                        "was not built and has {} bytes of text, must be in 1..={MAX_MLIR_BYTES}",
                        mlir.len()
                    ),
                ));
            }
        }
    }
    Ok(())
}

fn check_stream(place: &str, npu: &Npu, stream: &InstructionStream) -> Result<(), CheckError> {
    let Some(design) = npu.designs.get(stream.design as usize) else {
        return Err(CheckError::at(
            place,
            format_args!(
                "is for design {} of a table of {}",
                stream.design,
                npu.designs.len()
            ),
        ));
    };
    let arguments = stream.arguments.len();
    if !(1..=MAX_ARGUMENTS).contains(&arguments) {
        return Err(CheckError::at(
            place,
            format_args!("{arguments} buffers, must be in 1..={MAX_ARGUMENTS}"),
        ));
    }
    for (index, need) in stream.arguments.iter().enumerate() {
        if need.bytes == 0 || !need.bytes.is_multiple_of(WORD_BYTES) {
            return Err(CheckError::at(
                place,
                format_args!(
                    "touches {} bytes of buffer {index}, must be whole words of {WORD_BYTES} bytes",
                    need.bytes
                ),
            ));
        }
    }
    let words = stream.words.len();
    let (fits, must) = match design.code {
        Code::Pdi(_) => ((1..=MAX_STREAM_WORDS).contains(&words), "1 to 1048576"),
        Code::NotBuilt { .. } => (words == 0, "none, since its design was not built"),
    };
    if !fits {
        return Err(CheckError::at(
            place,
            format_args!("{words} instruction words, must be {must}"),
        ));
    }
    Ok(())
}

/// What the designs of one plan must satisfy together.
pub(super) fn check_plan(m: &Manifest, plan: &Plan) -> Result<(), CheckError> {
    let place = format!("plan {:?}", plan.name);
    let designs = designs_of(m, plan);
    if designs.len() > MAX_DESIGNS {
        return Err(CheckError::at(
            place,
            format_args!(
                "runs {} designs, an NPU holds at most {MAX_DESIGNS}",
                designs.len()
            ),
        ));
    }
    let generations: HashSet<_> = designs
        .iter()
        .filter_map(|&design| m.npu.designs.get(design as usize))
        .map(|design| design.generation)
        .collect();
    if generations.len() > 1 {
        return Err(CheckError::at(
            place,
            "runs designs for several generations of NPUs",
        ));
    }
    Ok(())
}

impl StepChecker<'_> {
    pub(super) fn npu_step(&mut self, step: &NpuStep) -> Result<(), CheckError> {
        let streams = &self.manifest.npu.streams;
        let most = self.max_rows(step.rows);
        let ascending = step.streams.windows(2).all(|p| p[0].rows < p[1].rows);
        if step.streams.len() > MAX_CHOICES
            || !ascending
            || step.streams.first().is_none_or(|choice| choice.rows == 0)
            || step.streams.last().is_none_or(|choice| choice.rows != most)
        {
            return self.fault(format_args!(
                "its streams must be for ever more rows, from 1 at least up to the program's {most}"
            ));
        }
        let mut accesses: Option<Vec<Access>> = None;
        for choice in &step.streams {
            let Some(stream) = streams.get(choice.stream as usize) else {
                return self.fault(format_args!(
                    "runs instruction stream {} of a table of {}",
                    choice.stream,
                    streams.len()
                ));
            };
            if step.buffers.len() != stream.arguments.len() {
                return self.fault(format_args!(
                    "binds {} buffers, stream {:?} has {}",
                    step.buffers.len(),
                    stream.name,
                    stream.arguments.len()
                ));
            }
            let these: Vec<Access> = stream.arguments.iter().map(|need| need.access).collect();
            match &accesses {
                None => accesses = Some(these),
                Some(first) if *first != these => {
                    return self.fault(format_args!(
                        "stream {:?} reads and writes other buffers than the step's first",
                        stream.name
                    ));
                }
                Some(_) => {}
            }
            for (index, (need, resource)) in stream.arguments.iter().zip(&step.buffers).enumerate()
            {
                let bytes = self.npu_bytes(index, *resource)?;
                self.npu_enough(index, *resource, bytes, *need)?;
            }
        }
        let accesses = accesses.unwrap_or_default();
        for (index, (access, resource)) in accesses.into_iter().zip(&step.buffers).enumerate() {
            self.npu_access(index, access, *resource)?;
        }
        Ok(())
    }

    /// Bytes that a buffer has.
    fn npu_bytes(&self, index: usize, resource: Resource) -> Result<u64, CheckError> {
        match resource {
            Resource::Value(buffer) => {
                Ok(u64::from(self.max_rows(buffer.rows)) * u64::from(buffer.cols) * 4)
            }
            Resource::Data { weight, piece, .. } => {
                let plane = self.matrix_or_vector("buffer", weight)?.data;
                self.npu_piece(index, piece, plane)
            }
            Resource::Scales { weight, piece, .. } => {
                let plane = self.matrix_or_vector("buffer", weight)?.scales;
                self.npu_piece(index, piece, plane)
            }
            Resource::Keys(cache) | Resource::Values(cache) => Ok(self.cache(cache)?.bytes / 2),
            Resource::Call => {
                let rows = u64::from(self.max_rows(RowSet::Seq));
                Ok(4 * (CALL_HEADER_WORDS + rows * CALL_ROW_WORDS))
            }
        }
    }

    fn npu_piece(&self, index: usize, piece: Span, plane: Span) -> Result<u64, CheckError> {
        let end = piece.offset.checked_add(piece.bytes);
        if !piece.offset.is_multiple_of(WORD_BYTES)
            || !piece.bytes.is_multiple_of(WORD_BYTES)
            || piece.bytes == 0
            || end.is_none_or(|end| end > plane.bytes)
        {
            return self.fault(format_args!(
                "buffer {index}, {} bytes at {}, is no piece of whole words of a plane of {} bytes",
                piece.bytes, piece.offset, plane.bytes
            ));
        }
        Ok(piece.bytes)
    }

    fn npu_enough(
        &self,
        index: usize,
        resource: Resource,
        bytes: u64,
        need: ArgumentNeed,
    ) -> Result<(), CheckError> {
        if let Resource::Keys(cache) | Resource::Values(cache) = resource
            && need.bytes != bytes
        {
            // Equal, not just enough: that ties the stream's strides to the shape, slots included.
            let name = &self.cache(cache)?.name;
            return self.fault(format_args!(
                "buffer {index} is made for a cache of another shape than {name:?}"
            ));
        }
        if need.bytes > bytes {
            return self.fault(format_args!(
                "buffer {index} has {bytes} bytes, the stream touches {}",
                need.bytes
            ));
        }
        Ok(())
    }

    /// Notes what is read and written, once a step: its streams do the same with the same buffers.
    fn npu_access(
        &mut self,
        index: usize,
        access: Access,
        resource: Resource,
    ) -> Result<(), CheckError> {
        const NAMES: [&str; MAX_ARGUMENTS] =
            ["buffer 0", "buffer 1", "buffer 2", "buffer 3", "buffer 4"];
        let wrong = |checker: &Self, what: &str| {
            checker.fault(format_args!(
                "buffer {index} is {what}, which a stream cannot {}",
                match access {
                    Access::Read => "read",
                    Access::Write => "write",
                    Access::ReadWrite => "read and write",
                }
            ))
        };
        match (resource, access) {
            (Resource::Value(buffer), Access::Read) => self.reads(NAMES[index], buffer),
            (Resource::Value(buffer), Access::Write) => self.writes(NAMES[index], buffer),
            (Resource::Value(_), Access::ReadWrite) => wrong(self, "a value"),
            (Resource::Data { .. } | Resource::Scales { .. } | Resource::Call, Access::Read) => {
                Ok(())
            }
            (Resource::Data { .. } | Resource::Scales { .. }, _) => wrong(self, "a weight"),
            (Resource::Call, _) => wrong(self, "the call"),
            (Resource::Keys(cache) | Resource::Values(cache), Access::Read) => {
                if self.is_stored(cache) {
                    return Ok(());
                }
                let name = &self.cache(cache)?.name;
                self.fault(format_args!(
                    "reads cache {name:?}, into which no earlier step stores"
                ))
            }
            (Resource::Keys(cache) | Resource::Values(cache), _) => {
                self.stores(cache);
                Ok(())
            }
        }
    }
}
