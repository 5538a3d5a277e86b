//! Memory the kernels work on: views of the weights and the arena, and each thread's private buffers.
//!
//! Views hold raw pointers, because several threads write disjoint parts of the arena at once. Which parts a step may
//! touch was proven when the bundle was checked; here spans are only turned into pointers.

use crate::drivers::DriverError;
use gembin_bundle::layout::{self, Format};
use gembin_bundle::manifest::{Span, WeightEntry};

/// A weight in the mapped bundle.
pub(super) struct Matrix {
    pub format: Format,
    /// Rows, unpadded; 1 for a vector.
    pub rows: usize,
    /// Columns, unpadded.
    pub cols: usize,
    /// 32-bit words of a padded row.
    pub words: usize,
    /// Groups of a row, if quantized.
    pub groups: usize,
    /// Data plane.
    pub data: *const u8,
    /// Scale plane, f16 bits.
    pub scales: *const u16,
}

impl Matrix {
    /// The weight of `entry` in the weights section.
    ///
    /// # Errors
    /// When a plane lies outside the section or is not aligned for its type.
    pub fn new(entry: &WeightEntry, section: &[u8]) -> Result<Self, DriverError> {
        let plane = |span: Span| -> Option<*const u8> {
            let start = usize::try_from(span.offset).ok()?;
            let end = start.checked_add(usize::try_from(span.bytes).ok()?)?;
            let bytes = section.get(start..end)?;
            (bytes.as_ptr() as usize)
                .is_multiple_of(4)
                .then_some(bytes.as_ptr())
        };
        let (Some(data), Some(scales)) = (plane(entry.data), plane(entry.scales)) else {
            return Err(DriverError::Unavailable {
                device: "cpu",
                reason: format!(
                    "weight `{}` lies outside the bundle's weights or is misaligned; compile the bundle again",
                    entry.name
                ),
            });
        };
        Ok(Self {
            format: entry.format,
            rows: entry.rows as usize,
            cols: entry.cols as usize,
            words: entry.format.words(entry.cols) as usize,
            groups: layout::groups(entry.cols) as usize,
            data,
            scales: scales.cast(),
        })
    }

    /// Blocks of sixteen rows.
    pub fn blocks(&self) -> usize {
        self.rows.div_ceil(layout::BLOCK_ROWS as usize)
    }

    /// A vector's values.
    pub fn values(&self) -> *const f32 {
        self.data.cast()
    }
}

/// Zeroed memory aligned to cache lines, reached through a pointer. Pages are taken when first touched.
pub(super) struct Aligned {
    base: std::ptr::NonNull<u8>,
    layout: std::alloc::Layout,
}

// SAFETY: plain memory; whoever holds the pointer decides who may use it when.
unsafe impl Send for Aligned {}
// SAFETY: as above.
unsafe impl Sync for Aligned {}

impl Aligned {
    /// `bytes` bytes.
    ///
    /// # Errors
    /// When the size overflows or the system has no memory.
    pub fn new(bytes: usize) -> Result<Self, DriverError> {
        let refuse = || DriverError::Unavailable {
            device: "cpu",
            reason: format!("no memory for {bytes} bytes of working space; use fewer threads"),
        };
        let layout =
            std::alloc::Layout::from_size_align(bytes.max(64), 64).map_err(|_| refuse())?;
        // SAFETY: the size is not zero.
        let base = unsafe { std::alloc::alloc_zeroed(layout) };
        let base = std::ptr::NonNull::new(base).ok_or_else(refuse)?;
        Ok(Self { base, layout })
    }

    /// First byte.
    pub fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }
}

impl Drop for Aligned {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout, freed once.
        unsafe { std::alloc::dealloc(self.base.as_ptr(), self.layout) };
    }
}

/// One layer's keys and values in the arena.
#[derive(Clone, Copy)]
pub(super) struct CacheView {
    pub keys: *mut u8,
    pub values: *mut u8,
    /// f16 elements, else f32.
    pub is_f16: bool,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// Positions held; position `p` lies in row `p % capacity`.
    pub capacity: usize,
    /// Positions a query sees, itself included.
    pub window: usize,
}

impl CacheView {
    /// Bytes of an element.
    pub fn element_bytes(&self) -> usize {
        if self.is_f16 { 2 } else { 4 }
    }

    /// Byte offset of a head's first row, the same in keys and values.
    pub fn head_offset(&self, slot: usize, kv_head: usize) -> usize {
        (slot * self.kv_heads + kv_head) * self.capacity * self.head_dim * self.element_bytes()
    }

    /// Byte offset of the row of position `pos`.
    pub fn row_offset(&self, slot: usize, kv_head: usize, pos: usize) -> usize {
        let row = pos % self.capacity;
        self.head_offset(slot, kv_head) + row * self.head_dim * self.element_bytes()
    }

    /// First position that a query at `pos` sees.
    pub fn first_seen(&self, pos: usize) -> usize {
        (pos + 1).saturating_sub(self.window)
    }
}
