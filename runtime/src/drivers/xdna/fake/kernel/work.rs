//! Contexts and their commands: handed over, run when somebody waits for them, and ended in every way.

use super::{Bo, Context, Kernel, Pending, refuse};
use crate::drivers::xdna::command::{PACKET_WORDS, State as CommandState};
use crate::drivers::xdna::fake::{Ending, Launch};
use crate::drivers::xdna::uapi;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::RawFd;

/// Commands of a context that the kernel takes before it lets a call wait.
const MOST_PENDING: usize = 4;
/// What a command takes, as the clock goes.
const COMMAND_NS: i64 = 1_000_000;

/// Memory that a command can reach.
pub(in super::super) struct Reach<'a> {
    bos: &'a mut BTreeMap<u32, Bo>,
    heap: Option<u32>,
    uses: Vec<u32>,
}

impl Reach<'_> {
    /// Which memory has the bytes, and from which byte on.
    fn find(&self, address: u64, bytes: usize) -> Result<(u32, usize), String> {
        let end = address.checked_add(bytes as u64);
        for handle in &self.uses {
            let Some(bo) = self.bos.get(handle) else {
                continue;
            };
            let inside = address >= bo.address && end.is_some_and(|e| e <= bo.address + bo.bytes);
            if inside {
                let offset = (address - bo.address + bo.heap_offset) as usize;
                let owner = if bo.memory.is_some() {
                    *handle
                } else {
                    self.heap.ok_or("there is no heap")?
                };
                return Ok((owner, offset));
            }
        }
        Err(format!(
            "{bytes} bytes at {address:#x} are in no buffer that the command lists"
        ))
    }

    pub(in super::super) fn read(&self, address: u64, bytes: usize) -> Result<&[u8], String> {
        let (handle, offset) = self.find(address, bytes)?;
        let memory = self.bos[&handle].memory.as_ref().ok_or("no memory")?;
        Ok(&memory.array()[offset..offset + bytes])
    }

    pub(in super::super) fn write(&mut self, address: u64, data: &[u8]) -> Result<(), String> {
        let (handle, offset) = self.find(address, data.len())?;
        let bo = self.bos.get_mut(&handle).ok_or("no buffer")?;
        let memory = bo.memory.as_mut().ok_or("no memory")?;
        if memory.is_imported() {
            return Err(format!(
                "{address:#x} is imported memory, which is read only"
            ));
        }
        memory.array_mut()[offset..offset + data.len()].copy_from_slice(data);
        Ok(())
    }
}

impl Kernel {
    /// # Safety
    /// The address is of a structure of its kind.
    pub(super) unsafe fn create_context(
        &mut self,
        file: RawFd,
        create: &mut uapi::CreateHwctx,
    ) -> io::Result<()> {
        // SAFETY: the caller's promise.
        let quality = unsafe { (create.qos_p as *const uapi::QosInfo).read() };
        let (rows, timelines) = (u32::from(self.setup.rows), self.setup.timelines);
        let columns = create.num_tiles / rows.max(1);
        if create.ext != 0
            || create.ext_flags != 0
            || quality.priority == 0
            || columns == 0
            || columns > u32::from(self.setup.columns)
        {
            return refuse(libc::EINVAL);
        }
        let living: usize = self.files.values().map(|file| file.contexts.len()).sum();
        if living >= self.setup.contexts {
            return refuse(libc::ENOSPC);
        }
        let (handle, timeline) = (self.fresh(), self.fresh());
        let opened = self.opened(file);
        if opened.heap.is_none() {
            return refuse(libc::ENOENT);
        }
        if timelines {
            opened.timelines.insert(timeline);
        }
        opened.contexts.insert(
            handle,
            Context {
                columns,
                timeline,
                pdi: None,
                pending: VecDeque::new(),
                submitted: 0,
                signalled: 0,
                hung: false,
                dead: false,
            },
        );
        create.handle = handle;
        create.syncobj_handle = if timelines { timeline } else { uapi::NO_FENCE };
        Ok(())
    }

    /// # Safety
    /// The address is of the parameter's structure.
    pub(super) unsafe fn configure_context(
        &mut self,
        file: RawFd,
        configure: &mut uapi::ConfigHwctx,
    ) -> io::Result<()> {
        if configure.param_type != uapi::HWCTX_CONFIG_CU
            || configure.param_val_size as usize != size_of::<uapi::OneCu>()
        {
            return refuse(libc::EINVAL);
        }
        // SAFETY: the caller's promise.
        let one = unsafe { (configure.param_val as *const uapi::OneCu).read() };
        let opened = self.opened(file);
        let pdi = opened.bos.get(&one.cu.cu_bo);
        let good = pdi.is_some_and(|bo| bo.kind == uapi::BO_DEVICE);
        match opened.contexts.get_mut(&configure.handle) {
            Some(context) if good && context.pdi.is_none() && one.header.num_cus == 1 => {
                context.pdi = Some(one.cu.cu_bo);
                Ok(())
            }
            _ => refuse(libc::EINVAL),
        }
    }

    pub(super) fn destroy_context(
        &mut self,
        file: RawFd,
        destroy: &mut uapi::DestroyHwctx,
    ) -> io::Result<()> {
        if self.opened(file).contexts.remove(&destroy.handle).is_none() {
            self.violation("ended a context twice");
            return refuse(libc::EINVAL);
        }
        Ok(())
    }

    pub(super) fn destroy_timeline(
        &mut self,
        file: RawFd,
        destroy: &mut uapi::SyncobjDestroy,
    ) -> io::Result<()> {
        if !self.opened(file).timelines.remove(&destroy.handle) {
            self.violation("gave a timeline back twice");
            return refuse(libc::EINVAL);
        }
        Ok(())
    }

    /// # Safety
    /// The address is of as many handles as told.
    pub(super) unsafe fn execute(
        &mut self,
        file: RawFd,
        execute: &mut uapi::ExecCmd,
    ) -> io::Result<()> {
        if execute.ext != 0
            || execute.ext_flags != 0
            || execute.r#type != uapi::CMD_EXEC_BUF
            || execute.cmd_count != 1
        {
            return refuse(libc::EINVAL);
        }
        let count = execute.arg_count as usize;
        // SAFETY: the caller's promise.
        let uses: Vec<u32> = (0..count)
            .map(|index| unsafe { (execute.args as *const u32).add(index).read() })
            .collect();
        let command = execute.cmd_handles as u32;
        let handle = execute.hwctx;
        let opened = self.opened(file);
        if uses.iter().any(|used| !opened.bos.contains_key(used)) {
            return refuse(libc::ENOENT);
        }
        let is_command = opened.bos.get(&command).map(|bo| bo.kind) == Some(uapi::BO_COMMAND);
        let Some(context) = opened.contexts.get_mut(&handle).filter(|_| is_command) else {
            return refuse(libc::EINVAL);
        };
        if context.dead {
            return refuse(libc::ENODEV);
        }
        if context.pdi.is_none() {
            return refuse(libc::EINVAL);
        }
        if context.pending.iter().any(|p| p.command == command) {
            self.violation("handed a packet over that is under way");
            return refuse(libc::EBUSY);
        }
        if context.pending.len() >= MOST_PENDING {
            self.violation("would have waited in a call without a deadline");
            return refuse(libc::EBUSY);
        }
        execute.seq = context.submitted;
        context.pending.push_back(Pending {
            point: context.submitted,
            command,
            uses,
        });
        context.submitted += 1;
        Ok(())
    }

    /// # Safety
    /// The addresses are of as many handles and points as told.
    pub(super) unsafe fn wait(
        &mut self,
        file: RawFd,
        wait: &mut uapi::TimelineWait,
    ) -> io::Result<()> {
        if self.interrupts > 0 {
            self.interrupts -= 1;
            return refuse(libc::EINTR);
        }
        if wait.count_handles != 1 {
            return refuse(libc::EINVAL);
        }
        // SAFETY: the caller's promise.
        let (timeline, point) = unsafe {
            (
                (wait.handles as *const u32).read(),
                (wait.points as *const u64).read(),
            )
        };
        loop {
            if self.gone {
                return refuse(libc::ENODEV);
            }
            let clock = self.clock_ns;
            let opened = self.opened(file);
            if !opened.timelines.contains(&timeline) {
                return refuse(libc::ENOENT);
            }
            let found = opened
                .contexts
                .iter()
                .find(|(_, context)| context.timeline == timeline);
            let Some((&handle, context)) = found else {
                return refuse(libc::EINVAL);
            };
            if context.signalled > point {
                return Ok(());
            }
            if context.submitted <= point {
                return refuse(libc::EINVAL);
            }
            if context.hung || clock >= wait.timeout_nsec {
                self.clock_ns = clock.max(wait.timeout_nsec);
                return refuse(libc::ETIME);
            }
            self.run(file, handle);
        }
    }

    /// Runs a context's oldest command.
    pub(super) fn run(&mut self, file: RawFd, handle: u32) {
        let ending = self.endings.pop_front().unwrap_or(Ending::Normal);
        match ending {
            Ending::Hang => {
                if let Some(context) = self.opened(file).contexts.get_mut(&handle) {
                    context.hung = true;
                }
                return;
            }
            Ending::Vanish => {
                self.gone = true;
                return;
            }
            Ending::Reset => {
                let opened = self.opened(file);
                let mut ended = Vec::new();
                for (of, context) in &mut opened.contexts {
                    context.dead = true;
                    context.signalled = context.submitted;
                    for pending in context.pending.drain(..) {
                        let first = ended.is_empty() && *of == handle;
                        let state = if first {
                            CommandState::Timeout
                        } else {
                            CommandState::Abort
                        };
                        ended.push((pending.command, state));
                    }
                }
                for (command, state) in ended {
                    self.mark(file, command, state);
                }
                return;
            }
            Ending::Normal | Ending::In(_) => {}
        }
        self.clock_ns += COMMAND_NS;
        let opened = self.opened(file);
        let Some(context) = opened.contexts.get_mut(&handle) else {
            return;
        };
        let Some(pending) = context.pending.pop_front() else {
            return;
        };
        context.signalled = pending.point + 1;
        let (columns, pdi) = (context.columns, context.pdi);
        let state = match ending {
            Ending::In(state) => state,
            _ => match self.launch(file, columns, pdi, &pending) {
                Ok(()) => CommandState::Completed,
                Err(reason) => {
                    self.violation(format!("a command failed: {reason}"));
                    CommandState::Error
                }
            },
        };
        self.commands_run += 1;
        self.mark(file, pending.command, state);
    }

    /// Writes a state into a packet's header.
    pub(super) fn mark(&mut self, file: RawFd, command: u32, state: CommandState) {
        let bo = self.opened(file).bos.get_mut(&command);
        if let Some(memory) = bo.and_then(|bo| bo.memory.as_mut()) {
            let header = memory.words(1)[0];
            memory.set_first_word((header & !0xf) | state.number());
        }
    }

    pub(super) fn launch(
        &mut self,
        file: RawFd,
        columns: u32,
        pdi: Option<u32>,
        pending: &Pending,
    ) -> Result<(), String> {
        let Some(opened) = self.files.get_mut(&file) else {
            return Err("the file is closed".into());
        };
        let packet = opened
            .bos
            .get(&pending.command)
            .and_then(|bo| bo.memory.as_ref())
            .ok_or("the packet is gone")?
            .words(PACKET_WORDS);
        let count = PACKET_WORDS as u32 - 1;
        if packet[0] != (1 | (count << 12) | (3 << 28)) || packet[1] != 1 {
            return Err(format!(
                "a packet that starts with {:#x} {:#x}",
                packet[0], packet[1]
            ));
        }
        let long = |at: usize| u64::from(packet[at]) | (u64::from(packet[at + 1]) << 32);
        if long(2) != 3 {
            return Err(format!("operation {} of a kernel", long(2)));
        }
        let pdi = pdi
            .and_then(|pdi| opened.bos.get(&pdi))
            .ok_or("the configuration is gone")?;
        let at = pdi.heap_offset as usize;
        let heap = opened
            .heap
            .and_then(|heap| opened.bos.get(&heap))
            .and_then(|heap| heap.memory.as_ref())
            .ok_or("the heap is gone")?;
        let design = heap.array()[at..at + pdi.bytes as usize].to_vec();
        let reach = Reach {
            bos: &mut opened.bos,
            heap: opened.heap,
            uses: pending.uses.clone(),
        };
        let stream = reach.read(long(4), packet[6] as usize * 4)?;
        let instructions = stream
            .chunks_exact(4)
            .map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
            .collect();
        let mut launch = Launch {
            design,
            columns,
            instructions,
            buffers: (7..PACKET_WORDS).step_by(2).map(long).collect(),
            reach,
        };
        (self.executor)(&mut launch)
    }
}
