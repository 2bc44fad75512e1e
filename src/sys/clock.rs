//! Whether the kernel's clock is synchronised (adjtimex(2)), which boot this is, and random bytes.

use std::io;
use std::sync::OnceLock;

/// Whether something keeps the clock in step with the world: the kernel's STA_UNSYNC flag is off.
pub fn is_synchronised() -> bool {
    // SAFETY: `timex` is plain data; all zeroes means "read only" (modes 0).
    let mut query: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: `query` is a valid, writable `timex`; with modes 0 the kernel only fills it in.
    let state = unsafe { libc::adjtimex(&raw mut query) };
    state >= 0 && state != libc::TIME_ERROR && query.status & libc::STA_UNSYNC == 0
}

/// The id of this boot of the machine, read once; empty where the kernel does not tell.
pub fn boot_id() -> &'static str {
    static ID: OnceLock<String> = OnceLock::new();
    ID.get_or_init(|| {
        let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        id.trim().to_owned()
    })
}

/// Fills `bytes` from the kernel's random number generator.
pub fn random(bytes: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    while filled < bytes.len() {
        let rest = &mut bytes[filled..];
        // SAFETY: pointer and length describe the writable rest of the slice.
        let got = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        match usize::try_from(got) {
            Ok(n) => filled += n,
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_bytes_differ() {
        let (mut one, mut two) = ([0; 32], [0; 32]);
        random(&mut one).unwrap();
        random(&mut two).unwrap();
        assert_ne!(one, two);
        let _ = is_synchronised();
    }
}
