//! Who is let in, and who learns what: tokens, passwords, redirects, proxies.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dunlin::config::auth::AuthPlaces;
use dunlin::registry::{Client, Proxies, RegistryError, Settings};
use dunlin::types::deployment::Reason;
use dunlin::types::digest::Digest;

use super::faulty::{Asked, Faulty, Told};
use super::{block, client, descriptor, noise, read, reference, settings, settings_with};
use crate::fixture::scratch::Scratch;

const MANIFEST: &str = r#"{"schemaVersion":2,"manifests":[]}"#;

/// Settings that know a password for `host`.
fn logged_in(scratch: &Scratch, host: &str, user: &str, password: &str) -> Settings {
    let mut settings = settings();
    settings.auth = AuthPlaces {
        files: vec![scratch.join("auth.json")],
    };
    settings.auth.store(host, user, password).unwrap();
    settings
}

fn basic(text: &str) -> String {
    format!("Basic {}", dunlin::types::base64::encode(text.as_bytes()))
}

/// A token server: token `tN` for the N-th request.
fn token_server(extra: &'static str) -> Faulty {
    let issued = Arc::new(AtomicUsize::new(1));
    Faulty::start(move |_, _| {
        Told::new(
            200,
            format!(r#"{{"token":"t{}"{extra}}}"#, issued.fetch_add(1, Ordering::Relaxed)),
        )
    })
}

fn challenge(server: &Faulty) -> String {
    format!(
        r#"Bearer realm="http://{}/token?x=1",service="the registry",scope="repository:evil:push,delete""#,
        server.host()
    )
}

#[test]
fn a_token_is_fetched_once_for_pulling_only_and_shown_from_then_on() {
    let tokens = token_server("");
    let wanted = challenge(&tokens);
    let server = Faulty::start(move |asked, _| match asked.header("authorization") {
        Some("Bearer t1") => Told::new(200, MANIFEST),
        _ => Told::new(401, "").with("WWW-Authenticate", &wanted),
    });
    let client = client();
    block(async {
        for _ in 0..3 {
            client
                .resolve(&reference(&format!("{}/team/app:1", server.host())))
                .await
                .unwrap();
        }
    });
    assert_eq!(server.asked().len(), 4);
    assert_eq!(tokens.asked().len(), 1);
    let asked = &tokens.asked()[0];
    assert_eq!(
        asked.path,
        "/token?x=1&service=the%20registry&scope=repository%3Ateam%2Fapp%3Apull"
    );
    assert_eq!(asked.header("authorization"), None, "anonymous without a login");
}

#[test]
fn a_token_that_ends_in_the_middle_of_a_blob_is_renewed_with_the_stored_password() {
    let blob = noise(120_000);
    let content = blob.clone();
    let tokens = token_server(r#","expires_in":3000"#);
    let wanted = challenge(&tokens);
    // Each token is good for one request.
    let server = Faulty::start(move |asked, number| {
        let token = format!("Bearer t{}", number / 2 + 1);
        match asked.header("authorization") == Some(token.as_str()) {
            true => Told::blob(asked, &content).cut(50_000),
            false => Told::new(401, "").with("WWW-Authenticate", &wanted),
        }
    });
    let scratch = Scratch::new("registry-token");
    let client = Client::new(logged_in(&scratch, &server.host(), "me", "secret"));
    block(async {
        let repository = client
            .repository(&reference(&format!("{}/team/app", server.host())))
            .unwrap();
        let mut stream = client.blob(&repository, &descriptor(&blob), 0);
        assert!(read(&mut stream).await.unwrap() == blob);
        assert_eq!(stream.traffic().fetched, 120_000);
    });
    assert_eq!(tokens.asked().len(), 3);
    assert!(
        tokens
            .asked()
            .iter()
            .all(|asked| asked.header("authorization") == Some(&basic("me:secret")))
    );
    let shown: Vec<_> = server
        .asked()
        .iter()
        .filter_map(|asked| asked.header("authorization").map(str::to_owned))
        .collect();
    assert!(
        shown.iter().all(|value| value.starts_with("Bearer ")),
        "the password goes to the token server only"
    );
}

#[test]
fn a_short_lived_token_is_renewed_before_it_ends() {
    let tokens = token_server(r#","expires_in":1"#);
    let wanted = challenge(&tokens);
    let server = Faulty::start(move |asked, _| match asked.header("authorization") {
        Some(value) if value.starts_with("Bearer ") => Told::new(200, MANIFEST),
        _ => Told::new(401, "").with("WWW-Authenticate", &wanted),
    });
    let client = client();
    block(async {
        for _ in 0..2 {
            client
                .resolve(&reference(&format!("{}/app:1", server.host())))
                .await
                .unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(600)).await;
        }
    });
    assert_eq!(tokens.asked().len(), 2);
}

#[test]
fn an_identity_token_is_exchanged() {
    let tokens = Faulty::start(|_, _| Told::new(200, r#"{"access_token":"given"}"#));
    let wanted = challenge(&tokens);
    let server = Faulty::start(move |asked, _| match asked.header("authorization") {
        Some("Bearer given") => Told::new(200, MANIFEST),
        _ => Told::new(401, "").with("WWW-Authenticate", &wanted),
    });
    let scratch = Scratch::new("registry-identity");
    let file = scratch.write(
        "auth.json",
        format!(r#"{{"auths":{{"{}":{{"identitytoken":"re/fresh"}}}}}}"#, server.host()),
    );
    let mut settings = settings();
    settings.auth = AuthPlaces { files: vec![file] };
    block(Client::new(settings).resolve(&reference(&format!("{}/app:1", server.host())))).unwrap();
    let asked = &tokens.asked()[0];
    assert_eq!(asked.method, "POST");
    let body = String::from_utf8(asked.body.clone()).unwrap();
    assert!(
        body.contains("grant_type=refresh_token") && body.contains("refresh_token=re%2Ffresh"),
        "{body}"
    );
    assert!(body.contains("scope=repository%3Aapp%3Apull"), "{body}");
}

#[test]
fn refusals_say_what_to_do() {
    let scratch = Scratch::new("registry-refused");
    let with = |value: &'static str| {
        Faulty::start(move |_, _| {
            let body = r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#;
            Told::new(401, body).with("WWW-Authenticate", value)
        })
    };
    let tokens = Faulty::start(|_, _| Told::new(401, r#"{"details":"incorrect username or password"}"#));
    let wanted = challenge(&tokens);
    let by_token = Faulty::start(move |_, _| Told::new(401, "").with("WWW-Authenticate", &wanted));
    let useless = token_server("");
    let wanted = challenge(&useless);
    let never = Faulty::start(move |_, _| Told::new(401, "").with("WWW-Authenticate", &wanted));
    let forbidden = Faulty::start(|_, _| {
        Told::new(
            403,
            r#"{"errors":[{"code":"DENIED","message":"requested access is denied"}]}"#,
        )
    });
    let (password, strange) = (with(r#"Basic realm="x""#), with("Negotiate"));
    for (server, login, word) in [
        (&password, false, "dunlin login 127.0.0.1"),
        (&password, true, "password is wrong"),
        (&strange, true, "unknown kind"),
        (&by_token, false, "dunlin login 127.0.0.1"),
        (&by_token, true, "incorrect username or password"),
        (&never, false, "it gives no reason"),
        (&forbidden, false, "requested access is denied"),
    ] {
        let settings = if login {
            logged_in(&scratch, &server.host(), "me", "secret")
        } else {
            settings()
        };
        let asked = server.asked().len();
        let error = block(Client::new(settings).resolve(&reference(&format!("{}/app:1", server.host())))).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(word) && !text.contains("secret"), "{text}");
        assert_eq!(error.code(), Reason::Auth, "{text}");
        assert!(server.asked().len() <= asked + 2, "a refusal is not repeated");
    }
    for bad in [
        r#"{"token":"a b"}"#,
        r#"{"token":"a\nb"}"#,
        "{}",
        "nothing",
        r#"{"token":""}"#,
    ] {
        let tokens = Faulty::start(move |_, _| Told::new(200, bad));
        let wanted = challenge(&tokens);
        let server = Faulty::start(move |_, _| Told::new(401, "").with("WWW-Authenticate", &wanted));
        let error = block(client().resolve(&reference(&format!("{}/app:1", server.host())))).unwrap_err();
        assert!(matches!(error, RegistryError::Protocol { .. }), "{error}");
    }
}

#[test]
fn credentials_do_not_follow_redirects_to_other_servers() {
    let blob = noise(30_000);
    let content = blob.clone();
    let other = Faulty::start(move |asked, _| Told::blob(asked, &content));
    let target = format!("http://{}/store/x?signature=y", other.host());
    let (content, elsewhere) = (blob.clone(), target.clone());
    let server = Faulty::start(move |asked, _| {
        let path = asked.path.clone();
        match asked.header("authorization") {
            None => Told::new(401, "").with("WWW-Authenticate", "Basic"),
            Some(_) if path.starts_with("/v2/away/") => Told::new(307, "").with("Location", &elsewhere),
            Some(_) if path.starts_with("/v2/here/") => Told::new(302, "").with("Location", "/moved/x"),
            Some(_) if path == "/moved/x" => Told::blob(asked, &content),
            Some(_) => Told::new(404, ""),
        }
    });
    let scratch = Scratch::new("registry-redirect");
    let client = Client::new(logged_in(&scratch, &server.host(), "me", "secret"));
    block(async {
        for name in ["away", "here"] {
            let repository = client
                .repository(&reference(&format!("{}/{name}/app", server.host())))
                .unwrap();
            assert!(
                read(&mut client.blob(&repository, &descriptor(&blob), 0))
                    .await
                    .unwrap()
                    == blob,
                "{name}"
            );
        }
        let repository = client
            .repository(&reference(&format!("{}/away/app", server.host())))
            .unwrap();
        let mut stream = client.blob(&repository, &descriptor(&blob), 10_000);
        assert!(stream.next().await.unwrap().is_some());
    });
    assert_eq!(other.asked().len(), 2);
    assert!(
        other
            .asked()
            .iter()
            .all(|asked| asked.header("authorization").is_none()),
        "{:?}",
        other.asked()
    );
    assert_eq!(other.asked()[0].path, "/store/x?signature=y");
    assert_eq!(other.asked()[1].range(), Some((10_000, 29_999)), "the range follows");
    let moved: Vec<Asked> = server
        .asked()
        .into_iter()
        .filter(|asked| asked.path == "/moved/x")
        .collect();
    assert_eq!(
        moved[0].header("authorization"),
        Some(basic("me:secret").as_str()),
        "the same server learns nothing new"
    );
}

#[test]
fn redirects_that_lead_astray_are_refused() {
    for (location, word) in [
        ("http://registry.example/x", "plain HTTP is refused"),
        ("http://10.1.2.3/x", "plain HTTP is refused"),
        ("/v2/again", "more than 5 times"),
        ("ftp://127.0.0.1/x", "neither http nor https"),
        ("http://me:you@127.0.0.1/x", "user name"),
        ("", "redirect"),
    ] {
        let server = Faulty::start(move |_, _| Told::new(307, "").with("Location", location));
        let error = block(client().resolve(&reference(&format!("{}/app:1", server.host()))))
            .unwrap_err()
            .to_string();
        assert!(error.contains(word), "{location}: {error}");
    }
    let server = Faulty::start(|_, _| {
        Told::new(401, "").with(
            "WWW-Authenticate",
            r#"Bearer realm="http://tokens.example/get",service="x""#,
        )
    });
    let error = block(client().resolve(&reference(&format!("{}/app:1", server.host())))).unwrap_err();
    assert!(matches!(error, RegistryError::Plain { .. }), "{error}");
}

#[test]
fn plain_http_is_for_this_machine_and_for_listed_registries() {
    // The proxy stands for the network: names of registries need no resolver.
    let proxy = Faulty::start(|asked, _| match asked.method.as_str() {
        "CONNECT" => Told::new(502, ""),
        _ => Told::new(200, MANIFEST),
    });
    let proxies = |settings: &mut Settings| {
        let url = format!("http://me:pass@{}", proxy.host());
        settings.proxies = Proxies::new(Some(&url), Some(&url), None).unwrap();
    };
    let mut listed = settings_with("[[registry]]\nlocation='plain.example'\ninsecure=true");
    proxies(&mut listed);
    let resolved = block(Client::new(listed).resolve(&reference("plain.example/app:1"))).unwrap();
    assert_eq!(resolved.digest, Digest::of(MANIFEST.as_bytes()));
    let last = proxy.asked().pop().unwrap();
    assert_eq!(last.path, "http://plain.example/v2/app/manifests/1");
    assert_eq!(last.header("host"), Some("plain.example"));
    assert_eq!(last.header("proxy-authorization"), Some(basic("me:pass").as_str()));

    let before = proxy.asked().len();
    let mut unlisted = settings();
    proxies(&mut unlisted);
    let error = block(Client::new(unlisted).resolve(&reference("other.example/app:1"))).unwrap_err();
    assert!(
        error.to_string().contains("refused the tunnel to other.example:443"),
        "{error}"
    );
    assert!(
        proxy.asked()[before..].iter().all(|asked| asked.method == "CONNECT"),
        "never in plain text"
    );
}

#[test]
fn a_helper_program_is_asked_for_the_password() {
    let server = Faulty::start(|asked, _| match asked.header("authorization") {
        Some(value) if value == basic("helped:secret") => Told::new(200, MANIFEST),
        _ => Told::new(401, "").with("WWW-Authenticate", "Basic"),
    });
    let scratch = Scratch::new("registry-helper");
    let name = format!("dunlin-test-{}", std::process::id());
    // Helpers are found by PATH, which is the whole process's: the program's own folder is made reachable by its name.
    let auth = format!(r#"{{"credHelpers":{{"{}":"{name}"}}}}"#, server.host());
    let mut settings = settings();
    settings.auth = AuthPlaces {
        files: vec![scratch.write("auth.json", auth)],
    };
    let client = Client::new(settings);
    let wanted = reference(&format!("{}/app:1", server.host()));
    let error = block(client.resolve(&wanted)).unwrap_err();
    assert!(
        error.to_string().contains(&format!("docker-credential-{name}")),
        "{error}"
    );
    assert_eq!(error.code(), Reason::Auth);
}
