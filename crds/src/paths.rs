//! Which paths a custom resource may name. The CEL rules say the same.

/// What our own files begin with; no path of a user's may have such a component.
pub const RESERVED: &str = ".lb~";

/// Whether a path is relative, in normal form, and names nothing of ours. Empty is the place itself.
pub fn is_relative(path: &str) -> bool {
    path.is_empty() || path.split('/').all(|part| is_component(part) && !part.starts_with(RESERVED))
}

/// Whether a path is absolute and in normal form.
pub fn is_absolute(path: &str) -> bool {
    path == "/" || path.strip_prefix('/').is_some_and(|rest| rest.split('/').all(is_component))
}

fn is_component(part: &str) -> bool {
    !matches!(part, "" | "." | "..") && !part.contains(|c: char| c.is_ascii_control())
}

/// One relative path beneath another; either may be empty.
pub fn join(upper: &str, lower: &str) -> String {
    match (upper, lower) {
        ("", path) | (path, "") => path.to_owned(),
        (upper, lower) => format!("{upper}/{lower}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_paths() {
        for good in ["", "a", "a/b", "...", "..a", ".a/b.", "ä/ b", ".lb"] {
            assert!(is_relative(good), "{good:?}");
        }
        for bad in ["/", "/a", "a/", "a//b", ".", "..", "a/..", "./a", "a\n", "a\0b", ".lb~dcsi", "a/.lb~x"] {
            assert!(!is_relative(bad), "{bad:?}");
        }
    }

    #[test]
    fn absolute_paths() {
        assert!(is_absolute("/") && is_absolute("/srv/x") && is_absolute("/..."));
        for bad in ["", "srv", "/srv/", "//", "/srv//x", "/srv/../x", "/.", "/a\u{7f}"] {
            assert!(!is_absolute(bad), "{bad:?}");
        }
    }

    #[test]
    fn joined_paths_have_no_empty_component() {
        assert_eq!([join("", ""), join("a", ""), join("", "b"), join("a", "b")], ["", "a", "b", "a/b"]);
    }
}
