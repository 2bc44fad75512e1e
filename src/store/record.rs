//! The store's records.

use serde::{Deserialize, Serialize};

use super::layer::LayerKey;
use crate::disk::record::{Record, kinds};
use crate::types::digest::Digest;
use crate::types::platform::Platform;
use crate::types::reference::Reference;
use crate::types::time::Unix;

/// The store's format.
pub(super) const FORMAT: u32 = 1;

/// The record in `<data>/format`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Format {
    pub(super) version: u32,
}

impl Record for Format {
    const KIND: u16 = kinds::STORE;
}

/// Owner and mode of a root folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootDir {
    /// Permission bits (07777).
    pub mode: u32,
    /// Owner inside the container.
    pub uid: u32,
    /// Group inside the container.
    pub gid: u32,
}

/// One unpacked layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRecord {
    /// The name of its folder: diff id or chain id.
    pub key: Digest,
    /// SHA-256 of its archive.
    pub diff: Digest,
    /// Whether it leans on those below it.
    pub leans: bool,
    /// Whether it hides everything below it.
    pub opaque: bool,
    /// Owner and mode of its root, when it says so.
    pub root: Option<RootDir>,
    /// Bytes on disk, each file rounded up to 4 KiB, its sums and its recipe too.
    pub size: u64,
    /// Entries of its archive.
    pub entries: u64,
    /// Device nodes that were left out.
    pub devices: u64,
    /// Its short link's name.
    pub alias: String,
}

impl Record for LayerRecord {
    const KIND: u16 = kinds::LAYER;
}

/// An image as it is kept: without its names, which are records of their own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ImageData {
    pub(super) id: Digest,
    pub(super) manifest: Digest,
    pub(super) layers: Vec<LayerKey>,
    pub(super) platform: Platform,
    pub(super) size: u64,
    pub(super) created: Unix,
}

impl Record for ImageData {
    const KIND: u16 = kinds::IMAGE;
}

/// An image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRecord {
    /// Digest of its configuration: the image's id.
    pub id: Digest,
    /// Digest of its manifest.
    pub manifest: Digest,
    /// Its names, sorted.
    pub names: Vec<Reference>,
    /// Its layers, lowest first.
    pub layers: Vec<LayerKey>,
    /// What it runs on.
    pub platform: Platform,
    /// Bytes of its layers' archives, its configuration and its manifest; layers that it shares count fully.
    pub size: u64,
    /// When it was made.
    pub created: Unix,
}

/// A name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefRecord {
    /// The name.
    pub name: Reference,
    /// The image that has it.
    pub image: Digest,
    /// That image's manifest.
    pub manifest: Digest,
    /// What the name stood for in its registry: the digest of an index or a manifest.
    pub resolved: Digest,
}

impl Record for RefRecord {
    const KIND: u16 = kinds::REFERENCE;
}

/// What a pin keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PinData {
    pub(super) images: Vec<Digest>,
}

impl Record for PinData {
    const KIND: u16 = kinds::PIN;
}

/// The layers that a staging area counts on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hold {
    pub(super) layers: Vec<Digest>,
    pub(super) blobs: Vec<Digest>,
}

impl Record for Hold {
    const KIND: u16 = kinds::HOLD;
}
