//! What is said on the keeper's socket.
//!
//! A packet is the version (two bytes, little endian) and a postcard body: a [`Request`] from the client, a [`Reply`] from
//! the keeper. Every request is answered by one reply; [`Reply::Ended`] may come at any time for workers that the
//! connection started. A request of another version is answered with [`Reply::Failed`] in the keeper's version.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::config::subid::StoreMap;
use crate::monitor::wire::{MonitorConfig, Refusal};
use crate::runtime::cgroup::Tree;
use crate::types::bounds::PACKET_BYTES;
use crate::types::ids::ContainerId;

/// Version of everything in this file; it also covers [`MonitorConfig`].
pub const VERSION: u16 = 1;

/// What a client wants.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// Who are you? Answered with [`Reply::Info`].
    Hello,
    /// Start a monitor and with it its container; descriptors may come along: a connected packet socket that is
    /// already an attach session (see `monitor::wire`), and what `monitor::handed` says. Answered with [`Reply::Started`] when the program runs.
    Monitor(Box<MonitorConfig>),
    /// Start a worker in the store's user namespace; one descriptor comes along: its control socket. Answered with
    /// [`Reply::Started`], later with [`Reply::Ended`].
    Worker,
    /// Which monitors live? Answered with [`Reply::Monitors`].
    List,
    /// Become the binary that is now installed, with all descriptors. Answered with [`Reply::Done`] before.
    Reload,
    /// Leave. With `stop` the containers are asked to end first. Answered with [`Reply::Done`] before.
    Shutdown {
        /// End the containers.
        stop: bool,
    },
    /// The store's user namespace, for somebody who wants to enter it. Answered with [`Reply::Done`] and one descriptor.
    Namespace,
}

/// What the keeper says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    /// About itself.
    Info(Box<Info>),
    /// It runs: the container's first process, or the worker.
    Started {
        /// In the keeper's pid namespace.
        pid: i32,
    },
    /// It could not be done, and nothing of it is left.
    Failed(Refusal),
    /// A worker has ended.
    Ended {
        /// Its number from [`Reply::Started`].
        pid: i32,
        /// Its exit code, 128 + n for signal n.
        code: i32,
    },
    /// The monitors that live.
    Monitors(Vec<Live>),
    /// Understood.
    Done,
}

/// About a keeper.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Info {
    /// Its process id.
    pub pid: i32,
    /// dunlin's version.
    pub version: String,
    /// The store's control groups.
    pub cgroup: Tree,
    /// The map of the store's user namespace.
    pub ids: StoreMap,
    /// True if a unit holds it: it does not leave when idle.
    pub unit: bool,
}

/// A monitor that lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Live {
    /// Its container.
    pub id: ContainerId,
    /// The monitor's process.
    pub pid: i32,
}

/// Why a packet is not understood.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum WireError {
    /// Another dunlin is on the other side.
    #[error(
        "the other side speaks version {found} of the keeper's protocol, this is {VERSION}; run `systemctl reload dunlin-keeper`, or use the same dunlin on both sides"
    )]
    Version {
        /// Its version.
        found: u16,
    },
    /// Too short, too long or not a message.
    #[error("the packet is no message of the keeper's protocol: {why}")]
    Malformed {
        /// What is wrong.
        why: String,
    },
    /// The message does not fit into a packet.
    #[error(
        "the message has {bytes} bytes, a packet holds {PACKET_BYTES}; use a shorter command, environment or list of layers"
    )]
    TooLong {
        /// Its size.
        bytes: usize,
    },
}

/// The packet of a message.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, WireError> {
    let malformed = |error: postcard::Error| WireError::Malformed { why: error.to_string() };
    let packet = postcard::to_extend(message, VERSION.to_le_bytes().to_vec()).map_err(malformed)?;
    if packet.len() > PACKET_BYTES {
        return Err(WireError::TooLong { bytes: packet.len() });
    }
    Ok(packet)
}

/// The message in a packet.
pub fn decode<T: DeserializeOwned>(packet: &[u8]) -> Result<T, WireError> {
    let malformed = |why: String| WireError::Malformed { why };
    let Some((version, body)) = packet.split_first_chunk::<2>() else {
        return Err(malformed(format!("it has {} bytes", packet.len())));
    };
    match u16::from_le_bytes(*version) {
        VERSION => postcard::from_bytes(body).map_err(|error| malformed(error.to_string())),
        found => Err(WireError::Version { found }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_wire_and_strangers_are_named() {
        let packet = encode(&Request::Shutdown { stop: true }).unwrap();
        assert_eq!(decode::<Request>(&packet).unwrap(), Request::Shutdown { stop: true });
        let mut newer = packet.clone();
        newer[0] = 9;
        assert_eq!(decode::<Request>(&newer).unwrap_err(), WireError::Version { found: 9 });
        for short in [&packet[..0], &packet[..1], &packet[..2], &[1, 0, 200][..]] {
            assert!(
                matches!(decode::<Request>(short), Err(WireError::Malformed { .. })),
                "{short:?}"
            );
        }
        let endless = Reply::Failed(Refusal::new("x".repeat(PACKET_BYTES)));
        assert!(matches!(encode(&endless), Err(WireError::TooLong { .. })));
    }
}
