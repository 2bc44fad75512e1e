//! What agent.toml says about registries: how long is waited, how often is tried, how fast and how many at once.

use crate::fixture::cmd::Cmd;
use crate::fixture::images::{Compression, Recipe};
use crate::fixture::registry::Registry;
use crate::fixture::scratch::Scratch;
use crate::fixture::tree::Tree;
use crate::pull::{host, noise};
use crate::registry::faulty::Told;
use crate::registry::proxy::proxy;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// `pull` with these lines in the table `[registry]`, into a store of its own.
fn pull(scratch: &Scratch, name: &str, settings: &str) -> Cmd {
    let file = scratch.write("agent.toml", format!("[registry]\n{settings}\n"));
    let fresh = scratch.folder(&format!("store-{:?}", Instant::now()));
    Cmd::dunlin()
        .arg("--config")
        .arg(file)
        .arg("--root")
        .arg(fresh.join("data"))
        .arg("--runroot")
        .arg(fresh.join("run"))
        .args(["pull", "-q", name])
}

#[test]
fn waits_tries_rate_and_number_are_as_the_settings_say() {
    let scratch = Scratch::new("waits");
    let registry = Registry::plain();
    let layer = |seed| {
        Tree::new()
            .file(&format!("f{seed}"), 0o644, noise(300_000, seed))
            .finish()
    };
    let mut recipe = Recipe::new(host());
    for seed in 1..=6 {
        recipe = recipe.layer(layer(seed), Compression::Gzip);
    }
    let image = recipe.build();
    registry.push_image("app", "1", &image);
    let size: usize = image.layers.iter().map(|layer| layer.bytes.len()).sum();
    let size = size + image.config.bytes.len();

    let first = image.layers[0].digest();
    let stalled = proxy(&registry, move |asked, _, told| match asked.range() {
        None if asked.path.ends_with(&first) => told.stall(100_000),
        _ => told,
    });
    let since = Instant::now();
    pull(&scratch, &format!("{}/app:1", stalled.host()), "timeout = '1s'").ok();
    assert!((1..20).contains(&since.elapsed().as_secs()), "{:?}", since.elapsed());
    assert_eq!(stalled.served("/blobs/"), size, "no byte twice");

    let failing = proxy(&registry, |_, _, _| Told::new(503, ""));
    pull(&scratch, &format!("{}/app:1", failing.host()), "attempts = 2")
        .fails(125)
        .says(&["503"]);
    assert_eq!(failing.count("/blobs/"), 2, "the configuration, twice");

    let since = Instant::now();
    let steady = proxy(&registry, |_, _, told| told);
    pull(&scratch, &format!("{}/app:1", steady.host()), "rate = '900K'").ok();
    assert!(since.elapsed() > Duration::from_millis(1700), "{:?}", since.elapsed());

    for (parallel, want) in [(1, 1), (5, 5)] {
        let (now, most) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
        let seen = most.clone();
        let layers: Vec<String> = image.layers.iter().map(|layer| layer.digest()).collect();
        let counting = proxy(&registry, move |asked, _, told| {
            if layers.iter().any(|digest| asked.path.ends_with(digest)) {
                seen.fetch_max(now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(400));
                now.fetch_sub(1, Ordering::Relaxed);
            }
            told
        });
        let settings = format!("parallel = {parallel}");
        pull(&scratch, &format!("{}/app:1", counting.host()), &settings).ok();
        assert_eq!(most.load(Ordering::Relaxed), want, "at once");
    }
}
