//! What each verb does.

mod agent;
pub mod app;
mod attaching;
mod carrying;
mod commit;
mod diff;
mod enroll;
mod events;
mod execute;
#[cfg(feature = "operator")]
mod fleet;
#[cfg(feature = "operator")]
mod generate;
mod history;
mod host;
mod images;
mod inspection;
mod lifecycle;
mod list;
mod login;
mod logs;
mod mount;
mod pick;
mod pods;
mod prune;
mod pull;
mod remote;
mod run;
mod search;
mod system;
mod tags;
mod technician;
mod transfer;
mod tree;
mod unshare;
mod usage;
pub mod volume;

pub use agent::{agent, agent_update, agent_watch};
pub use attaching::{attach, healthcheck_run};
pub use carrying::{cp, cp_local, export, prepare as prepare_cp};
pub use commit::{commit, import};
pub use diff::diff;
pub use enroll::agent_enroll;
pub use events::events;
pub use execute::exec;
#[cfg(feature = "operator")]
pub use fleet::fleet;
#[cfg(feature = "operator")]
pub use generate::{app_import, completion};
pub use history::history;
pub use host::{info, version};
pub use images::{images, rmi};
pub use inspection::inspect;
pub use lifecycle::{container_exists, kill, pause, rename, restart, rm, start, stop, unpause, update, wait};
pub use list::{port, ps};
pub use login::{login, logout};
pub use logs::logs;
pub use mount::{image_mount, image_unmount};
pub use pods::{network_ls, pod_create, pod_inspect, pod_ps, pod_rm, pod_start, pod_stop};
pub use prune::{container_prune, image_prune};
pub use pull::pull;
pub use remote::list_tags;
pub use run::{create, prepare, run};
pub use search::search;
pub use system::{check as system_check, df as system_df, prune as system_prune};
pub use tags::{exists, tag, untag};
pub use technician::{bundle, doctor, generate_systemd, output as bundle_output};
pub use transfer::{Given, copy, delete, given, load, push, save};
pub use tree::tree;
pub use unshare::unshare;
pub use usage::{stats, top};

use super::failure::Failure;
use std::io::{self, Write as _};

/// Writes data to stdout at once.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// What is not in what devices get.
#[cfg(not(feature = "operator"))]
fn not_here() -> Failure {
    Failure::new("this dunlin was built for devices (--no-default-features); use one that was built for operators")
}

#[cfg(not(feature = "operator"))]
pub fn fleet(_settings: Option<&std::path::Path>, _args: &super::args::FleetArgs) -> Result<u8, Failure> {
    Err(not_here())
}

#[cfg(not(feature = "operator"))]
pub fn app_import(_args: &super::args::AppImportArgs, _given: Given) -> Result<u8, Failure> {
    Err(not_here())
}

#[cfg(not(feature = "operator"))]
pub fn completion(_args: &super::args::CompletionArgs) -> Result<u8, Failure> {
    Err(not_here())
}
