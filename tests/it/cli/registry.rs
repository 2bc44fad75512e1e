//! login, logout and what is asked from registries without pulling.

use super::{Who, World};
use crate::fixture::cmd::Cmd;
use crate::fixture::images::{Format, Index};
use crate::fixture::registry::Registry;
use crate::skip;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;

/// A registry with TLS and a password that holds busybox, and the folder with its authority's certificate.
fn guarded(world: &World) -> (Registry, PathBuf) {
    let registry = Registry::tls_with_password("device", "pass:word");
    registry.push("team/app", "1", &Index::busybox(Format::Oci));
    let certs = world.folder("certs");
    fs::copy(registry.ca(), certs.join("ca.crt")).unwrap();
    fs::set_permissions(certs.join("ca.crt"), fs::Permissions::from_mode(0o644)).unwrap();
    (registry, certs)
}

impl World {
    /// dunlin with these words, that certificate folder, and the registry's name last.
    fn at(&self, words: &str, certs: &PathBuf, what: &str) -> Cmd {
        self.cmd(words).arg("--cert-dir").arg(certs).arg(what)
    }
}

#[test]
fn a_login_is_tried_stored_used_and_forgotten() {
    for who in [Who::Ranges, Who::Root] {
        let world = match World::new(who) {
            Ok(world) => world,
            Err(reason) => skip!("{reason}"),
        };
        let (registry, certs) = guarded(&world);
        let (host, image) = (registry.host(), registry.reference("team/app:1"));
        let auth = world.folder("auth").join("auth.json");
        let as_usual = |cmd: Cmd| cmd.env("REGISTRY_AUTH_FILE", &auth);

        as_usual(world.cmd("login --get-login").arg(&host))
            .fails(125)
            .says(&[&format!("Error: not logged into {host}")]);
        as_usual(world.at("pull -q", &certs, &image))
            .fails(125)
            .says(&["denied", &format!("dunlin login {host}")]);

        // A wrong password is not stored.
        as_usual(world.at("login -u device --password-stdin", &certs, &host))
            .stdin("wrong\n")
            .fails(125)
            .says(&[&format!("Error: logging into \"{host}\": invalid username/password")]);
        assert!(!auth.exists(), "{who:?}");

        let out = as_usual(world.at("login -u device --password-stdin", &certs, &host))
            .stdin("pass:word\n")
            .run()
            .expect(0);
        assert_eq!(
            (out.stdout.as_str(), out.stderr.as_str()),
            ("Login Succeeded!\n", ""),
            "{who:?}"
        );
        assert_eq!(fs::metadata(&auth).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(as_usual(world.cmd("login --get-login").arg(&host)).ok(), "device");
        assert_eq!(
            as_usual(world.at("login", &certs, &host)).ok(),
            format!(
                "Authenticating with existing credentials for {host}\n\
                 Existing credentials are valid. Already logged in to {host}"
            )
        );
        assert_eq!(as_usual(world.at("pull -q", &certs, &image)).ok(), world.image);
        // podman and skopeo read what was stored.
        let auths: Value = serde_json::from_slice(&fs::read(&auth).unwrap()).unwrap();
        assert_eq!(auths["auths"][&host]["auth"], "ZGV2aWNlOnBhc3M6d29yZA==");

        // Another user's password replaces nothing unless it is right.
        as_usual(world.at("login -u other -p x", &certs, &host)).fails(125);
        assert_eq!(as_usual(world.cmd("login --get-login").arg(&host)).ok(), "device");

        assert_eq!(
            as_usual(world.cmd("logout").arg(format!("https://{host}/"))).ok(),
            format!("Removed login credentials for {host}")
        );
        as_usual(world.at("pull -q", &certs, &image))
            .fails(125)
            .says(&["denied"]);
        as_usual(world.cmd("logout").arg(&host))
            .fails(125)
            .says(&[&format!("not logged into {host}")]);
    }
}

#[test]
fn a_login_goes_to_the_named_file_or_the_users_own() {
    let world = match World::new(Who::Ranges) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    let (registry, certs) = guarded(&world);
    let host = registry.host();
    let user = world.user().expect("an ordinary user");
    let named = world.folder("auth").join("named.json");
    let login = |words: &str| world.at(&format!("login -u device -p pass:word {words}"), &certs, &host);
    login("").arg("--authfile").arg(&named).ok();
    assert!(named.exists());
    world.cmd("login --get-login").arg(&host).fails(125);
    assert!(login("-v").ok().contains("run/containers/auth.json"));
    let own = user.runtime_dir().join("containers/auth.json");
    assert!(own.exists());
    assert_eq!(
        world.cmd("logout --all").ok(),
        "Removed login credentials for all registries"
    );
    world.cmd("login --get-login").arg(&host).fails(125);
    assert_eq!(
        world.cmd("login --get-login --authfile").arg(&named).arg(&host).ok(),
        "device"
    );

    // Docker's file is read and not changed.
    fs::create_dir(user.home().join(".docker")).unwrap();
    let docker = user.home().join(".docker/config.json");
    fs::copy(&named, &docker).unwrap();
    user.give(&user.home().join(".docker"));
    let before = fs::read(&docker).unwrap();
    assert_eq!(world.cmd("login --get-login").arg(&host).ok(), "device");
    assert!(world.cmd("logout").arg(&host).ok().contains("docker logout"));
    assert_eq!(fs::read(&docker).unwrap(), before);

    // A certificate that nobody vouches for is refused, unless that was asked for.
    fs::remove_file(&docker).unwrap();
    world
        .cmd("login -u device -p pass:word")
        .arg(&host)
        .fails(125)
        .says(&["TLS failed", "certs.d"]);
    // The host's authorities are those of one file; without it the message says what to do.
    let login = || world.cmd("login -u device -p pass:word").arg(&host);
    login().env("SSL_CERT_FILE", "/nonexistent").fails(125).says(&[
        "`/nonexistent` is not there",
        "`ca-certificates`",
        &format!("certs.d/{host}/ca.crt"),
    ]);
    login().env("SSL_CERT_FILE", certs.join("ca.crt")).ok();
    world
        .cmd("pull -q")
        .arg(registry.reference("team/app:1"))
        .env("SSL_CERT_FILE", certs.join("ca.crt"))
        .ok();
    world.cmd("logout").arg(&host).ok();
    world
        .cmd("login -u device -p pass:word --tls-verify=false")
        .arg(&host)
        .ok();
}

#[test]
fn mistakes_of_a_login_are_podmans() {
    let world = match World::new(Who::Single) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    for (words, says) in [
        (
            "login -u a -p b --password-stdin x.example",
            "Can't specify both --password-stdin and --password",
        ),
        (
            "login --password-stdin x.example",
            "Must provide --username with --password-stdin",
        ),
        ("login x.example", "--password-stdin"),
        ("login -u a x.example", "--password-stdin"),
        ("login -u a -p b nowhere", "`nowhere` is not a registry"),
        ("login -u a -p b x.example/team:1", "is not a registry"),
        ("login -u a -p b 127.0.0.1:1", "cannot connect"),
        ("logout", "a registry must be provided"),
        ("logout x.example", "not logged into x.example"),
        ("logout --all x.example", "cannot be used with"),
    ] {
        world.cmd(words).fails(125).says(&[says]);
    }
}

#[test]
fn a_credential_helper_keeps_the_password() {
    let world = match World::new(Who::Ranges) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    let (registry, certs) = guarded(&world);
    let host = registry.host();
    let folder = world.folder("helper");
    let kept = folder.join("kept");
    let script = format!(
        "#!/bin/sh\ncase $1 in\nstore) cat >{0};;\nget) [ -e {0} ] && exec cat {0}; echo credentials not found in native \
         keychain; exit 1;;\nerase) [ -e {0} ] && exec rm {0}; echo credentials not found in native keychain; exit 1;;\nesac\n",
        kept.display()
    );
    let helper = folder.join("docker-credential-test");
    fs::write(&helper, script).unwrap();
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
    let auth = folder.join("auth.json");
    fs::write(&auth, format!("{{\"credHelpers\":{{\"{host}\":\"test\"}}}}")).unwrap();
    world.user().expect("an ordinary user").give(&folder);
    let path = format!("{}:/usr/bin:/bin", folder.display());
    let with = |cmd: Cmd| cmd.env("PATH", &path).env("REGISTRY_AUTH_FILE", &auth);

    let said = with(world.at("login -v -u device --password-stdin", &certs, &host))
        .stdin("pass:word")
        .ok();
    assert_eq!(said, "Used:  docker-credential-test\nLogin Succeeded!");
    let entry: Value = serde_json::from_slice(&fs::read(&kept).unwrap()).unwrap();
    assert_eq!(
        (&entry["ServerURL"], &entry["Username"], &entry["Secret"]),
        (&Value::from(host.as_str()), &"device".into(), &"pass:word".into())
    );
    assert!(!fs::read_to_string(&auth).unwrap().contains("auths"));
    assert_eq!(with(world.cmd("login --get-login").arg(&host)).ok(), "device");
    let image = registry.reference("team/app:1");
    with(world.at("pull -q", &certs, &image)).ok();
    with(world.cmd("logout").arg(&host)).ok();
    assert!(!kept.exists());
    with(world.at("pull -q", &certs, &image)).fails(125).says(&["denied"]);
    with(world.cmd("logout").arg(&host))
        .fails(125)
        .says(&["not logged into"]);
}

#[test]
fn a_registry_is_asked_about_an_image_as_skopeo_asks() {
    let world = match World::new(Who::Ranges) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    let (registry, certs) = guarded(&world);
    let index = Index::each(Format::Docker, |recipe| {
        recipe
            .config("Labels", serde_json::json!({"a": "b"}))
            .config("Env", serde_json::json!(["A=1"]))
    });
    registry.push("team/app", "2", &index);
    let image = index.image(crate::fixture::arch::Arch::host());
    let host = registry.host();
    world.at("login -u device -p pass:word", &certs, &host).ok();
    let skopeo = |words: &[&str], name: &str| {
        Cmd::new("skopeo")
            .args(words)
            .args(["--creds", "device:pass:word", "--cert-dir"])
            .arg(&certs)
            .arg(format!("docker://{host}/{name}"))
            .run()
            .expect(0)
            .stdout
    };
    let dunlin = |words: &str, name: &str| {
        let out = world
            .at(words, &certs, &format!("docker://{host}/{name}"))
            .run()
            .expect(0);
        assert_eq!(out.stderr, "", "{words}");
        out.stdout
    };
    let value = |text: &str| -> Value { serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}")) };

    for name in ["team/app:1", "team/app:2"] {
        assert_eq!(
            dunlin("inspect --raw", name),
            skopeo(&["inspect", "--raw"], name),
            "{name}"
        );
        assert_eq!(
            dunlin("inspect --config --raw", name),
            skopeo(&["inspect", "--config", "--raw"], name),
            "{name}"
        );
        let (own, other) = (value(&dunlin("inspect", name)), value(&skopeo(&["inspect"], name)));
        for (key, expected) in other.as_object().expect("an object") {
            assert_eq!(&own[key], expected, "{name} {key}");
        }
        let (own, other) = (dunlin("inspect --config", name), skopeo(&["inspect", "--config"], name));
        for (key, expected) in value(&other).as_object().expect("an object") {
            if key != "config" {
                assert_eq!(&value(&own)[key], expected, "{name} {key}");
            }
        }
    }
    assert_eq!(dunlin("list-tags", "team/app"), skopeo(&["list-tags"], "team/app"));
    let own = value(&dunlin("inspect --no-tags", "team/app:2"));
    assert_eq!(own["RepoTags"], serde_json::json!([]));
    assert_eq!(own["LayersData"][0]["Digest"], image.layers[0].digest());
    assert_eq!(
        dunlin("inspect --format {{.Labels.a}}|{{.Digest}}", "team/app:2"),
        format!("b|{}\n", index.manifest.digest())
    );
    let whole = dunlin("inspect", "team/app:2");
    assert!(whole.starts_with("{\n    \"Name\": \""), "{whole}");
    // Nothing was pulled.
    assert_eq!(world.cmd("images -q").ok().lines().count(), 1);

    for (words, name, says) in [
        ("inspect", "docker://HOST/team/app:9", "does not have"),
        ("inspect", "docker://HOST/nope", "does not have"),
        ("list-tags", "docker://HOST/nope", "does not have"),
        ("list-tags", "docker://HOST/team/app:1", "No tag or digest allowed"),
        ("list-tags", "docker://short", "short"),
        ("inspect --raw", "busybox", "docker://"),
        ("inspect other", "docker://HOST/team/app:1", "ask for them apart"),
    ] {
        world
            .at(words, &certs, &name.replace("HOST", &host))
            .fails(125)
            .says(&[says]);
    }
    world.cmd("logout").arg(&host).ok();
    world
        .at("list-tags", &certs, &format!("docker://{host}/team/app"))
        .fails(125)
        .says(&["denied", "dunlin login"]);
}

#[test]
fn search_finds_repositories_where_a_registry_tells() {
    let world = match World::new(Who::Ranges) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    let (registry, certs) = guarded(&world);
    let host = registry.host();
    let busybox = Index::busybox(Format::Oci);
    for name in ["many/a", "many/b", "many/c"] {
        registry.push(name, "1", &busybox);
    }
    registry.push("team/web", "1", &busybox);
    registry.push("team/web", "2", &busybox);
    let search = |words: &str, term: &str| {
        let cmd = world.at(&format!("search {words}"), &certs, &format!("{host}/{term}"));
        cmd.env("HOME", world.folder("nobody"))
    };
    search("--creds device:pass:word", "nothing").expect_lines(&["NAME DESCRIPTION"]);
    search("--creds device:pass:word", "team/").expect_lines(&[
        "NAME DESCRIPTION",
        &format!("{host}/team/app"),
        &format!("{host}/team/web"),
    ]);
    // Two at a time: more than one page is asked for.
    let some = search("--creds device:pass:word --limit 2 --format {{.Name}}", "web").ok();
    assert_eq!(some, format!("{host}/team/web"));
    let some = search("--creds device:pass:word --limit 2 --format {{.Name}}", "").ok();
    assert_eq!(some, format!("{host}/many/a\n{host}/many/b"));
    let all = search("--creds device:pass:word --format {{.Name}}", "").ok();
    assert_eq!(all.lines().count(), 5, "{all}");
    let tags = search("--creds device:pass:word --list-tags --format {{.Tag}}", "team/web").ok();
    let mut tags: Vec<&str> = tags.lines().collect();
    tags.sort_unstable();
    assert_eq!(tags, ["1", "2"]);
    search("", "team").fails(125).says(&["denied"]);
    world.cmd("search web").fails(125).says(&["names no registry"]);
    // Names without a registry are looked for in those that are configured, one that fails is told.
    let file = world.folder("conf").join("registries.conf");
    fs::write(
        &file,
        format!("unqualified-search-registries = ['127.0.0.1:1', '{host}']"),
    )
    .unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let out = world
        .cmd("search --tls-verify=false --creds device:pass:word --format {{.Index}}|{{.Name}} web")
        .env("CONTAINERS_REGISTRIES_CONF", &file)
        .run()
        .expect(0)
        .says(&["warning: ", "127.0.0.1:1"]);
    assert_eq!(out.stdout, format!("{host}|{host}/team/web\n"));
}

impl Cmd {
    /// Succeeds with these lines, whatever the space between their words.
    fn expect_lines(self, lines: &[&str]) {
        let out = self.ok();
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(out.lines().map(words).collect::<Vec<_>>(), lines, "{out}");
    }
}
