//! Any bytes as a list for `--files-from`, and as a path that is looked up in it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringsync::model::filter::check::file_list;

fuzz_target!(|data: &[u8]| {
    let at = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
    file_list(&data[..at], data.get(at + 1..).unwrap_or_default());
});
