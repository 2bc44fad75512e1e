//! Made-up names for containers that nobody named: an adjective and a bird.

const ADJECTIVES: [&str; 64] = [
    "agile", "alert", "amber", "bold", "brave", "bright", "brisk", "calm", "candid", "clever", "coastal", "curious",
    "daring", "deft", "eager", "early", "earnest", "fair", "fleet", "fond", "frosty", "gentle", "glad", "golden",
    "grand", "happy", "hardy", "honest", "humble", "jolly", "keen", "kind", "lively", "loyal", "lucky", "mellow",
    "merry", "mild", "modest", "neat", "nimble", "noble", "patient", "plucky", "polite", "proud", "quick", "quiet",
    "ready", "restful", "rosy", "serene", "sharp", "silver", "steady", "still", "sunny", "swift", "tidal", "tidy",
    "trusty", "upbeat", "warm", "witty",
];

const BIRDS: [&str; 64] = [
    "auk",
    "avocet",
    "bittern",
    "bunting",
    "coot",
    "cormorant",
    "crake",
    "crane",
    "curlew",
    "dipper",
    "dotterel",
    "dove",
    "dowitcher",
    "egret",
    "eider",
    "fulmar",
    "gadwall",
    "gannet",
    "godwit",
    "goldeneye",
    "goosander",
    "grebe",
    "greenshank",
    "guillemot",
    "gull",
    "heron",
    "ibis",
    "jacana",
    "kingfisher",
    "kittiwake",
    "knot",
    "lapwing",
    "loon",
    "merganser",
    "murre",
    "noddy",
    "osprey",
    "oystercatcher",
    "pelican",
    "petrel",
    "phalarope",
    "pintail",
    "pipit",
    "plover",
    "pochard",
    "puffin",
    "rail",
    "razorbill",
    "redshank",
    "ruff",
    "sanderling",
    "sandpiper",
    "scoter",
    "shelduck",
    "skimmer",
    "skua",
    "smew",
    "snipe",
    "stilt",
    "stint",
    "tattler",
    "tern",
    "turnstone",
    "whimbrel",
];

/// A name from random bytes; `attempt` above 3 adds a number, so that some attempt is free.
pub fn made_up(random: [u8; 4], attempt: u32) -> String {
    let adjective = ADJECTIVES[usize::from(random[0]) % ADJECTIVES.len()];
    let bird = BIRDS[usize::from(random[1]) % BIRDS.len()];
    match attempt {
        0..=3 => format!("{adjective}_{bird}"),
        _ => format!("{adjective}_{bird}{}", u16::from_le_bytes([random[2], random[3]])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::text::is_container_name;

    #[test]
    fn every_made_up_name_is_a_container_name() {
        for n in 0..=255 {
            for attempt in [0, 4] {
                let name = made_up([n, 255 - n, n, 1], attempt);
                assert!(is_container_name(&name), "{name}");
            }
        }
        let mut birds = BIRDS.to_vec();
        birds.dedup();
        assert_eq!(birds.len(), 64);
    }
}
