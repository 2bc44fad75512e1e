//! Lists of tags: pages, bounds, servers that lead astray.

use dunlin::registry::RegistryError;
use dunlin::types::bounds::{TAG_PAGES, TAGS};

use super::faulty::{Faulty, Told};
use super::{block, client, reference};

fn tags(server: &Faulty) -> Result<Vec<String>, RegistryError> {
    block(client().tags(&reference(&format!("{}/app", server.host()))))
}

#[test]
fn pages_are_followed_to_the_last_one_over_a_bad_link() {
    let server = Faulty::start(|asked, number| {
        let page = |tags: &str| Told::new(200, format!(r#"{{"name":"app","tags":{tags}}}"#));
        match (asked.path.as_str(), number) {
            ("/v2/app/tags/list", 0) => page("[\"lost\"]").cut(5),
            ("/v2/app/tags/list", _) => page(r#"["1","2"]"#).with("Link", "</v2/app/tags/list?last=2>; rel=\"next\""),
            // A proxy that does not know its own name.
            ("/v2/app/tags/list?last=2", 2) => Told::new(503, ""),
            ("/v2/app/tags/list?last=2", _) => page(r#"["3"]"#).with(
                "Link",
                "<http://internal.example/v2/app/tags/list?last=3>; rel=\"next\"",
            ),
            ("/v2/app/tags/list?last=3", _) => page("null"),
            (other, _) => panic!("{other}"),
        }
    });
    assert_eq!(tags(&server).unwrap(), ["1", "2", "3"]);
    assert_eq!(server.asked().len(), 5);
}

#[test]
fn a_list_without_an_end_is_given_up() {
    let server = Faulty::start(|_, number| {
        Told::new(200, r#"{"tags":["x"]}"#).with("Link", &format!("</v2/app/tags/list?last={number}>; rel=\"next\""))
    });
    let error = tags(&server).unwrap_err().to_string();
    assert!(error.contains(&format!("more than {TAG_PAGES} pages")), "{error}");
    assert_eq!(server.asked().len(), TAG_PAGES);

    // A page that leads to itself is the last one.
    let server =
        Faulty::start(|_, _| Told::new(200, r#"{"tags":["x"]}"#).with("Link", "</v2/app/tags/list>; rel=\"next\""));
    assert_eq!(tags(&server).unwrap(), ["x"]);
    assert_eq!(server.asked().len(), 1);

    let many = format!(r#"{{"tags":["x"{}]}}"#, r#","x""#.repeat(TAGS));
    let server = Faulty::start(move |_, _| Told::new(200, many.clone()));
    let error = tags(&server).unwrap_err().to_string();
    assert!(error.contains(&format!("more than {TAGS}")), "{error}");
}

#[test]
fn answers_that_are_no_lists_are_refused() {
    for (status, body, says) in [
        (200, "[]", "the tags of `app`: "),
        (200, "", "the tags of `app`: "),
        (200, "{\"tags\":[1]}", "the tags of `app`: "),
        (404, "", "does not have `app`"),
        (403, "", "denied"),
    ] {
        let server = Faulty::start(move |_, _| Told::new(status, body));
        let error = tags(&server).unwrap_err().to_string();
        assert!(error.contains(says), "{status} {body}: {error}");
        assert_eq!(server.asked().len(), 1, "{status} {body}");
    }
    let server = Faulty::start(|_, _| Told::new(200, " ".repeat(5 << 20)));
    let error = tags(&server).unwrap_err().to_string();
    assert!(error.contains("larger than"), "{error}");
}
