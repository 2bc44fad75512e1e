//! Lists of a registry, page by page: the tags of a repository (OCI distribution specification, "Listing Tags"), and the
//! repositories of a registry, where it tells (`/v2/_catalog`, of the specification's ancestor).

use hyper::body::Bytes;
use serde::Deserialize;

use super::Client;
use super::error::RegistryError;
use super::repository::Endpoint;
use super::retry::retried;
use super::transport::Outgoing;
use crate::types::bounds::{TAG_PAGE_BYTES, TAG_PAGES, TAGS};
use crate::types::read;
use crate::types::reference::Reference;

#[derive(Deserialize)]
struct Page {
    /// Go writes none as null.
    tags: Option<Vec<String>>,
    repositories: Option<Vec<String>>,
}

impl Client {
    /// All tags of a reference's repository, as its registry orders them. Mirrors are not asked: they need not know all.
    pub async fn tags(&self, reference: &Reference) -> Result<Vec<String>, RegistryError> {
        let repository = self.repository(reference)?;
        let endpoint = &repository.endpoints[repository.endpoints.len() - 1];
        let path = format!("/v2/{}/tags/list", endpoint.path);
        let what = format!("the tags of `{}`", endpoint.path);
        let mut tags = Vec::new();
        self.pages(endpoint, path, &what, &mut |page| {
            tags.extend(page.tags.unwrap_or_default());
            tags.len() <= TAGS
        })
        .await?;
        match tags.len() {
            0..=TAGS => Ok(tags),
            _ => Err(RegistryError::Protocol {
                host: endpoint.registry().to_owned(),
                detail: format!("{what} are more than {TAGS}"),
            }),
        }
    }

    /// The repositories of a registry (`host[:port]`) that `fits`, at most `limit`.
    pub async fn catalog(
        &self,
        registry: &str,
        limit: usize,
        fits: &(dyn Fn(&str) -> bool + Sync),
    ) -> Result<Vec<String>, RegistryError> {
        let endpoint = Endpoint::registry_itself(registry, self.inner.registries.insecure(registry));
        let mut found = Vec::new();
        let path = format!("/v2/_catalog?n={}", limit.clamp(1, 1000));
        self.pages(&endpoint, path, "its repositories", &mut |page| {
            let all = page.repositories.unwrap_or_default();
            found.extend(all.into_iter().filter(|name| fits(name)));
            found.len() < limit
        })
        .await?;
        found.truncate(limit);
        Ok(found)
    }

    /// Goes through the pages of a list, which is called `what`, to the last one or until `take` wants no more.
    async fn pages(
        &self,
        endpoint: &Endpoint,
        mut path: String,
        what: &str,
        take: &mut (dyn FnMut(Page) -> bool + Send),
    ) -> Result<(), RegistryError> {
        let protocol = |detail: String| RegistryError::Protocol {
            host: endpoint.registry().to_owned(),
            detail,
        };
        for _ in 0..TAG_PAGES {
            let limits = self.inner.transport.limits();
            let (page, next) = retried(limits, async || self.page(endpoint, &path, what).await).await?;
            let more = take(page);
            match next {
                Some(next) if more && next != path => path = next,
                _ => return Ok(()),
            }
        }
        Err(protocol(format!("{what} have more than {TAG_PAGES} pages")))
    }

    /// One page, and the path of the next one.
    async fn page(&self, endpoint: &Endpoint, path: &str, what: &str) -> Result<(Page, Option<String>), RegistryError> {
        let (body, next) = self.list(endpoint, path, what).await?;
        let page = read::json(&body).map_err(|error| RegistryError::Protocol {
            host: endpoint.registry().to_owned(),
            detail: format!("{what}: {error}"),
        })?;
        Ok((page, next))
    }

    /// The bytes of a list, and the path of the next page.
    pub(super) async fn list(
        &self,
        endpoint: &Endpoint,
        path: &str,
        what: &str,
    ) -> Result<(Bytes, Option<String>), RegistryError> {
        let host = || endpoint.registry().to_owned();
        let mut reply = self
            .inner
            .ask(endpoint, &Outgoing::get(path.to_owned()), &endpoint.path)
            .await?;
        let next = reply.header("link").and_then(|text| next_path(text, path));
        let body = reply
            .body
            .read_all(TAG_PAGE_BYTES)
            .await?
            .ok_or_else(|| RegistryError::TooLarge {
                host: host(),
                what: what.to_owned(),
                limit: TAG_PAGE_BYTES as u64,
            })?;
        Ok((body, next))
    }
}

/// Path and query of the link with `rel="next"` (RFC 8288). Its host does not count: the same registry is asked, whatever a proxy
/// before it believes to be its name.
fn next_path(header: &str, here: &str) -> Option<String> {
    let mut rest = header;
    while let Some((_, after)) = rest.split_once('<') {
        let (target, after) = after.split_once('>')?;
        let end = after.find(",<").or_else(|| after.find(", <")).unwrap_or(after.len());
        let (parameters, after) = after.split_at(end);
        let is_next = parameters.split(';').any(|parameter| {
            let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            key.trim().eq_ignore_ascii_case("rel") && value.trim().trim_matches('"').eq_ignore_ascii_case("next")
        });
        if is_next {
            let local = match target.split_once("://") {
                Some((_, beyond)) => &beyond[beyond.find('/')?..],
                None => target,
            };
            let sound = !local.is_empty() && local.bytes().all(|b| b.is_ascii_graphic());
            return match local {
                _ if !sound => None,
                local if local.starts_with('/') => Some(local.to_owned()),
                local if local.starts_with('?') => Some(format!("{}{local}", here.split('?').next()?)),
                local => Some(format!("{}/{local}", here.split('?').next()?.rsplit_once('/')?.0)),
            };
        }
        rest = after;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::next_path;

    #[test]
    fn the_next_page_is_where_the_link_says_on_the_same_registry() {
        for (header, expected) in [
            (
                r#"</v2/a/tags/list?last=x&n=2>; rel="next""#,
                Some("/v2/a/tags/list?last=x&n=2"),
            ),
            (
                r#"<https://other.example/v2/a/tags/list?last=x>; rel=next"#,
                Some("/v2/a/tags/list?last=x"),
            ),
            (r#"<?last=x>; rel="next""#, Some("/v2/a/tags/list?last=x")),
            (r#"<list?last=x>;rel="next""#, Some("/v2/a/tags/list?last=x")),
            (r#"</first>; rel="first", </second>; REL="Next""#, Some("/second")),
            (r#"</first>; rel="first""#, None),
            (r#"<https://other.example>; rel="next""#, None),
            (r#"</a b>; rel="next""#, None),
            (r#"<>; rel="next""#, None),
            ("</open", None),
            ("", None),
        ] {
            assert_eq!(
                next_path(header, "/v2/a/tags/list?n=2").as_deref(),
                expected,
                "{header}"
            );
        }
    }
}
