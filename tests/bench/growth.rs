//! How times and memory grow: with containers, with layers, with the size of an image. The drawing has the same figures and those
//! between.

use std::time::Duration;

use super::chart::{Axis, Panel, Series};
use super::fixture::arch::Arch;
use super::fixture::cmd::Cmd;
use super::fixture::images::{Compression, Recipe};
use super::fixture::registry::Registry;
use super::fixture::scratch::Scratch;
use super::fixture::tree::Tree;
use super::puller::Peer;
use super::side::Side;
use super::table::{Figure, Line, Table, number};
use super::{Scale, median, ms, process, pull, timed};

/// Starts around one that are taken together.
const AROUND: usize = 2;
/// Before memory is looked at.
const SETTLE: Duration = Duration::from_secs(4);

type Points = Vec<(f64, f64)>;

/// Measures.
pub fn rows(table: &mut Table, scale: &Scale) {
    if let Err(why) = containers(table, scale) {
        table.missing("growth", "containers at once", &why);
    }
    if let Err(why) = layers(table, scale) {
        table.missing("growth", "layers of an image", &why);
    }
    if let Err(why) = sizes(table, scale) {
        table.missing("growth", "size of an image", &why);
    }
}

/// What one of two has at each number of containers.
#[derive(Default)]
struct Grown {
    starts: Vec<Duration>,
    memory: Points,
    lists: Points,
    /// Why it did not come to the end.
    end: Option<String>,
}

impl Grown {
    /// Times of starts, each the middle one of those around it.
    fn smooth(&self) -> Points {
        let around = |at: usize| {
            let from = at.saturating_sub(AROUND);
            let mut all = self.starts[from..self.starts.len().min(at + AROUND + 1)].to_vec();
            median(&mut all).map(|time| ((at + 1) as f64, ms(time)))
        };
        (0..self.starts.len()).filter_map(around).collect()
    }
}

fn containers(table: &mut Table, scale: &Scale) -> Result<(), String> {
    let sizes: &[usize] = scale.of(&[1, 10, 50, 100, 200], &[1, 5]);
    let side = Side::new(true, "overlay")?;
    side.dunlin(&["rm", "-a", "-f", "-t", "0"]).run();
    let user = side.user.as_ref().expect("an ordinary one");
    let of_user = |ours: bool| -> u64 {
        let binary = process::ours();
        let mut pids: Vec<u32> = user.processes().into_iter().map(|(pid, _)| pid).collect();
        pids.retain(|pid| {
            let program = process::words(*pid).into_iter().next();
            binary.contains(pid) == ours && program.as_deref() != Some("sleep")
        });
        process::memory(&pids).0
    };
    let dunlin = grow(
        sizes,
        |name| side.start(name),
        || side.dunlin(&["ps"]),
        || of_user(true),
    );
    side.dunlin(&["rm", "-a", "-f", "-t", "0"])
        .timeout(Duration::from_secs(120))
        .run();
    let podman = match &side.podman {
        Ok(()) => grow(
            sizes,
            |name| side.podman_start(name, "busybox"),
            || side.podman(&["ps"]),
            || of_user(false),
        ),
        Err(why) => Grown {
            end: Some(why.clone()),
            ..Grown::default()
        },
    };
    let both = [("dunlin", &dunlin), ("podman", &podman)];
    let figures = |of: &dyn Fn(&Grown) -> Points, unit: &str| -> Vec<Figure> {
        let mut all = Vec::new();
        for (name, grown) in both {
            let points = of(grown);
            let wanted = points.iter().filter(|(count, _)| sizes.contains(&(*count as usize)));
            all.extend(wanted.map(|(count, value)| Figure::new(&format!("{name} at {count}"), *value, unit)));
            all.extend(grown.end.as_ref().map(|why| Figure::missing(name, why)));
        }
        all
    };
    let per = |grown: &Grown| -> Points {
        let each = |&(count, megabytes): &(f64, f64)| (count, megabytes * 1e3 / count);
        grown.memory.iter().map(each).collect()
    };
    let growth = "growth";
    let what = "start of a container beside so many, rootless, whole command line; the middle one of five";
    table.row(growth, what, "", figures(&Grown::smooth, "ms"));
    let what = "PSS of everything with so many containers";
    table.row(growth, what, "", figures(&|grown| grown.memory.clone(), "MB"));
    table.row(growth, "the same for one container", "", figures(&per, "KB"));
    let what = "`ps` with so many containers";
    table.row(growth, what, "", figures(&|grown| grown.lists.clone(), "ms"));
    let x = || Axis::linear("containers");
    let series = |of: &dyn Fn(&Grown) -> Points| both.map(|(name, grown)| Series::new(name, of(grown))).to_vec();
    draw(
        table,
        "start of one more container",
        x(),
        Axis::log("ms"),
        series(&Grown::smooth),
    );
    let memory = series(&|grown| grown.memory.clone());
    draw(table, "memory of everything", x(), Axis::linear("MB PSS"), memory);
    let lists = series(&|grown| grown.lists.clone());
    draw(table, "`ps`", x(), Axis::log("ms"), lists);
    Ok(())
}

/// Starts one container after the other; looks at each of these sizes.
fn grow(sizes: &[usize], start: impl Fn(&str) -> Cmd, list: impl Fn() -> Cmd, memory: impl Fn() -> u64) -> Grown {
    let mut grown = Grown::default();
    for number in 1..=*sizes.last().expect("at least one") {
        let Some(time) = timed(start(&format!("grows{number}"))) else {
            // Once more, for what it says.
            grown.end = Some(format!("container {number}: {}", start("fails").run().stderr));
            break;
        };
        grown.starts.push(time);
        if sizes.contains(&number) {
            Cmd::new("sync").run();
            std::thread::sleep(SETTLE);
            grown.memory.push((number as f64, memory() as f64 / 1e6));
            let mut times: Vec<Duration> = (0..5).filter_map(|_| timed(list())).collect();
            grown
                .lists
                .extend(median(&mut times).map(|time| (number as f64, ms(time))));
        }
    }
    grown
}

fn layers(table: &mut Table, scale: &Scale) -> Result<(), String> {
    let counts: &[usize] = scale.of(&[1, 10, 50, 100], &[1, 5]);
    let (pulls, runs) = (scale.of(3, 1), scale.of(15, 2));
    let (registry, scratch) = (Registry::plain(), Scratch::new("bench-layers"));
    let side = Side::new(true, "overlay")?;
    let mut pulled = [("dunlin", Points::new()), ("podman", Points::new())];
    let mut ran = pulled.clone();
    for &count in counts {
        let small = (1..count).fold(Recipe::busybox(Arch::host()), |recipe, number| {
            let tree = Tree::new().file(&format!("layer-{number}"), 0o644, number.to_string().repeat(1000));
            recipe.layer(tree.finish(), Compression::Gzip)
        });
        let name = format!("layers{count}");
        registry.push_image(&name, "1", &small.build());
        let reference = registry.reference(&format!("{name}:1"));
        for (mut peer, (_, points)) in peers(&scratch, &side).into_iter().zip(&mut pulled) {
            points.extend(pulling(&mut peer, &reference, pulls)?.map(|seconds| (count as f64, seconds)));
        }
        let pull = ["pull", "-q", "--tls-verify=false", &reference];
        let run = ["run", "--rm", "--network", "none", &reference, "true"];
        side.dunlin(&pull).ok();
        let mut times: Vec<Duration> = (0..runs).filter_map(|_| timed(side.dunlin(&run))).collect();
        ran[0].1.extend(median(&mut times).map(|time| (count as f64, ms(time))));
        if side.podman.is_ok() {
            side.podman(&pull).run();
            let run = [
                "run",
                "--rm",
                "--network",
                "none",
                "--ulimit",
                "nofile=512:512",
                &reference,
                "true",
            ];
            let mut times: Vec<Duration> = (0..runs.min(5)).filter_map(|_| timed(side.podman(&run))).collect();
            ran[1].1.extend(median(&mut times).map(|time| (count as f64, ms(time))));
        }
    }
    let x = || Axis::linear("layers");
    let what = "pull of an image of so many small layers into an empty store";
    told(table, what, "s", &pulled, &side.podman);
    told(table, "`run --rm` of that image, rootless", "ms", &ran, &side.podman);
    draw(table, "pull, by layers", x(), Axis::log("s"), lines(&pulled));
    draw(table, "`run --rm`, by layers", x(), Axis::log("ms"), lines(&ran));
    Ok(())
}

fn sizes(table: &mut Table, scale: &Scale) -> Result<(), String> {
    // Mebibytes of files, and pulls that count for the clock.
    let sizes: &[(usize, usize)] = scale.of(&[(10, 3), (100, 3), (500, 1), (2048, 1)], &[(4, 1), (10, 1)]);
    let (registry, scratch) = (Registry::plain(), Scratch::new("bench-sizes"));
    let podman = super::installed("podman");
    let mut times = [("dunlin", Points::new()), ("podman", Points::new())];
    let mut peaks = times.clone();
    for &(mib, pulls) in sizes {
        let reference = pull::push_sized(&registry, mib);
        let megabytes = (mib << 20) as f64 / 1e6;
        let all = [
            Some(Peer::dunlin(&scratch)),
            podman.is_ok().then(|| Peer::podman(&scratch)),
        ];
        for (at, peer) in all.into_iter().enumerate() {
            let Some(mut peer) = peer else { continue };
            times[at]
                .1
                .extend(pulling(&mut peer, &reference, pulls)?.map(|seconds| (megabytes, seconds)));
            let peak = peer.pull(&reference, true)?.peak as f64 / 1e6;
            peaks[at].1.push((megabytes, peak));
        }
    }
    let x = || Axis::log("MB of files");
    told(
        table,
        "pull of an image of so many MB of files, gzip",
        "s",
        &times,
        &podman,
    );
    told(table, "peak memory of that pull, all processes", "MB", &peaks, &podman);
    draw(table, "pull, by size", x(), Axis::log("s"), lines(&times));
    draw(
        table,
        "peak memory of a pull, by size",
        x(),
        Axis::log("MB PSS"),
        lines(&peaks),
    );
    Ok(())
}

fn peers(scratch: &Scratch, side: &Side) -> Vec<Peer> {
    let podman = side.podman.is_ok().then(|| Peer::podman(scratch));
    [Peer::dunlin(scratch)].into_iter().chain(podman).collect()
}

/// The middle one of so many pulls into an empty store, seconds.
fn pulling(peer: &mut Peer, reference: &str, count: usize) -> Result<Option<f64>, String> {
    let mut times = Vec::new();
    for _ in 0..count {
        let cost = peer.pull(reference, false);
        times.push(cost.map_err(|why| format!("{}: {why}", peer.name))?.wall);
    }
    Ok(median(&mut times).map(|time| time.as_secs_f64()))
}

fn told(table: &mut Table, what: &str, unit: &str, all: &[(&str, Points)], podman: &Result<(), String>) {
    let mut figures = Vec::new();
    for (name, points) in all {
        let each = points.iter();
        figures.extend(each.map(|(at, value)| Figure::new(&format!("{name} at {}", number(*at)), *value, unit)));
    }
    figures.extend(podman.as_ref().err().map(|why| Figure::missing("podman", why)));
    table.row("growth", what, "", figures);
}

fn lines(all: &[(&str, Points)]) -> Vec<Series> {
    all.iter()
        .map(|(name, points)| Series::new(name, points.clone()))
        .collect()
}

fn draw(table: &mut Table, title: &str, x: Axis, y: Axis, series: Vec<Series>) {
    let title = title.into();
    table.add(Line::Panel(Panel { title, x, y, series }));
}
