//! Ranges of user and group ids (user_namespaces(7)).

use super::oci::runtime::LinuxIdMapping;

/// One line of a uid_map or gid_map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Extent {
    /// First id inside the new namespace.
    pub inside: u32,
    /// First id in the parent namespace.
    pub outside: u32,
    /// How many ids.
    pub count: u32,
}

/// The maps of one user namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct IdMap {
    /// User ids.
    pub uids: Vec<Extent>,
    /// Group ids.
    pub gids: Vec<Extent>,
}

impl From<&LinuxIdMapping> for Extent {
    fn from(mapping: &LinuxIdMapping) -> Extent {
        Extent {
            inside: mapping.container_id,
            outside: mapping.host_id,
            count: mapping.size,
        }
    }
}

impl IdMap {
    /// Only id 0, mapped to these ids of the parent: a user without ranges.
    pub fn single(uid: u32, gid: u32) -> IdMap {
        let one = |outside| {
            vec![Extent {
                inside: 0,
                outside,
                count: 1,
            }]
        };
        IdMap {
            uids: one(uid),
            gids: one(gid),
        }
    }

    /// Whether one id is all there is.
    pub fn is_single(&self) -> bool {
        self.uids.iter().map(|e| u64::from(e.count)).sum::<u64>() <= 1
    }

    /// The same inside ids mapped to themselves: the map of a namespace nested in one that has this map. The extents keep
    /// their cuts, because the kernel wants each line to lie within one line of the parent.
    pub fn nested(&self) -> IdMap {
        let same = |extents: &[Extent]| {
            extents
                .iter()
                .map(|e| Extent {
                    outside: e.inside,
                    ..*e
                })
                .collect()
        };
        IdMap {
            uids: same(&self.uids),
            gids: same(&self.gids),
        }
    }

    /// Whether `id` is mapped inside.
    pub fn has_uid(&self, id: u32) -> bool {
        contains(&self.uids, id)
    }

    /// Whether group `id` is mapped inside.
    pub fn has_gid(&self, id: u32) -> bool {
        contains(&self.gids, id)
    }
}

fn contains(extents: &[Extent], id: u32) -> bool {
    extents.iter().any(|e| id >= e.inside && id - e.inside < e.count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_maps_keep_the_cuts() {
        let extent = |inside, outside, count| Extent { inside, outside, count };
        let map = IdMap {
            uids: vec![extent(0, 1000, 1), extent(1, 100_000, 65_536)],
            gids: vec![extent(0, 1000, 1)],
        };
        assert_eq!(map.nested().uids, vec![extent(0, 0, 1), extent(1, 1, 65_536)]);
        assert!(map.has_uid(65_536) && !map.has_uid(65_537) && !map.has_gid(1));
        assert!(IdMap::single(5, 6).is_single() && !map.is_single());
    }
}
