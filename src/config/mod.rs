//! Settings: agent.toml, boards, the ecosystem's files, and every environment variable in one list.

pub mod env;
