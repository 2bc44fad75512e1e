//! The demo's app: a small web server whose health is what its image says. Compiled for each architecture on the spot.
use std::io::{Read, Write};

fn main() {
    let version = std::env::var("VERSION").unwrap_or_default();
    let healthy = std::env::var("HEALTHY").is_ok_and(|h| h == "yes");
    let listener = std::net::TcpListener::bind("127.0.0.1:8080").expect("bind 127.0.0.1:8080");
    println!("version {version} listens");
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { continue };
        let mut request = [0; 1024];
        let _ = stream.read(&mut request);
        let status = if healthy { "200 OK" } else { "503 Service Unavailable" };
        let body = format!("version {version}\n");
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        let _ = stream
            .write_all(head.as_bytes())
            .and_then(|()| stream.write_all(body.as_bytes()));
    }
}
