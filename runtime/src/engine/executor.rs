//! Holds the arena and the loaded devices, and runs a program's steps on them in order.
//!
//! Consecutive steps of one device are submitted together; a device is waited for before the next one starts, since
//! the next one reads what it wrote.

use crate::arena::Arena;
use crate::drivers::{self, Call, Driver, LoadContext, Row, Settings};
use crate::error::Error;
use crate::loader::Bundle;
use crate::sampler::Likely;
use gembin_bundle::manifest::{Device, Program};
use std::ops::Range;
use std::sync::Arc;

/// Consecutive steps of one device.
struct Run {
    /// Index into [`Executor::drivers`].
    driver: usize,
    steps: Range<usize>,
}

/// The programs of one plan on their devices.
pub(super) struct Executor {
    plan: usize,
    // Before the arena and the bundle that drivers point into: fields are dropped in order.
    drivers: Vec<Box<dyn Driver>>,
    /// One list of runs a program.
    runs: Vec<Vec<Run>>,
    /// Place of each program's logits in the arena, and its columns.
    logits: Vec<(u64, usize)>,
    /// Place of each program's candidates, if it finds them, and its words.
    candidates: Vec<Option<(u64, usize)>>,
    arena: Arc<Arena>,
}

impl Executor {
    /// Reserves the arena and loads every device of plan `plan`.
    pub(super) fn load(
        bundle: &Bundle,
        plan: usize,
        threads: usize,
        settings: &Settings,
    ) -> Result<Self, Error> {
        let manifest = bundle.shared_manifest();
        let bytes = manifest.arena.bytes;
        let arena = usize::try_from(bytes)
            .map_err(|_| std::io::Error::from(std::io::ErrorKind::OutOfMemory))
            .and_then(Arena::new)
            .map_err(|source| Error::Arena { bytes, source })?;
        let arena = Arc::new(arena);
        let context = LoadContext {
            manifest: Arc::clone(&manifest),
            plan,
            weights: bundle.weights(),
            arena: Arc::clone(&arena),
            threads,
        };
        let devices = &manifest.plans[plan].devices;
        let drivers = devices
            .iter()
            .map(|&device| drivers::load(device, &context, settings))
            .collect::<Result<Vec<_>, _>>()?;
        let programs = &manifest.plans[plan].programs;
        Ok(Self {
            plan,
            runs: programs.iter().map(|p| runs_of(p, devices)).collect(),
            logits: programs
                .iter()
                .map(|p| (p.logits.offset, p.logits.cols as usize))
                .collect(),
            candidates: programs
                .iter()
                .map(|p| p.candidates.map(|c| (c.offset, c.cols as usize)))
                .collect(),
            drivers,
            arena,
        })
    }

    /// Index of the plan.
    pub(super) fn plan(&self) -> usize {
        self.plan
    }

    /// The devices, for people.
    pub(super) fn describe(&self) -> String {
        self.drivers
            .iter()
            .map(|driver| driver.describe())
            .collect::<Vec<_>>()
            .join("; ")
    }

    /// Runs `program` for `rows`; the logits of `outs` are in the arena afterwards.
    pub(super) fn run(&mut self, program: usize, rows: &[Row], outs: &[u32]) -> Result<(), Error> {
        for run in &self.runs[program] {
            let driver = &mut self.drivers[run.driver];
            driver.submit(program, run.steps.clone(), Call { rows, outs })?;
            driver.wait()?;
        }
        Ok(())
    }

    /// The first `outs` rows of logits of the last call, which was of `program`.
    pub(super) fn logits(&mut self, program: usize, outs: usize) -> Result<&[f32], Error> {
        let (offset, cols) = self.logits[program];
        if let Some(run) = self.runs[program].last() {
            let bytes = (outs * cols * size_of::<f32>()) as u64;
            self.drivers[run.driver].fetch(offset, bytes)?;
        }
        // SAFETY: `run` has waited for every device, and starting another call takes `&mut self`, so nothing writes
        // to the arena while the slice lives.
        Ok(unsafe { self.arena.f32s(offset, outs * cols) })
    }

    /// The most likely tokens of each of the first `outs` rows of the last call, which was of `program`; `None` if the
    /// program does not find them.
    pub(super) fn likely(&self, program: usize, outs: usize) -> Option<(&[Likely], usize)> {
        let (offset, words) = self.candidates[program]?;
        // SAFETY: as for the logits; drivers leave candidates in the arena without being asked.
        let values = unsafe { self.arena.f32s(offset, outs * words) };
        let (pairs, _) = values.as_chunks::<2>();
        // SAFETY: a pair of 32-bit words, any bits of which are a `Likely`, has its size and alignment.
        let likely = unsafe { std::slice::from_raw_parts(pairs.as_ptr().cast(), pairs.len()) };
        Some((likely, words / 2))
    }
}

/// Splits a program where the device changes. That every step's device is one
/// of `devices` is part of a bundle's check.
fn runs_of(program: &Program, devices: &[Device]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (index, step) in program.steps.iter().enumerate() {
        let driver = devices
            .iter()
            .position(|&device| device == step.work.device())
            .unwrap_or(0);
        match runs.last_mut() {
            Some(run) if run.driver == driver => run.steps.end = index + 1,
            _ => runs.push(Run {
                driver,
                steps: index..index + 1,
            }),
        }
    }
    runs
}
