//! Joins registry and store: images come in (pull, load, import, commit) and go out (push, save, copy); layers are unpacked and made
//! again by sandboxed helpers.

pub mod carry;
pub mod check;
mod compare;
pub mod copy;
pub mod course;
pub mod decode;
mod diff;
mod fetch;
pub mod files;
mod intake;
pub mod layout;
mod line;
pub mod load;
pub mod make;
pub mod pack;
pub mod pull;
pub mod push;
pub mod recipe;
pub mod save;
pub mod sink;
mod stream;
pub mod sums;
pub mod sweep;
pub mod tar;
pub mod tree;
pub mod trust;
pub mod unpack;
pub mod worker;
