//! policy.json: what is signed comes in, whatever else does not. Signatures are openssl's, laid out as cosign lays them out
//! (Debian's skopeo and podman are built without sigstore); which rule counts must be as skopeo has it.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{Who, World};
use crate::fixture::arch::Arch;
use crate::fixture::cmd::{Cmd, Out};
use crate::fixture::images::{Blob, Format, Image, Index, Recipe};
use crate::fixture::registry::Registry;
use crate::skip;

struct Shop {
    world: World,
    registry: Registry,
    folder: PathBuf,
}

impl Shop {
    fn new() -> Result<Shop, String> {
        let world = World::new(Who::Ranges)?;
        let folder = world.folder("trust");
        for (name, algorithm) in [("good", "P-256"), ("other", "P-256"), ("edwards", "")] {
            let key = folder.join(name);
            let make = Cmd::new("openssl").args(["genpkey", "-out"]).arg(&key);
            match algorithm {
                "" => make.args(["-algorithm", "ed25519"]).ok(),
                curve => make
                    .args(["-algorithm", "EC", "-pkeyopt", &format!("ec_paramgen_curve:{curve}")])
                    .ok(),
            };
            let public = Cmd::new("openssl").args(["pkey", "-pubout", "-in"]).arg(&key).ok();
            open(&folder.join(format!("{name}.pub")), &public);
        }
        let registry = Registry::plain();
        Ok(Shop {
            world,
            registry,
            folder,
        })
    }

    /// An image of its own under `NAME:1`.
    fn image(&self, name: &str) -> Image {
        let image = Recipe::busybox(Arch::host())
            .config("Labels", json!({"name": name}))
            .build();
        self.registry.push_image(name, "1", &image);
        image
    }

    fn payload(&self, digest: &str, identity: &str) -> Vec<u8> {
        let critical = json!({
            "identity": {"docker-reference": identity},
            "image": {"docker-manifest-digest": digest},
            "type": "cosign container image signature",
        });
        json!({"critical": critical, "optional": {"creator": "a test"}})
            .to_string()
            .into_bytes()
    }

    fn sign(&self, key: &str, payload: &[u8]) -> String {
        let (text, signature) = (self.folder.join("payload"), self.folder.join("signature"));
        fs::write(&text, payload).unwrap();
        let key_file = self.folder.join(key);
        let sign = Cmd::new("openssl")
            .args(["pkeyutl", "-sign", "-rawin", "-inkey"])
            .arg(key_file);
        let sign = if key == "edwards" {
            sign
        } else {
            sign.args(["-digest", "sha256"])
        };
        sign.arg("-in").arg(&text).arg("-out").arg(&signature).ok();
        dunlin::types::base64::encode(&fs::read(signature).unwrap())
    }

    /// Attaches signatures to a manifest, whoever they are of.
    fn attach(&self, name: &str, digest: &str, signatures: &[(Vec<u8>, String)]) {
        let config = Blob::new("application/vnd.oci.image.config.v1+json", b"{}".to_vec());
        self.registry.put_blob(name, &config);
        let layers: Vec<Value> = signatures
            .iter()
            .map(|(payload, signature)| {
                let blob = Blob::new("application/vnd.dev.cosign.simplesigning.v1+json", payload.clone());
                self.registry.put_blob(name, &blob);
                let mut layer = blob.descriptor();
                layer["annotations"] = json!({"dev.cosignproject.cosign/signature": signature});
                layer
            })
            .collect();
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({"schemaVersion": 2, "mediaType": kind, "config": config.descriptor(), "layers": layers});
        let manifest = Blob::new(kind, manifest.to_string().into_bytes());
        let tag = format!("{}.sig", digest.replace(':', "-"));
        self.registry.put_manifest(name, &tag, &manifest);
    }

    /// Signs an image well, for the reference that it is pulled by.
    fn signed(&self, name: &str, key: &str) -> Image {
        let image = self.image(name);
        let identity = self.registry.reference(&format!("{name}:1"));
        let payload = self.payload(&image.manifest.digest(), &identity);
        let signature = self.sign(key, &payload);
        self.attach(name, &image.manifest.digest(), &[(payload, signature)]);
        image
    }

    fn rule(&self, key: &str) -> Value {
        json!({"type": "sigstoreSigned", "keyPath": self.folder.join(format!("{key}.pub"))})
    }

    fn policy(&self, rules: &Value) -> PathBuf {
        let path = self.folder.join("policy.json");
        let host = self.registry.host();
        open(
            &path,
            &json!({"default": [{"type": "reject"}], "transports": {"docker": {host: rules}}}).to_string(),
        );
        path
    }

    fn pull(&self, reference: &str, policy: &Path) -> Out {
        let cmd = self.world.cmd("pull -q --signature-policy").arg(policy);
        cmd.arg(reference).run()
    }

    /// Pulls; a refusal names the policy, and nothing of the image is there.
    fn judge(&self, reference: &str, rules: &Value, good: bool) -> Out {
        let policy = self.policy(rules);
        let out = self.pull(reference, &policy);
        assert_eq!(out.code, if good { 0 } else { 125 }, "{reference}: {out:?}");
        if !good {
            assert!(out.stderr.contains(&policy.display().to_string()), "{out:?}");
            self.world.cmd("image exists").arg(reference).fails(1);
        }
        out
    }
}

/// Writes a file that everybody may read.
fn open(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
}

#[test]
fn what_is_signed_comes_in_and_nothing_else() {
    let shop = match Shop::new() {
        Ok(shop) => shop,
        Err(reason) => skip!("{reason}"),
    };
    let at = |name: &str| shop.registry.reference(&format!("{name}:1"));
    let good = json!([shop.rule("good")]);

    shop.signed("good", "good");
    shop.judge(&at("good"), &good, true);
    shop.signed("edwards", "edwards");
    shop.judge(&at("edwards"), &json!([shop.rule("edwards")]), true);
    // By the key itself instead of its file.
    let data = dunlin::types::base64::encode(&fs::read(shop.folder.join("good.pub")).unwrap());
    shop.signed("data", "good");
    shop.judge(&at("data"), &json!([{"type": "sigstoreSigned", "keyData": data}]), true);

    shop.image("unsigned");
    shop.judge(&at("unsigned"), &good, false)
        .says(&["it is not signed", "(sigstoreSigned)", "[0]", "sha256-"]);
    shop.signed("other", "other");
    shop.judge(&at("other"), &good, false)
        .says(&["none of its signatures is by a key of the rule"]);

    // Another image's name.
    let image = shop.image("identity");
    let payload = shop.payload(&image.manifest.digest(), &at("elsewhere"));
    let signature = shop.sign("good", &payload);
    shop.attach("identity", &image.manifest.digest(), &[(payload, signature)]);
    shop.judge(&at("identity"), &good, false)
        .says(&[&format!("the signature is for `{}`", at("elsewhere"))]);

    // A payload that was changed after it was signed.
    let image = shop.image("altered");
    let signature = shop.sign("good", &shop.payload(&image.manifest.digest(), &at("elsewhere")));
    let payload = shop.payload(&image.manifest.digest(), &at("altered"));
    shop.attach("altered", &image.manifest.digest(), &[(payload, signature)]);
    shop.judge(&at("altered"), &good, false);

    // The tag moves to another manifest; the good signature is shown for it.
    let first = shop.signed("swapped", "good");
    let second = shop.image("swapped2");
    shop.registry.push_image("swapped", "1", &second);
    shop.judge(&at("swapped"), &good, false).says(&["it is not signed"]);
    let payload = shop.payload(&first.manifest.digest(), &at("swapped"));
    let signature = shop.sign("good", &payload);
    shop.attach("swapped", &second.manifest.digest(), &[(payload, signature)]);
    shop.judge(&at("swapped"), &good, false)
        .says(&["the signature is of another image"]);
    // The first one by its digest is what it was: digests win over tags.
    let pinned = format!("{}@{}", shop.registry.reference("swapped"), first.manifest.digest());
    shop.judge(&pinned, &good, true);

    // A bad signature beside a good one does no harm, and all rules of a scope must be fulfilled.
    let image = shop.image("two");
    let payload = shop.payload(&image.manifest.digest(), &at("two"));
    let bad = (payload.clone(), shop.sign("other", b"something else"));
    let signatures = [bad, (payload.clone(), shop.sign("good", &payload))];
    shop.attach("two", &image.manifest.digest(), &signatures);
    shop.judge(&at("two"), &json!([shop.rule("good"), shop.rule("other")]), false)
        .says(&["[1]"]);
    shop.judge(&at("two"), &good, true);

    // cosign's own names are of the repository.
    let image = shop.image("repository");
    let payload = shop.payload(&image.manifest.digest(), &shop.registry.reference("repository"));
    let signature = shop.sign("good", &payload);
    shop.attach("repository", &image.manifest.digest(), &[(payload, signature)]);
    let mut rule = shop.rule("good");
    shop.judge(&at("repository"), &json!([rule]), false);
    rule["signedIdentity"] = json!({"type": "matchRepository"});
    shop.judge(&at("repository"), &json!([rule]), true);
}

#[test]
fn a_policy_counts_for_what_is_there_too() {
    let shop = match Shop::new() {
        Ok(shop) => shop,
        Err(reason) => skip!("{reason}"),
    };
    shop.signed("app", "good");
    let app = shop.registry.reference("app:1");
    let good = json!([shop.rule("good")]);
    shop.pull(&app, &shop.policy(&good)).expect(0);
    // What is there already is judged again, and a plain refusal asks nothing of the registry.
    let requests = || shop.registry.requests("GET", "/v2/") + shop.registry.requests("HEAD", "/v2/");
    let asked = requests();
    shop.pull(&app, &shop.policy(&json!([{"type": "reject"}])))
        .expect(125)
        .says(&["(reject)", "no image from there is accepted"]);
    shop.pull(&app, &shop.policy(&json!([{"type": "signedBy", "keyType": "GPGKeys"}])))
        .expect(125)
        .says(&["`signedBy` cannot be checked here"]);
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(requests(), asked, "requests");
    shop.pull(&app, &shop.policy(&json!([shop.rule("other")]))).expect(125);
    shop.pull(&app, &shop.policy(&good)).expect(0);
    let mine = shop.folder.join("policy.json");
    open(&mine, "{\"default\": [{\"type\": \"acceptAnything\"}]}");
    shop.pull(&app, &mine)
        .expect(125)
        .says(&["unknown type `acceptAnything`", "policy.json"]);
    shop.pull(&app, Path::new("/does/not/exist")).expect(125);
}

#[test]
fn the_rule_that_counts_is_skopeos() {
    let shop = match Shop::new() {
        Ok(shop) => shop,
        Err(reason) => skip!("{reason}"),
    };
    shop.image("a/b/c");
    let (host, image) = (shop.registry.host(), shop.registry.reference("a/b/c:1"));
    let (accept, reject) = (json!([{"type": "insecureAcceptAnything"}]), json!([{"type": "reject"}]));
    let scope = |rest: &str| format!("{host}{rest}");
    let both = |wide: &str, narrow: &str| json!({"docker": {scope(wide): reject, scope(narrow): accept}});
    for (transports, good) in [
        (json!({}), false),
        (json!({"docker": {"": accept}}), true),
        (json!({"dir": {"": accept}}), false),
        (json!({"docker": {host.clone(): accept}}), true),
        (json!({"docker": {scope("/a"): accept}}), true),
        (json!({"docker": {scope("/a/b"): accept}}), true),
        (json!({"docker": {scope("/a/b/c"): accept}}), true),
        (json!({"docker": {scope("/a/b/c:1"): accept}}), true),
        (json!({"docker": {scope("/a/b/c:2"): accept}}), false),
        (json!({"docker": {scope("/a/b/"): accept}}), false),
        (json!({"docker": {scope("/a/b/cc"): accept}}), false),
        (json!({"docker": {scope("/b"): accept}}), false),
        (json!({"docker": {"*.0.0.1": accept}}), true),
        (json!({"docker": {"*.0.1": accept}}), true),
        (json!({"docker": {"*.1.1": accept}}), false),
        (both("", "/a"), true),
        (both("/a", "/a/b/c:1"), true),
        (both("/a/b/c:1", "/a/b/c"), false),
        (both("/a/b", ""), false),
        (
            json!({"docker": {scope("/a"): [{"type": "insecureAcceptAnything"}, {"type": "reject"}]}}),
            false,
        ),
    ] {
        let policy = shop.folder.join("policy.json");
        open(
            &policy,
            &json!({"default": reject, "transports": transports}).to_string(),
        );
        let skopeo = Cmd::new("skopeo").arg("--policy").arg(&policy);
        let skopeo = skopeo.args(["copy", "-q", "--src-tls-verify=false"]);
        let to = format!("dir:{}", shop.folder.join("copy").display());
        let skopeo = skopeo.arg(format!("docker://{image}")).arg(to).run();
        assert_eq!(skopeo.code == 0, good, "{transports}: {skopeo:?}");
        let ours = shop.pull(&image, &policy);
        assert_eq!(ours.code == 0, good, "{transports}: {ours:?}");
    }
}

#[test]
fn the_signature_of_an_index_is_one_of_its_images() {
    let shop = match Shop::new() {
        Ok(shop) => shop,
        Err(reason) => skip!("{reason}"),
    };
    let index = Index::busybox(Format::Oci);
    shop.registry.push("both", "1", &index);
    let (name, digest) = (shop.registry.reference("both:1"), index.manifest.digest());
    let policy = shop.policy(&json!([shop.rule("good")]));
    shop.pull(&name, &policy).expect(125).says(&["it is not signed"]);
    let payload = shop.payload(&digest, &name);
    let signature = shop.sign("good", &payload);
    shop.attach("both", &digest, &[(payload, signature)]);
    shop.pull(&name, &policy).expect(0);
    // The user's own file is found without a flag.
    let own = shop.world.user().unwrap().home().join(".config/containers");
    fs::create_dir_all(&own).unwrap();
    shop.policy(&json!([{"type": "reject"}]));
    fs::copy(&policy, own.join("policy.json")).unwrap();
    shop.world
        .cmd("pull -q")
        .arg(&name)
        .fails(125)
        .says(&[".config/containers/policy.json", "(reject)"]);
}

#[test]
fn archives_and_copies_go_by_the_policy_too() {
    let shop = match Shop::new() {
        Ok(shop) => shop,
        Err(reason) => skip!("{reason}"),
    };
    shop.signed("app", "good");
    let (app, archive) = (shop.registry.reference("app:1"), shop.folder.join("app.tar"));
    shop.world.cmd("pull -q").arg(&app).ok();
    shop.world.cmd("save -o").arg(&archive).arg(&app).ok();
    let own = shop.world.user().unwrap().home().join(".config/containers");
    fs::create_dir_all(&own).unwrap();
    let rule = |transports: Value| {
        open(
            &own.join("policy.json"),
            &json!({"default": [{"type": "reject"}], "transports": transports}).to_string(),
        );
    };
    let accept = json!([{"type": "insecureAcceptAnything"}]);
    for (transports, says) in [
        (json!({"docker": {"": accept}}), Some("(reject)")),
        (
            json!({"docker-archive": {"": [shop.rule("good")]}}),
            Some("has no signatures"),
        ),
        (
            json!({"docker-archive": {shop.folder.display().to_string(): accept}}),
            None,
        ),
    ] {
        rule(transports.clone());
        for words in ["load -q -i", "pull -q"] {
            let cmd = shop.world.cmd(words);
            let out = match words {
                "pull -q" => cmd.arg(format!("docker-archive:{}", archive.display())).run(),
                _ => cmd.arg(&archive).run(),
            };
            match says {
                Some(text) => drop(out.expect(125).says(&[text, "policy.json"])),
                None => drop(out.expect(0)),
            }
        }
    }
    // A copy is judged by where it comes from.
    let host = shop.registry.host();
    for (image, rules, code) in [
        ("app:1", json!([shop.rule("good")]), 0),
        ("app:1", json!([shop.rule("other")]), 125),
        ("unsigned:1", json!([shop.rule("good")]), 125),
        ("unsigned:1", accept, 0),
    ] {
        shop.image("unsigned");
        rule(json!({"docker": {&host: rules}}));
        let (from, to) = (shop.registry.reference(image), shop.registry.reference("copied:1"));
        let copy = shop.world.cmd("copy -q").arg(format!("docker://{from}"));
        copy.arg(format!("docker://{to}")).run().expect(code);
    }
}
