//! A server in front of a real registry, which passes requests on and does to the answers what a test wants.

use super::faulty::{Asked, Faulty, Told};
use crate::fixture::registry::Registry;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Starts one. `change` gets every answer about a blob with its request and number.
pub fn proxy(registry: &Registry, change: impl Fn(&Asked, usize, Told) -> Told + Send + Sync + 'static) -> Faulty {
    let port = registry.port();
    Faulty::start(move |asked, number| {
        let told = pass(port, asked);
        if asked.path.contains("/blobs/") {
            change(asked, number, told)
        } else {
            told
        }
    })
}

/// One that sends blobs at about `bytes` per second.
pub fn slow(registry: &Registry, bytes: u64) -> Faulty {
    let pause = Duration::from_micros(4096 * 1_000_000 / bytes);
    proxy(registry, move |_, _, told| told.pace(pause))
}

/// What the registry on this port answers.
pub fn pass(port: u16, asked: &Asked) -> Told {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the registry listens");
    let mut head = format!(
        "{} {} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n",
        asked.method, asked.path
    );
    for name in ["accept", "range", "authorization"] {
        if let Some(value) = asked.header(name) {
            head += &format!("{name}: {value}\r\n");
        }
    }
    stream.write_all((head + "\r\n").as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
    let head = String::from_utf8(answer[..end].to_vec()).unwrap();
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let mut told = Told::new(status, &answer[end + 4..]);
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        let name = name.to_ascii_lowercase();
        assert_ne!(name, "transfer-encoding", "the registry tells lengths");
        if !["connection", "date"].contains(&name.as_str()) && (name != "content-length" || asked.method == "HEAD") {
            told = told.with(&name, value);
        }
    }
    told
}
