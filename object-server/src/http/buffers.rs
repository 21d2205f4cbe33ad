//! Large buffers, used again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Buffers kept for later; what comes back beyond that is freed.
const KEPT: usize = 64;

/// A store of initialised buffers of one size: the kernel's page faults and the zeroing are paid once.
#[derive(Debug)]
pub(super) struct Buffers {
    size: usize,
    free: Mutex<Vec<Vec<u8>>>,
}

impl Buffers {
    /// Buffers of `size` bytes.
    pub(super) fn new(size: usize) -> Self {
        Self { size: size.max(4096), free: Mutex::default() }
    }

    /// Bytes in each.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// A buffer; it comes back by itself.
    pub(super) fn take(self: &Arc<Self>) -> Buffer {
        let data = self.lock().pop().unwrap_or_else(|| vec![0; self.size]);
        Buffer { data, filled: 0, home: Arc::clone(self) }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A buffer of which the first `filled` bytes mean something.
#[derive(Debug)]
pub(super) struct Buffer {
    data: Vec<u8>,
    filled: usize,
    home: Arc<Buffers>,
}

impl Buffer {
    /// Bytes that mean something.
    pub(super) fn filled(&self) -> usize {
        self.filled
    }

    /// Room after them, up to `end` bytes from the start.
    pub(super) fn room(&mut self, end: usize) -> &mut [u8] {
        let end = end.min(self.data.len());
        self.data.get_mut(self.filled..end).unwrap_or_default()
    }

    /// So many bytes of the room were filled.
    pub(super) fn fill(&mut self, bytes: usize) {
        self.filled = (self.filled + bytes).min(self.data.len());
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self.data.get(..self.filled).unwrap_or_default()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut free = self.home.lock();
        if free.len() < KEPT {
            free.push(std::mem::take(&mut self.data));
        }
    }
}
