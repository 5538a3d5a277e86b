//! A program's steps in order: where their buffers lie, what they may share, and that values are written before read.
//!
//! What a single step demands of its operands is in [`super::step`].

use super::{BUFFER_ALIGN, CheckError, MAX_DIM, inside, name};
use crate::gpu::Hazards;
use crate::manifest::{Buffer, Manifest, Phase, Plan, Program, RowSet, Span, Step, Work};
use std::collections::{BTreeMap, HashSet};

pub(super) fn check(
    manifest: &Manifest,
    plan: &Plan,
    program: &Program,
    value_bytes: u64,
) -> Result<(), CheckError> {
    let place = format!("plan {:?}, program {:?}", plan.name, program.name);
    let mut values = Values::default();
    let mut stored = HashSet::new();
    let mut in_flight = Hazards::default();
    for (index, step) in program.steps.iter().enumerate() {
        let mut checker = StepChecker {
            manifest,
            program,
            value_bytes,
            place: &place,
            index,
            step,
            values: &mut values,
            stored_caches: &mut stored,
            reads: Vec::new(),
            writes: Vec::new(),
        };
        name(&place, "step label", &step.label)?;
        match &step.work {
            Work::Cpu(work) => checker.cpu_step(work)?,
            Work::Gpu(work) => checker.gpu_step(work, &mut in_flight)?,
            Work::Npu(work) => checker.npu_step(work)?,
        }
        checker.finish()?;
    }
    let logits = program.logits;
    let most = program.most_rows(logits.rows);
    let fault = |what: String| Err(CheckError::at(&place, what));
    if logits.cols != manifest.limits.vocab {
        return fault(format!(
            "logits have {} columns, the vocabulary {}",
            logits.cols, manifest.limits.vocab
        ));
    }
    // In decode, the wanted rows are all rows.
    if program.phase == Phase::Prefill && logits.rows == RowSet::Seq {
        return fault("logits must have a row for each row asked for, not for every row".into());
    }
    if !values.holds(logits, most) {
        return fault(format!(
            "no step leaves the logits at {}, or a later one overwrites them",
            logits.offset
        ));
    }
    if let Some(candidates) = program.candidates
        && (candidates.rows != logits.rows
            || !candidates.cols.is_multiple_of(2)
            || !values.holds(candidates, most))
    {
        return fault(format!(
            "no step leaves candidates at {}, two words each, for every row of logits",
            candidates.offset
        ));
    }
    Ok(())
}

/// The values that lie in the arena: disjoint spans by first byte.
#[derive(Default)]
pub(super) struct Values(BTreeMap<u64, (u64, Buffer)>);

impl Values {
    /// Whether the very buffer was written, and no byte of it since by something else; `rows`: the most it has. One
    /// row may have been written in parts, one behind the other.
    fn holds(&self, buffer: Buffer, rows: u32) -> bool {
        let found = |at: u64| self.0.get(&at);
        if found(buffer.offset).is_some_and(|(_, written)| *written == buffer) {
            return true;
        }
        let end = buffer.offset + u64::from(buffer.cols) * 4;
        let mut at = buffer.offset;
        while rows == 1
            && at < end
            && let Some((part_end, part)) = found(at)
            && part.rows == buffer.rows
        {
            at = *part_end;
        }
        at == end
    }

    /// Forgets what shares a byte with the span, then notes its new content, if that is a value.
    fn write(&mut self, span: Span, buffer: Option<Buffer>) {
        let end = span.offset + span.bytes;
        while let Some((&start, &(old_end, _))) = self.0.range(..end).next_back() {
            if old_end <= span.offset {
                break;
            }
            self.0.remove(&start);
        }
        if let Some(buffer) = buffer {
            self.0.insert(span.offset, (end, buffer));
        }
    }
}

/// One step under check.
pub(super) struct StepChecker<'a> {
    pub(super) manifest: &'a Manifest,
    program: &'a Program,
    value_bytes: u64,
    place: &'a str,
    index: usize,
    step: &'a Step,
    values: &'a mut Values,
    /// Caches that this or an earlier step stores into.
    stored_caches: &'a mut HashSet<u32>,
    reads: Vec<Read>,
    writes: Vec<Write>,
}

struct Read {
    name: &'static str,
    buffer: Buffer,
    span: Span,
    /// Whether a result may be this very buffer.
    in_place: bool,
}

struct Write {
    name: &'static str,
    /// `None`: scratch.
    buffer: Option<Buffer>,
    span: Span,
}

impl StepChecker<'_> {
    pub(super) fn fault<T>(&self, what: impl std::fmt::Display) -> Result<T, CheckError> {
        Err(CheckError::at(self.label(), what))
    }

    fn label(&self) -> String {
        format!("{}, step {} {:?}", self.place, self.index, self.step.label)
    }

    /// The most rows that a buffer over `set` has.
    pub(super) fn max_rows(&self, set: RowSet) -> u32 {
        self.program.most_rows(set)
    }

    /// Notes a buffer that the step reads.
    pub(super) fn reads(&mut self, name: &'static str, buffer: Buffer) -> Result<(), CheckError> {
        self.note_read(name, buffer, false)
    }

    /// Notes a buffer that the step reads and may write its result onto.
    pub(super) fn reads_in_place(
        &mut self,
        name: &'static str,
        buffer: Buffer,
    ) -> Result<(), CheckError> {
        self.note_read(name, buffer, true)
    }

    fn note_read(
        &mut self,
        name: &'static str,
        buffer: Buffer,
        in_place: bool,
    ) -> Result<(), CheckError> {
        let span = self.locate(name, buffer)?;
        if !self.values.holds(buffer, self.max_rows(buffer.rows)) {
            return self.fault(format_args!(
                "reads {name} at {}, which no earlier step has written as {} columns, or which was overwritten since",
                buffer.offset, buffer.cols
            ));
        }
        self.reads.push(Read {
            name,
            buffer,
            span,
            in_place,
        });
        Ok(())
    }

    /// Notes a buffer that the step writes.
    pub(super) fn writes(&mut self, name: &'static str, buffer: Buffer) -> Result<(), CheckError> {
        let span = self.locate(name, buffer)?;
        self.writes.push(Write {
            name,
            buffer: Some(buffer),
            span,
        });
        Ok(())
    }

    /// Notes working memory, of which the step needs `needed` bytes.
    pub(super) fn scratch(&mut self, span: Span, needed: u64) -> Result<(), CheckError> {
        if span.bytes < needed {
            return self.fault(format_args!(
                "scratch has {} bytes, {needed} are needed",
                span.bytes
            ));
        }
        self.place_span("scratch", span)?;
        self.writes.push(Write {
            name: "scratch",
            buffer: None,
            span,
        });
        Ok(())
    }

    /// Notes that keys and values are stored.
    pub(super) fn stores(&mut self, cache: u32) {
        self.stored_caches.insert(cache);
    }

    /// Whether keys and values of the call's own rows are in the cache.
    pub(super) fn is_stored(&self, cache: u32) -> bool {
        self.stored_caches.contains(&cache)
    }

    fn locate(&self, name: &'static str, buffer: Buffer) -> Result<Span, CheckError> {
        if buffer.cols == 0 || buffer.cols > MAX_DIM {
            return self.fault(format_args!(
                "{name} has {} columns, must be in 1..={MAX_DIM}",
                buffer.cols
            ));
        }
        let span = buffer.span(self.program);
        self.place_span(name, span)?;
        Ok(span)
    }

    fn place_span(&self, name: &'static str, span: Span) -> Result<(), CheckError> {
        if !span.offset.is_multiple_of(BUFFER_ALIGN) {
            return self.fault(format_args!(
                "{name} at {} is not aligned to {BUFFER_ALIGN}",
                span.offset
            ));
        }
        let area = "the arena's value area";
        // The label is made only for an error.
        inside("", name, span, 0, self.value_bytes, area).or_else(|error| self.fault(error.what))
    }

    /// Holds the step's buffers to the aliasing rules and carries out its writes.
    fn finish(self) -> Result<(), CheckError> {
        for (i, write) in self.writes.iter().enumerate() {
            let read = self.reads.iter().find(|read| {
                let same = read.in_place && Some(read.buffer) == write.buffer;
                read.span.overlaps(write.span) && !same
            });
            let other = self.writes[..i]
                .iter()
                .find(|other| other.span.overlaps(write.span));
            if let Some(name) = read.map(|read| read.name).or(other.map(|other| other.name)) {
                return self.fault(format_args!(
                    "{} at {} shares bytes with {name}",
                    write.name, write.span.offset
                ));
            }
        }
        for write in &self.writes {
            self.values.write(write.span, write.buffer);
        }
        Ok(())
    }
}
