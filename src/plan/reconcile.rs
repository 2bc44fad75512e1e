//! From what a source wants and what runs to ordered steps: create, update, remove; unchanged apps are not touched.
//!
//! Apps that change and depend on each other form a group. Inside a group dependents stop first and dependencies start first;
//! groups do not wait for each other, so that the gap of an app is its own.

use std::collections::BTreeSet;

use crate::types::digest::Digest;
use crate::types::sorted::Sorted;

/// An app as a source wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted<'a> {
    /// The app's name.
    pub name: &'a str,
    /// Digest of its specification.
    pub spec: Digest,
    /// Names of the apps that must be healthy before it starts.
    pub depends_on: &'a [String],
    /// The new version starts beside the old one, which is stopped when the new one is healthy.
    pub beside: bool,
    /// Its volumes are saved before a new version starts; on the way back: brought back before the old one starts.
    pub saves: bool,
}

/// An app of the committed sets, of any source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Current<'a, S> {
    /// The app's name.
    pub name: &'a str,
    /// Digest of its specification.
    pub spec: Digest,
    /// Names of the apps that it depends on.
    pub depends_on: &'a [String],
    /// The source that owns it.
    pub owner: S,
}

/// What happens to one app.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub enum Change {
    /// It is new.
    Create,
    /// Another specification takes its place.
    Update,
    /// It goes.
    Remove,
}

/// One ordered step.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Step {
    /// Stop the version that runs and keep it on disk.
    Stop(String),
    /// Wait until this app is healthy: one that follows depends on it.
    Await(String),
    /// Save the app's volumes; on the way back: bring them back.
    Save(String),
    /// Put the new version into its place and start it.
    Start(String),
}

impl Step {
    /// The app that it is about.
    pub fn app(&self) -> &str {
        match self {
            Step::Stop(app) | Step::Await(app) | Step::Save(app) | Step::Start(app) => app,
        }
    }
}

/// The way from the current to the wanted set.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Every app that changes, by name.
    pub changes: Sorted<String, Change>,
    /// What to do, in order.
    pub steps: Vec<Step>,
}

/// Why a set is refused. All reasons are found at once.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal<S: std::fmt::Debug + std::fmt::Display> {
    /// The same name twice.
    #[error("app `{0}` is named twice; keep one of them")]
    Twice(String),
    /// The name belongs to another source.
    #[error("app `{name}` is owned by the source `{owner}`; remove it there or choose another name")]
    Owned {
        /// The app's name.
        name: String,
        /// The source that has it.
        owner: S,
    },
    /// It depends on an app that nobody has.
    #[error("app `{name}` depends on `{missing}`, which no source has; add it or remove the dependency")]
    Missing {
        /// The app's name.
        name: String,
        /// The dependency.
        missing: String,
    },
    /// The dependencies run in a circle.
    #[error("the apps {0} depend on each other in a circle; remove one of the dependencies")]
    Cycle(String),
}

/// The plan that brings `current` to what `source` wants. Apps of other sources are only looked at.
pub fn plan<S>(source: &S, wanted: &[Wanted], current: &[Current<S>]) -> Result<Plan, Vec<Refusal<S>>>
where
    S: Clone + PartialEq + std::fmt::Debug + std::fmt::Display,
{
    let mut refusals = Vec::new();
    let mut next: Sorted<&str, &Wanted> = Sorted::new();
    for app in wanted {
        if next.insert(app.name, app).is_some() {
            refusals.push(Refusal::Twice(app.name.to_owned()));
        }
    }
    let own: Sorted<&str, &Current<S>> = current
        .iter()
        .filter(|c| c.owner == *source)
        .map(|c| (c.name, c))
        .collect();
    let others: Sorted<&str, &Current<S>> = current
        .iter()
        .filter(|c| c.owner != *source)
        .map(|c| (c.name, c))
        .collect();
    for app in next.values() {
        if let Some(other) = others.get(app.name) {
            refusals.push(Refusal::Owned {
                name: app.name.to_owned(),
                owner: other.owner.clone(),
            });
        }
        for dependency in app.depends_on {
            if !next.contains_key(dependency.as_str()) && !others.contains_key(dependency.as_str()) {
                refusals.push(Refusal::Missing {
                    name: app.name.to_owned(),
                    missing: dependency.clone(),
                });
            }
        }
    }
    let mut graph: Graph = others.values().map(|c| (c.name, c.depends_on)).collect();
    graph.extend(next.values().map(|w| (w.name, w.depends_on)));
    let order = match order(&graph) {
        Ok(order) => order,
        Err(circle) => {
            refusals.push(Refusal::Cycle(circle));
            Vec::new()
        }
    };
    if !refusals.is_empty() {
        return Err(refusals);
    }
    let mut changes = Sorted::new();
    for (name, app) in next.iter() {
        match own.get(name) {
            None => drop(changes.insert((*name).to_owned(), Change::Create)),
            Some(old) if old.spec != app.spec => drop(changes.insert((*name).to_owned(), Change::Update)),
            Some(_) => {}
        }
    }
    for name in own.keys().filter(|name| !next.contains_key(*name)) {
        changes.insert((*name).to_owned(), Change::Remove);
    }
    let old_graph: Graph = own.values().map(|c| (c.name, c.depends_on)).collect();
    let beside: BTreeSet<&str> = next
        .values()
        .filter(|w| w.beside && own.contains_key(w.name))
        .map(|w| w.name)
        .collect();
    let mut steps = steps(&changes, &order, &graph, &old_graph, &beside);
    for app in next.values().filter(|app| app.saves) {
        if changes.get(app.name) == Some(&Change::Update)
            && let Some(at) = steps.iter().position(|step| *step == Step::Start(app.name.to_owned()))
        {
            steps.insert(at, Step::Save(app.name.to_owned()));
        }
    }
    Ok(Plan { changes, steps })
}

/// Names with the names that each depends on.
type Graph<'a> = Sorted<&'a str, &'a [String]>;

/// The order in which apps start: dependencies first, else by name. Names outside the list do not matter.
pub fn start_order<'a>(apps: impl IntoIterator<Item = (&'a str, &'a [String])>) -> Result<Vec<&'a str>, String> {
    order(&apps.into_iter().collect())
}

fn order<'a>(graph: &Graph<'a>) -> Result<Vec<&'a str>, String> {
    let mut done: BTreeSet<&str> = BTreeSet::new();
    let mut order = Vec::with_capacity(graph.len());
    while order.len() < graph.len() {
        let ready = |depends: &[String]| {
            depends
                .iter()
                .all(|d| done.contains(d.as_str()) || !graph.contains_key(d.as_str()))
        };
        let free: Vec<&str> = graph
            .iter()
            .filter(|(name, depends)| !done.contains(*name) && ready(depends))
            .map(|(name, _)| *name)
            .collect();
        if free.is_empty() {
            let stuck: Vec<String> = graph
                .keys()
                .filter(|name| !done.contains(*name))
                .map(|name| format!("`{name}`"))
                .collect();
            return Err(stuck.join(", "));
        }
        done.extend(&free);
        order.extend(free);
    }
    Ok(order)
}

/// Groups of changing apps, each with its stops in reverse order and its starts in order.
fn steps(
    changes: &Sorted<String, Change>,
    order: &[&str],
    graph: &Graph,
    old_graph: &Graph,
    beside: &BTreeSet<&str>,
) -> Vec<Step> {
    // The old order may hold a circle only when a record was edited by hand: then by name.
    let old_order: Vec<&str> = self::order(old_graph).unwrap_or_else(|_| old_graph.keys().copied().collect());
    let mut steps = Vec::new();
    for group in groups(changes, graph, old_graph) {
        for name in old_order.iter().rev().filter(|name| group.contains(*name)) {
            let stays = beside.contains(*name) && changes.get(*name) == Some(&Change::Update);
            if !stays {
                steps.push(Step::Stop((*name).to_owned()));
            }
        }
        let mut awaited = BTreeSet::new();
        for name in order.iter().filter(|name| group.contains(*name)) {
            if changes.get(*name) == Some(&Change::Remove) {
                continue;
            }
            for dependency in graph.get(name).copied().unwrap_or_default() {
                if awaited.insert(dependency.as_str()) {
                    steps.push(Step::Await(dependency.clone()));
                }
            }
            steps.push(Step::Start((*name).to_owned()));
            if beside.contains(name) && changes.get(*name) == Some(&Change::Update) {
                awaited.insert(name);
                steps.push(Step::Await((*name).to_owned()));
                steps.push(Step::Stop((*name).to_owned()));
            }
        }
    }
    steps
}

/// The changing apps, those joined by a dependency (old or new) together; groups and members in order of name.
fn groups<'a>(changes: &'a Sorted<String, Change>, graph: &Graph, old_graph: &Graph) -> Vec<BTreeSet<&'a str>> {
    let mut groups: Vec<BTreeSet<&str>> = Vec::new();
    for name in changes.keys() {
        let linked = |other: &str| {
            let points = |from: &str, to: &str| {
                [graph, old_graph]
                    .iter()
                    .any(|g| g.get(from).is_some_and(|d| d.iter().any(|x| x == to)))
            };
            points(name, other) || points(other, name)
        };
        let (joined, mut rest): (Vec<_>, Vec<_>) = groups
            .into_iter()
            .partition(|group| group.iter().any(|member| linked(member)));
        let mut group: BTreeSet<&str> = joined.into_iter().flatten().collect();
        group.insert(name);
        rest.push(group);
        rest.sort();
        groups = rest;
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    struct App(&'static str, u8, Vec<String>, bool, bool);

    fn app(name: &'static str, version: u8, depends_on: &[&str]) -> App {
        App(
            name,
            version,
            depends_on.iter().map(|d| (*d).to_owned()).collect(),
            false,
            false,
        )
    }

    fn beside(app: App) -> App {
        App(app.0, app.1, app.2, true, false)
    }

    fn saves(app: App) -> App {
        App(app.0, app.1, app.2, false, true)
    }

    fn result(wanted: &[App], own: &[App], others: &[App]) -> Result<Plan, Vec<Refusal<&'static str>>> {
        let spec = |app: &App| Digest::of(&[app.1]);
        let wanted: Vec<Wanted> = wanted
            .iter()
            .map(|a| Wanted {
                name: a.0,
                spec: spec(a),
                depends_on: &a.2,
                beside: a.3,
                saves: a.4,
            })
            .collect();
        let mut current: Vec<Current<&str>> = own
            .iter()
            .map(|a| Current {
                name: a.0,
                spec: spec(a),
                depends_on: &a.2,
                owner: "fleet",
            })
            .collect();
        current.extend(others.iter().map(|a| Current {
            name: a.0,
            spec: spec(a),
            depends_on: &a.2,
            owner: "local",
        }));
        plan(&"fleet", &wanted, &current)
    }

    /// The steps as a line of text: `-x` stop, `?x` await, `=x` save, `+x` start.
    fn line(plan: &Plan) -> String {
        let word = |step: &Step| match step {
            Step::Stop(name) => format!("-{name}"),
            Step::Await(name) => format!("?{name}"),
            Step::Save(name) => format!("={name}"),
            Step::Start(name) => format!("+{name}"),
        };
        plan.steps.iter().map(word).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn steps_follow_the_dependencies() {
        type Row = (&'static str, Vec<App>, Vec<App>, Vec<App>, &'static str);
        let table: Vec<Row> = vec![
            (
                "nothing to do",
                vec![app("web", 1, &[])],
                vec![app("web", 1, &[])],
                vec![],
                "",
            ),
            ("create", vec![app("web", 1, &[])], vec![], vec![], "+web"),
            (
                "update",
                vec![app("web", 2, &[])],
                vec![app("web", 1, &[])],
                vec![],
                "-web +web",
            ),
            ("remove", vec![], vec![app("web", 1, &[])], vec![], "-web"),
            (
                "remove leaves other sources alone",
                vec![],
                vec![],
                vec![app("web", 1, &[])],
                "",
            ),
            (
                "dependencies start first",
                vec![app("a", 1, &["z"]), app("z", 1, &[])],
                vec![],
                vec![],
                "+z ?z +a",
            ),
            (
                "dependents stop first",
                vec![app("a", 2, &["z"]), app("z", 2, &[])],
                vec![app("a", 1, &["z"]), app("z", 1, &[])],
                vec![],
                "-a -z +z ?z +a",
            ),
            (
                "removal stops dependents first",
                vec![],
                vec![app("a", 1, &["z"]), app("z", 1, &[])],
                vec![],
                "-a -z",
            ),
            (
                "an unchanged dependent is not touched",
                vec![app("a", 1, &["z"]), app("z", 2, &[])],
                vec![app("a", 1, &["z"]), app("z", 1, &[])],
                vec![],
                "-z +z",
            ),
            (
                "an unchanged dependency is awaited",
                vec![app("a", 2, &["z"]), app("z", 1, &[])],
                vec![app("a", 1, &["z"]), app("z", 1, &[])],
                vec![],
                "-a ?z +a",
            ),
            (
                "another source's app may be depended on",
                vec![app("a", 1, &["z"])],
                vec![],
                vec![app("z", 1, &[])],
                "?z +a",
            ),
            (
                "independent apps do not wait for each other",
                vec![app("a", 2, &[]), app("b", 2, &[])],
                vec![app("a", 1, &[]), app("b", 1, &[])],
                vec![],
                "-a +a -b +b",
            ),
            (
                "a dependency that turns round is followed both ways",
                vec![app("a", 2, &[]), app("b", 2, &["a"])],
                vec![app("a", 1, &["b"]), app("b", 1, &[])],
                vec![],
                "-a -b +a ?a +b",
            ),
            (
                "one goes, its dependent moves",
                vec![app("a", 2, &[])],
                vec![app("a", 1, &["z"]), app("z", 1, &[])],
                vec![],
                "-a -z +a",
            ),
            (
                "start-first keeps the old one until the new one is healthy",
                vec![beside(app("a", 2, &[])), app("b", 2, &["a"])],
                vec![app("a", 1, &[]), app("b", 1, &["a"])],
                vec![],
                "-b +a ?a -a +b",
            ),
            (
                "start-first of a new app is a start",
                vec![beside(app("a", 2, &[]))],
                vec![],
                vec![],
                "+a",
            ),
            (
                "volumes are saved when the old one is stopped and before the new one starts",
                vec![saves(app("a", 2, &["z"])), saves(app("z", 2, &[]))],
                vec![app("a", 1, &["z"]), app("z", 1, &[])],
                vec![],
                "-a -z =z +z ?z =a +a",
            ),
            (
                "what is new or unchanged has nothing to save",
                vec![saves(app("a", 1, &[])), saves(app("b", 1, &[]))],
                vec![app("b", 1, &[])],
                vec![],
                "+a",
            ),
            (
                "a chain of three",
                vec![app("a", 1, &["b"]), app("b", 1, &["c"]), app("c", 1, &[])],
                vec![],
                vec![],
                "+c ?c +b ?b +a",
            ),
            (
                "a diamond awaits each once",
                vec![
                    app("d", 1, &["b", "c"]),
                    app("b", 1, &["a"]),
                    app("c", 1, &["a"]),
                    app("a", 1, &[]),
                ],
                vec![],
                vec![],
                "+a ?a +b +c ?b ?c +d",
            ),
        ];
        for (name, wanted, own, others, expected) in table {
            let plan = result(&wanted, &own, &others).unwrap_or_else(|e| panic!("{name}: {e:?}"));
            assert_eq!(line(&plan), expected, "{name}");
        }
    }

    #[test]
    fn refuses_what_cannot_be_ordered_or_owned() {
        let texts = |r: Result<Plan, Vec<Refusal<&str>>>| {
            r.unwrap_err()
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join("\n")
        };
        let circle = result(&[app("a", 1, &["b"]), app("b", 1, &["a"]), app("c", 1, &[])], &[], &[]);
        assert!(texts(circle).contains("the apps `a`, `b` depend on each other in a circle"));
        assert!(texts(result(&[app("a", 1, &["a"])], &[], &[])).contains("circle"));
        let through = result(&[app("a", 1, &["l"])], &[], &[app("l", 1, &["a"])]);
        assert!(texts(through).contains("circle"), "through another source's app");
        assert!(
            texts(result(&[app("a", 1, &["gone"])], &[app("gone", 1, &[])], &[]))
                .contains("depends on `gone`, which no source has")
        );
        assert!(texts(result(&[app("a", 1, &[])], &[], &[app("a", 1, &[])])).contains("owned by the source `local`"));
        let both = result(&[app("a", 1, &[]), app("a", 2, &["x"])], &[], &[app("a", 1, &[])]);
        assert_eq!(both.unwrap_err().len(), 3, "all reasons at once");
    }

    #[test]
    fn start_order_ignores_what_is_not_listed() {
        let depends = ["db".to_owned(), "elsewhere".to_owned()];
        assert_eq!(start_order([("web", &depends[..]), ("db", &[])]), Ok(vec!["db", "web"]));
    }
}
