//! What holds for any rules, lists and names. The fuzz targets call this with bytes of their choice, and the tests with bytes by
//! chance.

use std::sync::Arc;

use super::{Entering, Extent, Filter, Given, Judge, Selection, Settings, Surroundings};
use crate::model::Kind;

/// Reads `rules` as the command line's, one a line, and `merge_file` as a file found in `dir`; then judges `name` there.
///
/// # Panics
/// When a rule says something else of the same entry.
pub fn rules(rules: &[u8], merge_file: &[u8], dir: &[u8], name: &[u8]) {
    for delete_excluded in [false, true] {
        let Some(filter) = compile(rules, delete_excluded) else {
            continue;
        };
        let mut entering = Entering::new(&filter, filter.top(), dir);
        let mut wrong = false;
        while entering.next_file().is_some() {
            wrong |= entering.found(Some(merge_file)).is_err();
        }
        if !wrong {
            let scope = entering.finish();
            judge(&mut Judge::new(&filter, &scope, dir, false), name);
            judge(&mut Judge::new(&filter, &scope.below(), dir, true), name);
        }
    }
}

fn compile(rules: &[u8], delete_excluded: bool) -> Option<Arc<Filter>> {
    let lines = rules.split(|byte| *byte == b'\n');
    let given: Vec<Given> = lines.map(|line| Given::Rule(line.to_vec())).collect();
    let around = Surroundings {
        settings: Settings {
            nul_separated: false,
            delete_excluded,
        },
        source: b"/source",
        dest: b"/dest",
        read: &mut |_| Ok(b"- merged\n".to_vec()),
        find: &mut |_| Ok(Some(b"+ above\n".to_vec())),
        home: None,
        cvsignore: None,
    };
    Filter::compile(&given, around).ok().flatten().map(Arc::new)
}

fn judge(judge: &mut Judge, name: &[u8]) {
    for kind in [Kind::Dir, Kind::File] {
        let (hidden, protected) = (
            judge.hides(name, Some(kind)),
            judge.protects(name, Some(kind)),
        );
        assert!(
            hidden.is_some() && protected.is_some(),
            "a known kind is all it takes"
        );
        assert_eq!(
            hidden,
            judge.hides(name, Some(kind)),
            "the same question again"
        );
        assert_eq!(protected, judge.protects(name, Some(kind)));
        // Without the kind the answer is the same, or there is none.
        assert!([None, hidden].contains(&judge.hides(name, None)));
        assert!([None, protected].contains(&judge.protects(name, None)));
    }
}

/// Reads `list` for `--files-from` and goes down along `path`.
///
/// # Panics
/// When the list says two things of one path, or leads out of the root.
pub fn file_list(list: &[u8], path: &[u8]) {
    for recursive in [false, true] {
        let Ok(selection) = Selection::parse(list, false, recursive) else {
            continue;
        };
        let mut reach = selection.root();
        for name in path.split(|byte| *byte == b'/') {
            for listed in selection.names(reach) {
                assert!(!matches!(listed, b"" | b"." | b"..") && !listed.contains(&b'/'));
            }
            let mention = selection.mention(reach, name);
            let below = selection.below(reach, name);
            if let (Some(mention), true) = (mention, reach.extent != Extent::Tree) {
                let ends = !mention.leads_on && !mention.is_taken;
                assert!(!ends, "what is named is taken or leads on");
                assert!(!mention.leads_on || below.extent != Extent::Itself);
            }
            assert!(recursive || below.extent != Extent::Tree || reach.extent == Extent::Tree);
            reach = below;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    /// Text that is a rule more often than chance would have it.
    const RULE: &str = "(((exclude|include|hide|show|protect|risk|merge|dir-merge|[-+HSPR.:])(,?[/!Csrpenw+-]{0,2})[ _]\
        [ab*?/\\[\\]!\\\\.-]{0,8})|!|[ -~]{0,6})";

    proptest! {
        #[test]
        fn rules_say_one_thing(
            rules in proptest::collection::vec(RULE, 1..6),
            merge_file in proptest::collection::vec(RULE, 0..4),
            dir in "([ab]{1,2}(/[ab]){0,2})?",
            name in "[ab.]{1,4}",
        ) {
            // One wrong rule would hide the others.
            for at in 0..rules.len() {
                let some = rules[at..].join("\n");
                super::rules(some.as_bytes(), merge_file.join("\n").as_bytes(), dir.as_bytes(), name.as_bytes());
            }
            for rule in &rules {
                super::rules(rule.as_bytes(), merge_file.join("\n").as_bytes(), dir.as_bytes(), name.as_bytes());
            }
        }

        #[test]
        fn any_bytes_may_be_rules(rules: Vec<u8>, merge_file: Vec<u8>, dir: Vec<u8>, name: Vec<u8>) {
            super::rules(&rules, &merge_file, &dir, &name);
        }

        #[test]
        fn lists_say_one_thing(list in "([ab./#]{0,7}\n){0,6}", path in "[ab./]{0,9}") {
            super::file_list(list.as_bytes(), path.as_bytes());
        }
    }
}
