//! The unwinder of binaries that have nothing to unwind with: a panic there aborts, and tables and symbols are left out. The
//! standard library would still bring its own unwinder and the reader of debugging information for the backtrace of a
//! panic, 150 KB, to print nothing. With these in its place the linker leaves both out; a panic says what and where as ever.

use std::ffi::{c_int, c_uint, c_void};

/// `_URC_END_OF_STACK` of the Itanium ABI.
const END_OF_STACK: c_uint = 5;

/// There are no frames to tell of.
// SAFETY: the name is the platform's unwinder's, whose place this takes; it keeps its contract: `trace` is called for each
// frame that is known, which are none.
#[unsafe(no_mangle)]
extern "C-unwind" fn _Unwind_Backtrace(_trace: *const c_void, _argument: *mut c_void) -> c_uint {
    END_OF_STACK
}

/// What only somebody with a frame or an exception could call.
macro_rules! never_called {
    ($($name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {$(
        // SAFETY: the name is the platform's unwinder's; nobody has the frame or the exception that it takes, since none is ever made.
        #[unsafe(no_mangle)]
        extern "C-unwind" fn $name($($argument: $type),*) -> $result {
            $(let _ = $argument;)*
            std::process::abort()
        }
    )*};
}

never_called! {
    _Unwind_RaiseException(exception: *mut c_void) -> c_uint;
    _Unwind_Resume(exception: *mut c_void) -> ();
    _Unwind_DeleteException(exception: *mut c_void) -> ();
    _Unwind_GetLanguageSpecificData(frame: *mut c_void) -> *mut c_void;
    _Unwind_GetRegionStart(frame: *mut c_void) -> usize;
    _Unwind_GetTextRelBase(frame: *mut c_void) -> usize;
    _Unwind_GetDataRelBase(frame: *mut c_void) -> usize;
    _Unwind_GetIP(frame: *mut c_void) -> usize;
    _Unwind_GetIPInfo(frame: *mut c_void, before: *mut c_int) -> usize;
    _Unwind_GetCFA(frame: *mut c_void) -> usize;
    _Unwind_SetGR(frame: *mut c_void, register: c_int, value: usize) -> ();
    _Unwind_SetIP(frame: *mut c_void, value: usize) -> ();
    _Unwind_FindEnclosingFunction(address: *mut c_void) -> *mut c_void;
}
