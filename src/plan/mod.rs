//! Pure decisions: (state, event, now) → (state, effects). Imports `types` only; every time is passed in.

pub mod admission;
pub mod backoff;
pub mod desired;
pub mod health;
pub mod hold;
pub mod order;
pub mod pressure;
pub mod quarantine;
pub mod reconcile;
pub mod restart;
pub mod soak;
pub mod trust;
pub mod update;
pub mod wave;
pub mod wear;
pub mod window;
