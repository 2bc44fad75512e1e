//! SIGKILL of whoever pulls, removes or prunes, with all its helpers, at random moments: the store is sound after each, nothing is
//! left over that is not swept, and the next pull succeeds. `DUNLIN_KILLS` says how often, `DUNLIN_SEED` with which moments.

use crate::fixture::images::{Compression, Image, Recipe};
use crate::fixture::registry::Registry;
use crate::fixture::tree::Tree;
use crate::pull::{Place, host, noise};
use crate::resume::{kill, mixed, start_with};
use dunlin::image::check;
use dunlin::image::sweep::{discard, sweep};
use dunlin::store::Remedy;
use std::time::{Duration, Instant};

/// A small generator with a seed that can be given again.
pub struct Chance(u64);

impl Chance {
    /// By the variable `DUNLIN_SEED`, else by the clock; the seed is printed.
    pub fn of_environment() -> Chance {
        let given = std::env::var("DUNLIN_SEED").ok().and_then(|text| text.parse().ok());
        let clock = || std::time::UNIX_EPOCH.elapsed().unwrap().as_micros() as u64;
        let seed = given.unwrap_or_else(clock) | 1;
        println!("DUNLIN_SEED={seed}");
        Chance(seed)
    }

    /// From 0 on, below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// A number from the environment.
pub fn number(variable: &str, standard: u64) -> u64 {
    std::env::var(variable)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(standard)
}

fn layer(seed: u64) -> Vec<u8> {
    let mut tree = Tree::new().dir("etc").file("etc/big", 0o644, mixed(900_000, seed));
    for number in 0..40 {
        tree = tree.file(&format!("etc/{number}"), 0o600, noise(3000, seed + number));
    }
    tree.hardlink("etc/again", "etc/1").whiteout("etc", "gone").finish()
}

/// Two images that share a layer.
fn images() -> [Image; 2] {
    [5, 6].map(|own| {
        Recipe::new(host())
            .layer(layer(1), Compression::Gzip)
            .layer(layer(2), Compression::Zstd)
            .layer(layer(own), Compression::Gzip)
            .build()
    })
}

#[test]
fn the_store_is_sound_after_every_kill() {
    let registry = Registry::plain();
    let names: Vec<String> = ["one", "two"]
        .iter()
        .zip(images())
        .map(|(name, image)| {
            registry.push_image(name, "1", &image);
            format!("{}:1", registry.reference(name))
        })
        .collect();
    let place = Place::new();
    // How long things take here and now.
    let since = Instant::now();
    assert!(start_with(&place, &names[0], None).wait().unwrap().success());
    let pull = since.elapsed();
    let since = Instant::now();
    assert!(start_with(&place, &names[0], Some("prune")).wait().unwrap().success());
    let prune = since.elapsed();
    let kills = number("DUNLIN_KILLS", 60);
    let mut chance = Chance::of_environment();
    let (mut killed, mut tried, mut pulls) = (0, 0, 0);
    while killed < kills {
        tried += 1;
        assert!(tried < kills * 4, "only {killed} of {tried} were killed");
        let there = !place.store.images().unwrap().is_empty();
        let name = &names[chance.below(2) as usize];
        let (action, takes) = match chance.below(3) {
            0 if there => (Some("prune"), prune),
            1 if there => (Some("image"), prune),
            _ => (None, pull),
        };
        let mut child = start_with(&place, name, action);
        std::thread::sleep(Duration::from_micros(chance.below(takes.as_micros() as u64 * 2 / 3)));
        if child.try_wait().unwrap().is_none() {
            killed += 1;
            pulls += u64::from(action.is_none());
        }
        kill(&mut child);
        let label = format!("kill {killed}, of {action:?}");
        let survey = place.store.survey().unwrap();
        for fault in &survey.faults {
            let garbage = matches!(fault.remedy, Remedy::Collect | Remedy::Sweep | Remedy::Remove(_));
            assert!(garbage, "{label}: {fault:?}");
        }
        for image in place.store.images().unwrap() {
            assert_eq!(place.store.lowers(&image).unwrap().len(), 3, "{label}");
        }
        if killed % 20 == 0 {
            clean(&place, &label);
        }
    }
    println!("{killed} killed of {tried}, {pulls} of them pulls");
    clean(&place, "at the end");
    for name in &names {
        place.pull(name).unwrap();
    }
    clean(&place, "pulled again");
    assert_eq!(place.store.images().unwrap().len(), 2);
    discard(&place.store.prune(true).unwrap(), &*place.workers).unwrap();
    sweep(&place.store, &*place.workers, true).unwrap();
    place.assert_empty("everything removed");
}

/// What a repair does, and that nothing is wrong then.
fn clean(place: &Place, label: &str) {
    for fault in place.store.survey().unwrap().faults {
        if let Remedy::Remove(path) = fault.remedy {
            std::fs::remove_file(path).unwrap();
        }
    }
    let deadline = Instant::now() + Duration::from_secs(30);
    let survey = loop {
        sweep(&place.store, &*place.workers, false).unwrap();
        discard(&place.store.tidy().unwrap(), &*place.workers).unwrap();
        let survey = place.store.survey().unwrap();
        // The workers of a killed pull end a moment after it, and hold their layers until then; what they leave is the next sweep's.
        let left = survey.faults.iter().any(|fault| matches!(fault.remedy, Remedy::Sweep));
        if !left || Instant::now() > deadline {
            break survey;
        }
    };
    assert!(survey.faults.is_empty(), "{label}: {:?}", survey.faults);
    for key in survey.layers.keys() {
        let found = check::layer(&place.store, &*place.workers, key, false, &mut |_| ()).unwrap();
        assert!(found.is_good() && !found.not_checkable, "{label}: {found:?}");
    }
    // Nothing in flight but what can be gone on with.
    let parts = place.store.parts().unwrap().len();
    let tmp = std::fs::read_dir(place.store.layout().tmp()).unwrap();
    let other = tmp.filter(|entry| {
        !entry
            .as_ref()
            .unwrap()
            .file_name()
            .to_str()
            .unwrap()
            .starts_with("lock-")
    });
    assert_eq!(other.count(), parts, "{label}");
}
