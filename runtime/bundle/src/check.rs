//! Proof that a manifest stays in bounds.
//!
//! [`check`] turns a manifest, decoded from a file that nobody vouches for, into a [`Checked`] one. The runtime
//! executes nothing else, so what is proven here need not be tested again per call:
//!
//! - every count is positive and below the limits of this module, and no product of them overflows;
//! - caches and weights lie inside arena and weights section, aligned, disjoint, of exactly the size of their shapes;
//! - a ring of a sliding window is large enough that a chunk of prefill never overwrites a position it still needs;
//! - every buffer of every step lies in the arena's value area at the program's largest row counts, never in a cache;
//! - operands of a step agree in shape and row set, and alias only as [`crate::cpu`] allows;
//! - every value read was written by an earlier step of the same program and not overwritten since;
//! - every binding of a GPU kernel holds what the kernel states it touches, and a barrier separates dispatches that
//!   touch the same bytes, one of them writing;
//! - every buffer of an NPU's instruction stream holds what the stream states it touches, and a plan has no more designs
//!   than the hardware has room for;
//! - tokens named by the manifest are in the vocabulary, numbers are finite, names are printable.
//!
//! With that, a call is in bounds if its row counts are within the program's, tokens below `vocab`, positions below
//! `context`, slots below `slots` and `outs` below the row count. Whether the numbers computed are a sensible model
//! is not asked.

mod gpu;
mod npu;
mod program;
mod step;

#[cfg(test)]
mod tests;

use crate::layout::{Format, PLANE_ALIGN};
use crate::manifest::{
    Arena, Cache, Device, Manifest, ModelFacts, Phase, Plan, Provenance, SamplingDefaults, Span,
    TextFacts, WeightEntry, WeightKind,
};
use std::collections::HashSet;
use std::fmt;
use std::ops::Deref;

/// Most tokens of a vocabulary.
pub const MAX_VOCAB: u32 = 1 << 24;
/// Most positions of a sequence: beyond it an f32 does not tell positions apart.
pub const MAX_CONTEXT: u32 = 1 << 24;
/// Most sequences held at once.
pub const MAX_SLOTS: u32 = 1 << 12;
/// Most rows of a call.
pub const MAX_ROWS: u32 = 1 << 16;
/// Most rows or columns of a weight, and columns of a buffer. Keeps every size of [`crate::layout`] below 2^60 bytes.
pub const MAX_DIM: u32 = 1 << 28;
/// Largest arena.
pub const MAX_ARENA_BYTES: u64 = 1 << 40;
/// Longest name, label or remark.
pub const MAX_LINE_BYTES: usize = 4096;
/// Alignment of buffers, scratch areas and caches in the arena.
pub const BUFFER_ALIGN: u64 = 64;

/// A manifest whose numbers have been proven consistent; made by [`check`] alone.
#[derive(Clone, PartialEq, Debug)]
pub struct Checked(Manifest);

impl Deref for Checked {
    type Target = Manifest;

    fn deref(&self) -> &Manifest {
        &self.0
    }
}

/// Why a manifest is refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{place}: {what}")]
pub struct CheckError {
    /// Where: `weight "l0.qkv"`, `plan "cpu", program "decode", step 3 "l0.qkv"`.
    pub place: String,
    /// What is wrong there, with the numbers.
    pub what: String,
}

impl CheckError {
    fn at(place: impl fmt::Display, what: impl fmt::Display) -> Self {
        Self {
            place: place.to_string(),
            what: what.to_string(),
        }
    }
}

/// Checks a manifest for a weights section of `weights_bytes`.
///
/// # Errors
/// The first fault, with its place.
pub fn check(manifest: Manifest, weights_bytes: u64) -> Result<Checked, CheckError> {
    let m = &manifest;
    check_limits(m)?;
    check_model(&m.model)?;
    check_provenance(&m.provenance)?;
    check_text(&m.text, m.limits.vocab)?;
    check_weights(&m.weights, weights_bytes)?;
    let value_bytes = check_arena(&m.arena)?;
    gpu::check_kernels(&m.kernels)?;
    npu::check_npu(&m.npu)?;
    check_plans(m)?;
    check_caches(m, value_bytes)?;
    for plan in &m.plans {
        for program in &plan.programs {
            program::check(m, plan, program, value_bytes)?;
        }
    }
    Ok(Checked(manifest))
}

fn check_limits(m: &Manifest) -> Result<(), CheckError> {
    let l = &m.limits;
    within("limits", "vocab", l.vocab, MAX_VOCAB)?;
    within("limits", "context", l.context, MAX_CONTEXT)?;
    within("limits", "slots", l.slots, MAX_SLOTS)
}

fn check_model(model: &ModelFacts) -> Result<(), CheckError> {
    let lines = [
        ("name", &model.name),
        ("architecture", &model.architecture),
        ("quantization", &model.quantization),
    ];
    for (what, text) in lines {
        line("model", what, text)?;
    }
    model
        .notes
        .iter()
        .try_for_each(|note| line("model", "note", note))
}

fn check_provenance(provenance: &Provenance) -> Result<(), CheckError> {
    line("provenance", "compiler", &provenance.compiler)?;
    for option in &provenance.options {
        line("provenance", "option", option)?;
    }
    for source in &provenance.sources {
        line("provenance", "source file name", &source.name)?;
    }
    Ok(())
}

fn check_text(text: &TextFacts, vocab: u32) -> Result<(), CheckError> {
    let named = [("bos", text.bos), ("eos", text.eos)]
        .into_iter()
        .filter_map(|(name, token)| Some((name, token?)));
    let stops = text.stop_tokens.iter().map(|&token| ("stop token", token));
    for (name, token) in named.chain(stops) {
        if token >= vocab {
            return Err(CheckError::at(
                "text",
                format_args!("{name} {token} is not below the vocabulary of {vocab}"),
            ));
        }
    }
    check_sampling(&text.sampling)
}

fn check_sampling(sampling: &SamplingDefaults) -> Result<(), CheckError> {
    let ranges = [
        ("temperature", sampling.temperature, 0.0..=f32::MAX),
        ("top_p", sampling.top_p, 0.0..=1.0),
        ("min_p", sampling.min_p, 0.0..=1.0),
        (
            "repetition_penalty",
            sampling.repetition_penalty,
            f32::MIN_POSITIVE..=f32::MAX,
        ),
    ];
    for (name, value, range) in ranges {
        if let Some(value) = value.filter(|value| !range.contains(value)) {
            return Err(CheckError::at(
                "sampling",
                format_args!(
                    "{name} is {value}, must be in {}..={}",
                    range.start(),
                    range.end()
                ),
            ));
        }
    }
    Ok(())
}

fn check_weights(weights: &[WeightEntry], section_bytes: u64) -> Result<(), CheckError> {
    let mut names = HashSet::new();
    let mut planes = Vec::with_capacity(2 * weights.len());
    for weight in weights {
        name("weights", "name", &weight.name)?;
        let place = format!("weight {:?}", weight.name);
        if !names.insert(weight.name.as_str()) {
            return Err(CheckError::at(place, "the name is used twice"));
        }
        within(&place, "rows", weight.rows, MAX_DIM)?;
        within(&place, "cols", weight.cols, MAX_DIM)?;
        match weight.kind {
            WeightKind::Matrix => {}
            WeightKind::Vector => {
                if weight.format != Format::F32 || weight.rows != 1 {
                    return Err(CheckError::at(
                        place,
                        format_args!(
                            "a vector must be one row of f32, not {} of {}",
                            weight.rows,
                            weight.format.name()
                        ),
                    ));
                }
            }
        }
        let (data, scales) = weight.plane_bytes();
        check_plane(&place, "data", weight.data, data, section_bytes)?;
        check_plane(&place, "scale", weight.scales, scales, section_bytes)?;
        planes.extend([weight.data, weight.scales].map(|span| (span, weight.name.as_str())));
    }
    disjoint("weights", planes)
}

fn check_plane(
    place: &str,
    plane: &str,
    span: Span,
    bytes: u64,
    section_bytes: u64,
) -> Result<(), CheckError> {
    if span.bytes != bytes {
        return Err(CheckError::at(
            place,
            format_args!(
                "{plane} plane has {} bytes, its shape needs {bytes}",
                span.bytes
            ),
        ));
    }
    if bytes == 0 {
        return match span.offset {
            0 => Ok(()),
            offset => Err(CheckError::at(
                place,
                format_args!("{plane} plane is empty but lies at {offset}"),
            )),
        };
    }
    if !span.offset.is_multiple_of(PLANE_ALIGN) {
        return Err(CheckError::at(
            place,
            format_args!(
                "{plane} plane at {} is not aligned to {PLANE_ALIGN}",
                span.offset
            ),
        ));
    }
    inside(
        place,
        format_args!("{plane} plane"),
        span,
        0,
        section_bytes,
        "the weights section",
    )
}

/// Bytes of the area of values, in front of the caches.
fn check_arena(arena: &Arena) -> Result<u64, CheckError> {
    if arena.bytes > MAX_ARENA_BYTES {
        return Err(CheckError::at(
            "arena",
            format_args!(
                "{} bytes, at most {MAX_ARENA_BYTES} are allowed",
                arena.bytes
            ),
        ));
    }
    arena.bytes.checked_sub(arena.cache_bytes).ok_or_else(|| {
        CheckError::at(
            "arena",
            format_args!(
                "caches of {} bytes in an arena of {}",
                arena.cache_bytes, arena.bytes
            ),
        )
    })
}

fn check_caches(m: &Manifest, value_bytes: u64) -> Result<(), CheckError> {
    let chunk = m
        .plans
        .iter()
        .flat_map(|plan| &plan.programs)
        .filter(|program| program.phase == Phase::Prefill)
        .map(|program| program.max_rows)
        .max()
        .unwrap_or(1);
    let mut names = HashSet::new();
    let mut spans = Vec::with_capacity(m.arena.caches.len());
    for cache in &m.arena.caches {
        name("caches", "name", &cache.name)?;
        let place = format!("cache {:?}", cache.name);
        if !names.insert(cache.name.as_str()) {
            return Err(CheckError::at(place, "the name is used twice"));
        }
        let needed = cache_bytes(cache, m.limits.slots).ok_or_else(|| {
            CheckError::at(&place, "must be f32 or f16, not empty, below 2^64 bytes")
        })?;
        if cache.bytes != needed {
            return Err(CheckError::at(
                place,
                format_args!("{} bytes, its shape needs {needed}", cache.bytes),
            ));
        }
        check_capacity(&place, cache, m.limits.context, chunk)?;
        if !cache.offset.is_multiple_of(BUFFER_ALIGN) {
            return Err(CheckError::at(
                place,
                format_args!("at {}, not aligned to {BUFFER_ALIGN}", cache.offset),
            ));
        }
        let span = Span {
            offset: cache.offset,
            bytes: cache.bytes,
        };
        let area = "the arena's cache area";
        inside(&place, "it", span, value_bytes, m.arena.bytes, area)?;
        spans.push((span, cache.name.as_str()));
    }
    disjoint("caches", spans)
}

/// Keys and values of all slots; `None` where the shape is empty, too large, or of a format that caches do not have.
fn cache_bytes(cache: &Cache, slots: u32) -> Option<u64> {
    let element: u64 = match cache.format {
        Format::F32 => 4,
        Format::F16 => 2,
        Format::Bf16 | Format::Q8 | Format::Q4 => return None,
    };
    [slots, cache.kv_heads, cache.capacity, cache.head_dim]
        .into_iter()
        .try_fold(2 * element, |bytes, count| {
            bytes.checked_mul(u64::from(count))
        })
        .filter(|&bytes| bytes > 0)
}

/// The first row of a chunk still sees `window - 1` positions before it when the last one has been stored.
fn check_capacity(place: &str, cache: &Cache, context: u32, chunk: u32) -> Result<(), CheckError> {
    let needed = match cache.window {
        None => context,
        Some(0) => return Err(CheckError::at(place, "a window of 0 positions")),
        Some(window) => context.min(window.saturating_add(chunk - 1)),
    };
    if cache.capacity < needed {
        let why = match cache.window {
            None => format!("the context of {context}"),
            Some(window) => format!("a window of {window} and prefill by {chunk} rows"),
        };
        return Err(CheckError::at(
            place,
            format_args!(
                "capacity {} is below {needed}, needed for {why}",
                cache.capacity
            ),
        ));
    }
    Ok(())
}

fn check_plans(m: &Manifest) -> Result<(), CheckError> {
    if m.plans.is_empty() {
        return Err(CheckError::at("plans", "there is none"));
    }
    let mut names = HashSet::new();
    for plan in &m.plans {
        name("plans", "name", &plan.name)?;
        if !names.insert(plan.name.as_str()) {
            return Err(CheckError::at(
                format_args!("plan {:?}", plan.name),
                "the name is used twice",
            ));
        }
        check_plan(plan, m.limits.slots)?;
        npu::check_plan(m, plan)?;
    }
    Ok(())
}

fn check_plan(plan: &Plan, slots: u32) -> Result<(), CheckError> {
    let place = format!("plan {:?}", plan.name);
    let listed: HashSet<Device> = plan.devices.iter().copied().collect();
    if listed.len() != plan.devices.len() {
        return Err(CheckError::at(place, "a device is listed twice"));
    }
    let steps = plan.programs.iter().flat_map(|program| &program.steps);
    let used: HashSet<Device> = steps.map(|step| step.work.device()).collect();
    if let Some(device) = used.difference(&listed).next() {
        return Err(CheckError::at(
            place,
            format_args!("steps use {}, which is not listed", device.name()),
        ));
    }
    if let Some(device) = listed.difference(&used).next() {
        return Err(CheckError::at(
            place,
            format_args!("lists {}, which no step uses", device.name()),
        ));
    }
    for phase in [Phase::Prefill, Phase::Decode] {
        if !plan.programs.iter().any(|program| program.phase == phase) {
            return Err(CheckError::at(
                place,
                format_args!("has no {} program", phase_name(phase)),
            ));
        }
    }
    for program in &plan.programs {
        name(&place, "program name", &program.name)?;
        let place = format!("{place}, program {:?}", program.name);
        match program.phase {
            Phase::Prefill => {
                within(&place, "max_rows", program.max_rows, MAX_ROWS)?;
                within(&place, "max_outs", program.max_outs, program.max_rows)?;
            }
            Phase::Decode => {
                within(&place, "max_rows", program.max_rows, slots)?;
                if program.max_outs != program.max_rows {
                    return Err(CheckError::at(
                        place,
                        format_args!(
                            "decode returns logits of every row: max_outs {} must be max_rows {}",
                            program.max_outs, program.max_rows
                        ),
                    ));
                }
            }
        }
    }
    Ok(())
}

fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Prefill => "prefill",
        Phase::Decode => "decode",
    }
}

fn within(place: &str, what: &str, value: u32, max: u32) -> Result<(), CheckError> {
    if value == 0 || value > max {
        return Err(CheckError::at(
            place,
            format_args!("{what} is {value}, must be in 1..={max}"),
        ));
    }
    Ok(())
}

/// `start..end` holds the span.
fn inside(
    place: &str,
    what: impl fmt::Display,
    span: Span,
    start: u64,
    end: u64,
    area: &str,
) -> Result<(), CheckError> {
    let span_end = span.offset.checked_add(span.bytes);
    if span.offset < start || span_end.is_none_or(|span_end| span_end > end) {
        return Err(CheckError::at(
            place,
            format_args!(
                "{what}, {} bytes at {}, leaves {area}, {start}..{end}",
                span.bytes, span.offset
            ),
        ));
    }
    Ok(())
}

/// No two spans, all of them inside some area, share a byte.
fn disjoint(place: &str, mut spans: Vec<(Span, &str)>) -> Result<(), CheckError> {
    spans.retain(|(span, _)| span.bytes > 0);
    spans.sort_by_key(|(span, _)| span.offset);
    for pair in spans.windows(2) {
        let [(a, a_name), (b, b_name)] = [pair[0], pair[1]];
        if a.offset + a.bytes > b.offset {
            return Err(CheckError::at(
                place,
                format_args!(
                    "{a_name:?}, {} bytes at {}, and {b_name:?} at {} overlap",
                    a.bytes, a.offset, b.offset
                ),
            ));
        }
    }
    Ok(())
}

/// A name: a line that is not empty.
fn name(place: &str, what: &str, text: &str) -> Result<(), CheckError> {
    if text.is_empty() {
        return Err(CheckError::at(place, format_args!("empty {what}")));
    }
    line(place, what, text)
}

/// Text that is shown on a terminal: no control characters, not endless.
fn line(place: &str, what: &str, text: &str) -> Result<(), CheckError> {
    if text.len() > MAX_LINE_BYTES {
        return Err(CheckError::at(
            place,
            format_args!(
                "{what} has {} bytes, at most {MAX_LINE_BYTES} are allowed",
                text.len()
            ),
        ));
    }
    if text.chars().any(char::is_control) {
        return Err(CheckError::at(
            place,
            format_args!("{what} {text:?} has a control character"),
        ));
    }
    Ok(())
}
