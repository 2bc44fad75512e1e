//! A containerd of the bench's own, in a folder, with its client.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::fixture::child::Running;
use super::fixture::cmd::Cmd;

/// Starts one with everything in this folder.
pub fn start(folder: &Path) -> Result<Running, String> {
    if !Path::new("/usr/bin/containerd").exists() {
        return Err("containerd is not installed".to_owned());
    }
    let config = folder.join("config.toml");
    let text = format!(
        "version = 2\nroot = '{0}/data'\nstate = '{0}/state'\ndisabled_plugins = ['io.containerd.grpc.v1.cri']\n[grpc]\naddress = '{0}/sock'\n",
        folder.display()
    );
    fs::write(&config, text).map_err(|e| e.to_string())?;
    let mut command = Command::new("containerd");
    command.arg("-c").arg(&config);
    let mut daemon = Running::start("containerd", command);
    daemon.wait_for("containerd successfully booted", Duration::from_secs(20));
    Ok(daemon)
}

/// The client of the one in this folder.
pub fn ctr(folder: &Path) -> Cmd {
    Cmd::new("ctr").arg("-a").arg(folder.join("sock"))
}
