//! What becomes of symlinks, and which of them are unsafe.

/// What becomes of symlinks of the source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Symlinks {
    /// They are carried as symlinks.
    #[default]
    Keep,
    /// Each is taken for what it leads to (`--copy-links`).
    Follow,
    /// Those that lead out of the tree are taken for what they lead to (`--copy-unsafe-links`).
    FollowUnsafe,
    /// Those that lead out of the tree are left out (`--safe-links`).
    SkipUnsafe,
}

/// Whether a symlink's target may lie outside of the tree. `depth` is that of the directory which holds the symlink, 0 for
/// the root. As rsync sees it: absolute targets and those that climb too high are unsafe, and so is a `..` after a name,
/// because the name may be a symlink itself.
#[must_use]
pub fn is_unsafe_target(target: &[u8], depth: u64) -> bool {
    if target.is_empty() || target.starts_with(b"/") {
        return true;
    }
    let (mut climbed, mut below) = (0, false);
    for name in target.split(|&byte| byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." if below => return true,
            b".." => climbed += 1,
            _ => below = true,
        }
    }
    climbed > depth
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_that_may_lead_out() {
        for (target, depth) in [
            ("", 5),
            ("/etc", 5),
            ("..", 0),
            ("../a", 0),
            ("../../a", 1),
            ("a/../b", 5),
            ("./../x", 0),
        ] {
            assert!(is_unsafe_target(target.as_bytes(), depth), "{target}");
        }
        for (target, depth) in [
            ("a", 0),
            ("./a//b", 0),
            ("..", 1),
            ("../../a", 2),
            ("..a", 0),
        ] {
            assert!(!is_unsafe_target(target.as_bytes(), depth), "{target}");
        }
    }
}
