//! Notices allocations that fail, which says nothing about the audio that needed them.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether an allocation has failed since the last [`forget`].
static WAS_SHORT: AtomicBool = AtomicBool::new(false);

/// Forgets earlier failures of allocations.
pub fn forget() {
    WAS_SHORT.store(false, Ordering::Relaxed);
}

/// Whether an allocation has failed since [`forget`].
pub fn was_short() -> bool {
    WAS_SHORT.load(Ordering::Relaxed)
}

/// Records a failed allocation.
pub fn note_shortage() {
    WAS_SHORT.store(true, Ordering::Relaxed);
}

/// The system's allocator. A failed allocation in Rust ends in an abort, whose handler looks here.
struct Noticing;

#[global_allocator]
static ALLOCATOR: Noticing = Noticing;

fn noticed(memory: *mut u8) -> *mut u8 {
    if memory.is_null() {
        note_shortage();
    }
    memory
}

// SAFETY: every call goes to the system's allocator with the caller's arguments, whose conditions are the same.
unsafe impl GlobalAlloc for Noticing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: see above.
        noticed(unsafe { System.alloc(layout) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: see above.
        noticed(unsafe { System.alloc_zeroed(layout) })
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: see above.
        noticed(unsafe { System.realloc(memory, layout, size) })
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: see above.
        unsafe { System.dealloc(memory, layout) }
    }
}
