//! The kernel interface of amdxdna, as far as it is used: structures, request numbers and constants.
//!
//! Each structure names its C twin and states size and offsets, which hold at compile time; `uapi/tests.rs` compares
//! them with the kernel's own header where a machine has it. What a call means is in `file`.

#[cfg(test)]
mod tests;

/// A structure's layout, for the comparison with the kernel's header.
#[cfg(test)]
pub(super) struct Layout {
    /// Its name in C.
    pub(super) name: &'static str,
    pub(super) bytes: usize,
    /// Names and offsets of its fields.
    pub(super) fields: &'static [(&'static str, usize)],
}

macro_rules! mirrors {
    ($(
        $(#[$about:meta])*
        $name:ident = $twin:literal, $bytes:literal bytes {
            $($field:ident: $kind:ty = $offset:literal,)*
        }
    )*) => {
        $(
            $(#[$about])*
            #[repr(C)]
            #[derive(Clone, Copy, Default, Debug)]
            pub(super) struct $name {
                $(pub(super) $field: $kind,)*
            }

            const _: () = {
                assert!(size_of::<$name>() == $bytes);
                $(assert!(std::mem::offset_of!($name, $field) == $offset);)*
            };
        )*

        /// Every structure.
        #[cfg(test)]
        pub(super) const LAYOUTS: &[Layout] = &[
            $(Layout {
                name: $twin,
                bytes: $bytes,
                fields: &[$((stringify!($field), $offset),)*],
            },)*
        ];
    };
}

mirrors! {
    /// How much work is to be expected; all zero: unknown.
    QosInfo = "amdxdna_qos_info", 24 bytes {
        gops: u32 = 0,
        fps: u32 = 4,
        dma_bandwidth: u32 = 8,
        latency: u32 = 12,
        frame_exec_time: u32 = 16,
        priority: u32 = 20,
    }

    /// Makes a hardware context.
    CreateHwctx = "amdxdna_drm_create_hwctx", 56 bytes {
        ext: u64 = 0,
        ext_flags: u64 = 8,
        qos_p: u64 = 16,
        umq_bo: u32 = 24,
        log_buf_bo: u32 = 28,
        max_opc: u32 = 32,
        num_tiles: u32 = 36,
        mem_size: u32 = 40,
        umq_doorbell: u32 = 44,
        handle: u32 = 48,
        syncobj_handle: u32 = 52,
    }

    /// Ends a hardware context.
    DestroyHwctx = "amdxdna_drm_destroy_hwctx", 8 bytes {
        handle: u32 = 0,
        pad: u32 = 4,
    }

    /// One configuration of the array that a context can run.
    CuConfig = "amdxdna_cu_config", 8 bytes {
        cu_bo: u32 = 0,
        cu_func: u8 = 4,
        pad: [u8; 3] = 5,
    }

    /// What `CuConfig`s follow behind.
    ConfigCuHeader = "amdxdna_hwctx_param_config_cu", 8 bytes {
        num_cus: u16 = 0,
        pad: [u16; 3] = 2,
    }

    /// Configures a hardware context.
    ConfigHwctx = "amdxdna_drm_config_hwctx", 24 bytes {
        handle: u32 = 0,
        param_type: u32 = 4,
        param_val: u64 = 8,
        param_val_size: u32 = 16,
        pad: u32 = 20,
    }

    /// A range of the process's memory.
    VaEntry = "amdxdna_drm_va_entry", 16 bytes {
        vaddr: u64 = 0,
        len: u64 = 8,
    }

    /// What `VaEntry`s follow behind.
    VaTableHeader = "amdxdna_drm_va_tbl", 8 bytes {
        dmabuf_fd: i32 = 0,
        num_entries: u32 = 4,
    }

    /// Makes a buffer object.
    CreateBo = "amdxdna_drm_create_bo", 32 bytes {
        flags: u64 = 0,
        vaddr: u64 = 8,
        size: u64 = 16,
        r#type: u32 = 24,
        handle: u32 = 28,
    }

    /// Where a buffer object lies.
    GetBoInfo = "amdxdna_drm_get_bo_info", 48 bytes {
        ext: u64 = 0,
        ext_flags: u64 = 8,
        handle: u32 = 16,
        pad: u32 = 20,
        map_offset: u64 = 24,
        vaddr: u64 = 32,
        xdna_addr: u64 = 40,
    }

    /// Makes the processor's caches and memory agree.
    SyncBo = "amdxdna_drm_sync_bo", 24 bytes {
        handle: u32 = 0,
        direction: u32 = 4,
        offset: u64 = 8,
        size: u64 = 16,
    }

    /// Hands a command over.
    ExecCmd = "amdxdna_drm_exec_cmd", 56 bytes {
        ext: u64 = 0,
        ext_flags: u64 = 8,
        hwctx: u32 = 16,
        r#type: u32 = 20,
        cmd_handles: u64 = 24,
        args: u64 = 32,
        cmd_count: u32 = 40,
        arg_count: u32 = 44,
        seq: u64 = 48,
    }

    /// Asks the device.
    GetInfo = "amdxdna_drm_get_info", 16 bytes {
        param: u32 = 0,
        buffer_size: u32 = 4,
        buffer: u64 = 8,
    }

    /// Tells the device.
    SetState = "amdxdna_drm_set_state", 16 bytes {
        param: u32 = 0,
        buffer_size: u32 = 4,
        buffer: u64 = 8,
    }

    /// Version of the array.
    AieVersion = "amdxdna_drm_query_aie_version", 8 bytes {
        major: u32 = 0,
        minor: u32 = 4,
    }

    /// What tiles of a kind have.
    TileMetadata = "amdxdna_drm_query_aie_tile_metadata", 16 bytes {
        row_count: u16 = 0,
        row_start: u16 = 2,
        dma_channel_count: u16 = 4,
        lock_count: u16 = 6,
        event_reg_count: u16 = 8,
        pad: [u16; 3] = 10,
    }

    /// The array's shape.
    AieMetadata = "amdxdna_drm_query_aie_metadata", 64 bytes {
        col_size: u32 = 0,
        cols: u16 = 4,
        rows: u16 = 6,
        version: AieVersion = 8,
        core: TileMetadata = 16,
        mem: TileMetadata = 32,
        shim: TileMetadata = 48,
    }

    /// A clock.
    Clock = "amdxdna_drm_query_clock", 24 bytes {
        name: [u8; 16] = 0,
        freq_mhz: u32 = 16,
        pad: u32 = 20,
    }

    /// The clocks of controller and array.
    ClockMetadata = "amdxdna_drm_query_clock_metadata", 48 bytes {
        mp_npu_clock: Clock = 0,
        h_clock: Clock = 24,
    }

    /// Version of the firmware.
    FirmwareVersion = "amdxdna_drm_query_firmware_version", 16 bytes {
        major: u32 = 0,
        minor: u32 = 4,
        patch: u32 = 8,
        build: u32 = 12,
    }

    /// The power mode there is.
    GetPowerMode = "amdxdna_drm_get_power_mode", 8 bytes {
        power_mode: u8 = 0,
        pad: [u8; 7] = 1,
    }

    /// The power mode to be.
    SetPowerMode = "amdxdna_drm_set_power_mode", 8 bytes {
        power_mode: u8 = 0,
        pad: [u8; 7] = 1,
    }

    /// Version of the kernel's driver; texts go to buffers of ours.
    Version = "drm_version", 64 bytes {
        version_major: i32 = 0,
        version_minor: i32 = 4,
        version_patchlevel: i32 = 8,
        name_len: u64 = 16,
        name: u64 = 24,
        date_len: u64 = 32,
        date: u64 = 40,
        desc_len: u64 = 48,
        desc: u64 = 56,
    }

    /// Gives a buffer object back.
    GemClose = "drm_gem_close", 8 bytes {
        handle: u32 = 0,
        pad: u32 = 4,
    }

    /// Gives a synchronization object back.
    SyncobjDestroy = "drm_syncobj_destroy", 8 bytes {
        handle: u32 = 0,
        pad: u32 = 4,
    }

    /// Waits for points of timelines.
    TimelineWait = "drm_syncobj_timeline_wait", 48 bytes {
        handles: u64 = 0,
        points: u64 = 8,
        timeout_nsec: i64 = 16,
        count_handles: u32 = 24,
        flags: u32 = 28,
        first_signaled: u32 = 32,
        pad: u32 = 36,
        deadline_nsec: u64 = 40,
    }
}

/// `ConfigCuHeader` and the one configuration behind it.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct OneCu {
    pub(super) header: ConfigCuHeader,
    pub(super) cu: CuConfig,
}
const _: () = assert!(size_of::<OneCu>() == 16);

/// `VaTableHeader` and the one range behind it.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct OneRange {
    pub(super) header: VaTableHeader,
    pub(super) entry: VaEntry,
}
const _: () = assert!(size_of::<OneRange>() == 24);

/// The kernel reads and writes the argument.
const READ_WRITE: u32 = 3;
/// The kernel only reads the argument.
const WRITE: u32 = 1;
/// First request number of a driver's own.
const DRIVER: u32 = 0x40;

const fn request<T>(direction: u32, number: u32) -> u32 {
    (direction << 30) | ((size_of::<T>() as u32) << 16) | ((b'd' as u32) << 8) | number
}

macro_rules! requests {
    ($($name:ident = $twin:literal, $value:expr;)*) => {
        $(pub(super) const $name: u32 = $value;)*

        /// Every request, by its name in C.
        #[cfg(test)]
        pub(super) const REQUESTS: &[(&str, u32)] = &[$(($twin, $name),)*];
    };
}

requests! {
    CREATE_HWCTX = "DRM_IOCTL_AMDXDNA_CREATE_HWCTX", request::<CreateHwctx>(READ_WRITE, DRIVER);
    DESTROY_HWCTX = "DRM_IOCTL_AMDXDNA_DESTROY_HWCTX", request::<DestroyHwctx>(READ_WRITE, DRIVER + 1);
    CONFIG_HWCTX = "DRM_IOCTL_AMDXDNA_CONFIG_HWCTX", request::<ConfigHwctx>(READ_WRITE, DRIVER + 2);
    CREATE_BO = "DRM_IOCTL_AMDXDNA_CREATE_BO", request::<CreateBo>(READ_WRITE, DRIVER + 3);
    GET_BO_INFO = "DRM_IOCTL_AMDXDNA_GET_BO_INFO", request::<GetBoInfo>(READ_WRITE, DRIVER + 4);
    SYNC_BO = "DRM_IOCTL_AMDXDNA_SYNC_BO", request::<SyncBo>(READ_WRITE, DRIVER + 5);
    EXEC_CMD = "DRM_IOCTL_AMDXDNA_EXEC_CMD", request::<ExecCmd>(READ_WRITE, DRIVER + 6);
    GET_INFO = "DRM_IOCTL_AMDXDNA_GET_INFO", request::<GetInfo>(READ_WRITE, DRIVER + 7);
    SET_STATE = "DRM_IOCTL_AMDXDNA_SET_STATE", request::<SetState>(READ_WRITE, DRIVER + 8);
    VERSION = "DRM_IOCTL_VERSION", request::<Version>(READ_WRITE, 0);
    GEM_CLOSE = "DRM_IOCTL_GEM_CLOSE", request::<GemClose>(WRITE, 9);
    SYNCOBJ_DESTROY = "DRM_IOCTL_SYNCOBJ_DESTROY", request::<SyncobjDestroy>(READ_WRITE, 0xc0);
    TIMELINE_WAIT = "DRM_IOCTL_SYNCOBJ_TIMELINE_WAIT", request::<TimelineWait>(READ_WRITE, 0xca);
}

macro_rules! constants {
    ($($name:ident: $kind:ty = $twin:literal, $value:expr;)*) => {
        $(pub(super) const $name: $kind = $value;)*

        /// Every constant, by its name in C.
        #[cfg(test)]
        pub(super) const CONSTANTS: &[(&str, u64)] = &[$(($twin, $name as u64),)*];
    };
}

constants! {
    BO_SHARED: u32 = "AMDXDNA_BO_SHARE", 1;
    BO_HEAP: u32 = "AMDXDNA_BO_DEV_HEAP", 2;
    BO_DEVICE: u32 = "AMDXDNA_BO_DEV", 3;
    BO_COMMAND: u32 = "AMDXDNA_BO_CMD", 4;
    NO_ADDRESS: u64 = "AMDXDNA_INVALID_ADDR", u64::MAX;
    NO_FENCE: u32 = "AMDXDNA_INVALID_FENCE_HANDLE", 0;
    HWCTX_CONFIG_CU: u32 = "DRM_AMDXDNA_HWCTX_CONFIG_CU", 0;
    SYNC_TO_DEVICE: u32 = "SYNC_DIRECT_TO_DEVICE", 0;
    SYNC_FROM_DEVICE: u32 = "SYNC_DIRECT_FROM_DEVICE", 1;
    CMD_EXEC_BUF: u32 = "AMDXDNA_CMD_SUBMIT_EXEC_BUF", 0;
    QUERY_AIE_METADATA: u32 = "DRM_AMDXDNA_QUERY_AIE_METADATA", 1;
    QUERY_CLOCK_METADATA: u32 = "DRM_AMDXDNA_QUERY_CLOCK_METADATA", 3;
    QUERY_FIRMWARE_VERSION: u32 = "DRM_AMDXDNA_QUERY_FIRMWARE_VERSION", 8;
    QUERY_POWER_MODE: u32 = "DRM_AMDXDNA_GET_POWER_MODE", 9;
    STATE_POWER_MODE: u32 = "DRM_AMDXDNA_SET_POWER_MODE", 0;
    QOS_NORMAL_PRIORITY: u32 = "AMDXDNA_QOS_NORMAL_PRIORITY", 0x200;
    POWER_DEFAULT: u8 = "POWER_MODE_DEFAULT", 0;
    POWER_LOW: u8 = "POWER_MODE_LOW", 1;
    POWER_MEDIUM: u8 = "POWER_MODE_MEDIUM", 2;
    POWER_HIGH: u8 = "POWER_MODE_HIGH", 3;
    POWER_TURBO: u8 = "POWER_MODE_TURBO", 4;
}

/// Name of the kernel's driver, as it gives it.
pub(super) const DRIVER_NAME: &[u8] = b"amdxdna_accel_driver";
