//! Any bytes as rules, as a merge file, and as the name that they judge: nothing panics, and what a rule says does not depend
//! on how the question was put.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringsync::model::filter::check::rules;

fuzz_target!(|data: &[u8]| {
    // Rules of the command line, a merge file, a directory, a name.
    let mut parts = data.splitn(4, |byte| *byte == 0);
    let mut next = || parts.next().unwrap_or_default();
    rules(next(), next(), next(), next());
});
