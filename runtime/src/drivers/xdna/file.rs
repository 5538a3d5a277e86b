//! The opened device node: each call to the kernel as a safe function, and nothing of what they are for.
//!
//! Calls that a signal interrupts are made again; waits keep their deadline, which is absolute.

use super::power::PowerMode;
use super::system::{Place, System};
use super::uapi;
use std::ffi::c_void;
use std::io;
use std::os::fd::RawFd;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;

/// An opened node; closed when dropped.
pub(super) struct File {
    pub(super) system: Arc<dyn System>,
    raw: RawFd,
}

/// What the kernel calls its driver, and the driver's version.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct KernelDriver {
    pub(super) name: Vec<u8>,
    pub(super) major: i32,
    pub(super) minor: i32,
}

/// Which way caches are synchronized.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sync {
    /// What the processor wrote reaches memory.
    ToDevice,
    /// The processor reads what is in memory.
    FromDevice,
}

/// A structure that the kernel fills with plain numbers.
trait Answer: Default {
    /// Number of the question.
    const QUESTION: u32;
}

impl Answer for uapi::AieMetadata {
    const QUESTION: u32 = uapi::QUERY_AIE_METADATA;
}
impl Answer for uapi::ClockMetadata {
    const QUESTION: u32 = uapi::QUERY_CLOCK_METADATA;
}
impl Answer for uapi::FirmwareVersion {
    const QUESTION: u32 = uapi::QUERY_FIRMWARE_VERSION;
}
impl Answer for uapi::GetPowerMode {
    const QUESTION: u32 = uapi::QUERY_POWER_MODE;
}

impl File {
    pub(super) fn open(system: Arc<dyn System>, node: &Path) -> io::Result<Self> {
        let raw = system.open(node)?;
        Ok(Self { system, raw })
    }

    /// Makes a call, again while signals interrupt it.
    ///
    /// # Safety
    /// `T` is the request's structure, and every address in it is of memory that the request may read or write.
    unsafe fn call<T>(&self, request: u32, argument: &mut T) -> io::Result<()> {
        let argument = NonNull::from(argument).cast::<c_void>();
        loop {
            // SAFETY: the caller's promise.
            match unsafe { self.system.ioctl(self.raw, request, argument) } {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                done => return done,
            }
        }
    }

    pub(super) fn kernel_driver(&self) -> io::Result<KernelDriver> {
        let mut name = [0u8; 64];
        let mut version = uapi::Version {
            name_len: name.len() as u64,
            name: name.as_mut_ptr() as u64,
            ..uapi::Version::default()
        };
        // SAFETY: the name goes into a buffer of the stated length; the other texts are not asked for.
        unsafe { self.call(uapi::VERSION, &mut version)? };
        // The length told is that of the whole name, also where it was cut.
        let length = (version.name_len as usize).min(name.len());
        Ok(KernelDriver {
            name: name[..length].to_vec(),
            major: version.version_major,
            minor: version.version_minor,
        })
    }

    fn ask<T: Answer>(&self) -> io::Result<T> {
        let mut answer = T::default();
        let mut question = uapi::GetInfo {
            param: T::QUESTION,
            buffer_size: size_of::<T>() as u32,
            buffer: std::ptr::from_mut(&mut answer) as u64,
        };
        // SAFETY: the answer is the question's structure, of plain numbers, and its size is told.
        unsafe { self.call(uapi::GET_INFO, &mut question)? };
        Ok(answer)
    }

    pub(super) fn array(&self) -> io::Result<uapi::AieMetadata> {
        self.ask()
    }

    pub(super) fn clocks(&self) -> io::Result<uapi::ClockMetadata> {
        self.ask()
    }

    pub(super) fn firmware(&self) -> io::Result<uapi::FirmwareVersion> {
        self.ask()
    }

    /// The kernel's number of the power mode.
    pub(super) fn power_mode(&self) -> io::Result<u8> {
        self.ask::<uapi::GetPowerMode>()
            .map(|answer| answer.power_mode)
    }

    pub(super) fn set_power_mode(&self, mode: PowerMode) -> io::Result<()> {
        let mut wanted = uapi::SetPowerMode {
            power_mode: mode.number(),
            pad: [0; 7],
        };
        let mut state = uapi::SetState {
            param: uapi::STATE_POWER_MODE,
            buffer_size: size_of::<uapi::SetPowerMode>() as u32,
            buffer: std::ptr::from_mut(&mut wanted) as u64,
        };
        // SAFETY: the buffer is the structure of this state, and its size is told.
        unsafe { self.call(uapi::SET_STATE, &mut state) }
    }

    /// Makes a buffer object and returns its handle.
    pub(super) fn create_bo(&self, kind: u32, bytes: u64) -> io::Result<u32> {
        let mut create = uapi::CreateBo {
            size: bytes,
            r#type: kind,
            ..uapi::CreateBo::default()
        };
        // SAFETY: the structure holds no address.
        unsafe { self.call(uapi::CREATE_BO, &mut create)? };
        Ok(create.handle)
    }

    /// Makes a buffer object of memory that is there already, and returns its handle. Kernels that cannot do it refuse.
    ///
    /// # Safety
    /// The memory, whole pages, stays mapped until the buffer object is closed. What the device writes to it is the
    /// caller's concern.
    pub(super) unsafe fn import_bo(&self, at: NonNull<u8>, bytes: u64) -> io::Result<u32> {
        let mut ranges = uapi::OneRange {
            header: uapi::VaTableHeader {
                dmabuf_fd: -1,
                num_entries: 1,
            },
            entry: uapi::VaEntry {
                vaddr: at.as_ptr() as u64,
                len: bytes,
            },
        };
        let mut create = uapi::CreateBo {
            vaddr: std::ptr::from_mut(&mut ranges) as u64,
            size: bytes,
            r#type: uapi::BO_SHARED,
            ..uapi::CreateBo::default()
        };
        // SAFETY: the table lives until the call returns and has as many entries as it tells; the memory is the caller's
        // promise.
        unsafe { self.call(uapi::CREATE_BO, &mut create)? };
        Ok(create.handle)
    }

    pub(super) fn bo_info(&self, handle: u32) -> io::Result<uapi::GetBoInfo> {
        let mut info = uapi::GetBoInfo {
            handle,
            ..uapi::GetBoInfo::default()
        };
        // SAFETY: the structure holds no address.
        unsafe { self.call(uapi::GET_BO_INFO, &mut info)? };
        Ok(info)
    }

    /// Gives a handle back; whatever the kernel still needs of the buffer object it keeps itself.
    pub(super) fn close_bo(&self, handle: u32) {
        let mut close = uapi::GemClose { handle, pad: 0 };
        // SAFETY: the structure holds no address. A node whose device is gone refuses, which changes nothing.
        let _ = unsafe { self.call(uapi::GEM_CLOSE, &mut close) };
    }

    pub(super) fn sync_bo(
        &self,
        handle: u32,
        direction: Sync,
        offset: u64,
        bytes: u64,
    ) -> io::Result<()> {
        let mut sync = uapi::SyncBo {
            handle,
            direction: match direction {
                Sync::ToDevice => uapi::SYNC_TO_DEVICE,
                Sync::FromDevice => uapi::SYNC_FROM_DEVICE,
            },
            offset,
            size: bytes,
        };
        // SAFETY: the structure holds no address.
        unsafe { self.call(uapi::SYNC_BO, &mut sync) }
    }

    /// Makes a hardware context over so many compute tiles and returns its handle and that of its timeline.
    pub(super) fn create_context(&self, operations: u32, tiles: u32) -> io::Result<(u32, u32)> {
        let mut quality = uapi::QosInfo {
            priority: uapi::QOS_NORMAL_PRIORITY,
            ..uapi::QosInfo::default()
        };
        let mut create = uapi::CreateHwctx {
            qos_p: std::ptr::from_mut(&mut quality) as u64,
            max_opc: operations,
            num_tiles: tiles,
            ..uapi::CreateHwctx::default()
        };
        // SAFETY: the one address is of a structure of its kind that lives until the call returns.
        unsafe { self.call(uapi::CREATE_HWCTX, &mut create)? };
        Ok((create.handle, create.syncobj_handle))
    }

    /// Gives a context its one configuration of the array, which lies in a buffer object.
    pub(super) fn configure_context(&self, context: u32, pdi: u32) -> io::Result<()> {
        let mut one = uapi::OneCu {
            header: uapi::ConfigCuHeader {
                num_cus: 1,
                pad: [0; 3],
            },
            cu: uapi::CuConfig {
                cu_bo: pdi,
                ..uapi::CuConfig::default()
            },
        };
        let mut configure = uapi::ConfigHwctx {
            handle: context,
            param_type: uapi::HWCTX_CONFIG_CU,
            param_val: std::ptr::from_mut(&mut one) as u64,
            param_val_size: size_of::<uapi::OneCu>() as u32,
            pad: 0,
        };
        // SAFETY: the one address is of a structure of this parameter, and its size is told.
        unsafe { self.call(uapi::CONFIG_HWCTX, &mut configure) }
    }

    /// Ends a context: what it had to do is stopped.
    pub(super) fn destroy_context(&self, context: u32) {
        let mut destroy = uapi::DestroyHwctx {
            handle: context,
            pad: 0,
        };
        // SAFETY: the structure holds no address. A node whose device is gone refuses; its contexts are gone with it.
        let _ = unsafe { self.call(uapi::DESTROY_HWCTX, &mut destroy) };
    }

    pub(super) fn destroy_timeline(&self, timeline: u32) {
        let mut destroy = uapi::SyncobjDestroy {
            handle: timeline,
            pad: 0,
        };
        // SAFETY: the structure holds no address.
        let _ = unsafe { self.call(uapi::SYNCOBJ_DESTROY, &mut destroy) };
    }

    /// Hands a command over, with every buffer object that it uses, and returns its point on the context's timeline.
    pub(super) fn execute(&self, context: u32, command: u32, uses: &[u32]) -> io::Result<u64> {
        let mut execute = uapi::ExecCmd {
            hwctx: context,
            r#type: uapi::CMD_EXEC_BUF,
            cmd_handles: u64::from(command),
            args: uses.as_ptr() as u64,
            cmd_count: 1,
            arg_count: uses.len() as u32,
            ..uapi::ExecCmd::default()
        };
        // SAFETY: the one address is of as many handles as told, which are only read.
        unsafe { self.call(uapi::EXEC_CMD, &mut execute)? };
        Ok(execute.seq)
    }

    /// Waits until a timeline has reached a point. False: it had not when the clock reached `deadline_ns`.
    pub(super) fn wait(&self, timeline: u32, point: u64, deadline_ns: i64) -> io::Result<bool> {
        let mut wait = uapi::TimelineWait {
            handles: std::ptr::from_ref(&timeline) as u64,
            points: std::ptr::from_ref(&point) as u64,
            timeout_nsec: deadline_ns,
            count_handles: 1,
            ..uapi::TimelineWait::default()
        };
        // SAFETY: the addresses are of one handle and one point, which are only read.
        match unsafe { self.call(uapi::TIMELINE_WAIT, &mut wait) } {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ETIME) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Maps a buffer object.
    ///
    /// # Safety
    /// As for [`System::map`].
    pub(super) unsafe fn map(
        &self,
        offset: u64,
        bytes: usize,
        place: Place,
    ) -> io::Result<NonNull<u8>> {
        // SAFETY: the caller's promise.
        unsafe { self.system.map(self.raw, offset, bytes, place) }
    }
}

impl Drop for File {
    fn drop(&mut self) {
        self.system.close(self.raw);
    }
}
