//! The configuration of an image (application/vnd.oci.image.config.v1+json, image-spec config.md), and what Docker adds to
//! it. It is only read: images are kept byte for byte as they came.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

/// The document (config.md).
#[derive(Debug, Clone, Deserialize)]
pub struct ImageConfiguration {
    /// RFC 3339.
    pub created: Option<String>,
    /// Name or address.
    pub author: Option<String>,
    /// Go's word: `amd64`, `arm64`.
    pub architecture: String,
    /// Go's word: `linux`.
    pub os: String,
    /// Windows's version.
    #[serde(rename = "os.version")]
    pub os_version: Option<String>,
    /// Of the architecture: `v7`.
    pub variant: Option<String>,
    /// What containers of it run, and how.
    pub config: Option<Config>,
    /// Its layers.
    pub rootfs: RootFs,
    /// How its layers were made, the first one first.
    pub history: Option<Vec<History>>,
}

/// What containers of an image run when nobody says otherwise (config.md, "config").
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Config {
    /// `USER[:GROUP]`, names or numbers.
    pub user: Option<String>,
    /// Keys are `PORT[/PROTOCOL]`.
    pub exposed_ports: Option<BTreeMap<String, IgnoredAny>>,
    /// `NAME=value`.
    pub env: Option<Vec<String>>,
    /// The first arguments.
    pub entrypoint: Option<Vec<String>>,
    /// Arguments after those.
    pub cmd: Option<Vec<String>>,
    /// Keys are paths.
    pub volumes: Option<BTreeMap<String, IgnoredAny>>,
    /// Absolute.
    pub working_dir: Option<String>,
    /// Free texts by key.
    pub labels: Option<BTreeMap<String, String>>,
    /// `SIGTERM`, or a number.
    pub stop_signal: Option<String>,
    /// Docker's.
    pub healthcheck: Option<Healthcheck>,
}

/// A check of a container (Docker's image specification v1.2, "Healthcheck"). Times are nanoseconds, 0 is the default.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Healthcheck {
    /// `NONE`, `CMD` and arguments, or `CMD-SHELL` and a line.
    pub test: Option<Vec<String>>,
    /// Between two checks.
    #[serde(default)]
    pub interval: u64,
    /// Of one check.
    #[serde(default)]
    pub timeout: u64,
    /// After the start, during which failures do not count.
    #[serde(default)]
    pub start_period: u64,
    /// Between two checks in that time.
    #[serde(default)]
    pub start_interval: u64,
    /// Failures in a row; 0 is the default.
    #[serde(default)]
    pub retries: u32,
}

/// Layers (config.md, "rootfs").
#[derive(Debug, Clone, Deserialize)]
pub struct RootFs {
    /// `type`: `layers`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Digests of the plain archives, the lowest first; Go writes none as null.
    pub diff_ids: Option<Vec<String>>,
}

/// One step (config.md, "history").
#[derive(Debug, Clone, Default, Deserialize)]
pub struct History {
    /// RFC 3339.
    pub created: Option<String>,
    /// Name or address.
    pub author: Option<String>,
    /// The command.
    pub created_by: Option<String>,
    /// Free text.
    pub comment: Option<String>,
    /// Without a layer.
    pub empty_layer: Option<bool>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::read;

    #[test]
    fn a_configuration_is_read_as_the_specification_and_docker_write_it() {
        let text = br#"{"created":"2015-10-31T22:22:56.015925234Z","author":"kim","architecture":"arm","variant":"v7",
            "os":"linux","os.version":"1","docker_version":"27.1","config":{"Hostname":"","User":"alice:staff",
            "ExposedPorts":{"8080/tcp":{}},"Env":["A=b"],"Entrypoint":["/bin/x"],"Cmd":null,
            "Volumes":{"/var/log":{}},"WorkingDir":"/home","Labels":{"a":"b"},"StopSignal":"SIGINT","OnBuild":null,
            "Healthcheck":{"Test":["CMD-SHELL","true"],"Interval":30000000000,"Retries":3}},
            "rootfs":{"type":"layers","diff_ids":["sha256:c6f9"]},
            "history":[{"created_by":"RUN x","comment":"y"},{"created_by":"CMD z","empty_layer":true}]}"#;
        let image: ImageConfiguration = read::json(text).expect("a configuration");
        assert_eq!((image.architecture.as_str(), image.os.as_str()), ("arm", "linux"));
        assert_eq!(
            (image.variant.as_deref(), image.os_version.as_deref()),
            (Some("v7"), Some("1"))
        );
        let config = image.config.expect("config");
        assert_eq!(
            (config.user.as_deref(), config.working_dir.as_deref()),
            (Some("alice:staff"), Some("/home"))
        );
        assert!(config.exposed_ports.expect("ports").contains_key("8080/tcp") && config.cmd.is_none());
        let check = config.healthcheck.expect("a check");
        assert_eq!((check.interval, check.timeout, check.retries), (30_000_000_000, 0, 3));
        assert_eq!(image.rootfs.diff_ids.expect("layers"), ["sha256:c6f9"]);
        let steps = image.history.expect("history");
        assert_eq!((steps[0].empty_layer, steps[1].empty_layer), (None, Some(true)));
    }

    #[test]
    fn an_image_without_layers_has_null() {
        let text = br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":null}}"#;
        let image: ImageConfiguration = read::json(text).expect("a configuration");
        assert_eq!(image.rootfs.diff_ids, None);
        let error = read::json::<ImageConfiguration>(br#"{"architecture":"amd64"}"#).expect_err("no system");
        assert!(error.to_string().contains("missing field `os`"), "{error}");
    }
}
