//! Runs a bundle: sequences in slots, prefill in chunks, decode of one or several sequences a call.
//!
//! Here are the calls and their checks. Which plan and program: `choose`. Lengths and ring caches: `slots`.
//! Devices, arena and order of steps: `executor`. Text, sampling and the choice of the next token are elsewhere.
//!
//! All row buffers are made when a bundle is opened: [`Engine::decode`] allocates nothing.

mod choose;
mod executor;
mod slots;
pub mod traffic;

use crate::drivers::cpu::Isa;
use crate::drivers::vulkan::{Pick, VulkanOptions};
use crate::drivers::xdna::XdnaOptions;
use crate::drivers::{self, DriverError, Row, Settings};
use crate::error::Error;
use crate::loader::{Bundle, Integrity};
use crate::sampler::Likely;
use executor::Executor;
use gembin_bundle::manifest::{Device, Manifest, Phase, Plan};
use slots::Slots;
use std::fmt;
use std::ops::ControlFlow;
use std::path::Path;
use std::str::FromStr;

/// Which devices may run the model.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub enum DeviceChoice {
    /// The bundle's best plan whose devices are all there.
    #[default]
    Auto,
    /// A plan of this device alone.
    Only {
        /// The device.
        device: Device,
        /// Which of several: its index or a part of its name; `None`: the best.
        unit: Option<String>,
    },
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceChoice::Auto => f.write_str("auto"),
            DeviceChoice::Only { device, unit: None } => f.write_str(device.name()),
            DeviceChoice::Only {
                device,
                unit: Some(unit),
            } => write!(f, "{}:{unit}", device.name()),
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = Error;

    /// `auto`, `cpu`, `vulkan`, `vulkan:0`, `vulkan:radeon`, `npu`.
    fn from_str(text: &str) -> Result<Self, Error> {
        if text == "auto" {
            return Ok(DeviceChoice::Auto);
        }
        let (name, unit) = match text.split_once(':') {
            Some((name, unit)) => (name, Some(unit)),
            None => (text, None),
        };
        let unknown = || Error::UnknownDevice {
            name: text.to_owned(),
            known: std::iter::once("auto")
                .chain(drivers::DEVICES.iter().map(|device| device.name()))
                .collect::<Vec<_>>()
                .join(", "),
        };
        let device = drivers::DEVICES
            .iter()
            .copied()
            .find(|device| device.name() == name)
            .ok_or_else(unknown)?;
        match (device, unit) {
            // There is one processor and one NPU, and an empty name is none.
            (Device::Cpu | Device::Xdna, Some(_)) | (Device::Vulkan, Some("")) => Err(unknown()),
            (Device::Cpu | Device::Vulkan | Device::Xdna, unit) => Ok(DeviceChoice::Only {
                device,
                unit: unit.map(str::to_owned),
            }),
        }
    }
}

/// How to open a bundle.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// Devices allowed.
    pub device: DeviceChoice,
    /// Run the first allowed plan or nothing.
    pub strict: bool,
    /// Threads of the processor's driver; 0: one a core.
    pub threads: usize,
    /// Instruction set of the processor's kernels; `None`: the best there is.
    pub isa: Option<Isa>,
    /// How to run on a GPU.
    pub vulkan: VulkanOptions,
    /// How to run on an NPU.
    pub xdna: XdnaOptions,
    /// Also compare the weights' checksums, which reads the whole file.
    pub integrity: Integrity,
}

impl OpenOptions {
    /// The drivers' part.
    fn settings(&self) -> Settings {
        Settings {
            isa: self.isa,
            gpu: match &self.device {
                DeviceChoice::Auto => Pick::Hardware,
                DeviceChoice::Only { unit: None, .. } => Pick::Best,
                DeviceChoice::Only {
                    unit: Some(unit), ..
                } => Pick::Named(unit.clone()),
            },
            vulkan: self.vulkan.clone(),
            xdna: self.xdna.clone(),
        }
    }
}

/// Rows of a prefill whose logits are wanted.
pub enum Wanted<'a> {
    /// None: the tokens are only remembered.
    Nothing,
    /// The last token's; they are the result of the call.
    Last,
    /// Every token's, in blocks of whole rows: the function gets the index of the block's first token and the rows'
    /// logits one after the other. When it breaks, the rest is not run, and the sequence has the tokens given so far.
    Every(&'a mut dyn FnMut(usize, &[f32]) -> ControlFlow<()>),
}

/// A bundle ready to run.
pub struct Engine {
    bundle: Bundle,
    executor: Executor,
    slots: Slots,
    /// Rows of the call being made; as many as the largest program takes.
    rows: Vec<Row>,
    /// `0, 1, 2, ...`: calls that want every row.
    every_row: Vec<u32>,
    notice: Option<String>,
}

/// What follows the last token of each sequence of a call.
pub struct Predictions<'a> {
    executor: &'a mut Executor,
    program: usize,
    rows: usize,
}

impl Predictions<'_> {
    /// The most likely tokens of sequence `row` of the call, best first, equal ones by id; `None` where the device does
    /// not find them.
    pub fn likely(&self, row: usize) -> Option<&[Likely]> {
        let (likely, count) = self.executor.likely(self.program, self.rows)?;
        likely.get(row * count..(row + 1) * count)
    }

    /// All logits: `[sequences, vocab]`. Costs a copy where the device has memory of its own.
    ///
    /// # Errors
    /// When the device fails.
    pub fn logits(&mut self) -> Result<&[f32], Error> {
        self.executor.logits(self.program, self.rows)
    }
}

impl Engine {
    /// Maps and checks the bundle at `path` and loads it onto the devices of its first usable plan.
    ///
    /// # Errors
    /// When the file is not a sound bundle, or no plan can run here.
    pub fn open(path: &Path, options: &OpenOptions) -> Result<Self, Error> {
        Self::from_bundle(Bundle::open(path, options.integrity)?, options)
    }

    /// Loads an opened bundle onto the devices of its first usable plan.
    ///
    /// # Errors
    /// When no plan can run here.
    pub fn from_bundle(bundle: Bundle, options: &OpenOptions) -> Result<Self, Error> {
        let manifest = bundle.manifest();
        let settings = options.settings();
        let mut lacking = Vec::new();
        // A device that is there may still refuse the plan when it is loaded: too little memory, a kernel it cannot run.
        let (plan, executor) = loop {
            let plan = choose::plan(
                &manifest.plans,
                &options.device,
                options.strict,
                &mut lacking,
                |device| drivers::probe(device, &settings).err(),
            )?;
            match Executor::load(&bundle, plan, options.threads, &settings) {
                Ok(executor) => break (plan, executor),
                Err(Error::Driver(
                    error @ (DriverError::Unavailable { device, .. }
                    | DriverError::Failed { device, .. }),
                )) if options.device == DeviceChoice::Auto && !options.strict => {
                    let refusing = manifest.plans[plan]
                        .devices
                        .iter()
                        .find(|known| known.name() == device && **known != Device::Cpu);
                    let Some(&refusing) = refusing else {
                        return Err(error.into());
                    };
                    let reason = match error {
                        DriverError::Unavailable { reason, .. } => reason,
                        DriverError::Failed { step, reason, .. } => format!("{step}: {reason}"),
                    };
                    lacking.push((refusing, reason));
                }
                Err(error) => return Err(error),
            }
        };
        let slots = Slots::new(&manifest.limits, &manifest.arena.caches);
        let most_rows = manifest.plans[plan]
            .programs
            .iter()
            .map(|program| program.max_rows)
            .max()
            .unwrap_or(0);
        let notice = choose::notice(&lacking, &manifest.plans[plan]);
        Ok(Self {
            executor,
            slots,
            rows: Vec::with_capacity(most_rows as usize),
            every_row: (0..most_rows).collect(),
            bundle,
            notice,
        })
    }

    /// Why a better plan of the bundle does not run, in one line; `None` if the best one does.
    pub fn notice(&self) -> Option<&str> {
        self.notice.as_deref()
    }

    /// The bundle that runs.
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// Its manifest.
    pub fn manifest(&self) -> &Manifest {
        self.bundle.manifest()
    }

    /// The plan that runs.
    pub fn plan(&self) -> &Plan {
        &self.manifest().plans[self.executor.plan()]
    }

    /// The devices in use, for people.
    pub fn describe(&self) -> String {
        self.executor.describe()
    }

    /// Number of tokens the model knows: length of a row of logits.
    pub fn vocab(&self) -> usize {
        self.manifest().limits.vocab as usize
    }

    /// Tokens a sequence can have.
    pub fn context(&self) -> usize {
        self.slots.context()
    }

    /// Most sequences of one [`Self::decode`] call.
    pub fn max_decode_rows(&self) -> usize {
        self.plan()
            .programs
            .iter()
            .filter(|program| program.phase == Phase::Decode)
            .map(|program| program.max_rows as usize)
            .max()
            .unwrap_or(0)
    }

    /// Tokens that the largest prefill program takes in one call: a prompt given in pieces of this size runs as fast
    /// as one given whole.
    pub fn prefill_chunk(&self) -> usize {
        self.plan()
            .programs
            .iter()
            .filter(|program| program.phase == Phase::Prefill)
            .map(|program| program.max_rows as usize)
            .max()
            .unwrap_or(1)
    }

    /// Length of the sequence in `slot`.
    ///
    /// # Errors
    /// When there is no such slot.
    pub fn len(&self, slot: usize) -> Result<usize, Error> {
        self.check_slot(slot)?;
        Ok(self.slots.len(slot))
    }

    /// Appends `tokens` to the sequence in `slot`. Returns the logits of the last one if [`Wanted::Last`] was asked
    /// for, else nothing.
    ///
    /// Shapes: `[vocab]`.
    ///
    /// # Errors
    /// [`Error::NoTokens`], [`Error::ContextFull`], [`Error::TokenOutOfRange`] before anything has run; a device's
    /// failure leaves the sequence with the chunks that were done.
    pub fn prefill(
        &mut self,
        slot: usize,
        tokens: &[u32],
        wanted: Wanted<'_>,
    ) -> Result<&[f32], Error> {
        match self.run_prefill(slot, tokens, wanted)? {
            Some(program) => self.executor.logits(program, 1),
            None => Ok(&[]),
        }
    }

    /// As [`Self::prefill`] with [`Wanted::Last`], but returns what the device offers at least cost, as [`Self::step`].
    ///
    /// # Errors
    /// As [`Self::prefill`].
    pub fn prompt(&mut self, slot: usize, tokens: &[u32]) -> Result<Predictions<'_>, Error> {
        let program = self.run_prefill(slot, tokens, Wanted::Last)?;
        Ok(Predictions {
            executor: &mut self.executor,
            // Of tokens, and there are some, the last is one.
            program: program.ok_or(Error::NoTokens)?,
            rows: 1,
        })
    }

    /// Runs a prefill and counts its tokens in. Returns the program that left the last token's logits, if those were
    /// asked for.
    fn run_prefill(
        &mut self,
        slot: usize,
        tokens: &[u32],
        mut wanted: Wanted<'_>,
    ) -> Result<Option<usize>, Error> {
        self.check_slot(slot)?;
        if tokens.is_empty() {
            return Err(Error::NoTokens);
        }
        self.check_room(slot, tokens.len())?;
        for &token in tokens {
            self.check_token(token)?;
        }
        let every = matches!(wanted, Wanted::Every(_));
        let mut last = None;
        let mut done = 0;
        while done < tokens.len() {
            let (program, rows) = self.prefill_step(tokens.len() - done, every)?;
            let is_last = done + rows == tokens.len();
            self.slots.will_write(slot, rows);
            let first_pos = self.slots.len(slot);
            self.rows.clear();
            self.rows
                .extend(
                    tokens[done..done + rows]
                        .iter()
                        .enumerate()
                        .map(|(offset, &token)| Row {
                            token,
                            pos: (first_pos + offset) as u32,
                            slot: slot as u32,
                        }),
                );
            let outs = match wanted {
                Wanted::Every(_) => &self.every_row[..rows],
                Wanted::Last if is_last => &self.every_row[rows - 1..rows],
                Wanted::Last | Wanted::Nothing => &[],
            };
            self.executor.run(program, &self.rows, outs)?;
            self.slots.advance(slot, rows);
            if let Wanted::Every(give) = &mut wanted
                && give(done, self.executor.logits(program, rows)?).is_break()
            {
                break;
            }
            if is_last && matches!(wanted, Wanted::Last) {
                last = Some(program);
            }
            done += rows;
        }
        Ok(last)
    }

    /// Appends one token to each of several sequences and returns their logits, in the order given.
    ///
    /// Shapes: `[sequences, vocab]`.
    ///
    /// # Errors
    /// When a slot, a token or the number of sequences is out of range, or a sequence is full; nothing has run then.
    /// When a device fails; the sequences keep their lengths then.
    pub fn decode(&mut self, tokens: &[(usize, u32)]) -> Result<&[f32], Error> {
        let program = self.run_decode(tokens)?;
        self.executor.logits(program, tokens.len())
    }

    /// As [`Self::decode`], but returns what the device offers at least cost: the most likely tokens of each sequence
    /// where it finds them itself, else all logits.
    ///
    /// # Errors
    /// As [`Self::decode`].
    pub fn step(&mut self, tokens: &[(usize, u32)]) -> Result<Predictions<'_>, Error> {
        let program = self.run_decode(tokens)?;
        Ok(Predictions {
            executor: &mut self.executor,
            program,
            rows: tokens.len(),
        })
    }

    /// Runs a decode call and counts its tokens in. Returns the program.
    fn run_decode(&mut self, tokens: &[(usize, u32)]) -> Result<usize, Error> {
        if tokens.is_empty() {
            return Err(Error::NoTokens);
        }
        let program = choose::program(
            &self.plan().programs,
            Phase::Decode,
            tokens.len(),
            |program| program.max_rows as usize,
        );
        let most = self.max_decode_rows();
        let (Some(program), true) = (program, tokens.len() <= most) else {
            return Err(Error::TooManySequences {
                sequences: tokens.len(),
                most,
            });
        };
        self.rows.clear();
        for &(slot, token) in tokens {
            self.check_slot(slot)?;
            self.check_token(token)?;
            self.check_room(slot, 1)?;
            if self.rows.iter().any(|row| row.slot as usize == slot) {
                return Err(Error::SlotTwice { slot });
            }
            self.rows.push(Row {
                token,
                pos: self.slots.len(slot) as u32,
                slot: slot as u32,
            });
        }
        for &(slot, _) in tokens {
            self.slots.will_write(slot, 1);
        }
        self.executor
            .run(program, &self.rows, &self.every_row[..tokens.len()])?;
        for &(slot, _) in tokens {
            self.slots.advance(slot, 1);
        }
        Ok(program)
    }

    /// Forgets what follows the first `len` tokens of a sequence. Returns how many tokens it still has: `len` (or
    /// fewer if it was shorter), or 0 if a ring cache has overwritten what the next token would have to see; the
    /// whole sequence is prefilled again then.
    ///
    /// # Errors
    /// When there is no such slot.
    pub fn truncate(&mut self, slot: usize, len: usize) -> Result<usize, Error> {
        self.check_slot(slot)?;
        Ok(self.slots.truncate(slot, len))
    }

    /// Empties a slot.
    ///
    /// # Errors
    /// When there is no such slot.
    pub fn reset(&mut self, slot: usize) -> Result<(), Error> {
        self.check_slot(slot)?;
        self.slots.reset(slot);
        Ok(())
    }

    /// The calls that [`Self::prefill`] makes for `tokens` tokens, as (index of the program, rows).
    ///
    /// # Errors
    /// None for an opened bundle.
    pub fn prefill_calls(&self, tokens: usize) -> Result<Vec<(usize, usize)>, Error> {
        let mut calls = Vec::new();
        let mut done = 0;
        while done < tokens {
            let call = self.prefill_step(tokens - done, false)?;
            done += call.1;
            calls.push(call);
        }
        Ok(calls)
    }

    /// The program for the next chunk of a prefill with `left` tokens to go, and how many of them it takes.
    fn prefill_step(&self, left: usize, every: bool) -> Result<(usize, usize), Error> {
        let takes = |program: &gembin_bundle::manifest::Program| {
            let most = if every {
                program.max_rows.min(program.max_outs)
            } else {
                program.max_rows
            };
            most as usize
        };
        let programs = &self.plan().programs;
        let program = choose::program(programs, Phase::Prefill, left, takes).ok_or_else(|| {
            Error::NoProgram {
                plan: self.plan().name.clone(),
                phase: "prefill",
            }
        })?;
        Ok((program, takes(&programs[program]).min(left)))
    }

    fn check_slot(&self, slot: usize) -> Result<(), Error> {
        if slot < self.slots.count() {
            Ok(())
        } else {
            Err(Error::SlotOutOfRange {
                slot,
                slots: self.slots.count(),
            })
        }
    }

    fn check_token(&self, id: u32) -> Result<(), Error> {
        let vocab = self.manifest().limits.vocab;
        if id < vocab {
            Ok(())
        } else {
            Err(Error::TokenOutOfRange { id, vocab })
        }
    }

    fn check_room(&self, slot: usize, more: usize) -> Result<(), Error> {
        let tokens = self.slots.len(slot).saturating_add(more);
        if tokens <= self.context() {
            Ok(())
        } else {
            Err(Error::ContextFull {
                tokens,
                context: self.context(),
            })
        }
    }
}
