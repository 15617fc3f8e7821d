//! Filter rules of one sort, 1, 10 or 100 of them, against 192 entries in three directories: the time for all entries, a
//! `Judge` for each directory included. No rule matches, so that each is tried on each entry: the dearest case, and the usual
//! one.

use std::ffi::CString;
use std::hint::black_box;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput};
use ringsync::model::Kind;
use ringsync::model::filter::{Filter, Given, Judge, Settings, Surroundings};

use super::names::names;

const RULES: [usize; 3] = [1, 10, 100];
const DIRS: [&[u8]; 3] = [
    b"",
    b"projects/app/src",
    b"home/user/.local/share/containers/storage/overlay/diff/usr/lib",
];
const NAMES: usize = 64;

/// Makes the rule of a number.
type Rule = fn(usize) -> String;

/// Sorts of rules: eight or more plain names in a row become one set; `path` is anchored, `tail` is not.
const SORTS: [(&str, Rule); 5] = [
    ("name", |at| format!("- target{at}")),
    ("wildcard", |at| format!("- *.tmp{at}")),
    ("path", |at| format!("- /projects/app/cache{at}")),
    ("tail", |at| format!("- src/*.o{at}")),
    ("deep", |at| format!("- build{at}/**")),
];

fn compile(rules: impl Iterator<Item = String>) -> Arc<Filter> {
    let given: Vec<Given> = rules.map(|rule| Given::Rule(rule.into_bytes())).collect();
    let around = Surroundings {
        settings: Settings::default(),
        source: b"/source",
        dest: b"/dest",
        read: &mut |_| unreachable!("no rule names a file"),
        find: &mut |_| Ok(None),
        home: None,
        cvsignore: None,
    };
    Arc::new(Filter::compile(&given, around).unwrap().unwrap())
}

/// How many entries are hidden.
fn count_hidden(filter: &Arc<Filter>, names: &[CString]) -> usize {
    let mut hidden = 0;
    for dir in DIRS {
        let mut judge = Judge::new(filter, filter.top(), dir, false);
        for name in names {
            let is_hidden = judge.hides(name.to_bytes(), Some(Kind::File));
            hidden += usize::from(is_hidden == Some(true));
        }
    }
    hidden
}

pub(crate) fn bench(criterion: &mut Criterion) {
    let names = names("img", NAMES);
    let mut group = criterion.benchmark_group("filter");
    group.throughput(Throughput::Elements((DIRS.len() * NAMES) as u64));
    for (sort, rule) in SORTS {
        for count in RULES {
            let filter = compile((0..count).map(rule));
            assert_eq!(count_hidden(&filter, &names), 0);
            group.bench_function(BenchmarkId::new(sort, count), |bencher| {
                bencher.iter(|| black_box(count_hidden(&filter, &names)));
            });
        }
    }
    group.finish();
}
