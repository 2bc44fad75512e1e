//! Container ids: 32 random bytes as 64 hex digits, as podman's.

use std::fmt;
use std::str::FromStr;

use super::digest::Digest;

/// A container's id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerId([u8; 32]);

/// A text that is not a container id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a container id: expected 64 hex digits")]
pub struct IdError(String);

impl ContainerId {
    /// The id with these random bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> ContainerId {
        ContainerId(bytes)
    }

    /// All 64 hex digits.
    pub fn hex(&self) -> String {
        super::digest::hex(&self.0)
    }

    /// The first 12 hex digits, as listings show them.
    pub fn short(&self) -> String {
        super::digest::hex(&self.0[..6])
    }
}

impl FromStr for ContainerId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<ContainerId, IdError> {
        Digest::from_hex(text)
            .map(|d| ContainerId(*d.as_bytes()))
            .map_err(|_| IdError(text.chars().take(80).collect()))
    }
}

impl TryFrom<String> for ContainerId {
    type Error = IdError;

    fn try_from(text: String) -> Result<ContainerId, IdError> {
        text.parse()
    }
}

impl From<ContainerId> for String {
    fn from(id: ContainerId) -> String {
        id.hex()
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.hex())
    }
}

impl fmt::Debug for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}
