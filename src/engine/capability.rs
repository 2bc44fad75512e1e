//! Capabilities by name (capabilities(7)), and podman's default set.

use crate::sys::creds::Caps;

/// What a container gets when nothing is said (containers.conf(5), `default_capabilities`).
const DEFAULT: [&str; 11] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// The default set with `drop` taken away and `add` put on top, as `CAP_…`, sorted; `ALL` stands for every one.
/// The error is the name that is no capability.
pub fn merge(add: &[String], drop: &[String]) -> Result<Vec<String>, String> {
    let is_all = |text: &String| text.eq_ignore_ascii_case("all");
    let named = |texts: &[String]| -> Result<Vec<&'static str>, String> {
        texts
            .iter()
            .filter(|text| !is_all(text))
            .map(|text| find(text).ok_or_else(|| text.clone()))
            .collect()
    };
    let (added, dropped) = (named(add)?, named(drop)?);
    let base: Vec<&'static str> = if add.iter().any(is_all) {
        Caps::ALL.names().collect()
    } else if drop.iter().any(is_all) {
        Vec::new()
    } else {
        DEFAULT.to_vec()
    };
    let mut set: Vec<&str> = base.iter().filter(|name| !dropped.contains(name)).copied().collect();
    set.extend(added);
    set.sort_unstable();
    set.dedup();
    Ok(set.into_iter().map(|name| format!("CAP_{name}")).collect())
}

fn find(text: &str) -> Option<&'static str> {
    Caps::by_name(text)?.names().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(add: &[&str], drop: &[&str]) -> Result<Vec<String>, String> {
        let own = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        merge(&own(add), &own(drop))
    }

    #[test]
    fn sets_are_merged_as_podman_merges_them() {
        assert_eq!(merged(&[], &[]).map(|set| set.len()), Ok(11));
        assert_eq!(merged(&["net_raw"], &["ALL"]), Ok(vec!["CAP_NET_RAW".to_owned()]));
        assert_eq!(merged(&[], &["all"]), Ok(Vec::new()));
        assert_eq!(merged(&["ALL"], &["CAP_SYS_ADMIN"]).map(|set| set.len()), Ok(40));
        assert_eq!(merged(&["CAP_CHOWN"], &[]).map(|set| set.len()), Ok(11));
        assert_eq!(merged(&["FLY"], &[]), Err("FLY".to_owned()));
    }
}
