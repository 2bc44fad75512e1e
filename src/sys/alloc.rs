//! Memory for roles that end soon: taken from one region in pieces of fixed sizes, which are used again but never given
//! back. The C library's allocator asks the kernel for nearly every piece that is new, which costs a short run a tenth of
//! its time. Long-lived roles never [`begin`], and have the C library's, which gives memory back.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Bytes of the region; only what is used of it takes memory.
const REGION: usize = 8 << 20;
/// Bytes that are there at once instead of page by page.
const READY: usize = 128 << 10;
/// Pieces are multiples of this, and aligned to it.
const UNIT: usize = 16;
/// Largest piece, in bytes; what is larger comes from the C library.
const LARGEST: usize = 32 << 10;
/// How many sizes of pieces there are: see [`class`].
const CLASSES: usize = 22;

#[global_allocator]
static MEMORY: Allocator = Allocator::new();

/// Takes memory from a region from now on. For a process with one thread that ends soon, before it has done much.
pub fn begin() {
    MEMORY.begin();
}

/// The allocator of the program.
#[derive(Debug)]
struct Allocator {
    /// First byte of the region; 0: there is none.
    base: AtomicUsize,
    taken: AtomicBool,
    /// Guarded by `taken`.
    state: UnsafeCell<State>,
}

#[derive(Debug)]
struct State {
    /// First byte that was never used.
    next: usize,
    /// First free piece of each size; each begins with the address of the next one.
    free: [usize; CLASSES],
}

// SAFETY: `state` is only touched by who holds `taken`.
unsafe impl Sync for Allocator {}

/// The size of the pieces that hold `size` bytes: its number, and its bytes. 16, 32, 48, 64, 96, 128, 192, … 32,768.
const fn class(size: usize) -> (usize, usize) {
    let units = size.div_ceil(UNIT);
    if units <= 4 {
        let units = if units == 0 { 1 } else { units };
        return (units - 1, units * UNIT);
    }
    let above = size.next_power_of_two();
    let steps = above.trailing_zeros() as usize - 7;
    // Between two powers there is one size.
    if size <= above / 4 * 3 {
        (4 + 2 * steps, above / 4 * 3)
    } else {
        (5 + 2 * steps, above)
    }
}

impl Allocator {
    const fn new() -> Self {
        Allocator {
            base: AtomicUsize::new(0),
            taken: AtomicBool::new(false),
            state: UnsafeCell::new(State {
                next: 0,
                free: [0; CLASSES],
            }),
        }
    }

    /// Where there can be no such region, or there is one, all stays as it is.
    fn begin(&self) {
        if self.base.load(Ordering::Acquire) != 0 {
            return;
        }
        // SAFETY: a new mapping at an address of the kernel's choice.
        let region = unsafe {
            libc::mmap(
                ptr::null_mut(),
                REGION,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if region == libc::MAP_FAILED {
            return;
        }
        // SAFETY: within the mapping. Before Linux 5.14 it is EINVAL, and the pages come one by one.
        unsafe { libc::madvise(region, READY, libc::MADV_POPULATE_WRITE) };
        let base = region as usize;
        self.locked(|state| state.next = base);
        self.base.store(base, Ordering::Release);
    }

    fn locked<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        while self
            .taken
            .compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed)
            .is_err()
        {
            std::hint::spin_loop();
        }
        // SAFETY: nobody else has it until `taken` is false again.
        let done = act(unsafe { &mut *self.state.get() });
        self.taken.store(false, Ordering::Release);
        done
    }

    /// Whether `address` is in the region.
    fn owns(&self, address: usize) -> bool {
        let base = self.base.load(Ordering::Acquire);
        base != 0 && address.wrapping_sub(base) < REGION
    }

    /// A piece for `layout`; null where it is too large, or the region is used up or not there.
    fn take(&self, layout: Layout) -> *mut u8 {
        let base = self.base.load(Ordering::Acquire);
        if base == 0 || layout.size() > LARGEST || layout.align() > UNIT {
            return ptr::null_mut();
        }
        let (number, bytes) = class(layout.size());
        self.locked(|state| {
            let Some(first) = state.free.get_mut(number) else {
                return ptr::null_mut();
            };
            if *first != 0 {
                let piece = *first as *mut usize;
                // SAFETY: a free piece of this region, which holds the address of the next one.
                *first = unsafe { *piece };
                return piece.cast();
            }
            if state.next + bytes > base + REGION {
                return ptr::null_mut();
            }
            let piece = state.next as *mut u8;
            state.next += bytes;
            piece
        })
    }

    /// Takes back a piece of this region.
    fn put_back(&self, piece: *mut u8, size: usize) {
        let (number, _) = class(size);
        self.locked(|state| {
            if let Some(first) = state.free.get_mut(number) {
                // SAFETY: the piece is nobody's any more, and has room for an address.
                unsafe { *piece.cast::<usize>() = *first };
                *first = piece as usize;
            }
        });
    }
}

// SAFETY: pieces of the region do not overlap, are at least as large and as aligned as asked for, and go back to the list
// that they came from, since their size follows from the layout; everything else is the C library's.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match self.take(layout) {
            // SAFETY: as the caller promises.
            piece if piece.is_null() => unsafe { System.alloc(layout) },
            piece => piece,
        }
    }

    unsafe fn dealloc(&self, piece: *mut u8, layout: Layout) {
        if self.owns(piece as usize) {
            self.put_back(piece, layout.size());
        } else {
            // SAFETY: it came from there, with this layout.
            unsafe { System.dealloc(piece, layout) };
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match self.take(layout) {
            // SAFETY: as the caller promises.
            piece if piece.is_null() => unsafe { System.alloc_zeroed(layout) },
            piece => {
                // SAFETY: it has that many bytes.
                unsafe { ptr::write_bytes(piece, 0, layout.size()) };
                piece
            }
        }
    }

    unsafe fn realloc(&self, piece: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !self.owns(piece as usize) {
            // SAFETY: it came from there, with this layout.
            return unsafe { System.realloc(piece, layout, size) };
        }
        if size <= LARGEST && class(size).0 == class(layout.size()).0 {
            return piece;
        }
        // SAFETY: the caller promises that the size is none that overflows.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        // SAFETY: the same.
        let new = unsafe { self.alloc(wanted) };
        if !new.is_null() {
            // SAFETY: both have that many bytes, and are not the same.
            unsafe { ptr::copy_nonoverlapping(piece, new, layout.size().min(size)) };
            self.put_back(piece, layout.size());
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_numbered_without_gaps_and_hold_what_is_asked_for() {
        let mut last = (0, UNIT);
        for size in 0..=LARGEST {
            let (number, bytes) = class(size);
            assert!(bytes >= size && bytes % UNIT == 0, "{size}: {bytes}");
            assert!(bytes < UNIT * 2 || bytes <= size * 2, "{size}: {bytes}");
            match number.checked_sub(last.0) {
                Some(0) => assert_eq!(bytes, last.1, "{size}"),
                Some(1) => assert!(bytes > last.1, "{size}"),
                _ => panic!("{size}: number {number} after {}", last.0),
            }
            last = (number, bytes);
        }
        assert_eq!(last, (CLASSES - 1, LARGEST));
    }

    #[test]
    fn pieces_do_not_overlap_and_are_used_again() {
        let allocator = Allocator::new();
        let layout = |size| Layout::from_size_align(size, 8).expect("a layout");
        // SAFETY: the layouts are those of the pieces.
        unsafe {
            let outside = allocator.alloc(layout(100));
            allocator.begin();
            assert!(!allocator.owns(outside as usize));
            allocator.dealloc(outside, layout(100));
            let sizes = [1, 16, 17, 100, 129, 4000, 32 << 10];
            let pieces: Vec<*mut u8> = sizes
                .iter()
                .map(|&size| {
                    let piece = allocator.alloc_zeroed(layout(size));
                    assert!(
                        allocator.owns(piece as usize) && (piece as usize).is_multiple_of(UNIT),
                        "{size}"
                    );
                    ptr::write_bytes(piece, size as u8, size);
                    piece
                })
                .collect();
            for (&size, &piece) in sizes.iter().zip(&pieces) {
                assert!((0..size).all(|at| *piece.add(at) == size as u8), "{size}");
            }
            let (first, grown) = (pieces[3], allocator.realloc(pieces[3], layout(100), 128));
            assert_eq!(first, grown, "the same size of piece");
            let moved = allocator.realloc(grown, layout(128), 40 << 10);
            assert!(!allocator.owns(moved as usize) && *moved.add(99) == 100);
            allocator.dealloc(moved, layout(40 << 10));
            assert_eq!(allocator.alloc(layout(120)), first, "used again");
            // Used up, it is the C library's turn.
            let mut inside = 0;
            while allocator.owns(allocator.alloc(layout(LARGEST)) as usize) {
                inside += 1;
            }
            assert!((200..=256).contains(&inside), "{inside}");
        }
    }
}
