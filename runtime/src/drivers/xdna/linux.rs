//! The boundary's real side: Linux, through libc and sysfs.

use super::system::{OnBus, Place, System};
use std::ffi::{CString, c_void};
use std::fs;
use std::io;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;

/// AMD's number on the PCI bus.
const VENDOR: u16 = 0x1022;
/// NPUs' numbers there: Phoenix and Hawk Point; Strix and later.
const NPUS: [u16; 2] = [0x1502, 0x17f0];
/// The capability to lock memory without a limit.
const CAP_IPC_LOCK: u32 = 14;

/// The system this program runs on.
#[derive(Clone, Copy, Default, Debug)]
pub struct Linux;

/// A number such as `0x1502` in a file of sysfs.
fn number(path: &Path) -> Option<u16> {
    let text = fs::read_to_string(path).ok()?;
    u16::from_str_radix(text.trim().strip_prefix("0x")?, 16).ok()
}

fn may_lock_anything() -> bool {
    let Ok(status) = fs::read_to_string("/proc/self/status") else {
        return false;
    };
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .is_some_and(|set| set & (1 << CAP_IPC_LOCK) != 0)
}

fn checked(base: *mut c_void) -> io::Result<NonNull<u8>> {
    if base == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mapped at address 0"))
}

/// Reserves addresses, accessible to nobody.
fn reserve(bytes: usize) -> io::Result<NonNull<u8>> {
    // SAFETY: an anonymous private mapping at an address of the kernel's choice aliases nothing.
    checked(unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_NONE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    })
}

/// Maps a file's bytes at a multiple of their number.
pub(super) fn map_aligned(
    file: RawFd,
    offset: u64,
    bytes: usize,
    flags: libc::c_int,
) -> io::Result<NonNull<u8>> {
    let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
    let base = reserve(2 * bytes)?;
    let before = base.as_ptr().align_offset(bytes);
    // SAFETY: twice the bytes hold an aligned place for them, `before` bytes from the start.
    let aligned = unsafe { base.add(before) };
    // SAFETY: the addresses are part of the reservation made above, to which nothing refers.
    let mapped = checked(unsafe {
        libc::mmap(
            aligned.as_ptr().cast(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_FIXED | flags,
            file,
            offset,
        )
    });
    // SAFETY: what is unmapped is what of the reservation is not in use: both ends, or all of it.
    unsafe {
        match &mapped {
            Ok(_) => {
                if before > 0 {
                    libc::munmap(base.as_ptr().cast(), before);
                }
                libc::munmap(aligned.add(bytes).as_ptr().cast(), bytes - before);
            }
            Err(_) => {
                libc::munmap(base.as_ptr().cast(), 2 * bytes);
            }
        }
    }
    mapped
}

/// Maps a file's bytes over what is mapped at `at`, or anywhere.
///
/// # Safety
/// With an address: whole pages are mapped there, and nothing refers to what is in them.
pub(super) unsafe fn map(
    file: RawFd,
    offset: u64,
    bytes: usize,
    at: Option<NonNull<u8>>,
) -> io::Result<NonNull<u8>> {
    let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
    let (address, fixed) = match at {
        None => (std::ptr::null_mut(), 0),
        Some(at) => (at.as_ptr(), libc::MAP_FIXED),
    };
    // SAFETY: the kernel chooses the address, or the caller promises that nothing is lost there.
    checked(unsafe {
        libc::mmap(
            address.cast(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | fixed,
            file,
            offset,
        )
    })
}

/// Puts fresh zeroed memory over what is mapped at `at`.
///
/// # Safety
/// As for [`map`] with an address.
pub(super) unsafe fn clear(at: NonNull<u8>, bytes: usize) {
    // SAFETY: the caller's promise. If it fails, the old mapping stays, which does no harm.
    unsafe {
        libc::mmap(
            at.as_ptr().cast(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED,
            -1,
            0,
        );
    }
}

impl System for Linux {
    fn nodes(&self) -> io::Result<Vec<PathBuf>> {
        let entries = match fs::read_dir("/dev/accel") {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let mut nodes = Vec::new();
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let index = name
                .to_str()
                .and_then(|name| name.strip_prefix("accel"))
                .and_then(|index| index.parse::<u32>().ok());
            nodes.extend(index.map(|index| (index, entry.path())));
        }
        nodes.sort();
        Ok(nodes.into_iter().map(|(_, node)| node).collect())
    }

    fn device_id(&self, node: &Path) -> Option<u16> {
        let device = Path::new("/sys/class/accel")
            .join(node.file_name()?)
            .join("device");
        (number(&device.join("vendor"))? == VENDOR)
            .then(|| number(&device.join("device")))
            .flatten()
    }

    fn on_bus(&self) -> Option<OnBus> {
        let devices = fs::read_dir("/sys/bus/pci/devices").ok()?;
        let mut found: Vec<OnBus> = devices
            .flatten()
            .filter_map(|entry| {
                let folder = entry.path();
                let id = number(&folder.join("device")).filter(|id| NPUS.contains(id))?;
                (number(&folder.join("vendor"))? == VENDOR).then(|| OnBus {
                    id,
                    driver: fs::read_link(folder.join("driver"))
                        .ok()
                        .and_then(|link| Some(link.file_name()?.to_string_lossy().into_owned())),
                })
            })
            .collect();
        found.sort_by_key(|npu| npu.driver.is_none());
        found.into_iter().next()
    }

    fn open(&self, node: &Path) -> io::Result<RawFd> {
        let path = CString::new(node.as_os_str().as_bytes())?;
        // SAFETY: the path is a C string that lives until the call returns.
        let file = unsafe { libc::open(path.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) };
        if file < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(file)
    }

    fn close(&self, file: RawFd) {
        // SAFETY: the caller gives back what `open` gave, and uses it no more.
        unsafe { libc::close(file) };
    }

    unsafe fn ioctl(&self, file: RawFd, request: u32, argument: NonNull<c_void>) -> io::Result<()> {
        // SAFETY: the caller's promise. The request's type differs between C libraries.
        let result = unsafe { libc::ioctl(file, request as _, argument.as_ptr()) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    unsafe fn map(
        &self,
        file: RawFd,
        offset: u64,
        bytes: usize,
        place: Place,
    ) -> io::Result<NonNull<u8>> {
        match place {
            // SAFETY: without an address nothing is replaced.
            Place::Anywhere => unsafe { map(file, offset, bytes, None) },
            Place::Aligned => map_aligned(file, offset, bytes, libc::MAP_LOCKED),
            // SAFETY: the caller's promise.
            Place::Over(at) => unsafe { map(file, offset, bytes, Some(at)) },
        }
    }

    unsafe fn unmap(&self, at: NonNull<u8>, bytes: usize) {
        // SAFETY: the caller's promise.
        unsafe { libc::munmap(at.as_ptr().cast(), bytes) };
    }

    unsafe fn clear(&self, at: NonNull<u8>, bytes: usize) {
        // SAFETY: the caller's promise.
        unsafe { clear(at, bytes) };
    }

    fn lockable_bytes(&self) -> Option<u64> {
        let mut limit = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        // SAFETY: the structure lives until the call returns.
        let result = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit) };
        if result != 0 || limit.rlim_cur == libc::RLIM_INFINITY || may_lock_anything() {
            return None;
        }
        Some(limit.rlim_cur)
    }

    fn now_ns(&self) -> i64 {
        let mut now = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: the structure lives until the call returns; every Linux has this clock.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
        now.tv_sec * 1_000_000_000 + now.tv_nsec
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_accelerators_has_no_nodes_and_no_errors() {
        for node in Linux.nodes().unwrap() {
            assert!(node.starts_with("/dev/accel"), "{node:?}");
        }
    }

    #[test]
    fn the_clock_runs() {
        let before = Linux.now_ns();
        std::thread::sleep(std::time::Duration::from_millis(2));
        assert!(Linux.now_ns() - before >= 2_000_000);
    }

    #[test]
    fn a_missing_node_is_the_systems_error() {
        let error = Linux.open(Path::new("/dev/accel/none")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    }
}
