//! Names as directories have them: numbered, hashed, short and long. The same ones at each run.

use std::ffi::CString;

/// Prime, and no divisor of any directory size here: steps of this width meet every position once.
const STRIDE: usize = 7919;

/// `count` names, all different. Those of another `series` are others again.
pub(crate) fn names(series: &str, count: usize) -> Vec<CString> {
    (0..count)
        .map(|at| CString::new(name(series, at)).unwrap())
        .collect()
}

fn name(series: &str, at: usize) -> String {
    match at % 4 {
        0 => format!("{series}_{at:08}.jpg"),
        1 => {
            let hash = (at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            format!("lib{series}-{hash:016x}.rlib")
        }
        2 => format!("{series}-{at:05}-of-65536.snappy.parquet"),
        _ => format!("{series}{at}.c"),
    }
}

/// The same in another order, as the other side lists them.
pub(crate) fn shuffled(names: &[CString]) -> Vec<CString> {
    assert!(!names.len().is_multiple_of(STRIDE));
    (0..names.len())
        .map(|at| names[at * STRIDE % names.len()].clone())
        .collect()
}
