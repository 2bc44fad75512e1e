//! A file from a web server: one request with the client's proxies, certificates and time-outs.

use hyper::StatusCode;
use hyper::body::Bytes;

use super::Client;
use super::error::RegistryError;
use super::transport::{Origin, Outgoing, Security};
use super::url::Url;

impl Client {
    /// Calls `take` with what is at a URL, piece by piece, until its end or until `take` wants no more. What stops half-way is an
    /// error; it is not gone on with.
    pub async fn download(&self, url: &str, take: &mut (dyn FnMut(Bytes) -> bool + Send)) -> Result<(), RegistryError> {
        let wrong = |host: &str, detail: String| RegistryError::Protocol {
            host: host.to_owned(),
            detail,
        };
        let at = Url::parse(url).map_err(|why| wrong(url, why))?;
        let label = at.label();
        let security = match at.tls {
            true if self.inner.registries.insecure(&label) => Security::Unverified,
            true => Security::Verified,
            // It was typed.
            false => Security::Plain,
        };
        let origin = Origin {
            host: at.host,
            port: at.port,
            security,
            label: label.clone(),
        };
        let (mut reply, _) = self.inner.follow(&origin, Outgoing::get(at.path)).await?;
        if reply.head.status != StatusCode::OK {
            return Err(wrong(
                &label,
                format!("it answered {} to a request for `{url}`", reply.head.status.as_u16()),
            ));
        }
        while let Some(bytes) = reply.body.chunk().await? {
            if !take(bytes) {
                break;
            }
        }
        Ok(())
    }
}
