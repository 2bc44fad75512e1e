//! Picks the role.

use std::process::ExitCode;

/// Picks the role from the arguments, before any thread exists.
pub fn main() -> ExitCode {
    ExitCode::SUCCESS
}
