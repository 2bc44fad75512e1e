//! Platforms of images: operating system, architecture, variant (OCI image index, GOARCH names), and which runs where.

use std::fmt;
use std::str::FromStr;

/// A platform as an index names it. Prints as `linux/arm64/v8`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// GOARCH: `amd64`, `arm64`, `arm`, …
    pub architecture: String,
    /// `v8` and the like; empty when none is named.
    #[serde(default)]
    pub variant: String,
}

/// A text that is not a platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a platform; write `OS/ARCH` or `OS/ARCH/VARIANT`, for example `linux/arm64`")]
pub struct PlatformError(String);

impl Platform {
    /// The platform that this binary was built for.
    pub fn host() -> Platform {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", ""),
            "aarch64" => ("arm64", "v8"),
            "arm" => ("arm", "v7"),
            "x86" => ("386", ""),
            other => (other, ""),
        };
        Platform {
            os: "linux".into(),
            architecture: architecture.into(),
            variant: variant.into(),
        }
    }

    /// The same platform in canonical names: `aarch64` is `arm64`, `x86_64` is `amd64`, `arm64/v8` is `arm64`, `arm` is `arm/v7`.
    pub fn normalized(&self) -> Platform {
        let arch = self.architecture.to_ascii_lowercase();
        let variant = self.variant.to_ascii_lowercase();
        let (architecture, variant) = match (arch.as_str(), variant.as_str()) {
            ("aarch64" | "arm64", "8" | "v8" | "") => ("arm64", ""),
            ("aarch64" | "arm64", v) => ("arm64", v),
            ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
            ("x86_64" | "x86-64" | "amd64", v) => ("amd64", v),
            ("armhf", _) => ("arm", "v7"),
            ("armel", _) => ("arm", "v6"),
            ("arm", "" | "7") => ("arm", "v7"),
            ("arm", "5") => ("arm", "v5"),
            ("arm", "6") => ("arm", "v6"),
            ("i386" | "i686" | "x86", _) => ("386", ""),
            (a, v) => (a, v),
        };
        Platform {
            os: self.os.to_ascii_lowercase(),
            architecture: architecture.into(),
            variant: variant.into(),
        }
    }

    /// How well an image for `offered` serves a wish for this platform: 0 is exact, higher is worse, `None` does not run.
    /// An arm device runs images of lower variants (v7 runs v6 and v5); others want their variant or none.
    pub fn distance(&self, offered: &Platform) -> Option<u8> {
        let (want, have) = (self.normalized(), offered.normalized());
        if want.os != have.os || want.architecture != have.architecture {
            return None;
        }
        if want.variant == have.variant {
            return Some(0);
        }
        let level = |v: &str| {
            v.strip_prefix('v')
                .and_then(|n| n.parse::<u8>().ok())
                .filter(|n| *n < 100)
        };
        match (want.architecture.as_str(), level(&want.variant), level(&have.variant)) {
            ("arm", Some(want), Some(have)) if (5..want).contains(&have) => Some(want - have),
            ("amd64", Some(want), Some(have)) if have < want => Some(want - have),
            ("amd64" | "arm64", Some(want), None) if have.variant.is_empty() => Some(want),
            _ => None,
        }
    }

    /// Index of the best of `offered` for this platform; the first of equals, as the OCI image index says.
    pub fn choose<'a>(&self, offered: impl IntoIterator<Item = &'a Platform>) -> Option<usize> {
        let ranked = offered
            .into_iter()
            .enumerate()
            .filter_map(|(i, p)| Some((self.distance(p)?, i)));
        ranked.min().map(|(_, i)| i)
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Platform, PlatformError> {
        let error = || PlatformError(text.chars().take(80).collect());
        let parts: Vec<&str> = text.split('/').collect();
        let word = |p: &&str| {
            (1..=32).contains(&p.len())
                && p.bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
        };
        if !parts.iter().all(word) {
            return Err(error());
        }
        let (os, architecture, variant) = match parts[..] {
            [arch] => ("linux", arch, ""),
            [os, arch] => (os, arch, ""),
            [os, arch, variant] => (os, arch, variant),
            _ => return Err(error()),
        };
        Ok(Platform {
            os: os.into(),
            architecture: architecture.into(),
            variant: variant.into(),
        })
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(want: &str, offered: &[&str]) -> Option<usize> {
        let offered: Vec<Platform> = offered.iter().map(|p| p.parse().unwrap()).collect();
        want.parse::<Platform>().unwrap().choose(&offered)
    }

    #[test]
    fn the_entry_for_the_platform_is_chosen() {
        for (want, offered, chosen) in [
            ("linux/amd64", &["linux/arm64", "linux/amd64"][..], Some(1)),
            ("linux/arm64/v8", &["linux/amd64", "linux/arm64"], Some(1)),
            ("linux/arm64", &["linux/amd64", "linux/arm64/v8"], Some(1)),
            ("linux/aarch64", &["linux/arm64/v8"], Some(0)),
            (
                "linux/arm/v7",
                &["linux/arm/v5", "linux/arm/v6", "linux/arm64"],
                Some(1),
            ),
            ("linux/arm/v7", &["linux/arm/v6", "linux/arm/v7"], Some(1)),
            ("linux/arm/v6", &["linux/arm/v7"], None),
            ("linux/arm/v7", &["linux/arm64/v8"], None),
            ("linux/arm64", &["linux/arm/v7"], None),
            ("linux/amd64", &["linux/386", "windows/amd64"], None),
            (
                "linux/amd64",
                &["unknown/unknown", "linux/amd64", "linux/amd64"],
                Some(1),
            ),
            ("linux/amd64/v3", &["linux/amd64", "linux/amd64/v2"], Some(1)),
            ("linux/amd64", &["linux/amd64/v3"], None),
            ("linux/arm64", &[], None),
        ] {
            assert_eq!(choose(want, offered), chosen, "{want} of {offered:?}");
        }
    }

    #[test]
    fn texts_that_are_no_platform_are_refused() {
        for bad in ["", "/", "linux/", "linux/a/b/c", "linux/a b", "linux//v8"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
        assert_eq!("arm64".parse::<Platform>().unwrap().to_string(), "linux/arm64");
    }
}
