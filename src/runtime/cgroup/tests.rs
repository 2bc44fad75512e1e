//! A host is a folder and three texts; the real v1 hierarchies are used where the caller is root.
