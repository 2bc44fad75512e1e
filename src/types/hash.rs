//! The state of a SHA-256, put down and taken up again by another process.

use sha2::Sha256;
use sha2::digest::common::hazmat::{SerializableState, SerializedState};

/// The state as bytes.
pub fn save(hash: &Sha256) -> Vec<u8> {
    hash.serialize().to_vec()
}

/// The state that was saved; `None` for bytes that are none.
pub fn restore(bytes: &[u8]) -> Option<Sha256> {
    let state = SerializedState::<Sha256>::try_from(bytes).ok()?;
    Sha256::deserialize(&state).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::Digest as _;

    #[test]
    fn a_hash_goes_on_at_any_byte() {
        let data: Vec<u8> = (0..200u8).collect();
        let whole = Sha256::digest(&data);
        for at in 0..data.len() {
            let mut hash = restore(&save(&Sha256::new_with_prefix(&data[..at]))).unwrap();
            hash.update(&data[at..]);
            assert_eq!(hash.finalize(), whole, "at {at}");
        }
        assert!(restore(&[]).is_none());
        assert!(restore(&[0xff; 105]).is_none());
    }
}
