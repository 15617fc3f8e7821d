//! Changes in rsync's itemized form: `YXcstpoguax name`, as its manual describes under `--itemize-changes`.

use crate::model::path::escape;
use crate::model::{Attrs, Item, Kind, What};

/// The whole line.
pub(super) fn line(item: &Item) -> String {
    let name = name(item);
    match item.what {
        What::Delete => format!("*deleting   {name}"),
        _ => format!("{} {name}", code(item)),
    }
}

/// The name as the line shows it: directories end in a slash, symlinks show where they point.
pub(super) fn name(item: &Item) -> String {
    let mut name = if item.path.is_empty() {
        String::from(".")
    } else {
        escape(&item.path)
    };
    if item.kind == Kind::Dir {
        name.push('/');
    }
    if let Some(target) = &item.target {
        let arrow = match item.what {
            What::Link { .. } => " => ",
            _ => " -> ",
        };
        name.push_str(arrow);
        name.push_str(&escape(target));
    }
    name
}

/// The eleven characters.
pub(super) fn code(item: &Item) -> String {
    let kind = match item.kind {
        Kind::File => 'f',
        Kind::Dir => 'd',
        Kind::Symlink => 'L',
        Kind::BlockDevice | Kind::CharDevice => 'D',
        Kind::Fifo | Kind::Socket => 'S',
    };
    let update = match (item.what, item.kind) {
        (What::Create | What::Replace { .. }, Kind::File) => '>',
        (What::Create | What::Replace { .. }, _) => 'c',
        (What::Repair(_), _) => '.',
        (What::Link { .. }, _) => 'h',
        (What::Delete, _) => return String::from("*deleting  "),
    };
    match item.what {
        What::Replace {
            contents,
            size,
            attrs,
        } => {
            // What is not a file is compared by what it is.
            let is_file = item.kind == Kind::File;
            let contents = if contents || !is_file { 'c' } else { '.' };
            let size = if size && is_file { 's' } else { '.' };
            format!("{update}{kind}{contents}{size}{}", attr_letters(attrs))
        }
        What::Repair(attrs) => format!("{update}{kind}..{}", attr_letters(attrs)),
        What::Link { existed: true } => format!("{update}{kind}         "),
        What::Create | What::Link { existed: false } | What::Delete => {
            format!("{update}{kind}+++++++++")
        }
    }
}

/// `tpoguax`: the `u` is for access times, which are not carried.
fn attr_letters(attrs: Attrs) -> String {
    let letter = |attr, letter| if attrs.has(attr) { letter } else { '.' };
    let time = letter(Attrs::TIMES, 't');
    let mode = letter(Attrs::MODE, 'p');
    let owner = letter(Attrs::OWNER, 'o');
    let group = letter(Attrs::GROUP, 'g');
    let acls = letter(Attrs::ACLS, 'a');
    let xattrs = letter(Attrs::XATTRS, 'x');
    format!("{time}{mode}{owner}{group}.{acls}{xattrs}")
}

/// The change in a word, for JSON.
pub(super) fn word(what: What) -> &'static str {
    match what {
        What::Create => "create",
        What::Replace { .. } => "replace",
        What::Repair(_) => "repair",
        What::Link { .. } => "link",
        What::Delete => "delete",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(what: What, kind: Kind, target: Option<&str>) -> Item {
        Item {
            what,
            kind,
            path: b"a/b".to_vec(),
            target: target.map(|target| target.as_bytes().to_vec()),
            owners: None,
        }
    }

    #[test]
    fn lines_are_those_of_rsync() {
        let both = What::Replace {
            contents: false,
            size: true,
            attrs: Attrs::TIMES | Attrs::MODE,
        };
        let owner = What::Repair(Attrs::OWNER | Attrs::GROUP);
        let rows = [
            (item(What::Create, Kind::File, None), ">f+++++++++ a/b"),
            (item(What::Create, Kind::Dir, None), "cd+++++++++ a/b/"),
            (
                item(What::Create, Kind::Symlink, Some("x")),
                "cL+++++++++ a/b -> x",
            ),
            (item(What::Create, Kind::Fifo, None), "cS+++++++++ a/b"),
            (item(What::Delete, Kind::Dir, None), "*deleting   a/b/"),
            (item(both, Kind::File, None), ">f.stp..... a/b"),
            (item(owner, Kind::File, None), ".f....og... a/b"),
            (
                item(What::Repair(Attrs::TIMES), Kind::Dir, None),
                ".d..t...... a/b/",
            ),
        ];
        for (item, expected) in rows {
            assert_eq!(line(&item), expected);
        }
    }
}
