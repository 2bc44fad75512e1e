//! Whole pulls from a real docker-registry with TLS and tokens through a proxy that does harm: they converge, nothing is fetched twice
//! that need not be, and wrong bytes never become visible.

use crate::fixture::images::{Blob, Compression, Image, Recipe};
use crate::fixture::tree::Tree;
use crate::pull::{Place, block, host, layer_error, noise, options};
use crate::registry::faulty::{Asked, Told};
use crate::registry::guarded::Guarded;
use crate::resume::{assert_same, bytes, layers, mixed};
use dunlin::image::pull::{LayerError, PullError, pull};
use dunlin::image::sweep::{discard, sweep};
use dunlin::registry::Client;
use dunlin::store::ImageRecord;
use dunlin::types::deployment::Reason;
use std::time::{Duration, Instant};

type Pass<'a> = &'a dyn Fn(&Asked) -> Told;

/// One image whose layers are gone on with in different ways.
struct Scene {
    image: Image,
    guarded: Guarded,
    want: Vec<Vec<String>>,
}

impl Scene {
    fn new() -> Scene {
        let layer = |seed: u64| {
            let tree = Tree::new().dir("d").file("d/small", 0o600, format!("{seed}"));
            let tree = tree.file("d/big", 0o644, mixed(1_000_000, seed));
            tree.hardlink("d/link", "d/big").symlink("d/soft", "big").finish()
        };
        let image = Recipe::new(host())
            .layer(layer(1), Compression::Gzip)
            .layer(layer(2), Compression::Zstd)
            .layer(layer(3), Compression::OneBlock)
            .build();
        let guarded = Guarded::new(&image);
        let place = Place::new();
        let record = fetch(&place, &guarded, &guarded.client()).unwrap();
        let want = layers(&place, &record);
        Scene { image, guarded, want }
    }

    fn total(&self) -> usize {
        bytes(&self.image) + self.image.config.bytes.len()
    }

    /// Pulls through this harm into an empty store, which must end well; returns what went over the wire, beyond the image itself.
    fn converges(&self, label: &str, harm: impl Fn(&Asked, usize, Pass) -> Told + Send + Sync + 'static) -> usize {
        self.guarded.set(harm);
        let place = Place::new();
        let record = fetch(&place, &self.guarded, &self.guarded.client()).unwrap_or_else(|e| panic!("{label}: {e}"));
        assert_same(&place, &record, &self.want, label);
        self.guarded.server.served("/blobs/").saturating_sub(self.total())
    }

    /// Pulls through this harm, which must fail and leave nothing visible, and then without it, which must end well and fetch nothing that
    /// the first has kept. Returns the error, and how many bytes were kept.
    fn fails(
        &self,
        label: &str,
        harm: impl Fn(&Asked, usize, Pass) -> Told + Send + Sync + 'static,
    ) -> (PullError, usize) {
        self.guarded.set(harm);
        let place = Place::new();
        let error = fetch(&place, &self.guarded, &self.guarded.client()).expect_err(label);
        assert!(place.store.images().unwrap().is_empty(), "{label}");
        // Layers that came whole are there for the next pull, and go with a collection.
        let odd = place.store.survey().unwrap().faults;
        let odd: Vec<_> = odd
            .iter()
            .filter(|f| f.remedy != dunlin::store::Remedy::Collect)
            .collect();
        assert!(odd.is_empty(), "{label}: {odd:?}");
        let kept = self.kept(&place);
        self.guarded.set(|asked, _, pass| pass(asked));
        let record = fetch(&place, &self.guarded, &self.guarded.client()).unwrap_or_else(|e| panic!("{label}: {e}"));
        assert_same(&place, &record, &self.want, label);
        assert_eq!(
            self.guarded.server.served("/blobs/"),
            self.total() - kept,
            "{label}: {kept} kept"
        );
        let gone = place.store.remove(&record, false).unwrap();
        discard(&gone, &*place.workers).unwrap();
        drop(gone);
        sweep(&place.store, &*place.workers, true).unwrap();
        place.assert_empty(label);
        println!("{label}: {error}; {kept} bytes kept");
        (error, kept)
    }

    /// Bytes of blobs that need not be fetched again: of layers that came whole, and before the marks of others.
    fn kept(&self, place: &Place) -> usize {
        let parts = place.store.parts().unwrap();
        let of = |layer: &Blob| {
            let mark = parts.iter().find(|part| part.mark.blob.to_string() == layer.digest());
            mark.map_or(0, |part| part.mark.fetched as usize)
        };
        let record: serde_json::Value = serde_json::from_slice(&self.image.config.bytes).unwrap();
        let diffs = record["rootfs"]["diff_ids"].as_array().unwrap().iter();
        let whole = diffs.map(|diff| {
            place
                .store
                .layer(&diff.as_str().unwrap().parse().unwrap())
                .unwrap()
                .is_some()
        });
        let layers = self.image.layers.iter().zip(whole);
        layers
            .map(|(layer, whole)| if whole { layer.bytes.len() } else { of(layer) })
            .sum()
    }

    /// The bytes of the layer that a request is about, and its bytes.
    fn blob(&self) -> impl Fn(&Asked) -> Option<Vec<u8>> + Send + Sync + use<> {
        let all: Vec<(String, Vec<u8>)> = self
            .image
            .layers
            .iter()
            .map(|l| (l.digest(), l.bytes.clone()))
            .collect();
        move |asked| {
            let path = asked.path.split('?').next().unwrap();
            let found = all.iter().find(|(digest, _)| path.ends_with(digest));
            found.map(|(_, bytes)| bytes.clone())
        }
    }
}

fn fetch(place: &Place, guarded: &Guarded, client: &Client) -> Result<ImageRecord, PullError> {
    let reference = guarded.name().parse().unwrap();
    block(pull(
        &place.store,
        client,
        &place.workers,
        &reference,
        &options(),
        &mut |_| (),
    ))
}

/// Where the answers are cut, in bytes of a blob; less than the smallest of them.
const HALF: usize = 300_000;

#[test]
fn a_server_that_stalls_fails_or_turns_away_for_a_moment_costs_no_byte_twice() {
    let scene = Scene::new();
    assert_eq!(scene.converges("calm", |asked, _, pass| pass(asked)), 0);
    let stalled = |asked: &Asked, n: usize, pass: Pass| match n {
        0 => pass(asked).stall(HALF),
        _ => pass(asked),
    };
    assert_eq!(scene.converges("stalled", stalled), 0);
    for status in [500, 502, 503, 504, 429] {
        let label = format!("{status}");
        let failing = move |asked: &Asked, n: usize, pass: Pass| match n {
            0 => pass(asked).cut(HALF),
            1..=2 => Told::new(status, ""),
            3 => pass(asked).cut(HALF / 2),
            4 => Told::new(status, "no").cut(0),
            _ => pass(asked),
        };
        assert_eq!(scene.converges(&label, failing), 0, "{status}");
    }
    type Ask = fn(Told) -> Told;
    let asking: [(&str, Ask); 2] = [
        ("seconds", |told| told.with("Retry-After", "1")),
        ("a date", |told| {
            told.with("Date", "Sun, 06 Nov 1994 08:49:37 GMT")
                .with("Retry-After", "Sun, 06 Nov 1994 08:49:38 GMT")
        }),
    ];
    for (label, ask) in asking {
        for status in [429, 503] {
            let since = Instant::now();
            let limited = move |asked: &Asked, n: usize, pass: Pass| match n {
                0 => pass(asked).cut(HALF),
                1 => ask(Told::new(status, "")),
                _ => pass(asked),
            };
            assert_eq!(scene.converges(label, limited), 0, "{label}");
            assert!(
                since.elapsed() >= Duration::from_secs(1),
                "{label} {status}: {:?}",
                since.elapsed()
            );
        }
    }
}

#[test]
fn a_token_that_ends_in_the_middle_of_a_blob_is_renewed() {
    let scene = Scene::new();
    let twice = scene.converges("401", |asked, n, pass| match n {
        0 => pass(asked).cut(HALF),
        1 => {
            // What the registry itself answers to whom it does not know.
            let mut stranger = asked.clone();
            stranger.headers.remove("authorization").expect("a token");
            pass(&stranger)
        }
        _ => pass(asked),
    });
    // The refusals have bodies, which say why.
    assert!(twice < 3 * 1000, "{twice}");
    assert!((2..=4).contains(&scene.guarded.tokens()), "{}", scene.guarded.tokens());
    // A password that is changed meanwhile: no retry helps, and what has come is kept.
    let (error, kept) = scene.fails("changed password", |asked, n, pass| match n {
        0 => pass(asked).cut(HALF),
        _ if asked.path.contains("/blobs/") => {
            let mut stranger = asked.clone();
            stranger.headers.remove("authorization");
            pass(&stranger)
        }
        _ => pass(asked),
    });
    assert_eq!(error.code(), Reason::Auth, "{error}");
    assert!(error.to_string().contains("dunlin login"), "{error}");
    assert!(kept > 128 << 10, "{kept}");
}

#[test]
fn an_outage_that_lasts_is_told_and_gone_on_after() {
    let scene = Scene::new();
    for (label, status) in [("outage", 503), ("limit", 429)] {
        let (error, kept) = scene.fails(label, move |asked, n, pass| match (n, asked.path.contains("/blobs/")) {
            (0, true) => pass(asked).cut(HALF),
            (_, true) => Told::new(status, "").with("Retry-After", "3600"),
            _ => pass(asked),
        });
        assert_eq!(error.code(), Reason::Net);
        assert!(matches!(layer_error(error), LayerError::Registry(_)));
        assert!(kept > 128 << 10, "{label}: {kept}");
    }
}

#[test]
fn a_server_that_ignores_ranges_or_answers_with_others_is_followed() {
    let scene = Scene::new();
    let blob = scene.blob();
    let whole = scene.converges("ignored", move |asked, n, pass| match (n, blob(asked)) {
        (0, _) => pass(asked).cut(HALF),
        (_, Some(bytes)) => Told::new(200, bytes),
        _ => pass(asked),
    });
    assert_eq!(whole, 3 * HALF, "what such a server repeats, and no more");
    // Smaller pieces than were asked for, and pieces that begin earlier.
    let blob = scene.blob();
    let pieces = scene.converges("pieces", move |asked, _, pass| match (asked.range(), blob(asked)) {
        (None, Some(_)) => pass(asked).cut(HALF),
        (Some((first, last)), Some(bytes)) => {
            let (first, last) = (first.saturating_sub(1000), last.min(first + 99_999));
            let range = format!("bytes {first}-{last}/{}", bytes.len());
            Told::new(206, &bytes[first..=last]).with("Content-Range", &range)
        }
        _ => pass(asked),
    });
    assert!(pieces > 0 && pieces < 3 * 30 * 1000, "{pieces}");
}

#[test]
fn wrong_bytes_after_a_resumption_are_fetched_anew_and_persistent_ones_refused() {
    let scene = Scene::new();
    // Another content behind the same name for one answer, as a cache in between may have it.
    let blob = scene.blob();
    let other = move |asked: &Asked, n: usize, pass: Pass| match (n, blob(asked), asked.range()) {
        (0, Some(_), _) => pass(asked).cut(HALF),
        (1, Some(bytes), Some((first, last))) => Told::new(206, noise(last - first + 1, 7))
            .with("ETag", "\"another\"")
            .with("Content-Range", &format!("bytes {first}-{last}/{}", bytes.len())),
        _ => pass(asked),
    };
    let again = scene.converges("changed", other);
    assert!(again <= bytes(&scene.image), "once more at the most: {again}");
    // Every answer wrong in the same place, with the right length.
    let blob = scene.blob();
    let (error, _) = scene.fails("wrong", move |asked, _, pass| match blob(asked) {
        Some(mut bytes) => {
            let at = bytes.len() - 5000;
            bytes[at] ^= 1;
            Told::blob(asked, &bytes)
        }
        None => pass(asked),
    });
    assert_eq!(error.code(), Reason::Verify, "{error}");
    assert!(matches!(
        layer_error(error),
        LayerError::Digest { .. } | LayerError::DiffId { .. } | LayerError::Decode(_) | LayerError::Worker(_)
    ));
}

#[test]
fn a_blob_of_another_length_is_refused_with_both_lengths() {
    let scene = Scene::new();
    type Change = fn(Vec<u8>) -> Vec<u8>;
    let cases: [(&str, Change); 3] = [
        ("short", |bytes| bytes[..bytes.len() - 1000].to_vec()),
        ("long", |bytes| [bytes, vec![0; 1000]].concat()),
        ("empty", |_| Vec::new()),
    ];
    for (label, change) in cases {
        for chunked in [false, true] {
            let blob = scene.blob();
            let (error, _) = scene.fails(label, move |asked, _, pass| match blob(asked) {
                Some(bytes) if chunked && asked.range().is_none() => Told::new(200, change(bytes)).chunked(),
                Some(bytes) => Told::blob(asked, &change(bytes)),
                None => pass(asked),
            });
            let text = error.to_string();
            assert!(text.contains("should have"), "{label}: {text}");
            assert_eq!(error.code(), Reason::Verify, "{label}");
        }
    }
    // Too much once, after a resumption.
    let blob = scene.blob();
    scene.converges("long once", move |asked, n, pass| {
        match (n, asked.range(), blob(asked)) {
            (0, _, Some(_)) => pass(asked).cut(HALF),
            (1, Some((first, last)), Some(bytes)) => {
                let range = format!("bytes {first}-{last}/{}", bytes.len());
                Told::new(206, [&bytes[first..], &[0; 99]].concat()).with("Content-Range", &range)
            }
            _ => pass(asked),
        }
    });
}

#[test]
fn redirects_to_another_server_are_followed_without_the_token() {
    let scene = Scene::new();
    let blob = scene.blob();
    let storage = scene.guarded.other(move |asked, n| {
        let told = Told::blob(asked, &blob(asked).expect("a blob"));
        match n {
            // All six leave something of the blob, even if all are of the same.
            0..=5 => told.cut(HALF / 6),
            _ => told,
        }
    });
    let (at, blob) = (storage.host(), scene.blob());
    scene.converges("redirect", move |asked, _, pass| match blob(asked) {
        Some(_) => Told::new(307, "").with(
            "Location",
            &format!("https://{at}{}?signed=yes", asked.path.replace("/v2/", "/s/")),
        ),
        None => pass(asked),
    });
    assert_eq!(storage.served(""), bytes(&scene.image), "no byte twice");
    assert!(storage.asked().len() >= 9);
    for asked in storage.asked() {
        assert!(
            asked.header("authorization").is_none() && asked.path.contains("signed=yes"),
            "{asked:?}"
        );
    }
}
