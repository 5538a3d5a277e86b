//! What the kernels become on the chip that they are made for, a Radeon 780M, without one: `gemc isa`.
//!
//! Rules over every kernel of real models' shapes (nothing spills, weights come in loads of 16 bytes, the instructions
//! made for the work are used, there are waves enough to hide memory behind) and snapshots of the figures, so that a
//! change of a kernel shows its price. What the kernels compute is no subject here.

use gembin_tests::{gemc, mesa, model_dir, scratch_dir};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::sync::LazyLock;

/// Fewest waves a SIMD must hold where memory is the limit: with fewer, its latency shows.
const LEAST_WAVES: u64 = 8;

/// A compiled variant in `gemc isa --json`.
struct Code {
    kernel: String,
    variant: String,
    /// Whether it is what the chip runs: the kernel's first variant for it, at the size that the driver chooses.
    runs: bool,
    figures: Value,
}

impl Code {
    /// All of a model's kernels; panics if anything failed.
    fn all(preset: &str, quant: &str) -> Vec<Code> {
        let report = gemc(["isa", "--json", "--preset", preset, "--quant", quant]).success();
        let report: Value = serde_json::from_str(&report).expect("JSON");
        let rows = report["rows"].as_array().expect("rows");
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        let mut codes: Vec<Code> = Vec::new();
        for row in rows {
            assert!(row["outcome"]["failed"].is_null(), "{row}");
            let (kernel, variant) = (text(&row["kernel"]), text(&row["variant"]));
            if row["outcome"]["code"].is_null() {
                continue;
            }
            codes.push(Code {
                runs: codes.iter().all(|code| code.kernel != kernel),
                figures: row["outcome"]["code"].clone(),
                kernel,
                variant,
            });
        }
        for row in rows {
            let has_code = codes.iter().any(|code| row["kernel"] == code.kernel[..]);
            assert!(has_code, "no variant is for this chip: {row}");
        }
        codes
    }

    fn figure(&self, name: &str) -> u64 {
        let value = &self.figures[name];
        value
            .as_u64()
            .unwrap_or_else(|| panic!("no {name} in {self}"))
    }

    fn count(&self, name: &str) -> u64 {
        let value = &self.figures["listing"]["all"][name];
        value
            .as_u64()
            .unwrap_or_else(|| panic!("no {name} in {self}"))
    }

    /// Loads of vector memory of at least `from` and less than `to` bits.
    fn loads(&self, from: u64, to: u64) -> u64 {
        let loads = self.figures["listing"]["all"]["loads"].as_object();
        let each = loads.expect("loads by width").iter();
        each.filter(|(bits, _)| (from..to).contains(&bits.parse().expect("bits")))
            .map(|(_, count)| count.as_u64().expect("a count"))
            .sum()
    }

    /// Whether its kernel's name begins with these words.
    fn is(&self, kind: &str, format: &str) -> bool {
        self.kernel.starts_with(&format!("{kind} {format} "))
    }
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} {} wave{}",
            self.kernel, self.variant, self.figures["subgroup"]
        )
    }
}

/// Shapes and formats of bundles that the rules are held over.
const BUNDLES: [(&str, &str); 6] = [
    ("gemma-3-1b", "q4"),
    ("gemma-3-1b", "q8"),
    ("gemma-3-1b", "none"),
    ("gemma-2-2b", "q4"),
    ("gemma-2-2b", "q8"),
    ("gemma-3-27b", "q4"),
];

/// What became of each bundle, made once for all rules.
static REPORTS: LazyLock<Vec<(&str, &str, Vec<Code>)>> = LazyLock::new(|| {
    BUNDLES
        .iter()
        .map(|&(preset, quant)| (preset, quant, Code::all(preset, quant)))
        .collect()
});

/// Holds all code that `which` selects in the bundles of some formats to a rule; there must be such code in each.
#[track_caller]
fn hold(
    rule: &str,
    in_bundles: impl Fn(&str) -> bool,
    which: impl Fn(&Code) -> bool,
    broken: impl Fn(&Code) -> Option<String>,
) {
    if mesa::radv_null().is_none() {
        return;
    }
    let mut breaches = BTreeSet::new();
    for (preset, quant, codes) in REPORTS.iter() {
        if !in_bundles(quant) {
            continue;
        }
        let mut held = 0;
        for code in codes.iter().filter(|code| which(code)) {
            held += 1;
            breaches.extend(broken(code).map(|how| format!("{code}: {how}")));
        }
        assert!(
            held > 0,
            "{rule}: nothing to hold to it in {preset} {quant}"
        );
    }
    let breaches: Vec<String> = breaches.into_iter().collect();
    assert!(breaches.is_empty(), "{rule}:\n  {}", breaches.join("\n  "));
}

#[test]
fn nothing_spills() {
    hold(
        "registers suffice, and arrays are in registers",
        |_| true,
        |_| true,
        |code| {
            let figures = ["spilled_vgprs", "spilled_sgprs", "scratch_bytes"];
            let found = figures.map(|name| code.figure(name));
            (found != [0; 3] || code.count("scratch") > 0)
                .then(|| format!("spilled VGPRs, SGPRs, scratch bytes: {found:?}"))
        },
    );
}

#[test]
fn decoding_uses_packed_dot_products_on_wide_loads_with_waves_to_spare() {
    hold(
        "a quantized matrix by a row",
        |quant| quant != "none",
        |code| code.runs && (code.is("gemv", "q8") || code.is("gemv", "q4")),
        |code| {
            let (dot4, waves) = (code.count("dot4"), code.figure("waves_per_simd"));
            let (wide, narrow) = (code.loads(128, 129), code.loads(0, 32));
            (dot4 == 0 || wide < 4 || narrow > 0 || waves < LEAST_WAVES).then(|| {
                format!("dot4 {dot4}, loads of 16 bytes {wide}, narrow {narrow}, waves {waves}")
            })
        },
    );
}

#[test]
fn prefill_uses_the_matrix_units_and_gathers_nothing() {
    hold(
        "a matrix by a matrix",
        |_| true,
        |code| code.runs && code.kernel.starts_with("gemm "),
        |code| {
            let (wmma, wide) = (code.count("wmma"), code.loads(128, 129));
            let narrow = code.loads(0, 32);
            (wmma == 0 || wide == 0 || narrow > 0)
                .then(|| format!("wmma {wmma}, loads of 16 bytes {wide}, narrow {narrow}"))
        },
    );
}

#[test]
fn prefill_on_matrices_of_int8_gathers_nothing() {
    let rule = |code: &Code| {
        let (wmma, wide) = (code.count("wmma"), code.loads(128, 129));
        let narrow = code.loads(0, 32);
        (wmma == 0 || wide == 0 || narrow > 0)
            .then(|| format!("wmma {wmma}, loads of 16 bytes {wide}, narrow {narrow}"))
    };
    hold(
        "a matrix by a matrix as int8",
        |quant| quant != "none",
        |code| code.variant == "int8-matrix16",
        rule,
    );
}

#[test]
fn products_of_int8_are_the_chips_own() {
    if mesa::radv_null().is_none() {
        return;
    }
    for (quant, kernel) in [("q4", "gemm q4"), ("q8", "gemm q8")] {
        let model = ["isa", "--preset", "gemma-3-1b", "--quant", quant];
        let said = gemc(model.iter().chain(&["--kernel", kernel, "--asm"])).success();
        let listings: Vec<&str> = said
            .split("\n== ")
            .filter(|listing| {
                listing
                    .lines()
                    .next()
                    .is_some_and(|of| of.contains(" int8-matrix16 "))
            })
            .collect();
        assert!(!listings.is_empty(), "{said}");
        for listing in listings {
            let of = listing.lines().next().unwrap_or_default();
            let count = |what: &str| listing.matches(what).count();
            assert!(count("v_wmma_i32_16x16x16_iu8") > 0, "{of}");
            assert_eq!(count("v_wmma_f32"), 0, "{of}");
        }
    }
}

/// After a change of kernels: `INSTA_UPDATE=always cargo test -p gembin-tests --test isa`.
#[test]
fn figures_of_real_shapes() {
    if mesa::radv_null().is_none() {
        return;
    }
    for (preset, quant) in [("gemma-3-1b", "q4"), ("gemma-2-2b", "q8")] {
        let arguments = ["isa", "--chosen", "--preset", preset, "--quant", quant];
        let table = gemc(arguments).success();
        insta::with_settings!({
            description => format!("gemc {}", arguments.join(" ")),
            omit_expression => true,
        }, {
            insta::assert_snapshot!(format!("{preset}_{quant}"), table);
        });
    }
}

#[test]
fn a_bundle_and_its_checkpoint_give_the_same_table() {
    if mesa::radv_null().is_none() {
        return;
    }
    let model = model_dir("gemma3-text").display().to_string();
    let scratch = scratch_dir();
    let bundle = scratch.path().join("model.gembin").display().to_string();
    gemc(["compile", &model, "-o", &bundle, "--quiet"]).success();
    let of_bundle = gemc(["isa", &bundle]).success();
    assert!(of_bundle.contains("gemv q8"), "{of_bundle}");
    assert_eq!(of_bundle, gemc(["isa", &model]).success());
    let navi = gemc(["isa", &bundle, "--device", "navi31"]).success();
    assert!(navi.contains("NAVI31"), "{navi}");

    let one = gemc(["isa", &bundle, "--kernel", "gemv q8", "--asm"]).success();
    assert!(one.contains("v_dot4_i32_iu8"), "{one}");
    let none = gemc(["isa", &bundle, "--kernel", "no such kernel"]).failure(1);
    assert!(none.contains("no kernel has"), "{none}");
}

#[test]
fn a_bundle_for_the_processor_alone_has_nothing_to_show() {
    if mesa::radv_null().is_none() {
        return;
    }
    let model = model_dir("gemma3-text").display().to_string();
    let said = gemc(["isa", &model, "--devices", "cpu"]).failure(1);
    assert!(said.contains("compile with --devices"), "{said}");
}

#[test]
fn a_driver_that_dies_over_a_kernel_is_told() {
    if mesa::radv_null().is_none() {
        return;
    }
    let scratch = scratch_dir();
    let broken = scratch.path().join("broken.spv");
    // A header, and an instruction that is longer than the file.
    let words: [u32; 6] = [0x0723_0203, 0x0001_0600, 0, 8, 0, 0x00ff_0011];
    fs::write(&broken, words.map(u32::to_le_bytes).concat()).expect("written");
    let output = gemc(["isa".as_ref(), broken.as_os_str()]);
    assert!(
        output.stdout.contains("failed: broken file: "),
        "{output:?}"
    );
    assert!(output.failure(1).contains("do not compile for phoenix"));
}

#[test]
fn what_is_no_kernel_is_refused() {
    if mesa::radv_null().is_none() {
        return;
    }
    let scratch = scratch_dir();
    let text = scratch.path().join("text.spv");
    fs::write(&text, "no words").expect("written");
    let said = gemc(["isa".as_ref(), text.as_os_str()]).failure(1);
    assert!(said.contains("is not SPIR-V"), "{said}");
    let said = gemc(["isa", "--preset", "gemma-3-1b", "--device", "voodoo"]).failure(2);
    assert!(said.contains("the chips are phoenix"), "{said}");
}

#[test]
fn without_mesa_the_error_says_how_to_get_it() {
    let scratch = scratch_dir();
    let dir = scratch.path().display().to_string();
    let said = gemc(["isa", "--preset", "gemma-3-1b", "--mesa", &dir]).failure(1);
    assert!(
        said.contains(".ci/mesa fetch") && said.contains(&dir),
        "{said}"
    );
    assert_eq!(said.lines().count(), 1, "{said}");
}
