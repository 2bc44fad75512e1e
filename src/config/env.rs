//! Every environment variable that dunlin reads, in one list.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::OnceLock;

/// A variable: its name and what it is for.
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// What it is for.
    pub meaning: &'static str,
}

macro_rules! variables {
    ($($constant:ident = $name:literal: $meaning:literal;)*) => {
        $(#[doc = $meaning] pub const $constant: &str = $name;)*
        /// All of them, for `--help` and the documentation.
        pub const ALL: &[Variable] = &[$(Variable { name: $name, meaning: $meaning }),*];
    };
}

variables! {
    HOME = "HOME": "home folder of the user";
    XDG_DATA_HOME = "XDG_DATA_HOME": "data of the user's own store; `~/.local/share` when unset";
    XDG_RUNTIME_DIR = "XDG_RUNTIME_DIR": "run root of the user's own store; `/tmp/dunlin-UID` when unset";
    XDG_CONFIG_HOME = "XDG_CONFIG_HOME": "settings of the user; `~/.config` when unset";
    XDG_CACHE_HOME = "XDG_CACHE_HOME": "answers that podman remembers about short names; `~/.cache` when unset";
    DOCKER_CONFIG = "DOCKER_CONFIG": "folder of Docker's config.json; `~/.docker` when unset";
    REGISTRY_AUTH_FILE = "REGISTRY_AUTH_FILE": "registry credentials instead of the default auth.json";
    SSL_CERT_FILE = "SSL_CERT_FILE": "bundle of the certificate authorities that servers are believed with, instead of the host's";
    CONTAINERS_REGISTRIES_CONF = "CONTAINERS_REGISTRIES_CONF": "registries.conf instead of the default ones";
    DUNLIN_ROOT = "DUNLIN_ROOT": "data folder, as `--root`";
    DUNLIN_RUNROOT = "DUNLIN_RUNROOT": "run root, as `--runroot`";
    DUNLIN_CONFIG = "DUNLIN_CONFIG": "settings file, as `--config`";
    DUNLIN_UNSHARED = "DUNLIN_UNSHARED": "set by `dunlin unshare`: user id of the store's owner, outside";
    DUNLIN_KILL_POINT = "DUNLIN_KILL_POINT": "tests only: the agent kills itself at this point of an update";
    HTTP_PROXY = "HTTP_PROXY": "proxy for plain registries";
    HTTPS_PROXY = "HTTPS_PROXY": "proxy for registries with TLS";
    NO_PROXY = "NO_PROXY": "registries that are reached without a proxy";
    HTTP_PROXY_LOWER = "http_proxy": "as HTTP_PROXY, before it";
    HTTPS_PROXY_LOWER = "https_proxy": "as HTTPS_PROXY, before it";
    NO_PROXY_LOWER = "no_proxy": "as NO_PROXY, before it";
    NO_COLOR = "NO_COLOR": "no colour, when set";
    JOURNAL_STREAM = "JOURNAL_STREAM": "set by systemd: log lines carry their level";
    NOTIFY_SOCKET = "NOTIFY_SOCKET": "set by systemd: where readiness is told";
    WATCHDOG_USEC = "WATCHDOG_USEC": "set by systemd: how often the watchdog is fed";
    LISTEN_FDS = "LISTEN_FDS": "set by systemd: sockets that it opened";
    LISTEN_FDNAMES = "LISTEN_FDNAMES": "set by systemd: names of the sockets";
    LISTEN_PID = "LISTEN_PID": "set by systemd: whom the sockets are for";
    PATH = "PATH": "passed on to helpers";
    DBUS_SESSION_BUS_ADDRESS = "DBUS_SESSION_BUS_ADDRESS": "passed on to `systemd-run` of the user's own systemd";
    TERM = "TERM": "type of the terminal, passed to `-t`";
}

/// Home folder of the user that this process became.
static BECAME: OnceLock<PathBuf> = OnceLock::new();

/// From now on the folders of the user that called are not looked at: this process became the one with this home.
pub fn become_user(home: PathBuf) {
    // Becoming somebody happens once in a process's life.
    let _ = BECAME.set(home);
}

/// The value of a variable of this list; an empty one counts as unset.
pub fn get(name: &'static str) -> Option<OsString> {
    match (BECAME.get(), name) {
        (Some(home), HOME) => Some(home.clone().into()),
        (Some(_), XDG_DATA_HOME | XDG_RUNTIME_DIR | XDG_CONFIG_HOME) => None,
        _ => std::env::var_os(name).filter(|v| !v.is_empty()),
    }
}

/// The value as an absolute path; relative ones are ignored, as the XDG base directory specification says.
pub fn path(name: &'static str) -> Option<PathBuf> {
    get(name).map(PathBuf::from).filter(|p| p.is_absolute())
}
