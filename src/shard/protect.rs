//! Names of the destination that hold backups: no content of the tree, whatever the source says.

use std::ffi::CString;

use super::Node;

/// Which names of the destination are backups.
#[derive(Clone, Debug)]
pub struct BackupRule {
    /// Backups lie beside their originals and end in this; empty when they have a directory of their own.
    pub suffix: Vec<u8>,
    /// The path of that directory below the root; empty when it is elsewhere.
    pub dir: Vec<CString>,
}

impl BackupRule {
    /// Whether `name` in the directory of `node` is the backup directory, which is never entered and never removed.
    pub(super) fn is_backup_dir(&self, node: &Node, name: &[u8]) -> bool {
        let Some((last, above)) = self.dir.split_last() else {
            return false;
        };
        let is_here = node.depth() == above.len() as u64 && last.to_bytes() == name;
        is_here && self.is_above_backups(node)
    }

    /// Whether the backup directory is, or will be, somewhere in the directory of `node`.
    pub(super) fn is_above_backups(&self, node: &Node) -> bool {
        let depth = usize::try_from(node.depth()).unwrap_or(usize::MAX);
        if depth >= self.dir.len() {
            return false;
        }
        let mut at = node;
        for expected in self.dir[..depth].iter().rev() {
            let Some(parent) = at.parent() else {
                return false;
            };
            if at.name() != expected.as_c_str() {
                return false;
            }
            at = parent;
        }
        true
    }

    /// Whether a name that the source lacks is not to be deleted.
    pub(super) fn protects(&self, node: &Node, name: &[u8]) -> bool {
        self.has_suffix(name) || self.is_backup_dir(node, name)
    }

    fn has_suffix(&self, name: &[u8]) -> bool {
        !self.suffix.is_empty() && name.ends_with(&self.suffix)
    }

    /// What all names have in common that may be backups of each other: those must meet on one shard.
    pub(super) fn stem<'a>(&self, mut name: &'a [u8]) -> &'a [u8] {
        while self.has_suffix(name) {
            name = &name[..name.len() - self.suffix.len()];
        }
        name
    }

    /// The name of the backup of `name`, where it lies beside it.
    pub(super) fn backup_name(&self, name: &[u8]) -> Option<Vec<u8>> {
        (!self.suffix.is_empty()).then(|| [name, &self.suffix].concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn rule(suffix: &str, dir: &[&str]) -> BackupRule {
        BackupRule {
            suffix: suffix.as_bytes().to_vec(),
            dir: dir
                .iter()
                .map(|name| CString::new(*name).unwrap())
                .collect(),
        }
    }

    fn child(parent: &Arc<Node>, name: &str) -> Arc<Node> {
        Node::child_for_tests(parent, &CString::new(name).unwrap())
    }

    #[test]
    fn only_the_backup_directory_itself_is_recognised() {
        let root = Node::for_tests();
        let (a, b) = (child(&root, "a"), child(&root, "b"));
        let rule = rule("", &["a", "old"]);
        assert!(rule.is_backup_dir(&a, b"old"));
        assert!(!rule.is_backup_dir(&a, b"older"));
        assert!(!rule.is_backup_dir(&b, b"old"));
        assert!(!rule.is_backup_dir(&root, b"a"));
        assert!(!rule.is_backup_dir(&child(&a, "a"), b"old"));
        assert!(!rule.protects(&root, b"old~"));
        assert!(rule.is_above_backups(&root) && rule.is_above_backups(&a));
        assert!(!rule.is_above_backups(&b) && !rule.is_above_backups(&child(&a, "old")));
    }

    #[test]
    fn suffixes_protect_and_share_a_stem() {
        let (root, rule) = (Node::for_tests(), rule("~", &[]));
        assert!(rule.protects(&root, b"a~") && rule.protects(&root, b"~"));
        assert!(!rule.protects(&root, b"a"));
        assert_eq!(rule.stem(b"a~~"), b"a");
        assert_eq!(rule.stem(b"~"), b"");
        assert_eq!(rule.backup_name(b"a").unwrap(), b"a~");
    }
}
