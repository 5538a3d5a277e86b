//! The fake's kernel: each call by its number, on state as the real driver keeps it.

use super::memory::Memory;
use super::{CommandState, Ending, Executor, Launch, Living, Setup};
use crate::drivers::xdna::command::PACKET_WORDS;
use crate::drivers::xdna::linux;
use crate::drivers::xdna::memory::{HEAP_BYTES, PAGE_BYTES};
use crate::drivers::xdna::system::Place;
use crate::drivers::xdna::uapi;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::c_void;
use std::io;
use std::os::fd::RawFd;
use std::ptr::NonNull;

/// Where the array sees the heap.
const HEAP_BASE: u64 = 0x400_0000;
/// Alignment of parts of the heap.
const HEAP_ALIGN: u64 = 32 << 10;
/// Commands of a context that the kernel takes before it lets a call wait.
const MOST_PENDING: usize = 4;
/// What a command takes, as the clock goes.
const COMMAND_NS: i64 = 1_000_000;

fn refuse<T>(error: i32) -> io::Result<T> {
    Err(io::Error::from_raw_os_error(error))
}

struct Bo {
    kind: u32,
    bytes: u64,
    /// Parts of the heap have none of their own.
    memory: Option<Memory>,
    /// First byte in the heap.
    heap_offset: u64,
    map_offset: u64,
    /// Where the process sees it.
    mapped_at: Option<u64>,
    /// Where the array sees it.
    address: u64,
}

struct Pending {
    point: u64,
    command: u32,
    uses: Vec<u32>,
}

struct Context {
    columns: u32,
    timeline: u32,
    pdi: Option<u32>,
    pending: VecDeque<Pending>,
    submitted: u64,
    /// Points below are signalled.
    signalled: u64,
    hung: bool,
    dead: bool,
}

#[derive(Default)]
struct Opened {
    foreign: bool,
    bos: BTreeMap<u32, Bo>,
    heap: Option<u32>,
    contexts: BTreeMap<u32, Context>,
    timelines: BTreeSet<u32>,
}

/// Memory that a command can reach.
pub(super) struct Reach<'a> {
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

    pub(super) fn read(&self, address: u64, bytes: usize) -> Result<&[u8], String> {
        let (handle, offset) = self.find(address, bytes)?;
        let memory = self.bos[&handle].memory.as_ref().ok_or("no memory")?;
        Ok(&memory.array()[offset..offset + bytes])
    }

    pub(super) fn write(&mut self, address: u64, data: &[u8]) -> Result<(), String> {
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

pub(super) struct Kernel {
    pub(super) setup: Setup,
    executor: Executor,
    files: BTreeMap<RawFd, Opened>,
    mappings: BTreeMap<usize, usize>,
    next: u32,
    endings: VecDeque<Ending>,
    failure: Option<(usize, i32)>,
    pub(super) interrupts: usize,
    pub(super) gone: bool,
    pub(super) clock_ns: i64,
    pub(super) commands_run: usize,
    pub(super) violations: Vec<String>,
}

impl Kernel {
    pub(super) fn new(setup: Setup, executor: Executor) -> Self {
        Self {
            setup,
            executor,
            files: BTreeMap::new(),
            mappings: BTreeMap::new(),
            next: 1,
            endings: VecDeque::new(),
            failure: None,
            interrupts: 0,
            gone: false,
            // Days after the start, so that a relative deadline is one long past.
            clock_ns: 400_000_000_000_000,
            commands_run: 0,
            violations: Vec::new(),
        }
    }

    pub(super) fn end_command(&mut self, count: usize, ending: Ending) {
        while self.endings.len() <= count {
            self.endings.push_back(Ending::Normal);
        }
        self.endings[count] = ending;
    }

    pub(super) fn fail_call(&mut self, count: usize, error: i32) {
        self.failure = Some((count, error));
    }

    pub(super) fn failure_is_due(&self) -> bool {
        self.failure.is_some()
    }

    pub(super) fn living(&self) -> Living {
        let files = self.files.values();
        Living {
            files: self.files.len(),
            buffers: files.clone().map(|file| file.bos.len()).sum(),
            contexts: files.clone().map(|file| file.contexts.len()).sum(),
            timelines: files.map(|file| file.timelines.len()).sum(),
            mappings: self.mappings.len(),
        }
    }

    fn violation(&mut self, what: impl Into<String>) {
        self.violations.push(what.into());
    }

    /// A number that was not given out before.
    fn fresh(&mut self) -> u32 {
        self.next += 1;
        self.next
    }

    /// Counts a call, which may be the one to fail.
    fn count_call(&mut self) -> io::Result<()> {
        match &mut self.failure {
            None => Ok(()),
            Some((0, error)) => {
                let error = *error;
                self.failure = None;
                refuse(error)
            }
            Some((count, _)) => {
                *count -= 1;
                Ok(())
            }
        }
    }

    pub(super) fn open(&mut self, foreign: bool) -> io::Result<RawFd> {
        self.count_call()?;
        if let Some(error) = self.setup.open_error.filter(|_| !foreign) {
            return refuse(error);
        }
        let file = self.fresh() as RawFd;
        self.files.insert(
            file,
            Opened {
                foreign,
                ..Opened::default()
            },
        );
        Ok(file)
    }

    pub(super) fn close(&mut self, file: RawFd) {
        match self.files.remove(&file) {
            None => self.violation("closed a file twice"),
            Some(_) if self.gone => {}
            Some(left) => {
                let counts = (left.bos.len(), left.contexts.len(), left.timelines.len());
                if counts != (0, 0, 0) {
                    self.violation(format!(
                        "closed with {} buffers, {} contexts, {} timelines left",
                        counts.0, counts.1, counts.2
                    ));
                }
            }
        }
    }

    /// # Safety
    /// As for [`crate::drivers::xdna::system::System::map`].
    pub(super) unsafe fn map(
        &mut self,
        file: RawFd,
        offset: u64,
        bytes: usize,
        place: Place,
    ) -> io::Result<NonNull<u8>> {
        self.count_call()?;
        if self.gone {
            return refuse(libc::ENODEV);
        }
        let process_addresses = self.setup.process_addresses;
        let too_much = |limit: Option<u64>| limit.is_some_and(|limit| limit < bytes as u64);
        if place == Place::Aligned && too_much(self.setup.lockable_bytes) {
            return refuse(libc::EAGAIN);
        }
        let Some(opened) = self.files.get_mut(&file) else {
            return refuse(libc::EBADF);
        };
        let found = opened.bos.values_mut().find(|bo| bo.map_offset == offset);
        let Some((bo, backing)) = found.and_then(|bo| {
            let backing = bo.memory.as_ref()?.file()?;
            (bytes as u64 <= bo.bytes).then_some((bo, backing))
        }) else {
            return refuse(libc::EINVAL);
        };
        let at = match place {
            // SAFETY: without an address nothing is replaced.
            Place::Anywhere => unsafe { linux::map(backing, 0, bytes, None)? },
            Place::Aligned => linux::map_aligned(backing, 0, bytes, 0)?,
            // SAFETY: the caller's promise.
            Place::Over(at) => unsafe { linux::map(backing, 0, bytes, Some(at))? },
        };
        bo.mapped_at = Some(at.as_ptr() as u64);
        if process_addresses && bo.kind != uapi::BO_HEAP {
            bo.address = at.as_ptr() as u64;
        }
        self.mappings.insert(at.as_ptr() as usize, bytes);
        Ok(at)
    }

    pub(super) fn forget_mapping(&mut self, at: NonNull<u8>, bytes: usize) {
        if self.mappings.remove(&(at.as_ptr() as usize)) != Some(bytes) {
            self.violation("unmapped what is not mapped");
        }
    }

    /// # Safety
    /// As for [`crate::drivers::xdna::system::System::ioctl`].
    pub(super) unsafe fn ioctl(
        &mut self,
        file: RawFd,
        request: u32,
        argument: NonNull<c_void>,
    ) -> io::Result<()> {
        let gives_back = [uapi::GEM_CLOSE, uapi::DESTROY_HWCTX, uapi::SYNCOBJ_DESTROY];
        if !gives_back.contains(&request) {
            self.count_call()?;
        }
        if self.gone {
            return refuse(libc::ENODEV);
        }
        let Some(opened) = self.files.get(&file) else {
            return refuse(libc::EBADF);
        };
        if opened.foreign && request != uapi::VERSION {
            return refuse(libc::ENOTTY);
        }
        /// The argument as the request's structure.
        ///
        /// # Safety
        /// It is one, and lives as long as it is used.
        unsafe fn of<'a, T>(argument: NonNull<c_void>) -> &'a mut T {
            // SAFETY: the caller's promise.
            unsafe { argument.cast::<T>().as_mut() }
        }
        // SAFETY: the argument is the structure of its request, by the caller's promise, and used during this call.
        unsafe {
            match request {
                uapi::VERSION => self.version(file, of(argument)),
                uapi::GET_INFO => self.info(of(argument)),
                uapi::SET_STATE => self.set_state(of(argument)),
                uapi::CREATE_BO => self.create_bo(file, of(argument)),
                uapi::GET_BO_INFO => self.bo_info(file, of(argument)),
                uapi::SYNC_BO => self.sync_bo(file, of(argument)),
                uapi::GEM_CLOSE => self.close_bo(file, of(argument)),
                uapi::CREATE_HWCTX => self.create_context(file, of(argument)),
                uapi::CONFIG_HWCTX => self.configure_context(file, of(argument)),
                uapi::DESTROY_HWCTX => self.destroy_context(file, of(argument)),
                uapi::SYNCOBJ_DESTROY => self.destroy_timeline(file, of(argument)),
                uapi::EXEC_CMD => self.execute(file, of(argument)),
                uapi::TIMELINE_WAIT => self.wait(file, of(argument)),
                _ => refuse(libc::ENOTTY),
            }
        }
    }

    fn opened(&mut self, file: RawFd) -> &mut Opened {
        self.files.entry(file).or_default()
    }

    /// # Safety
    /// The name's buffer is as long as told.
    unsafe fn version(&mut self, file: RawFd, version: &mut uapi::Version) -> io::Result<()> {
        let name: &[u8] = if self.opened(file).foreign {
            b"somebody_else"
        } else {
            uapi::DRIVER_NAME
        };
        let room = (version.name_len as usize).min(name.len());
        // SAFETY: the caller's promise.
        unsafe { std::ptr::copy_nonoverlapping(name.as_ptr(), version.name as *mut u8, room) };
        version.name_len = name.len() as u64;
        (version.version_major, version.version_minor) = (0, 6);
        Ok(())
    }

    /// # Safety
    /// The buffer is the question's structure.
    unsafe fn info(&mut self, info: &mut uapi::GetInfo) -> io::Result<()> {
        /// # Safety
        /// As above.
        unsafe fn answer<T>(info: &uapi::GetInfo, value: T) -> io::Result<()> {
            if info.buffer_size as usize != size_of::<T>() {
                return refuse(libc::EINVAL);
            }
            // SAFETY: the caller's promise.
            unsafe { (info.buffer as *mut T).write(value) };
            Ok(())
        }
        // SAFETY: the caller's promise.
        unsafe {
            match info.param {
                uapi::QUERY_AIE_METADATA => answer(
                    info,
                    uapi::AieMetadata {
                        cols: self.setup.columns,
                        rows: self.setup.rows + 2,
                        core: uapi::TileMetadata {
                            row_count: self.setup.rows,
                            row_start: 2,
                            ..uapi::TileMetadata::default()
                        },
                        ..uapi::AieMetadata::default()
                    },
                ),
                uapi::QUERY_CLOCK_METADATA => answer(
                    info,
                    uapi::ClockMetadata {
                        h_clock: uapi::Clock {
                            freq_mhz: 1600,
                            ..uapi::Clock::default()
                        },
                        ..uapi::ClockMetadata::default()
                    },
                ),
                uapi::QUERY_FIRMWARE_VERSION => match self.setup.firmware {
                    None => refuse(libc::EOPNOTSUPP),
                    Some([major, minor, patch, build]) => answer(
                        info,
                        uapi::FirmwareVersion {
                            major,
                            minor,
                            patch,
                            build,
                        },
                    ),
                },
                uapi::QUERY_POWER_MODE => answer(
                    info,
                    uapi::GetPowerMode {
                        power_mode: self.setup.power_mode,
                        pad: [0; 7],
                    },
                ),
                _ => refuse(libc::EOPNOTSUPP),
            }
        }
    }

    /// # Safety
    /// The buffer is the state's structure.
    unsafe fn set_state(&mut self, state: &mut uapi::SetState) -> io::Result<()> {
        if !self.setup.root {
            return refuse(libc::EACCES);
        }
        if state.param != uapi::STATE_POWER_MODE
            || state.buffer_size as usize != size_of::<uapi::SetPowerMode>()
        {
            return refuse(libc::EINVAL);
        }
        // SAFETY: the caller's promise.
        let wanted = unsafe { (state.buffer as *const uapi::SetPowerMode).read() };
        if wanted.power_mode > uapi::POWER_TURBO {
            return refuse(libc::EINVAL);
        }
        self.setup.power_mode = wanted.power_mode;
        Ok(())
    }

    /// # Safety
    /// The address, if there is one, is of a table of one range that stays mapped as long as the buffer object lives.
    unsafe fn create_bo(&mut self, file: RawFd, create: &mut uapi::CreateBo) -> io::Result<()> {
        if create.flags != 0 {
            return refuse(libc::EINVAL);
        }
        let mut bytes = create.size.next_multiple_of(PAGE_BYTES);
        let taken: u64 = self
            .files
            .values()
            .flat_map(|file| file.bos.values())
            .filter(|bo| {
                bo.memory
                    .as_ref()
                    .is_some_and(|memory| !memory.is_imported())
            })
            .map(|bo| bo.bytes)
            .sum();
        let lockable = self.setup.lockable_bytes;
        let (imports, process_addresses) = (self.setup.imports, self.setup.process_addresses);
        let left = self.setup.memory_bytes.saturating_sub(taken);
        let handle = self.fresh();
        let mut heap_offset = 0;
        let mut address = (1 << 48) + (u64::from(handle) << 32);
        let memory = match create.r#type {
            uapi::BO_SHARED if create.vaddr != 0 => {
                if !imports {
                    return refuse(libc::EINVAL);
                }
                // SAFETY: the caller's promise.
                let range = unsafe { (create.vaddr as *const uapi::OneRange).read() };
                let (at, len) = (range.entry.vaddr, range.entry.len);
                if range.header.num_entries != 1
                    || !at.is_multiple_of(PAGE_BYTES)
                    || !len.is_multiple_of(PAGE_BYTES)
                {
                    return refuse(libc::EINVAL);
                }
                if lockable.is_some_and(|limit| limit < len) {
                    return refuse(libc::ENOMEM);
                }
                bytes = len;
                if process_addresses {
                    address = at;
                }
                let Some(at) = NonNull::new(at as *mut u8) else {
                    return refuse(libc::EFAULT);
                };
                // SAFETY: the caller's promise.
                Some(unsafe { Memory::imported(at, len as usize) })
            }
            uapi::BO_SHARED | uapi::BO_COMMAND => {
                if bytes == 0 {
                    return refuse(libc::EINVAL);
                }
                if bytes > left {
                    return refuse(libc::ENOMEM);
                }
                Some(Memory::new(bytes as usize, true)?)
            }
            uapi::BO_HEAP => {
                if bytes != HEAP_BYTES {
                    return refuse(libc::EINVAL);
                }
                if self.opened(file).heap.is_some() {
                    return refuse(libc::EBUSY);
                }
                if bytes > left {
                    return refuse(libc::ENOMEM);
                }
                address = HEAP_BASE;
                self.opened(file).heap = Some(handle);
                Some(Memory::new(bytes as usize, false)?)
            }
            uapi::BO_DEVICE => {
                heap_offset = self.place_in_heap(file, bytes)?;
                address = HEAP_BASE + heap_offset;
                None
            }
            _ => return refuse(libc::EINVAL),
        };
        create.handle = handle;
        let bo = Bo {
            kind: create.r#type,
            bytes,
            memory,
            heap_offset,
            map_offset: u64::from(handle) << 32,
            mapped_at: None,
            address,
        };
        self.opened(file).bos.insert(handle, bo);
        Ok(())
    }

    /// The first free place in a heap that is mapped where the firmware takes it.
    fn place_in_heap(&mut self, file: RawFd, bytes: u64) -> io::Result<u64> {
        let opened = self.opened(file);
        let mapped_at = opened
            .heap
            .and_then(|heap| opened.bos.get(&heap))
            .and_then(|heap| heap.mapped_at);
        if bytes == 0 || mapped_at.is_none_or(|at| !at.is_multiple_of(HEAP_BYTES)) {
            return refuse(libc::EINVAL);
        }
        let mut parts: Vec<(u64, u64)> = opened
            .bos
            .values()
            .filter(|bo| bo.kind == uapi::BO_DEVICE)
            .map(|bo| (bo.heap_offset, bo.heap_offset + bo.bytes))
            .collect();
        parts.sort_unstable();
        let mut at = 0;
        for (start, end) in parts {
            if at + bytes <= start {
                break;
            }
            at = end.next_multiple_of(HEAP_ALIGN);
        }
        if at + bytes > HEAP_BYTES {
            return refuse(libc::ENOSPC);
        }
        Ok(at)
    }

    fn bo_info(&mut self, file: RawFd, info: &mut uapi::GetBoInfo) -> io::Result<()> {
        let process_addresses = self.setup.process_addresses;
        let Some(bo) = self.opened(file).bos.get(&info.handle) else {
            return refuse(libc::ENOENT);
        };
        let in_heap = matches!(bo.kind, uapi::BO_HEAP | uapi::BO_DEVICE);
        info.map_offset = if bo.memory.as_ref().and_then(Memory::file).is_some() {
            bo.map_offset
        } else {
            uapi::NO_ADDRESS
        };
        info.xdna_addr = if in_heap || !process_addresses {
            bo.address
        } else {
            uapi::NO_ADDRESS
        };
        Ok(())
    }

    fn sync_bo(&mut self, file: RawFd, sync: &mut uapi::SyncBo) -> io::Result<()> {
        let opened = self.opened(file);
        let Some(bo) = opened.bos.get(&sync.handle) else {
            return refuse(libc::ENOENT);
        };
        let end = sync.offset.checked_add(sync.size);
        if end.is_none_or(|end| end > bo.bytes) || sync.direction > uapi::SYNC_FROM_DEVICE {
            return refuse(libc::EINVAL);
        }
        let offset = (sync.offset + bo.heap_offset) as usize;
        let owner = if bo.memory.is_some() {
            Some(sync.handle)
        } else {
            opened.heap
        };
        let memory = owner
            .and_then(|owner| opened.bos.get_mut(&owner))
            .and_then(|bo| bo.memory.as_mut());
        let Some(memory) = memory else {
            return refuse(libc::EINVAL);
        };
        if sync.direction == uapi::SYNC_TO_DEVICE {
            memory.to_array(offset, sync.size as usize);
        } else if memory.is_imported() {
            self.violation("fetched imported memory from the device");
        } else {
            memory.to_processor(offset, sync.size as usize);
        }
        Ok(())
    }

    fn close_bo(&mut self, file: RawFd, close: &mut uapi::GemClose) -> io::Result<()> {
        let handle = close.handle;
        let opened = self.opened(file);
        let used = |context: &Context| {
            context
                .pending
                .iter()
                .any(|p| p.command == handle || p.uses.contains(&handle))
        };
        let in_use = opened.contexts.values().any(used);
        let known = opened.bos.remove(&handle).is_some();
        if opened.heap == Some(handle) {
            opened.heap = None;
        }
        if in_use {
            self.violation("gave a buffer back that a command under way uses");
        }
        if !known {
            self.violation("gave a buffer back twice");
            return refuse(libc::EINVAL);
        }
        Ok(())
    }

    /// # Safety
    /// The address is of a structure of its kind.
    unsafe fn create_context(
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
    unsafe fn configure_context(
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

    fn destroy_context(&mut self, file: RawFd, destroy: &mut uapi::DestroyHwctx) -> io::Result<()> {
        if self.opened(file).contexts.remove(&destroy.handle).is_none() {
            self.violation("ended a context twice");
            return refuse(libc::EINVAL);
        }
        Ok(())
    }

    fn destroy_timeline(
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
    unsafe fn execute(&mut self, file: RawFd, execute: &mut uapi::ExecCmd) -> io::Result<()> {
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
    unsafe fn wait(&mut self, file: RawFd, wait: &mut uapi::TimelineWait) -> io::Result<()> {
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
    fn run(&mut self, file: RawFd, handle: u32) {
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
    fn mark(&mut self, file: RawFd, command: u32, state: CommandState) {
        let bo = self.opened(file).bos.get_mut(&command);
        if let Some(memory) = bo.and_then(|bo| bo.memory.as_mut()) {
            let header = memory.words(1)[0];
            memory.set_first_word((header & !0xf) | state.number());
        }
    }

    fn launch(
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
