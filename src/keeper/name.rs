//! The name of a store's control group.

use crate::disk::layout::Layout;

/// `dunlin` for the system store, else `dunlin-` and eight hex digits that follow from the run root.
pub(super) fn of_tree(layout: &Layout) -> String {
    if *layout == Layout::system() {
        return "dunlin".to_owned();
    }
    // FNV-1a: stores of one host must differ, nothing more.
    let hash = layout
        .run()
        .as_os_str()
        .as_encoded_bytes()
        .iter()
        .fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
        });
    format!("dunlin-{hash:08x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_have_different_groups() {
        assert_eq!(of_tree(&Layout::system()), "dunlin");
        let [one, two] = ["/run/user/1000/dunlin", "/run/user/1001/dunlin"].map(|run| of_tree(&Layout::new("/x", run)));
        assert!(one != two && one.len() == 15 && one.starts_with("dunlin-"));
    }
}
