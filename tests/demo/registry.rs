//! A read-only registry on loopback: enough of the OCI distribution specification to be pulled from.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use super::image::Images;

/// Serves `images` as repository `demo/app` until the process ends; gives the address.
pub fn serve(images: Images) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let images = Arc::new(images);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let images = Arc::clone(&images);
            std::thread::spawn(move || {
                // A client that went away is its own business.
                let _ = connection(stream, &images);
            });
        }
    });
    Ok(address)
}

fn connection(stream: TcpStream, images: &Images) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    loop {
        let mut request = String::new();
        if reader.read_line(&mut request)? == 0 {
            return Ok(());
        }
        let mut range = None;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("range")
            {
                range = closed_range(value.trim());
            }
        }
        let mut words = request.split(' ');
        let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        answer(&mut writer, method, path, range, images)?;
    }
}

fn closed_range(value: &str) -> Option<(usize, usize)> {
    let (from, to) = value.strip_prefix("bytes=")?.split_once('-')?;
    Some((from.parse().ok()?, to.parse().ok()?))
}

fn answer(
    writer: &mut TcpStream,
    method: &str,
    path: &str,
    range: Option<(usize, usize)>,
    images: &Images,
) -> std::io::Result<()> {
    let found = match path.strip_prefix("/v2/demo/app/") {
        Some(rest) => match rest.split_once('/') {
            Some(("manifests", name)) => {
                let digest = images.tags.get(name).map_or(name.to_owned(), ToString::to_string);
                images.blobs.get(&digest).map(|data| (digest, data))
            }
            Some(("blobs", digest)) => images.blobs.get(digest).map(|data| (digest.to_owned(), data)),
            _ => None,
        },
        None => None,
    };
    let (status, kind, digest, data): (&str, &str, String, &[u8]) = match &found {
        Some((digest, data)) => ("200 OK", media_type(path, data), digest.clone(), data),
        None if path == "/v2/" => ("200 OK", "application/json", String::new(), b"{}"),
        None => (
            "404 Not Found",
            "application/json",
            String::new(),
            b"{\"errors\":[{\"code\":\"MANIFEST_UNKNOWN\"}]}",
        ),
    };
    let (status, body, extra) = match range {
        Some((from, to)) if status == "200 OK" && from <= to && from < data.len() => {
            let to = to.min(data.len() - 1);
            let extra = format!("Content-Range: bytes {from}-{to}/{}\r\n", data.len());
            ("206 Partial Content", &data[from..=to], extra)
        }
        _ => (status, data, String::new()),
    };
    let digest = if digest.is_empty() {
        digest
    } else {
        format!("Docker-Content-Digest: {digest}\r\n")
    };
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n{digest}{extra}\r\n");
    writer.write_all(head.as_bytes())?;
    if method == "HEAD" {
        Ok(())
    } else {
        writer.write_all(body)
    }
}

fn media_type(path: &str, data: &[u8]) -> &'static str {
    if path.contains("/blobs/") {
        return "application/octet-stream";
    }
    let value: serde_json::Value = serde_json::from_slice(data).unwrap_or_default();
    match value["mediaType"].as_str() {
        Some("application/vnd.oci.image.index.v1+json") => "application/vnd.oci.image.index.v1+json",
        _ => "application/vnd.oci.image.manifest.v1+json",
    }
}
