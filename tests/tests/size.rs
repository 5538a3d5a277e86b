//! The shipped runtime stays small: `gemrun`, built as it is shipped (profile `dist`: one unit, stripped).
//!
//! Builds that profile, which takes longer than any other single test; it lives in its own file so that the rest can
//! be run without it: `cargo test -p gembin-tests --test architecture`.

use gembin_tests::commands;
use std::time::Instant;

const LIMIT_BYTES: u64 = 6 * 1024 * 1024;

#[test]
fn the_stripped_gemrun_fits_into_six_mebibytes() {
    let started = Instant::now();
    let built = commands::build("dist", &["-p", "gembin-runtime", "--bin", "gemrun"]);
    let size_bytes = std::fs::metadata(&built["gemrun"])
        .expect("cargo built it")
        .len();
    println!(
        "gemrun: {size_bytes} bytes stripped, built in {:.0} s",
        started.elapsed().as_secs_f64()
    );
    assert!(
        size_bytes <= LIMIT_BYTES,
        "gemrun has {size_bytes} bytes, {} more than allowed; `cargo bloat --profile dist -p gembin-runtime` shows where",
        size_bytes - LIMIT_BYTES
    );
}
