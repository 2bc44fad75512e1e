//! Admission: the sum of the apps' memory limits against the board's budget, before anything is pulled.

use crate::types::app::{App, VolumePolicy, parse_volume};
use crate::types::container::Network;
use crate::types::network::PortMapping;

/// Memory that one app takes in the set to come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need<'a> {
    /// The app's name.
    pub name: &'a str,
    /// Limit of the version to come, or of the one that stays, bytes.
    pub memory: u64,
    /// Limit of the version that runs beside it for a moment (start-first), bytes; 0 else.
    pub beside: u64,
}

/// The apps need more than the board gives.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the apps' memory limits add up to {} MiB, the board's budget is {} MiB; the largest is `{largest}` with {} MiB: lower a limit, \
     remove an app or use the update strategy `stop-first`",
    mib(*.need), mib(*.budget), mib(*.largest_bytes)
)]
pub struct Over {
    /// Sum of the limits, bytes.
    pub need: u64,
    /// The board's budget for apps, bytes.
    pub budget: u64,
    /// The app with the largest share.
    pub largest: String,
    /// Its share, bytes.
    pub largest_bytes: u64,
}

/// Whether all apps of all sources fit into `budget` bytes together; `None` where the board sets no budget.
pub fn admit(budget: Option<u64>, needs: &[Need]) -> Result<(), Over> {
    let Some(budget) = budget else { return Ok(()) };
    let share = |need: &Need| need.memory.saturating_add(need.beside);
    let sum = needs.iter().map(share).fold(0, u64::saturating_add);
    match needs.iter().max_by_key(|need| share(need)) {
        Some(largest) if sum > budget => Err(Over {
            need: sum,
            budget,
            largest: largest.name.to_owned(),
            largest_bytes: share(largest),
        }),
        _ => Ok(()),
    }
}

/// Why both versions of this app may not run beside each other (start-first); `None` when they may.
pub fn beside_refusal(app: &App) -> Option<String> {
    if app.update.volumes == VolumePolicy::Snapshot {
        return Some("its volumes are saved while neither version runs (`volumes = \"snapshot\"`)".into());
    }
    if app.network == Some(Network::Host) {
        return Some("both versions would use the host's network".into());
    }
    if let Some(port) = host_ports(app)
        .find(|(_, mapping)| mapping.host != 0)
        .map(|(text, _)| text)
    {
        return Some(format!("both versions would publish the host port of `{port}`"));
    }
    let writable = |text: &&String| parse_volume(text).is_ok_and(|volume| !volume.read_only && !volume.shared);
    app.volumes
        .iter()
        .find(writable)
        .map(|volume| format!("both versions would write to `{volume}`; say `:shared` if they may"))
}

/// Why two of these apps cannot run together: they publish the same port of the host.
pub fn ports_refusal(apps: &[&App]) -> Option<String> {
    for (i, app) in apps.iter().enumerate() {
        for other in &apps[..i] {
            let meets = |(text, mine): (&str, PortMapping)| {
                let (theirs, _) = host_ports(other).find(|(_, theirs)| mine.collides(theirs))?;
                Some((text.to_owned(), theirs.to_owned()))
            };
            if let Some((mine, theirs)) = host_ports(app).find_map(meets) {
                let (one, two) = (&other.name, &app.name);
                return Some(format!(
                    "apps `{one}` and `{two}` publish the same port of the host (`{theirs}`, `{mine}`)"
                ));
            }
        }
    }
    None
}

/// What an app publishes, as written and as meant.
fn host_ports(app: &App) -> impl Iterator<Item = (&str, PortMapping)> {
    app.ports
        .iter()
        .filter_map(|text| Some((text.as_str(), text.parse().ok()?)))
}

/// Why the volumes of one of these apps cannot be saved and brought back: another app has one of them too.
pub fn snapshot_refusal(apps: &[&App]) -> Option<String> {
    let saves = apps.iter().filter(|app| app.update.volumes == VolumePolicy::Snapshot);
    for app in saves {
        for volume in written_volumes(app) {
            let has = |other: &&&App| other.name != app.name && named_volumes(other).any(|(name, _)| name == volume);
            if let Some(other) = apps.iter().find(has) {
                return Some(format!(
                    "app `{}`: volume `{volume}` cannot be saved and brought back (`volumes = \"snapshot\"`): app `{}` has it too",
                    app.name, other.name
                ));
            }
        }
    }
    None
}

/// The named volumes that an app writes to.
pub fn written_volumes(app: &App) -> Vec<String> {
    let written = named_volumes(app).filter(|(_, read_only)| !read_only);
    written.map(|(name, _)| name).collect()
}

fn named_volumes(app: &App) -> impl Iterator<Item = (String, bool)> + '_ {
    let volumes = app.volumes.iter().filter_map(|text| parse_volume(text).ok());
    volumes
        .filter(|volume| !volume.source.starts_with('/'))
        .map(|volume| (volume.source, volume.read_only))
}

/// Whole mebibytes, rounded up.
fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(name: &str, more: &str) -> App {
        crate::types::read::toml(&format!("name='{name}'\nimage='r.example/a:1'\n{more}")).unwrap()
    }

    #[test]
    fn start_first_needs_nothing_that_only_one_can_have() {
        // Every combination: one thing that cannot be shared is enough.
        let networks = [
            ("", true),
            ("network='none'\n", true),
            ("network='private'\n", true),
            ("network='host'\n", false),
        ];
        let ports = [
            ("", true),
            ("ports=['80']\n", true),
            ("ports=['8080:80']\n", false),
            ("ports=['80','::1:8080:80/udp']\n", false),
        ];
        let volumes = [
            ("", true),
            ("volumes=['data:/d:ro']\n", true),
            ("volumes=['data:/d:shared']\n", true),
            ("volumes=['/host:/d:ro']\n", true),
            ("volumes=['data:/d']\n", false),
            ("volumes=['/host:/d']\n", false),
            ("volumes=['a:/a:ro','data:/d:nosuid']\n", false),
        ];
        let policies = [
            ("", true),
            ("[update]\nvolumes='keep'", true),
            ("[update]\nvolumes='snapshot'", false),
        ];
        for (network, a) in networks {
            for (port, b) in ports {
                for (volume, c) in volumes {
                    for (policy, d) in policies {
                        let more = format!("{network}{port}{volume}{policy}");
                        let refusal = beside_refusal(&app("a", &more));
                        assert_eq!(refusal.is_none(), a && b && c && d, "{more}: {refusal:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn volumes_are_saved_only_where_one_app_has_them() {
        let saves = "[update]\nvolumes='snapshot'";
        for (first, second, allowed) in [
            ("volumes=['v:/d']", "volumes=['v:/d']", true),
            (&format!("volumes=['v:/d']\n{saves}"), "volumes=['w:/d','/v:/e']", true),
            (&format!("volumes=['v:/d']\n{saves}"), "volumes=['v:/d']", false),
            (&format!("volumes=['v:/d']\n{saves}"), "volumes=['v:/d:ro']", false),
            (&format!("volumes=['v:/d:ro']\n{saves}"), "volumes=['v:/d']", true),
            (&format!("volumes=['/h:/d']\n{saves}"), "volumes=['/h:/d']", true),
        ] {
            let (a, b) = (app("a", first), app("b", second));
            for pair in [[&a, &b], [&b, &a]] {
                assert_eq!(snapshot_refusal(&pair).is_none(), allowed, "{first} {second}");
            }
        }
        let many = app("a", "volumes=['v:/d','w:/e:ro','/h:/f','x:/g']");
        assert_eq!(written_volumes(&many), ["v", "x"]);
    }

    #[test]
    fn the_sum_must_fit_and_both_versions_count() {
        const M: u64 = 1 << 20;
        let need = |name, memory: u64, beside: u64| Need {
            name,
            memory: memory * M,
            beside: beside * M,
        };
        type Row<'a> = (&'a str, Option<u64>, Vec<Need<'a>>, Option<(u64, &'a str)>);
        let table: Vec<Row> = vec![
            ("nothing", Some(0), vec![], None),
            ("exactly", Some(96), vec![need("a", 64, 0), need("b", 32, 0)], None),
            (
                "one over",
                Some(95),
                vec![need("a", 64, 0), need("b", 32, 0)],
                Some((96, "a")),
            ),
            (
                "both versions",
                Some(127),
                vec![need("a", 32, 32), need("b", 48, 16)],
                Some((128, "b")),
            ),
            ("no budget", None, vec![need("a", 1 << 30, 0)], None),
        ];
        for (name, budget, needs, expected) in table {
            let found = admit(budget.map(|b| b * M), &needs)
                .err()
                .map(|over| (over.need / M, over.largest));
            assert_eq!(
                found,
                expected.map(|(sum, largest)| (sum, largest.to_owned())),
                "{name}"
            );
        }
        let over = admit(Some(1), &[need("a", 64, 0)]).unwrap_err();
        assert!(
            over.to_string().starts_with(
                "the apps' memory limits add up to 64 MiB, the board's budget is 1 MiB; the largest is `a`"
            )
        );
        assert!(admit(Some(1), &[need("a", 1 << 43, 1 << 43)]).is_err(), "no overflow");
    }

    #[test]
    fn a_port_of_the_host_is_one_apps() {
        let app = |name: &str, ports: &str| app(name, &format!("ports={ports}\n"));
        let refused = |a: &str, b: &str| {
            let (a, b) = (app("one", a), app("two", b));
            ports_refusal(&[&a, &b])
        };
        let text = refused("['8080:80']", "['127.0.0.1:8080:80']").unwrap();
        assert!(
            text.contains("`one`") && text.contains("`two`") && text.contains("`8080:80`"),
            "{text}"
        );
        assert!(refused("['8000-8010:1-11']", "['8005:80']").is_some());
        for (a, b) in [
            ("['8080:80']", "['8080:80/udp']"),
            ("['80']", "['80']"),
            ("['8080:80']", "[]"),
        ] {
            assert_eq!(refused(a, b), None, "{a} {b}");
        }
    }
}
