//! Admission: the sum of the apps' memory limits against the board's budget, before anything is pulled.

use crate::types::app::{App, parse_volume};
use crate::types::container::Network;

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
    if app.network == Some(Network::Host) {
        return Some("both versions would use the host's network".into());
    }
    if let Some(port) = app.ports.iter().find(|port| port.contains(':')) {
        return Some(format!("both versions would publish the host port of `{port}`"));
    }
    let writable = |text: &&String| parse_volume(text).is_ok_and(|volume| !volume.read_only && !volume.shared);
    app.volumes
        .iter()
        .find(writable)
        .map(|volume| format!("both versions would write to `{volume}`; say `:shared` if they may"))
}

/// Whole mebibytes, rounded up.
fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_first_needs_nothing_that_only_one_can_have() {
        for (more, allowed) in [
            ("", true),
            ("network='private'", true),
            ("network='host'", false),
            ("ports=['80']", true),
            ("ports=['8080:80']", false),
            ("volumes=['data:/d:ro']", true),
            ("volumes=['data:/d:shared']", true),
            ("volumes=['data:/d']", false),
        ] {
            let app: App = crate::types::read::toml(&format!("name='a'\nimage='r.example/a:1'\n{more}")).unwrap();
            assert_eq!(beside_refusal(&app).is_none(), allowed, "{more}");
        }
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
}
