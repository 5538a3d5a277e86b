//! The fake's kernel: which call it is, what there is, and what it tells of itself. Buffer objects are in `buffers`,
//! contexts and their commands in `work`.

mod buffers;
mod work;

pub(super) use work::Reach;

use super::memory::Memory;
use super::{Ending, Executor, Living, Setup};
use crate::drivers::xdna::linux;
use crate::drivers::xdna::system::Place;
use crate::drivers::xdna::uapi;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::c_void;
use std::io;
use std::os::fd::RawFd;
use std::ptr::NonNull;

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
}
