//! The list of `--files-from`: which directories are gone through, and how far.

use std::collections::BTreeMap;

use super::parse::lines;
use crate::model::path::escape;

/// How much of a directory takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All of it, and of what is below.
    Tree,
    /// All its entries, but nothing in its subdirectories.
    Contents,
    /// The entries that are listed by name.
    Listed,
    /// Nothing in it: only the directory itself.
    Itself,
}

/// How much of one directory takes part, and what the list says below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    pub extent: Extent,
    node: Option<u32>,
}

impl Reach {
    /// Everything, as without a list.
    pub const ALL: Self = Self {
        extent: Extent::Tree,
        node: None,
    };

    /// Whether names that the list lacks take part too, so that one that the source lacks may be deleted.
    #[must_use]
    pub fn is_whole(self) -> bool {
        matches!(self.extent, Extent::Tree | Extent::Contents)
    }
}

/// A list of paths, as a tree of their components.
#[derive(Debug)]
pub struct Selection {
    /// The root first.
    nodes: Vec<Node>,
}

#[derive(Debug, Default)]
struct Node {
    /// Of a path that is on the list itself.
    taken: Option<Extent>,
    children: BTreeMap<Box<[u8]>, u32>,
}

/// What the list says of one name in a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mention {
    /// The name is on the list, not only a directory on the way to something listed.
    pub is_taken: bool,
    /// Something below the name is listed.
    pub leads_on: bool,
}

impl Selection {
    /// Reads a list: a path a line (or up to a NUL), `#` and `;` begin comments. With `recursive`, directories are taken
    /// with all they hold.
    ///
    /// # Errors
    /// Which entry is wrong, and why.
    pub fn parse(contents: &[u8], nul_separated: bool, recursive: bool) -> Result<Self, String> {
        let mut selection = Self {
            nodes: vec![Node::default()],
        };
        for entry in lines(contents, nul_separated) {
            if entry.is_empty() || entry.starts_with(b"#") || entry.starts_with(b";") {
                continue;
            }
            if entry.contains(&0) {
                return Err(format!(
                    "'{}' has a NUL byte; is the file a list for --from0?",
                    escape(entry)
                ));
            }
            let (path, wants_contents) = components(entry)?;
            let extent = match (recursive, wants_contents) {
                (true, _) => Extent::Tree,
                (false, true) => Extent::Contents,
                (false, false) => Extent::Itself,
            };
            selection.add(&path, extent);
        }
        Ok(selection)
    }

    fn add(&mut self, path: &[&[u8]], extent: Extent) {
        let mut at = 0;
        for name in path {
            at = match self.nodes[at].children.get(*name) {
                Some(child) => *child as usize,
                None => self.add_child(at, name),
            };
        }
        let taken = &mut self.nodes[at].taken;
        // Listed twice: the one that takes more counts.
        let rank = |extent: Option<Extent>| match extent {
            Some(Extent::Tree) => 3,
            Some(Extent::Contents) => 2,
            Some(_) => 1,
            None => 0,
        };
        if rank(Some(extent)) > rank(*taken) {
            *taken = Some(extent);
        }
    }

    fn add_child(&mut self, parent: usize, name: &[u8]) -> usize {
        let at = self.nodes.len();
        let Ok(number) = u32::try_from(at) else {
            unreachable!("four thousand million paths do not fit in memory");
        };
        self.nodes.push(Node::default());
        self.nodes[parent].children.insert(name.into(), number);
        at
    }

    /// The reach of the root.
    #[must_use]
    pub fn root(&self) -> Reach {
        self.reach(0)
    }

    fn reach(&self, number: u32) -> Reach {
        let node = &self.nodes[number as usize];
        let extent = match node.taken {
            Some(Extent::Itself) | None if !node.children.is_empty() => Extent::Listed,
            Some(extent) => extent,
            None => Extent::Itself,
        };
        Reach {
            extent,
            node: Some(number),
        }
    }

    /// The reach of the directory `name` in one with the reach `parent`.
    #[must_use]
    pub fn below(&self, parent: Reach, name: &[u8]) -> Reach {
        let number = self.child(parent, name);
        match (parent.extent, number) {
            (Extent::Tree, _) => Reach {
                extent: Extent::Tree,
                node: number,
            },
            (_, Some(number)) => self.reach(number),
            (_, None) => Reach {
                extent: Extent::Itself,
                node: None,
            },
        }
    }

    fn child(&self, parent: Reach, name: &[u8]) -> Option<u32> {
        self.nodes[parent.node? as usize]
            .children
            .get(name)
            .copied()
    }

    /// What the list says of a name in a directory; nothing when it does not name it.
    #[must_use]
    pub fn mention(&self, dir: Reach, name: &[u8]) -> Option<Mention> {
        let node = &self.nodes[self.child(dir, name)? as usize];
        Some(Mention {
            is_taken: node.taken.is_some(),
            leads_on: !node.children.is_empty(),
        })
    }

    /// The names that are listed in a directory, in order.
    pub fn names(&self, dir: Reach) -> impl Iterator<Item = &[u8]> {
        let node = dir.node.map(|number| &self.nodes[number as usize]);
        node.into_iter()
            .flat_map(|node| node.children.keys().map(AsRef::as_ref))
    }
}

/// The components of a listed path, and whether it means what is in a directory: it ends with a slash, or with `.` or `..`.
/// `..` goes up as in rsync: by the letter, and never above the root.
fn components(entry: &[u8]) -> Result<(Vec<&[u8]>, bool), String> {
    let mut path: Vec<&[u8]> = Vec::new();
    let mut wants_contents = false;
    let mut inner_dot = false;
    for part in entry.split(|byte| *byte == b'/') {
        match part {
            b"" => {
                wants_contents = true;
                continue;
            }
            b"." => inner_dot |= !path.is_empty(),
            b".." => {
                path.pop();
            }
            name => {
                if inner_dot {
                    return Err(format!(
                        "'{}': in rsync, the '/./' gives the entry another path in the destination; that is not offered, so \
                         leave the '.' out",
                        escape(entry)
                    ));
                }
                path.push(name);
                wants_contents = false;
                continue;
            }
        }
        wants_contents = true;
    }
    Ok((path, wants_contents))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(list: &str) -> Selection {
        Selection::parse(list.as_bytes(), false, false).unwrap()
    }

    fn extent(selection: &Selection, path: &str) -> Extent {
        let names = path.split('/').filter(|name| !name.is_empty());
        names
            .fold(selection.root(), |reach, name| {
                selection.below(reach, name.as_bytes())
            })
            .extent
    }

    #[test]
    fn how_far_each_directory_is_gone_through() {
        let list = parse("# comment\n; too\n\na/b\r\nc/\nd/e/f\nd/e/\nx\nx/y\n");
        let expected = [
            ("", Extent::Listed),
            ("a", Extent::Listed),
            ("a/b", Extent::Itself),
            ("c", Extent::Contents),
            ("c/any", Extent::Itself),
            ("d/e", Extent::Contents),
            ("d/e/f", Extent::Itself),
            ("x", Extent::Listed),
            ("x/y", Extent::Itself),
        ];
        for (path, expected) in expected {
            assert_eq!(extent(&list, path), expected, "{path:?}");
        }
        let names: Vec<_> = list.names(list.root()).collect();
        assert_eq!(names, [b"a", b"c", b"d", b"x"]);
        let recursive = Selection::parse(b"a\0#x\0b/c", true, true).unwrap();
        assert_eq!(extent(&recursive, "a/any/deep"), Extent::Tree);
        assert_eq!(extent(&recursive, "b"), Extent::Listed);
    }

    #[test]
    fn paths_stay_below_the_root() {
        let path = |entry: &'static str| components(entry.as_bytes()).unwrap();
        assert_eq!(path("/a//b"), (vec![&b"a"[..], b"b"], false));
        assert_eq!(path("../../a"), (vec![&b"a"[..]], false));
        assert_eq!(path("a/../../b/"), (vec![&b"b"[..]], true));
        assert_eq!(path("./a/."), (vec![&b"a"[..]], true));
        assert_eq!(path("a/b/.."), (vec![&b"a"[..]], true));
        assert_eq!(path("."), (vec![], true));
        assert_eq!(path("..."), (vec![&b"..."[..]], false));
        assert!(components(b"a/./b").is_err());
        assert!(Selection::parse(b"a\0b", false, false).is_err());
    }

    #[test]
    fn a_list_that_names_the_root_takes_its_contents() {
        assert_eq!(parse("./\n").root().extent, Extent::Contents);
        assert_eq!(parse("").root().extent, Extent::Itself);
    }
}
