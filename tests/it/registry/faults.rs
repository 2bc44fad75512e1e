//! Faults of links and servers: blobs converge, wrong ones are refused.

use std::time::{Duration, Instant};

use dunlin::registry::blob::Traffic;
use dunlin::registry::{Client, RegistryError};
use dunlin::types::deployment::Reason;
use dunlin::types::digest::Digest;

use super::faulty::{Asked, Faulty, Told};
use super::{block, client, descriptor, noise, read, reference, settings, settings_with};

/// Fetches `blob` from a server with this behaviour.
fn fetch(
    blob: &[u8],
    handler: impl Fn(&Asked, usize) -> Told + Send + Sync + 'static,
) -> (Result<Vec<u8>, RegistryError>, Traffic, Faulty) {
    let server = Faulty::start(handler);
    let client = client();
    let (result, traffic) = block(async {
        let repository = client
            .repository(&reference(&format!("{}/app", server.host())))
            .unwrap();
        let mut stream = client.blob(&repository, &descriptor(blob), 0);
        (read(&mut stream).await, stream.traffic())
    });
    (result, traffic, server)
}

#[test]
fn a_link_that_drops_again_and_again_costs_no_byte_twice() {
    let blob = noise(300_000);
    for every in [1000, 16 << 10, 40_000, 299_999] {
        // A server that cuts so often moves less than what counts as progress: it is given more tries.
        let small = every < 16 << 10;
        let served = if small { blob[..20_000].to_vec() } else { blob.clone() };
        let content = served.clone();
        let server = Faulty::start(move |asked, _| Told::blob(asked, &content).cut(every));
        let mut settings = settings();
        settings.limits.attempts = if small { 40 } else { 4 };
        let client = Client::new(settings);
        let (got, traffic) = block(async {
            let repository = client
                .repository(&reference(&format!("{}/app", server.host())))
                .unwrap();
            let mut stream = client.blob(&repository, &descriptor(&served), 0);
            (read(&mut stream).await.unwrap(), stream.traffic())
        });
        assert!(got == served, "cut every {every}");
        assert_eq!(traffic.fetched, served.len() as u64, "cut every {every}");
        assert_eq!(traffic.repeated, 0);
        let asked = server.asked();
        assert_eq!(asked.len(), served.len().div_ceil(every));
        assert_eq!(asked[0].header("range"), None);
        for (number, asked) in asked.iter().enumerate().skip(1) {
            assert_eq!(asked.range(), Some((number * every, served.len() - 1)));
        }
    }
}

#[test]
fn a_stream_begins_at_a_checkpoint() {
    let blob = noise(50_000);
    let content = blob.clone();
    let server = Faulty::start(move |asked, _| Told::blob(asked, &content));
    let client = client();
    block(async {
        let repository = client
            .repository(&reference(&format!("{}/app", server.host())))
            .unwrap();
        let mut stream = client.blob(&repository, &descriptor(&blob), 30_000);
        let mut rest = Vec::new();
        while let Some(data) = stream.next().await.unwrap() {
            rest.extend_from_slice(&data);
        }
        assert!(rest == blob[30_000..]);
        assert_eq!(
            client
                .blob(&repository, &descriptor(&blob), 50_000)
                .next()
                .await
                .unwrap(),
            None
        );
        assert_eq!(
            client.blob(&repository, &descriptor(b""), 0).next().await.unwrap(),
            None
        );
    });
    assert_eq!(server.asked()[0].range(), Some((30_000, 49_999)));
    assert_eq!(server.asked().len(), 1);
}

#[test]
fn a_server_that_ignores_ranges_is_read_past_what_is_known() {
    let blob = noise(200_000);
    let content = blob.clone();
    let (got, traffic, server) = fetch(&blob, move |_, number| {
        Told::new(200, content.clone()).cut((number + 1) * 60_000)
    });
    assert!(got.unwrap() == blob);
    assert_eq!(server.asked().len(), 4);
    assert_eq!(traffic.repeated, 60_000 + 120_000 + 180_000);
    assert_eq!(traffic.fetched, 200_000 + traffic.repeated);
}

#[test]
fn a_server_that_serves_less_than_the_range_is_asked_for_the_rest() {
    let blob = noise(150_000);
    let content = blob.clone();
    let (got, traffic, _) = fetch(&blob, move |asked, _| match asked.range() {
        None => Told::blob(asked, &content).cut(20_000),
        Some((first, last)) => {
            let end = last.min(first + 49_999);
            Told::new(206, &content[first..=end]).with("Content-Range", &format!("bytes {first}-{end}/150000"))
        }
    });
    assert!(got.unwrap() == blob);
    assert_eq!(traffic.repeated, 0);
}

#[test]
fn a_stalled_link_is_left_and_taken_up_again() {
    let blob = noise(100_000);
    let content = blob.clone();
    let (got, traffic, server) = fetch(&blob, move |asked, number| match number {
        0 => Told::blob(asked, &content).stall(30_000),
        _ => Told::blob(asked, &content),
    });
    assert!(got.unwrap() == blob);
    assert_eq!((traffic.fetched, server.asked().len()), (100_000, 2));
}

#[test]
fn a_server_that_never_moves_on_is_given_up_after_the_bounded_tries() {
    let blob = noise(10_000);
    let begin = Instant::now();
    let (got, _, server) = fetch(&blob, |_, _| Told::new(200, "").wait(Duration::from_secs(2)));
    let error = got.unwrap_err();
    assert!(matches!(error, RegistryError::TimedOut { .. }), "{error}");
    assert_eq!((error.code(), server.asked().len()), (Reason::Net, 4));
    assert!(begin.elapsed() < Duration::from_secs(8));

    let content = blob.clone();
    let (got, _, server) = fetch(&blob, move |asked, _| Told::blob(asked, &content).cut(0));
    assert!(matches!(got.unwrap_err(), RegistryError::Broken { .. }));
    assert_eq!(server.asked().len(), 4);
}

#[test]
fn a_stream_goes_on_after_an_error_where_it_was() {
    let blob = noise(60_000);
    let content = blob.clone();
    let server = Faulty::start(move |asked, number| match number {
        0 => Told::blob(asked, &content).cut(20_000),
        1..5 => Told::new(500, ""),
        _ => Told::blob(asked, &content),
    });
    let client = client();
    block(async {
        let repository = client
            .repository(&reference(&format!("{}/app", server.host())))
            .unwrap();
        let mut stream = client.blob(&repository, &descriptor(&blob), 0);
        let mut all = Vec::new();
        let error = loop {
            match stream.next().await {
                Ok(Some(data)) => all.extend_from_slice(&data),
                Ok(None) => panic!("it cannot be whole"),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, RegistryError::Status { status: 500, .. }), "{error}");
        assert_eq!(stream.offset(), 20_000);
        while let Some(data) = stream.next().await.unwrap() {
            all.extend_from_slice(&data);
        }
        assert!(all == blob);
        assert_eq!(stream.traffic().repeated, 0);
    });
}

#[test]
fn wrong_lengths_and_changed_content_are_refused() {
    type Case = (&'static str, fn(&Asked, usize, &[u8]) -> Told, usize);
    let blob = noise(40_000);
    let other = Digest::of(b"another");
    assert_ne!(other, Digest::of(&blob));
    // What the server does, and how often it is asked.
    let cases: [Case; 8] = [
        (
            "longer by its header",
            |_, _, blob| Told::new(200, [blob, b"x"].concat()),
            1,
        ),
        (
            "longer without a length",
            |_, _, blob| Told::new(200, [blob, b"x"].concat()).chunked(),
            1,
        ),
        ("shorter by its header", |_, _, blob| Told::new(200, &blob[..39_000]), 4),
        (
            "shorter, then nothing more",
            |asked, _, blob| Told::blob(asked, &blob[..39_000]).chunked(),
            4,
        ),
        (
            "a longer one after a drop",
            |asked, number, blob| match number {
                0 => Told::blob(asked, blob).cut(20_000),
                _ => Told::new(206, &blob[20_000..]).with("Content-Range", "bytes 20000-39999/50000"),
            },
            2,
        ),
        (
            "a gap",
            |asked, number, blob| match number {
                0 => Told::blob(asked, blob).cut(20_000),
                _ => Told::new(206, &blob[20_001..]).with("Content-Range", "bytes 20001-39999/40000"),
            },
            2,
        ),
        (
            "a range without saying which",
            |asked, number, blob| match number {
                0 => Told::blob(asked, blob).cut(20_000),
                _ => Told::new(206, &blob[20_000..]),
            },
            2,
        ),
        (
            "another digest",
            |asked, _, blob| {
                let digest = "sha256:0000000000000000000000000000000000000000000000000000000000000000";
                Told::blob(asked, blob).with("Docker-Content-Digest", digest)
            },
            1,
        ),
    ];
    for (name, behaviour, asked) in cases {
        let content = blob.clone();
        let (got, _, server) = fetch(&blob, move |asked, number| behaviour(asked, number, &content));
        let error = got.unwrap_err();
        let kind = matches!(
            error,
            RegistryError::Length { .. } | RegistryError::Digest { .. } | RegistryError::Protocol { .. }
        );
        assert!(kind, "{name}: {error}");
        assert_eq!(server.asked().len(), asked, "{name}: {error}");
    }
}

#[test]
fn small_blobs_are_verified() {
    let blob = noise(5000);
    let content = blob.clone();
    let server = Faulty::start(move |asked, _| {
        if asked.path.starts_with("/v2/good/") {
            Told::blob(asked, &content)
        } else {
            Told::new(200, noise(5000).split_off(1)).chunked()
        }
    });
    let client = client();
    block(async {
        let good = client
            .repository(&reference(&format!("{}/good", server.host())))
            .unwrap();
        assert!(client.fetch_small(&good, &descriptor(&blob), 5000).await.unwrap() == blob);
        let error = client.fetch_small(&good, &descriptor(&blob), 4999).await.unwrap_err();
        assert!(matches!(error, RegistryError::TooLarge { limit: 4999, .. }));
        let bad = client
            .repository(&reference(&format!("{}/bad", server.host())))
            .unwrap();
        let mut wanted = descriptor(&blob);
        wanted.size = 4999;
        let error = client.fetch_small(&bad, &wanted, 5000).await.unwrap_err();
        assert!(matches!(error, RegistryError::Digest { .. }), "{error}");
        assert_eq!(error.code(), Reason::Verify);
    });
}

#[test]
fn requests_that_fail_for_a_moment_are_repeated() {
    let manifest = r#"{"schemaVersion":2,"config":{"mediaType":"x","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0},"layers":[]}"#;
    let server = Faulty::start(move |asked, number| match (asked.path.contains("/busy/"), number) {
        (false, 0) => Told::new(503, "").with("Retry-After", "1"),
        (false, 1) => Told::new(429, "")
            .with("Date", "Sun, 06 Nov 1994 08:49:37 GMT")
            .with("Retry-After", "Sun, 06 Nov 1994 08:49:38 GMT"),
        (false, 2) => Told::new(500, "").cut(0),
        (false, _) => Told::new(200, manifest),
        (true, _) => Told::new(429, "").with("Retry-After", "3600"),
    });
    let client = client();
    block(async {
        let begin = Instant::now();
        client
            .resolve(&reference(&format!("{}/app:1", server.host())))
            .await
            .unwrap();
        assert!(begin.elapsed() >= Duration::from_secs(2), "both waits were kept");
        assert_eq!(server.asked().len(), 4);
        let error = client
            .resolve(&reference(&format!("{}/busy/app:1", server.host())))
            .await
            .unwrap_err();
        assert!(error.to_string().contains("in 3600 s"), "{error}");
        assert_eq!(server.asked().len(), 5, "an hour is not waited for");
    });
}

#[test]
fn answers_that_are_no_manifest_are_refused() {
    let good = r#"{"schemaVersion":2,"config":{"mediaType":"x","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0},"layers":[]}"#;
    let server = Faulty::start(move |asked, _| match asked.path.rsplit('/').next().unwrap() {
        "large" => Told::new(200, vec![b' '; (4 << 20) + 1]),
        "endless" => Told::new(200, vec![b' '; 5 << 20]).chunked(),
        "html" => Told::new(200, "<html>").with("Content-Type", "text/html"),
        "gzip" => Told::new(200, good).with("Content-Encoding", "gzip"),
        "forged" => Told::new(200, good).with("Docker-Content-Digest", &Digest::of(b"x").to_string()),
        "missing" => Told::new(
            404,
            r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#,
        ),
        "odd" => Told::new(418, r#"{"errors":[{"code":"TEAPOT","message":"\u001b[2Jboo"}]}"#),
        "empty" => Told::new(206, good),
        _ => Told::new(200, good).with("Content-Type", "application/vnd.oci.image.manifest.v1+json"),
    });
    let client = client();
    block(async {
        let ask = async |what: &str| {
            client
                .resolve(&reference(&format!("{}/app{what}", server.host())))
                .await
        };
        assert!(ask(":good").await.is_ok());
        let wrong = format!("@{}", Digest::of(b"other"));
        for (what, code, word) in [
            (":large", Reason::Verify, "larger than"),
            (":endless", Reason::Verify, "larger than"),
            (":html", Reason::Verify, "text/html"),
            (":gzip", Reason::Net, "compressed"),
            (":forged", Reason::Verify, "damaged or forged"),
            (wrong.as_str(), Reason::Verify, "damaged or forged"),
            (":missing", Reason::ImageMissing, "app:missing"),
            (":odd", Reason::Net, "418"),
            (":empty", Reason::Net, "206"),
        ] {
            let error = ask(what).await.unwrap_err();
            let text = error.to_string();
            assert_eq!(error.code(), code, "{what}: {text}");
            assert!(text.contains(word) && !text.contains('\u{1b}'), "{what}: {text}");
        }
    });
}

#[test]
fn an_unchanged_tag_costs_one_request() {
    let digest = Digest::of(b"manifest");
    let server = Faulty::start(move |_, _| Told::new(200, "").with("Docker-Content-Digest", &digest.to_string()));
    block(async {
        let head = client()
            .head(&reference(&format!("{}/app:1", server.host())))
            .await
            .unwrap();
        assert_eq!(head.digest, digest);
    });
    assert_eq!(server.asked().len(), 1);
    assert_eq!(server.asked()[0].method, "HEAD");
    let accept = server.asked()[0].header("accept").unwrap().to_owned();
    for kind in [
        "oci.image.index.v1",
        "oci.image.manifest.v1",
        "manifest.list.v2",
        "distribution.manifest.v2",
    ] {
        assert!(accept.contains(kind), "{accept}");
    }
}

#[test]
fn registries_without_head_or_digest_header_are_asked_for_the_manifest() {
    let good = r#"{"schemaVersion":2,"manifests":[]}"#;
    let server = Faulty::start(
        move |asked, _| match (asked.method.as_str(), asked.path.contains("/old/")) {
            ("HEAD", true) => Told::new(405, ""),
            _ => Told::new(200, good),
        },
    );
    block(async {
        for name in ["old/app", "app"] {
            let head = client()
                .head(&reference(&format!("{}/{name}:1", server.host())))
                .await
                .unwrap();
            assert_eq!(head.digest, Digest::of(good.as_bytes()));
        }
    });
}

#[test]
fn connections_are_used_again() {
    let blob = noise(100_000);
    let content = blob.clone();
    let server = Faulty::start(move |asked, _| Told::blob(asked, &content));
    let client = client();
    block(async {
        let repository = client
            .repository(&reference(&format!("{}/app", server.host())))
            .unwrap();
        for _ in 0..5 {
            read(&mut client.blob(&repository, &descriptor(&blob), 0))
                .await
                .unwrap();
        }
        assert_eq!(server.connections(), 1);
        client.close_idle();
        read(&mut client.blob(&repository, &descriptor(&blob), 0))
            .await
            .unwrap();
        assert_eq!(server.connections(), 2);
    });
}

#[test]
fn a_kept_connection_that_the_server_has_closed_is_replaced() {
    let blob = noise(1000);
    let content = blob.clone();
    // `Content-Length` named by hand: the server closes after each answer without saying so.
    let server = Faulty::start(move |asked, _| Told::blob(asked, &content).with("Content-Length", "1000"));
    let mut settings = settings();
    settings.limits.attempts = 1;
    let client = Client::new(settings);
    block(async {
        let repository = client
            .repository(&reference(&format!("{}/app", server.host())))
            .unwrap();
        for _ in 0..5 {
            read(&mut client.blob(&repository, &descriptor(&blob), 0))
                .await
                .unwrap();
        }
    });
}

#[test]
fn mirrors_are_tried_in_order_and_the_one_that_answers_is_kept() {
    let config = noise(100);
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":100}},"layers":[]}}"#,
        Digest::of(&config)
    );
    let (blob, text) = (config.clone(), manifest.clone());
    let good = Faulty::start(move |asked, _| match asked.path.contains("/blobs/") {
        true => Told::blob(asked, &blob),
        false => Told::new(200, text.clone()),
    });
    let lacking = Faulty::start(|_, _| Told::new(404, ""));
    let dead = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let conf = |last: &str| {
        format!(
            "[[registry]]\nprefix='reg.example/team'\nlocation='{last}/origin'\n\
             [[registry.mirror]]\nlocation='{dead}/dead'\n[[registry.mirror]]\nlocation='{}/lacking'\n\
             [[registry.mirror]]\nlocation='{}/mirror'\n",
            lacking.host(),
            good.host()
        )
    };
    block(async {
        let client = Client::new(settings_with(&conf("unreachable.example")));
        let image = client
            .image(&reference("reg.example/team/app:1"), &"linux/amd64".parse().unwrap())
            .await
            .unwrap();
        assert_eq!(image.manifest.repository.name(), "reg.example/team/app");
        let got = client
            .fetch_small(&image.manifest.repository, &image.config, 1000)
            .await
            .unwrap();
        assert!(got == config);
    });
    assert_eq!(good.count("/v2/mirror/app/"), 2);
    assert_eq!(lacking.asked().len(), 1, "blobs are asked for where the manifest was");

    let broken = Faulty::start(|_, _| Told::new(404, ""));
    let mut text = conf(&broken.host());
    text = text.replace(&good.host(), &broken.host());
    let error = block(Client::new(settings_with(&text)).resolve(&reference("reg.example/team/app:1"))).unwrap_err();
    let words = error.to_string();
    assert!(
        words.contains("origin/app:1") && words.contains(&dead.to_string()) && words.contains("lacking"),
        "{words}"
    );
    assert_eq!(error.code(), Reason::ImageMissing);
}

#[test]
fn a_blob_goes_on_at_the_next_place_when_a_mirror_dies() {
    let blob = noise(100_000);
    let (one, two) = (blob.clone(), blob.clone());
    let mirror = Faulty::start(move |asked, number| match number {
        0 => Told::blob(asked, &one).cut(50_000),
        _ => Told::new(500, ""),
    });
    let origin = Faulty::start(move |asked, _| Told::blob(asked, &two));
    let text = format!(
        "[[registry]]\nprefix='reg.example'\nlocation='{}'\n[[registry.mirror]]\nlocation='{}'\n",
        origin.host(),
        mirror.host()
    );
    let client = Client::new(settings_with(&text));
    block(async {
        let repository = client.repository(&reference("reg.example/app")).unwrap();
        let mut stream = client.blob(&repository, &descriptor(&blob), 0);
        assert!(read(&mut stream).await.unwrap() == blob);
        assert_eq!(stream.traffic().repeated, 0);
    });
    assert_eq!(origin.asked()[0].range(), Some((50_000, 99_999)));
}

#[test]
fn a_rate_bounds_all_blobs_together_and_can_be_lifted() {
    let blob = noise(300_000);
    let content = blob.clone();
    let server = Faulty::start(move |asked, _| Told::blob(asked, &content));
    let client = client();
    block(async {
        let repository = client
            .repository(&reference(&format!("{}/app", server.host())))
            .unwrap();
        client.set_rate(std::num::NonZeroU64::new(400_000));
        let begin = Instant::now();
        let (mut one, mut two) = (
            client.blob(&repository, &descriptor(&blob), 0),
            client.blob(&repository, &descriptor(&blob), 0),
        );
        let (first, second) = tokio::join!(read(&mut one), read(&mut two));
        assert!(first.unwrap() == blob && second.unwrap() == blob);
        let took = begin.elapsed();
        assert!(
            took > Duration::from_millis(1100),
            "600,000 bytes at 400,000 a second took {took:?}"
        );
        client.set_rate(None);
        let begin = Instant::now();
        read(&mut client.blob(&repository, &descriptor(&blob), 0))
            .await
            .unwrap();
        assert!(begin.elapsed() < Duration::from_millis(700));
    });
}

#[test]
fn indexes_in_indexes_end_somewhere() {
    let server = Faulty::start(|_, _| Told::new(200, r#"{"schemaVersion":2,"manifests":[]}"#));
    let error = block(client().image(
        &reference(&format!("{}/app:1", server.host())),
        &"linux/amd64".parse().unwrap(),
    ))
    .unwrap_err();
    assert_eq!(error.code(), Reason::NoArch, "{error}");
    assert!(error.to_string().contains("there are: none"), "{error}");

    let inner = r#"{"schemaVersion":2,"manifests":[]}"#.to_owned();
    let mut levels = vec![inner];
    for _ in 0..4 {
        let below = levels.last().unwrap();
        let entry = format!(
            r#"{{"mediaType":"application/vnd.oci.image.index.v1+json","digest":"{}","size":{},"platform":{{"os":"linux","architecture":"amd64"}}}}"#,
            Digest::of(below.as_bytes()),
            below.len()
        );
        levels.push(format!(r#"{{"schemaVersion":2,"manifests":[{entry}]}}"#));
    }
    let server = Faulty::start(move |asked, _| {
        let wanted = asked.path.rsplit('/').next().unwrap();
        let found = levels
            .iter()
            .find(|level| Digest::of(level.as_bytes()).to_string() == wanted);
        Told::new(200, found.unwrap_or(&levels[4]).clone())
    });
    let error = block(client().image(
        &reference(&format!("{}/app:1", server.host())),
        &"linux/amd64".parse().unwrap(),
    ))
    .unwrap_err();
    assert!(error.to_string().contains("nested"), "{error}");
}
