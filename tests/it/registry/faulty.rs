//! A small HTTP/1.1 server that misbehaves as told, for faults that a real registry does not produce.

use crate::fixture::pki::Identity;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A request as it came in; header names in lower case.
#[derive(Debug, Clone)]
pub struct Asked {
    pub method: String,
    pub path: String,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

/// What is sent back.
#[derive(Debug, Clone)]
pub struct Told {
    status: u16,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Bytes of the body after which the connection is closed.
    cut: Option<usize>,
    /// Bytes of the body after which nothing comes for a while.
    stall: Option<usize>,
    chunked: bool,
    /// Wait before the head.
    wait: Duration,
    /// Wait after each 4 KiB of the body.
    pace: Duration,
}

/// What went over the wire of a body: the request's path, and bytes.
pub type Served = Arc<Mutex<Vec<(String, usize)>>>;

type Handler = dyn Fn(&Asked, usize) -> Told + Send + Sync;

/// The server. The handler gets each request and its number, from 0.
pub struct Faulty {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    connections: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
    served: Served,
}

impl Asked {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// First and last byte of a closed range.
    pub fn range(&self) -> Option<(usize, usize)> {
        let (first, last) = self.header("range")?.strip_prefix("bytes=")?.split_once('-')?;
        Some((first.parse().unwrap(), last.parse().expect("a closed range")))
    }
}

impl Told {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Told {
        let body = body.into();
        Told {
            status,
            headers: Vec::new(),
            body,
            cut: None,
            stall: None,
            chunked: false,
            wait: Duration::ZERO,
            pace: Duration::ZERO,
        }
    }

    /// What a good server answers for a blob, with or without a range.
    pub fn blob(asked: &Asked, blob: &[u8]) -> Told {
        match asked.range() {
            None => Told::new(200, blob),
            Some((first, last)) if first <= last && last < blob.len() => Told::new(206, &blob[first..=last])
                .with("Content-Range", &format!("bytes {first}-{last}/{}", blob.len())),
            Some(_) => Told::new(416, "").with("Content-Range", &format!("bytes */{}", blob.len())),
        }
    }

    pub fn with(mut self, name: &str, value: &str) -> Told {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub fn cut(mut self, after: usize) -> Told {
        self.cut = Some(after);
        self
    }

    pub fn stall(mut self, after: usize) -> Told {
        self.stall = Some(after);
        self
    }

    pub fn chunked(mut self) -> Told {
        self.chunked = true;
        self
    }

    pub fn pace(mut self, pause: Duration) -> Told {
        self.pace = pause;
        self
    }

    pub fn wait(mut self, time: Duration) -> Told {
        self.wait = time;
        self
    }
}

impl Faulty {
    pub fn start(handler: impl Fn(&Asked, usize) -> Told + Send + Sync + 'static) -> Faulty {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Faulty {
            address: listener.local_addr().unwrap(),
            asked: Arc::default(),
            connections: Arc::default(),
            over: Arc::default(),
            served: Arc::default(),
        };
        let handler: Arc<Handler> = Arc::new(handler);
        let (asked, connections, over) = (server.asked.clone(), server.connections.clone(), server.over.clone());
        let served = server.served.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                let (handler, asked, connections) = (handler.clone(), asked.clone(), connections.clone());
                let served = served.clone();
                // A client that goes away in the middle is part of the tests.
                std::thread::spawn(move || drop(serve(&stream.unwrap(), &*handler, &asked, &connections, &served)));
            }
        });
        server
    }

    /// The same behind TLS.
    pub fn start_tls(identity: &Identity, handler: impl Fn(&Asked, usize) -> Told + Send + Sync + 'static) -> Faulty {
        let mut server = Faulty::start(handler);
        server.address = encrypt(server.address, identity, server.over.clone());
        server
    }

    /// Forgets what was asked for and served.
    pub fn forget(&self) {
        self.asked.lock().unwrap().clear();
        self.served.lock().unwrap().clear();
    }

    /// `127.0.0.1:PORT`
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// All requests so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// Requests whose path contains `part`.
    pub fn count(&self, part: &str) -> usize {
        self.asked().iter().filter(|asked| asked.path.contains(part)).count()
    }

    /// Bytes of bodies that were sent for paths that contain `part`.
    pub fn served(&self, part: &str) -> usize {
        let served = self.served.lock().unwrap();
        served
            .iter()
            .filter(|(path, _)| path.contains(part))
            .map(|(_, bytes)| bytes)
            .sum()
    }

    /// Connections on which at least one request came.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // Wakes the listener.
        let _ = TcpStream::connect(self.address);
    }
}

/// Speaks TLS on a port of its own, and passes everything on to `behind`.
fn encrypt(behind: SocketAddr, identity: &Identity, over: Arc<AtomicBool>) -> SocketAddr {
    let certificates = CertificateDer::pem_file_iter(&identity.cert).unwrap();
    let key = PrivateKeyDer::from_pem_file(&identity.key).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(certificates.map(Result::unwrap).collect(), key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        super::block(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                if over.load(Ordering::Relaxed) {
                    // Wakes the listener behind.
                    let _ = TcpStream::connect(behind);
                    break;
                }
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let mut plain = tokio::net::TcpStream::connect(behind).await?;
                    let mut stream = acceptor.accept(stream).await?;
                    tokio::io::copy_bidirectional(&mut stream, &mut plain).await
                });
            }
        });
    });
    address
}

fn serve(
    stream: &TcpStream,
    handler: &Handler,
    all: &Mutex<Vec<Asked>>,
    connections: &AtomicUsize,
    served: &Served,
) -> std::io::Result<()> {
    // Head and body are two writes: without this the second waits for the other side's acknowledgement.
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut first = true;
    loop {
        match reader.fill_buf()?.first() {
            // The end, or TLS, which this server does not speak.
            None | Some(0x16) => {
                stream
                    .try_clone()?
                    .write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")?;
                return Ok(());
            }
            Some(_) => {}
        }
        let asked = read_request(&mut reader)?;
        if std::mem::take(&mut first) {
            connections.fetch_add(1, Ordering::Relaxed);
        }
        let number = {
            let mut all = all.lock().unwrap();
            all.push(asked.clone());
            all.len() - 1
        };
        let told = handler(&asked, number);
        if !answer(stream, &asked, &told, served)? {
            return Ok(());
        }
    }
}

fn read_request(reader: &mut impl BufRead) -> std::io::Result<Asked> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let mut headers = BTreeMap::new();
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let length = headers.get("content-length").map_or(0, |text| text.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Asked {
        method,
        path,
        headers,
        body,
    })
}

/// Whether the connection may be used again.
fn answer(mut stream: &TcpStream, asked: &Asked, told: &Told, served: &Served) -> std::io::Result<bool> {
    std::thread::sleep(told.wait);
    let mut head = format!("HTTP/1.1 {} Told\r\n", told.status);
    for (name, value) in &told.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let named = told
        .headers
        .iter()
        .any(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    if told.chunked {
        head.push_str("Transfer-Encoding: chunked\r\n");
    } else if !named {
        head.push_str(&format!("Content-Length: {}\r\n", told.body.len()));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    if asked.method == "HEAD" {
        return Ok(true);
    }
    let end = told.cut.or(told.stall).unwrap_or(told.body.len()).min(told.body.len());
    let place = {
        let mut served = served.lock().unwrap();
        served.push((asked.path.clone(), 0));
        served.len() - 1
    };
    for part in told.body[..end].chunks(4096) {
        // Counted first: a client that has it all may look at the count before this thread goes on.
        served.lock().unwrap()[place].1 += part.len();
        if told.chunked {
            write!(stream, "{:x}\r\n", part.len())?;
        }
        stream.write_all(part)?;
        if told.chunked {
            stream.write_all(b"\r\n")?;
        }
        if !told.pace.is_zero() {
            std::thread::sleep(told.pace);
        }
    }
    if told.stall.is_some() {
        stream.flush()?;
        std::thread::sleep(Duration::from_secs(2));
        return Ok(false);
    }
    if told.cut.is_some() {
        // What was written arrives before the end does.
        stream.shutdown(std::net::Shutdown::Write)?;
        return Ok(false);
    }
    if told.chunked {
        stream.write_all(b"0\r\n\r\n")?;
    }
    Ok(!named)
}
