//! Who is let in, and who learns what: tokens, passwords, redirects, proxies.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dunlin::config::auth::AuthPlaces;
use dunlin::config::certs::CertPlaces;
use dunlin::registry::{Client, Proxies, RegistryError, Settings};
use dunlin::types::deployment::Reason;
use dunlin::types::digest::Digest;

use super::faulty::{Asked, Faulty, Told};
use super::{block, client, descriptor, noise, read, reference, settings, settings_with};
use crate::fixture::pki::Pki;
use crate::fixture::scratch::Scratch;

const MANIFEST: &str = r#"{"schemaVersion":2,"manifests":[]}"#;

/// Settings that know a password for `host`.
fn logged_in(scratch: &Scratch, host: &str, user: &str, password: &str) -> Settings {
    let mut settings = settings();
    settings.auth = AuthPlaces {
        files: vec![scratch.join("auth.json")],
        ..Default::default()
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
fn a_token_for_pushing_is_another_one_and_goes_to_no_other_server() {
    let tokens = token_server("");
    let wanted = challenge(&tokens);
    let storage = Faulty::start(|_, _| Told::new(201, ""));
    let elsewhere = format!("http://{}/put/here?state=x", storage.host());
    let server = Faulty::start(move |asked, _| match asked.header("authorization") {
        None => Told::new(401, "").with("WWW-Authenticate", &wanted),
        Some(_) if asked.method == "HEAD" => Told::new(404, ""),
        Some(_) => Told::new(202, "").with("Location", &elsewhere),
    });
    let client = client();
    let name = reference(&format!("{}/team/app:1", server.host()));
    block(async {
        let place = client.destination(&name, &["team/other".to_owned()]).unwrap();
        place.put_blob(b"content").await.unwrap();
    });
    let asked = tokens.asked();
    assert_eq!(asked.len(), 1);
    let scopes = "&scope=repository%3Ateam%2Fapp%3Apull%2Cpush&scope=repository%3Ateam%2Fother%3Apull";
    assert!(asked[0].path.ends_with(scopes), "{}", asked[0].path);
    let put = &storage.asked()[0];
    assert_eq!((put.method.as_str(), &put.body[..]), ("PUT", &b"content"[..]));
    let digest = Digest::of(b"content").to_string().replace(':', "%3A");
    assert_eq!(put.path, format!("/put/here?state=x&digest={digest}"));
    assert_eq!(put.header("authorization"), None);
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
    settings.auth = AuthPlaces {
        files: vec![file],
        ..Default::default()
    };
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
fn a_helper_program_that_is_missing_is_named() {
    let server = Faulty::start(|_, _| Told::new(401, "").with("WWW-Authenticate", "Basic"));
    let scratch = Scratch::new("registry-helper");
    let name = format!("dunlin-test-{}", std::process::id());
    let auth = format!(r#"{{"credHelpers":{{"{}":"{name}"}}}}"#, server.host());
    let mut settings = settings();
    settings.auth = AuthPlaces {
        files: vec![scratch.write("auth.json", auth)],
        ..Default::default()
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

#[test]
fn a_login_is_checked_before_it_is_stored() {
    let tokens = Faulty::start(|asked, _| match asked.header("authorization") {
        Some(value) if value == basic("me:right") => Told::new(200, r#"{"token":"t"}"#),
        _ => Told::new(401, r#"{"details":"incorrect username or password"}"#),
    });
    let wanted = challenge(&tokens);
    let by_token = Faulty::start(move |asked, _| match asked.header("authorization") {
        Some("Bearer t") if asked.path == "/v2/" => Told::new(200, "{}"),
        _ => Told::new(401, "").with("WWW-Authenticate", &wanted),
    });
    let by_password = Faulty::start(|asked, _| match asked.header("authorization") {
        Some(value) if value == basic("me:right") && asked.path == "/v2/" => Told::new(200, "{}"),
        _ => Told::new(401, "").with("WWW-Authenticate", "Basic"),
    });
    for server in [&by_token, &by_password] {
        block(async {
            client().check_login(&server.host(), "me", "right").await.unwrap();
            let error = client().check_login(&server.host(), "me", "wrong").await.unwrap_err();
            assert_eq!(error.code(), Reason::Auth, "{error}");
        });
    }
    assert!(tokens.asked().iter().all(|asked| !asked.path.contains("scope")));
}

/// A TLS server that answers every request with a manifest. With `client_ca` it lets in only whom that authority knows.
fn tls_server(pki: &Pki, name: &str, client_ca: bool) -> std::net::SocketAddr {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let identity = pki.server(name);
    let chain: Vec<_> = CertificateDer::pem_file_iter(&identity.cert)
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let key = PrivateKeyDer::from_pem_file(&identity.key).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = if client_ca {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(pki.ca()).unwrap()).unwrap();
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .unwrap();
        builder.with_client_cert_verifier(verifier)
    } else {
        builder.with_no_client_auth()
    };
    let config = Arc::new(builder.with_single_cert(chain, key).unwrap());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // Ends with the test's process; a connection that fails is part of the tests.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let connection = rustls::ServerConnection::new(config.clone()).unwrap();
            let mut stream = rustls::StreamOwned::new(connection, stream.unwrap());
            let mut head = [0; 1024];
            if stream.read(&mut head).is_ok_and(|read| read > 0) {
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                    MANIFEST.len()
                );
                let _ = stream
                    .write_all(answer.as_bytes())
                    .and_then(|()| stream.write_all(MANIFEST.as_bytes()));
                stream.conn.send_close_notify();
                let _ = stream.flush();
            }
        }
    });
    address
}

#[test]
fn a_client_certificate_is_shown_to_its_registry() {
    let scratch = Scratch::new("registry-client-cert");
    let pki = Pki::new(&scratch.folder("pki"));
    let address = tls_server(&pki, "localhost", true);
    let folder = scratch.folder(&format!("certs.d/{address}"));
    std::fs::copy(pki.ca(), folder.join("ca.crt")).unwrap();
    let mut settings = settings();
    settings.certs = CertPlaces {
        folders: vec![scratch.join("certs.d")],
        bundles: vec![],
        ..Default::default()
    };
    settings.limits.attempts = 1;
    let wanted = reference(&format!("{address}/app:1"));
    let error = block(Client::new(settings.clone()).resolve(&wanted)).unwrap_err();
    assert_eq!(error.code(), Reason::Net, "{error}");
    let identity = pki.client("gw-0017");
    std::fs::copy(identity.cert, folder.join("client.cert")).unwrap();
    std::fs::copy(identity.key, folder.join("client.key")).unwrap();
    block(Client::new(settings).resolve(&wanted)).unwrap();
}

#[test]
fn tls_goes_through_a_proxy_as_a_tunnel() {
    let scratch = Scratch::new("registry-tunnel");
    let pki = Pki::new(&scratch.folder("pki"));
    let address = tls_server(&pki, "localhost", false);
    let proxy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", proxy.local_addr().unwrap());
    let asked = std::thread::spawn(move || {
        let (mut client, _) = proxy.accept().unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            client.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let server = std::net::TcpStream::connect(address).unwrap();
        client
            .write_all(b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n")
            .unwrap();
        let (mut up, mut down) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        let upward = std::thread::spawn(move || std::io::copy(&mut up, &mut down));
        let _ = std::io::copy(&mut &server, &mut &client);
        let _ = client.shutdown(std::net::Shutdown::Both);
        let _ = upward.join();
        String::from_utf8(head).unwrap()
    });
    let mut settings = settings();
    settings.proxies = Proxies::new(Some(&url), None, Some("other.example")).unwrap();
    settings.certs = CertPlaces {
        folders: vec![],
        bundles: vec![pki.ca()],
        ..Default::default()
    };
    // An address that the certificate names and that nothing here can reach but the proxy.
    block(async {
        Client::new(settings)
            .resolve(&reference("10.0.2.2:5000/app:1"))
            .await
            .unwrap()
    });
    assert!(
        asked
            .join()
            .unwrap()
            .starts_with("CONNECT 10.0.2.2:5000 HTTP/1.1\r\nHost: 10.0.2.2:5000\r\n")
    );
}
