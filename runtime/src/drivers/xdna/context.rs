//! A hardware context: one configuration of the array over some columns, and the commands it has under way.
//!
//! Commands of a context run in order. A context takes two at once, so that the array has the next one at hand; more
//! would make the kernel wait inside a call, where no deadline reaches. A context that failed is ended at once: its
//! columns are taken from it, so nothing of it runs on.

use super::command::{PACKET_WORDS, State};
use super::errors::{explain, refused};
use super::file::File;
use super::memory::{Buffer, Heap};
use super::uapi;
use crate::drivers::DriverError;
use std::sync::Arc;
use std::time::Duration;

/// Commands under way at once.
const UNDER_WAY: usize = 2;
/// Operations of a column and clock, which the kernel's driver chooses clocks by.
const OPERATIONS: u32 = 2048;

/// A command handed over.
#[derive(Clone, Copy)]
struct Command {
    point: u64,
    /// The step it does.
    step: usize,
}

/// A packet's memory, and the command in it.
struct Slot {
    packet: Buffer,
    command: Option<Command>,
}

/// A context; ended when dropped.
pub(super) struct Context {
    // Ended first: fields are dropped in order.
    ended: Ended,
    slots: [Slot; UNDER_WAY],
    /// The slot that the next command takes: the one whose command is older.
    next: usize,
    /// Keeps the configuration.
    _pdi: Buffer,
}

/// Ends the context when dropped.
struct Ended {
    file: Arc<File>,
    handle: u32,
    timeline: u32,
}

impl Drop for Ended {
    fn drop(&mut self) {
        self.file.destroy_context(self.handle);
        if self.timeline != uapi::NO_FENCE {
            self.file.destroy_timeline(self.timeline);
        }
    }
}

/// A step that failed, and why.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) step: usize,
    pub(super) reason: String,
}

impl Context {
    /// Makes a context of `columns` columns of `rows` compute tiles with the configuration `pdi`.
    pub(super) fn new(
        file: &Arc<File>,
        heap: &Heap,
        (columns, rows): (u32, u32),
        pdi: &[u8],
        design: &str,
    ) -> Result<Self, DriverError> {
        let pdi = heap.store(&[(0, pdi)], "a configuration of the array")?;
        let slot = || -> Result<Slot, DriverError> {
            Ok(Slot {
                packet: Buffer::command(file, 4 * PACKET_WORDS as u64)?,
                command: None,
            })
        };
        let slots = [slot()?, slot()?];
        let doing = format!("get {columns} columns of the NPU for design {design:?}");
        let (handle, timeline) =
            file.create_context(OPERATIONS, columns * rows)
                .map_err(|error| match error.raw_os_error() {
                    Some(libc::ENOSPC | libc::EBUSY | libc::EAGAIN) => super::errors::unavailable(
                        format!("cannot {doing}: other programs have them; close those"),
                    ),
                    _ => refused(&doing, &error),
                })?;
        let ended = Ended {
            file: Arc::clone(file),
            handle,
            timeline,
        };
        if timeline == uapi::NO_FENCE {
            return Err(super::errors::unavailable(format!(
                "cannot {doing}: the kernel's driver signals no ends of commands; it is too old"
            )));
        }
        file.configure_context(handle, pdi.handle())
            .map_err(|error| refused(format_args!("load design {design:?}"), &error))?;
        Ok(Self {
            ended,
            slots,
            next: 0,
            _pdi: pdi,
        })
    }

    /// Hands a command over, once there is room for it. `uses`: every buffer object that it touches.
    pub(super) fn submit(
        &mut self,
        packet: &[u32; PACKET_WORDS],
        uses: &[u32],
        step: usize,
        timeout: Duration,
    ) -> Result<(), Failure> {
        let slot = self.next;
        self.finish(slot, timeout)?;
        self.slots[slot].packet.write_words(0, packet);
        let command = self.slots[slot].packet.handle();
        let point = self
            .ended
            .file
            .execute(self.ended.handle, command, uses)
            .map_err(|error| Failure {
                step,
                reason: format!("the NPU takes no command: {}", explain(&error)),
            })?;
        self.slots[slot].command = Some(Command { point, step });
        self.next = (slot + 1) % UNDER_WAY;
        Ok(())
    }

    /// Waits until everything is done.
    pub(super) fn wait(&mut self, timeout: Duration) -> Result<(), Failure> {
        // The older one first: it is what a failure is told of.
        for offset in 0..UNDER_WAY {
            self.finish((self.next + offset) % UNDER_WAY, timeout)?;
        }
        Ok(())
    }

    /// Waits until a slot's command is done, for a bounded time.
    fn finish(&mut self, slot: usize, timeout: Duration) -> Result<(), Failure> {
        let Slot { packet, command } = &mut self.slots[slot];
        let Some(Command { point, step }) = command.take() else {
            return Ok(());
        };
        let fail = |reason: String| Err(Failure { step, reason });
        let file = &self.ended.file;
        let timeout_ns = i64::try_from(timeout.as_nanos()).unwrap_or(i64::MAX);
        let deadline = file.system.now_ns().saturating_add(timeout_ns);
        match file.wait(self.ended.timeline, point, deadline) {
            Ok(true) => {}
            Ok(false) => {
                return fail(format!(
                    "the NPU did not finish within {} s; start again, or run with --device cpu",
                    timeout.as_secs_f32()
                ));
            }
            Err(error) => return fail(explain(&error)),
        }
        match State::of_header(packet.first_word()) {
            State::Completed => Ok(()),
            state => fail(state.explain()),
        }
    }
}
