//! Any bytes as paths.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringsync::model::path::check::paths;

fuzz_target!(|data: &[u8]| {
    let at = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
    paths(&data[..at], data.get(at + 1..).unwrap_or_default());
});
