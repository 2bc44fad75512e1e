//! Connections to registries: opened with time-outs, reused per host, one HTTP/1.1 exchange at a time on each.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::response::Parts;
use hyper::{Method, Request, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use super::error::RegistryError;
use super::payload::{Payload, Pieces};
use super::proxy::{Proxies, Proxy};
use super::settings::Limits;
use super::tls::Tls;
use super::url::{self, Url};
use crate::types::bounds::{ADDRESSES, ERROR_BODY_BYTES, IDLE_CONNECTIONS, READ_BUFFER_BYTES};

/// How long a connection without a request is kept.
const IDLE: Duration = Duration::from_secs(30);
/// How long the next address of a host waits for the one before it (RFC 8305).
const STAGGER: Duration = Duration::from_millis(250);

/// How a connection is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Security {
    /// TLS with a verified certificate.
    Verified,
    /// TLS with any certificate: registries listed as insecure.
    Unverified,
    /// Plain HTTP.
    Plain,
}

/// Where a request goes.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    /// Name or address; an IPv6 address without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// How it is spoken to.
    pub security: Security,
    /// As references write it, for errors and certs.d.
    pub label: String,
}

/// A request without its origin.
#[derive(Debug, Clone)]
pub(crate) struct Outgoing {
    /// GET, HEAD, POST, PATCH, PUT or DELETE.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// Headers beyond `Host` and `User-Agent`.
    pub headers: HeaderMap,
    /// The body, usually empty.
    pub body: Bytes,
}

/// The head of an answer, and its body to be read.
pub(crate) struct Reply {
    /// Status and headers.
    pub head: Parts,
    /// The body.
    pub body: Body,
}

/// A body that is being read. Read to its end, it gives its connection back.
pub(crate) struct Body {
    incoming: Incoming,
    sender: Option<SendRequest<Payload>>,
    transport: Arc<Transport>,
    origin: Origin,
}

/// Opens and keeps connections.
pub(crate) struct Transport {
    limits: Limits,
    tls: Tls,
    proxies: Proxies,
    idle: Mutex<Vec<Idle>>,
}

struct Idle {
    origin: Origin,
    sender: SendRequest<Payload>,
    since: Instant,
}

impl Origin {
    /// Whether both mean the same server, spoken to in the same way.
    pub(crate) fn same(&self, other: &Origin) -> bool {
        self.host == other.host && self.port == other.port && self.security == other.security
    }

    /// The URL of a path on it.
    pub(crate) fn url(&self, path: &str) -> Url {
        let tls = self.security != Security::Plain;
        Url {
            tls,
            host: self.host.clone(),
            port: self.port,
            path: path.to_owned(),
        }
    }
}

impl Outgoing {
    /// A GET of `path`.
    pub(crate) fn get(path: String) -> Self {
        Self::new(Method::GET, path)
    }

    /// A request without a body.
    pub(crate) fn new(method: Method, path: String) -> Self {
        Self {
            method,
            path,
            headers: HeaderMap::new(),
            body: Bytes::new(),
        }
    }

    /// The same with a header; a value that no header can hold is left out.
    pub(crate) fn with(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
        self
    }
}

impl Reply {
    /// The text of a header, where it is one.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.headers.get(name)?.to_str().ok()
    }

    /// Reads a small error's body, so that the connection can be used again; `None` where it is too large or breaks.
    pub(crate) async fn error_body(mut self) -> Option<Bytes> {
        self.body.read_all(ERROR_BODY_BYTES).await.ok().flatten()
    }
}

impl Body {
    /// The next bytes, never empty; `None` at the end. Dropping the future loses nothing.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, RegistryError> {
        let stall = self.transport.limits.stall;
        loop {
            match timeout(stall, self.incoming.frame()).await {
                Err(_) => return Err(self.timed_out("waiting for data", stall)),
                Ok(None) => {
                    if let Some(sender) = self.sender.take() {
                        self.transport.give_back(self.origin.clone(), sender);
                    }
                    return Ok(None);
                }
                Ok(Some(Err(error))) => {
                    return Err(RegistryError::Broken {
                        host: self.origin.label.clone(),
                        detail: chain(&error),
                    });
                }
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data()
                        && !data.is_empty()
                    {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// The whole body; `None` where it is longer than `limit` bytes.
    pub(crate) async fn read_all(&mut self, limit: usize) -> Result<Option<Bytes>, RegistryError> {
        let small = self.transport.limits.small;
        let reading = async {
            let mut all = Vec::new();
            while let Some(chunk) = self.chunk().await? {
                if chunk.len() > limit - all.len() {
                    return Ok(None);
                }
                all.extend_from_slice(&chunk);
            }
            Ok(Some(Bytes::from(all)))
        };
        match timeout(small, reading).await {
            Ok(done) => done,
            Err(_) => Err(self.timed_out("a small answer", small)),
        }
    }

    fn timed_out(&self, what: &'static str, after: Duration) -> RegistryError {
        RegistryError::TimedOut {
            host: self.origin.label.clone(),
            what,
            after,
        }
    }
}

impl Transport {
    pub(crate) fn new(limits: Limits, tls: Tls, proxies: Proxies) -> Arc<Self> {
        Arc::new(Self {
            limits,
            tls,
            proxies,
            idle: Mutex::default(),
        })
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Whether certs.d knows `host`.
    pub(crate) fn has_certs(&self, host: &str) -> bool {
        self.tls.knows(host)
    }

    /// One exchange, on a kept connection where there is one.
    pub(crate) async fn send(self: &Arc<Self>, origin: &Origin, out: &Outgoing) -> Result<Reply, RegistryError> {
        while let Some(sender) = self.take_idle(origin).await {
            match self.exchange(sender, origin, out, None).await {
                // The server has closed a kept connection: another one may do.
                Err(RegistryError::Broken { .. }) => {}
                other => return other,
            }
        }
        let sender = self.connect(origin).await?;
        self.exchange(sender, origin, out, None).await
    }

    /// One exchange whose body comes in pieces; it can only be tried once.
    pub(crate) async fn send_pieces(
        self: &Arc<Self>,
        origin: &Origin,
        out: &Outgoing,
        pieces: Pieces,
    ) -> Result<Reply, RegistryError> {
        let sender = self.connect(origin).await?;
        self.exchange(sender, origin, out, Some(pieces)).await
    }

    /// Opens a connection and keeps it for the next request.
    pub(crate) async fn open(&self, origin: &Origin) -> Result<(), RegistryError> {
        let sender = self.connect(origin).await?;
        self.give_back(origin.clone(), sender);
        Ok(())
    }

    async fn exchange(
        self: &Arc<Self>,
        mut sender: SendRequest<Payload>,
        origin: &Origin,
        out: &Outgoing,
        pieces: Option<Pieces>,
    ) -> Result<Reply, RegistryError> {
        let host = || origin.label.clone();
        let moved = pieces.as_ref().map(Pieces::moved);
        let request = self
            .request(origin, out, pieces)
            .map_err(|error| RegistryError::Protocol {
                host: host(),
                detail: format!("a request cannot be made: {error}"),
            })?;
        let (head, stall) = (self.limits.head, self.limits.stall);
        let sent = sender.send_request(request);
        let answered = match moved {
            None => timeout(head, sent).await.map_err(|_| ("the answer", head)),
            Some(moved) => tokio::select! {
                answered = sent => Ok(answered),
                () = moved.stops(stall.max(head)) => Err(("sending data", stall.max(head))),
            },
        };
        let response = match answered {
            Err((what, after)) => {
                return Err(RegistryError::TimedOut {
                    host: host(),
                    what,
                    after,
                });
            }
            Ok(Err(error)) if error.is_parse() => {
                return Err(RegistryError::Protocol {
                    host: host(),
                    detail: format!("not a valid answer: {}", chain(&error)),
                });
            }
            Ok(Err(error)) => {
                return Err(RegistryError::Broken {
                    host: host(),
                    detail: chain(&error),
                });
            }
            Ok(Ok(response)) => response,
        };
        let (head, incoming) = response.into_parts();
        if let Some(coding) = head.headers.get(header::CONTENT_ENCODING)
            && coding.as_bytes() != b"identity"
        {
            return Err(RegistryError::Protocol {
                host: host(),
                detail: "its answer is compressed, which was not asked for".into(),
            });
        }
        let body = Body {
            incoming,
            sender: Some(sender),
            transport: self.clone(),
            origin: origin.clone(),
        };
        Ok(Reply { head, body })
    }

    fn request(
        &self,
        origin: &Origin,
        out: &Outgoing,
        pieces: Option<Pieces>,
    ) -> Result<Request<Payload>, hyper::http::Error> {
        let tls = origin.security != Security::Plain;
        let authority = url::label(&origin.host, origin.port, tls);
        let proxy = if tls {
            None
        } else {
            self.proxies.choose(&origin.host, origin.port, tls)
        };
        let uri: Uri = match proxy {
            Some(_) => format!("http://{authority}{}", out.path).parse()?,
            None => out.path.parse()?,
        };
        let mut request = Request::builder()
            .method(out.method.clone())
            .uri(uri)
            .header(header::HOST, authority)
            .header(header::USER_AGENT, concat!("dunlin/", env!("CARGO_PKG_VERSION")))
            .header(header::ACCEPT_ENCODING, "identity");
        if let Some(Proxy {
            authorization: Some(value),
            ..
        }) = proxy
        {
            request = request.header(header::PROXY_AUTHORIZATION, value);
        }
        let mut request = request.body(Payload::new(out.body.clone(), pieces))?;
        for (name, value) in &out.headers {
            request.headers_mut().insert(name, value.clone());
        }
        Ok(request)
    }

    /// A kept connection to `origin` that is still usable.
    async fn take_idle(&self, origin: &Origin) -> Option<SendRequest<Payload>> {
        loop {
            let mut found = {
                let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
                idle.retain(|kept| kept.since.elapsed() < IDLE && !kept.sender.is_closed());
                let at = idle.iter().rposition(|kept| kept.origin.same(origin))?;
                idle.swap_remove(at).sender
            };
            // The connection's task may need a moment to see that the last body has ended.
            if let Ok(Ok(())) = timeout(Duration::from_millis(200), found.ready()).await {
                return Some(found);
            }
        }
    }

    fn give_back(&self, origin: Origin, sender: SendRequest<Payload>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|kept| kept.since.elapsed() < IDLE && !kept.sender.is_closed());
        if idle.len() >= IDLE_CONNECTIONS {
            idle.remove(0);
        }
        idle.push(Idle {
            origin,
            sender,
            since: Instant::now(),
        });
    }

    /// Closes all connections that no request uses.
    pub(crate) fn close_idle(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    async fn connect(&self, origin: &Origin) -> Result<SendRequest<Payload>, RegistryError> {
        let limit = self.limits.connect;
        let tls = origin.security != Security::Plain;
        let connecting = async {
            match self.proxies.choose(&origin.host, origin.port, tls) {
                None => dial(&origin.host, origin.port, &origin.label).await,
                Some(proxy) => {
                    let label = format!("{} (proxy)", url::label(&proxy.host, proxy.port, false));
                    let stream = dial(&proxy.host, proxy.port, &label).await?;
                    if tls {
                        tunnel(stream, proxy, origin, &label).await
                    } else {
                        Ok(stream)
                    }
                }
            }
        };
        let stream = match timeout(limit, connecting).await {
            Ok(stream) => stream?,
            Err(_) => {
                return Err(RegistryError::TimedOut {
                    host: origin.label.clone(),
                    what: "connecting",
                    after: limit,
                });
            }
        };
        match origin.security {
            Security::Plain => handshake(TokioIo::new(stream), origin).await,
            Security::Verified | Security::Unverified => {
                let config = self.tls.config(&origin.label, origin.security == Security::Verified)?;
                let stream = secure(stream, config, origin, self.limits.tls).await?;
                handshake(TokioIo::new(stream), origin).await
            }
        }
    }
}

/// Starts HTTP on a connection; a task of its own drives it until both its users and its server are gone.
async fn handshake<T>(stream: T, origin: &Origin) -> Result<SendRequest<Payload>, RegistryError>
where
    T: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let mut builder = Builder::new();
    builder.max_buf_size(READ_BUFFER_BYTES);
    let started = builder.handshake(stream).await;
    let (sender, connection) = started.map_err(|error| RegistryError::Broken {
        host: origin.label.clone(),
        detail: chain(&error),
    })?;
    // Its errors also reach whoever waits for an answer or a body.
    tokio::spawn(async move { connection.await.unwrap_or_default() });
    Ok(sender)
}

async fn secure(
    stream: TcpStream,
    config: Arc<rustls::ClientConfig>,
    origin: &Origin,
    limit: Duration,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, RegistryError> {
    let host = || origin.label.clone();
    let name = ServerName::try_from(origin.host.clone()).map_err(|_| RegistryError::Tls {
        host: host(),
        detail: "its name cannot be in a certificate".into(),
    })?;
    match timeout(limit, TlsConnector::from(config).connect(name, stream)).await {
        Err(_) => Err(RegistryError::TimedOut {
            host: host(),
            what: "the TLS handshake",
            after: limit,
        }),
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::InvalidMessage(_)) => Err(RegistryError::NotTls { host: host() }),
            Some(inner) => Err(RegistryError::Tls {
                host: host(),
                detail: match inner {
                    rustls::Error::General(text) => text.clone(),
                    other => other.to_string(),
                },
            }),
            None if error.kind() == io::ErrorKind::UnexpectedEof => Err(RegistryError::NotTls { host: host() }),
            None => Err(RegistryError::Connect {
                host: host(),
                source: error,
            }),
        },
    }
}

/// A TCP connection to the first address that answers; each next address starts a little later than the one before.
async fn dial(host: &str, port: u16, label: &str) -> Result<TcpStream, RegistryError> {
    let addresses = resolve(host, port).await;
    let addresses = addresses.map_err(|source| RegistryError::Resolve {
        host: label.to_owned(),
        source,
    })?;
    let mut waiting = addresses.into_iter();
    let mut trying = JoinSet::new();
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    loop {
        let more = waiting.next();
        let stagger = if more.is_some() && waiting.len() > 0 {
            STAGGER
        } else {
            Duration::MAX
        };
        if let Some(address) = more {
            trying.spawn(TcpStream::connect(address));
        } else if trying.is_empty() {
            return Err(RegistryError::Connect {
                host: label.to_owned(),
                source: last,
            });
        }
        match timeout(stagger, trying.join_next()).await {
            Err(_) | Ok(None) => {}
            Ok(Some(Ok(Ok(stream)))) => {
                // Only latency depends on it.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Some(Ok(Err(error)))) => last = error,
            Ok(Some(Err(error))) => last = io::Error::other(error),
        }
    }
}

/// The addresses of a host, IPv6 and IPv4 taking turns.
async fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let (mut six, mut four): (Vec<_>, Vec<_>) = tokio::net::lookup_host((host, port))
        .await?
        .partition(SocketAddr::is_ipv6);
    let mut turns = Vec::new();
    six.reverse();
    four.reverse();
    while turns.len() < ADDRESSES {
        match (six.pop(), four.pop()) {
            (None, None) => break,
            (one, other) => turns.extend(one.into_iter().chain(other)),
        }
    }
    Ok(turns)
}

/// Asks an HTTP proxy for a tunnel (RFC 9110, CONNECT).
async fn tunnel(
    mut stream: TcpStream,
    proxy: &Proxy,
    origin: &Origin,
    label: &str,
) -> Result<TcpStream, RegistryError> {
    let failed = |source| RegistryError::Connect {
        host: label.to_owned(),
        source,
    };
    let target = if origin.host.contains(':') {
        format!("[{}]:{}", origin.host, origin.port)
    } else {
        format!("{}:{}", origin.host, origin.port)
    };
    let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
    if let Some(authorization) = &proxy.authorization {
        request.push_str(&format!("Proxy-Authorization: {authorization}\r\n"));
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).await.map_err(failed)?;
    // Byte by byte: what follows the head belongs to TLS.
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= ERROR_BODY_BYTES {
            return Err(failed(io::Error::new(
                io::ErrorKind::InvalidData,
                "its answer is too long",
            )));
        }
        head.push(stream.read_u8().await.map_err(failed)?);
    }
    let text = String::from_utf8_lossy(&head);
    let status = text.split(' ').nth(1).unwrap_or_default();
    match status {
        "200" => Ok(stream),
        "407" => Err(failed(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "it wants other credentials",
        ))),
        _ => Err(failed(io::Error::other(format!(
            "it refused the tunnel to {target}: {}",
            first_line(&text)
        )))),
    }
}

fn first_line(text: &str) -> String {
    text.lines()
        .next()
        .unwrap_or_default()
        .chars()
        .take(80)
        .flat_map(char::escape_debug)
        .collect()
}

/// An error and its causes in one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport")
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body")
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}
