//! Whose files count: the folders in which the ecosystem's programs keep a user's settings and credentials.

use std::path::{Path, PathBuf};

use super::env;
use crate::disk::{DiskError, durable};
use crate::types::bounds::ECOSYSTEM_FILE_BYTES;

/// A user's folders. Every one may be absent or closed to us; then it says nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Folders {
    /// Holds `auth.json`, cleared by a reboot: `$XDG_RUNTIME_DIR/containers`, else `/run/containers/UID`.
    pub run: Option<PathBuf>,
    /// `$XDG_CONFIG_HOME/containers`, usually `~/.config/containers`.
    pub config: Option<PathBuf>,
    /// `$XDG_CACHE_HOME/containers`, usually `~/.cache/containers`.
    pub cache: Option<PathBuf>,
    /// `$DOCKER_CONFIG`, usually `~/.docker`.
    pub docker: Option<PathBuf>,
}

impl Folders {
    /// Those that the environment names, for a process that runs as the user who started it.
    pub fn of_environment(uid: u32) -> Self {
        let home = env::path(env::HOME);
        let below = |name: &str| home.as_ref().map(|home| home.join(name));
        let named = |variable, usual: &str| env::path(variable).or_else(|| below(usual));
        Self {
            run: env::path(env::XDG_RUNTIME_DIR)
                .map(|dir| dir.join("containers"))
                .or_else(|| Some(run(uid))),
            config: named(env::XDG_CONFIG_HOME, ".config").map(|dir| dir.join("containers")),
            cache: named(env::XDG_CACHE_HOME, ".cache").map(|dir| dir.join("containers")),
            docker: named(env::DOCKER_CONFIG, ".docker"),
        }
    }

    /// Those of a user with this home, whatever the environment says: for a process that has become another user.
    pub fn of_user(uid: u32, home: Option<&Path>) -> Self {
        let below = |name: &str| home.map(|home| home.join(name));
        Self {
            run: Some(run(uid)),
            config: below(".config/containers"),
            cache: below(".cache/containers"),
            docker: below(".docker"),
        }
    }
}

fn run(uid: u32) -> PathBuf {
    format!("/run/containers/{uid}").into()
}

/// The bytes of a file that need not be there; `None` where it does not exist or is closed to us.
pub(crate) fn read_if_open(path: &Path) -> Result<Option<Vec<u8>>, DiskError> {
    match durable::read_optional(path, ECOSYSTEM_FILE_BYTES) {
        Err(DiskError::Io { source, .. }) if source.kind() == std::io::ErrorKind::PermissionDenied => {
            crate::debug!("`{}` is left out: {source}", path.display());
            Ok(None)
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_another_user_follow_the_home_alone() {
        let folders = Folders::of_user(990, Some(Path::new("/var/lib/dunlin")));
        assert_eq!(folders.run.as_deref(), Some(Path::new("/run/containers/990")));
        assert_eq!(
            folders.config.as_deref(),
            Some(Path::new("/var/lib/dunlin/.config/containers"))
        );
        assert_eq!(folders.docker.as_deref(), Some(Path::new("/var/lib/dunlin/.docker")));
        assert_eq!(Folders::of_user(1, None).config, None);
    }
}
