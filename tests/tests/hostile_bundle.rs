//! A compiled bundle, damaged at random: every flipped or missing byte is found, and nothing of it is ever executed.
//!
//! The forged ones, whose checksums are right again, are `gembin-bundle`'s own tests.

use gembin_bundle::{check, format};
use gembin_tests::{gemc, model_dir, scratch_dir};
use proptest::prelude::*;
use std::sync::OnceLock;

fn bundle() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| {
        let dir = scratch_dir();
        let path = dir.path().join("m.gembin");
        let model = model_dir("gemma1-mqa");
        gemc([
            "compile",
            model.to_str().unwrap(),
            "-o",
            path.to_str().unwrap(),
            "--quant",
            "q4",
        ])
        .success();
        std::fs::read(path).expect("the bundle was written")
    })
}

/// What `gemrun verify` does before it runs anything; the first complaint, if there is one.
fn examine(bytes: &[u8]) -> Result<(), String> {
    let opened = format::open(bytes).map_err(|e| e.to_string())?;
    let weights = opened.weights;
    let checked = check::check(opened.manifest, weights.len() as u64).map_err(|e| e.to_string())?;
    format::verify_weights(&checked, weights).map_err(|damage| damage[0].to_string())
}

#[test]
fn the_undamaged_bundle_is_accepted() {
    assert_eq!(examine(bundle()), Ok(()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn every_flip_is_reported(at in any::<prop::sample::Index>(), flip in 1..=255u8) {
        let mut bytes = bundle().to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        let complaint = examine(&bytes);
        prop_assert!(complaint.is_err(), "byte {at} ^ {flip:#04x} went unnoticed");
        prop_assert!(!complaint.unwrap_err().contains('\n'), "one line");
    }

    #[test]
    fn every_cut_is_reported(at in any::<prop::sample::Index>()) {
        let bytes = bundle();
        prop_assert!(examine(&bytes[..at.index(bytes.len())]).is_err());
    }

    #[test]
    fn bytes_moved_or_repeated_are_reported(
        from in any::<prop::sample::Index>(),
        to in any::<prop::sample::Index>(),
        length in 1..5000usize,
    ) {
        let mut bytes = bundle().to_vec();
        let from = from.index(bytes.len());
        let piece = bytes[from..bytes.len().min(from + length)].to_vec();
        let to = to.index(bytes.len() - piece.len() + 1);
        bytes[to..to + piece.len()].copy_from_slice(&piece);
        if bytes != bundle() {
            prop_assert!(examine(&bytes).is_err(), "{length} bytes of {from} over {to} went unnoticed");
        }
    }
}
