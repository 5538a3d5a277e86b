//! `parse` and `print` are inverse; hostile text gives an error with its place and nothing else.

use super::{parse, print};
use crate::entity::{CacheId, ValueId, WeightId};
use crate::module::{
    Cache, DimBounds, Function, Layout, Module, Op, Place, Value, Weight, WeightExpr,
};
use crate::ops::{Epilogue, OpKind};
use crate::types::{DType, Dim, TensorType};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use std::path::PathBuf;

fn fixture(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../testdata/ir")
        .join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn snapshot(name: &str) {
    let module =
        parse(&fixture(&format!("{name}.gir"))).unwrap_or_else(|e| panic!("{name}.gir:{e}"));
    let printed = print(&module);
    assert_eq!(parse(&printed), Ok(module));
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../../../testdata/ir");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.set_description("to accept a change: INSTA_UPDATE=always cargo test -p gembin-ir");
    settings.bind(|| insta::assert_snapshot!(name, printed));
}

#[test]
fn an_imported_layer_prints() {
    snapshot("layer");
}

#[test]
fn a_planned_layer_prints() {
    snapshot("planned");
}

/// A one-op module around `line`, which is line 4 of the text.
fn around(line: &str) -> String {
    format!(
        "module \"m\" {{chunk = 4, outs = 1, context = 8, slots = 1}}\n\
         weight @w : f32[4] = tensor \"w\"\n\
         func f(%0 : f32[?seq, 4]) {{\n  {line}\n  return %1\n}}\n"
    )
}

#[test]
fn errors_name_the_place_and_what_was_expected() {
    let inside = [
        (
            "%1 : f32[?seq, 4] = rms_nrm %0, @w {eps = 1e-6}",
            "4:23: unknown op `rms_nrm`; ops are embed, rms_norm",
        ),
        (
            "%1 : f32[?seq, 4] = rms_norm %0, @w {eps = 1e-6}",
            "4:23: rms_norm needs `offset = a number` in braces",
        ),
        (
            "%1 : f32[?seq, 4] = rms_norm %0, @v {eps = 1, offset = 1}",
            "4:36: weight @v is not declared",
        ),
        (
            "%1 : f32[?seq, 4] = rms_norm %0 {eps = 1, offset = 1}",
            "4:23: rms_norm needs a weight's @name (`weight`)",
        ),
        (
            "%1 : f32[?seq, 4] = rms_norm %0, @w {eps = 1e39, offset = 1}",
            "4:40: the number is too large for an f32",
        ),
        (
            "%1 : f32[?seq, 4] = rms_norm %0, @w {eps = nan, offset = 1}",
            "4:49: expected `(`, found `,`",
        ),
        (
            "%1 : f32[?seq, 4] = rms_norm %0, @w {eps = 1, offset = @w}",
            "4:49: `offset` must be a number",
        ),
        (
            "%1 : f32[?seq, 4] = gelu %0 {eps = 1}",
            "4:32: gelu has no attribute `eps`",
        ),
        (
            "%1 : f32[?seq, 4] = gelu %0, @w",
            "4:32: gelu does not take @w",
        ),
        (
            "%1 : f32[?seq, 4] = gelu %7",
            "4:28: %7 is not defined in this function",
        ),
        (
            "%1 : f32[?seq, 4] = gelu %0 %3 : f32[4] = gelu %0",
            "4:31: %3 leaves a gap: there is no %2",
        ),
        (
            "%0 : f32[?seq, 4] = gelu %0",
            "4:3: %0 is defined twice, first on line 3",
        ),
        (
            "%1 : f32[?ctx, 4] = gelu %0",
            "4:12: expected a dimension (a number, `?seq` or `?out`), found `?ctx`",
        ),
        (
            "%1 : f33[?seq, 4] = gelu %0",
            "4:8: expected a dtype (f32, f16, bf16, i32, q8, q4), found `f33`",
        ),
        (
            "%1 : f32[?seq, 4294967296] = gelu %0",
            "4:18: expected a whole number below 2^32, found `4294967296`",
        ),
        (
            "%1 : f32[?seq, 4] at 1+-1 = gelu %0",
            "4:26: expected a whole number below 2^64, found `-1`",
        ),
        (
            "%99999999999 : f32[4] = gelu %0",
            "4:3: expected a value's number after `%`, found `99999999999`",
        ),
        (
            "%1 : f32[?seq, 4] = softcap %0 {cap = 1, cap = 2}",
            "4:44: softcap has no attribute `cap`, or has it already",
        ),
        ("%1 ; f32", "4:6: unexpected character `;`"),
        (
            "%1 : f32[?seq, 4] = gelu %0 \"oh",
            "4:31: this text has no closing `\"`",
        ),
    ];
    for (line, want) in inside {
        let got = parse(&around(line)).expect_err(line).to_string();
        let at = format!("{}:", want.split(':').take(2).collect::<Vec<_>>().join(":"));
        assert!(
            got.starts_with(want) && got.starts_with(&at),
            "{line}\n got {got}\nwant {want}"
        );
    }
    let whole = [
        ("", "1:1: expected `module`, found the end of the text"),
        (
            "module \"m\" {chunk = 4}",
            "1:12: expected `outs = ..` in these braces",
        ),
        (
            "module \"m\" {chunk = 4, chunk = 5}",
            "1:24: expected one of chunk, outs, context, slots, arena_bytes (each once), found `chunk`",
        ),
        (
            "module \"\\q\"",
            "1:9: expected `\\\"`, `\\\\`, `\\n` or `\\u{..}`",
        ),
        (
            "module \"\\u{d800}\"",
            "1:9: expected `\\u{hex}` of a character",
        ),
    ];
    for (text, want) in whole {
        assert_eq!(parse(text).expect_err(text).to_string(), want);
    }
}

#[test]
fn declarations_may_name_what_comes_later_but_not_twice() {
    let header = "module \"m\" {chunk = 4, outs = 1, context = 8, slots = 1}\n";
    let later =
        format!("{header}weight @a : f32[4] = offset @b by 1.0\nweight @b : f32[4] = tensor \"b\"");
    let module = parse(&later).expect("b is declared below");
    assert_eq!(
        module.weights[0].expr,
        WeightExpr::Offset {
            of: WeightId::new(1),
            add: 1.0
        }
    );
    let twice =
        format!("{header}weight @a : f32[4] = tensor \"a\"\nweight @a : f32[4] = tensor \"b\"");
    assert_eq!(
        parse(&twice).expect_err("twice").to_string(),
        "3:1: weight @a is declared twice"
    );
    let missing = format!("{header}weight @a : f32[4] = offset @b by 1.0");
    assert_eq!(
        parse(&missing).expect_err("missing").to_string(),
        "2:29: weight @b is not declared"
    );
}

#[test]
fn long_and_deep_text_is_an_error_not_a_crash() {
    let n = 200_000;
    for text in [
        "{".repeat(n),
        "module \"m\" ".to_owned() + &"{".repeat(n),
        "@".repeat(n),
        "\"\\u{".repeat(n),
    ] {
        assert!(parse(&text).is_err());
    }
    let ops = "%0, ".repeat(n);
    let got =
        parse(&around(&format!("%1 : f32[?seq, 4] = gelu {ops}"))).expect_err("a comma too many");
    assert!(got.message.contains("a value or an @name"), "{got}");
    let message = parse(&"x".repeat(n)).expect_err("no module").message;
    assert!(message.len() < 200, "a message is one short line");
}

// ---- generated modules ----

fn name() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z_][a-z0-9_.]{0,6}", "\\PC{0,5}", any::<String>()]
}

fn number() -> impl Strategy<Value = f32> {
    prop_oneof![
        Just(1e-6),
        Just(-0.0),
        Just(f32::MIN_POSITIVE / 3.0),
        Just(f32::MAX),
        any::<f32>().prop_filter("finite", |x| x.is_finite()),
    ]
}

fn dtype() -> impl Strategy<Value = DType> {
    (0..DType::ALL.len()).prop_map(|i| DType::ALL[i])
}

fn place() -> impl Strategy<Value = Option<Place>> {
    option::of((any::<u64>(), any::<u64>()).prop_map(|(offset, bytes)| Place { offset, bytes }))
}

fn tensor_type() -> impl Strategy<Value = TensorType> {
    let dim = prop_oneof![
        Just(Dim::Seq),
        Just(Dim::Out),
        any::<u32>().prop_map(Dim::Const)
    ];
    (dtype(), vec(dim, 0..4)).prop_map(|(dtype, shape)| TensorType { dtype, shape })
}

const WEIGHTS: usize = 3;
const CACHES: usize = 2;

fn weight_id() -> impl Strategy<Value = WeightId> {
    (0..WEIGHTS).prop_map(WeightId::new)
}

fn weight() -> impl Strategy<Value = Weight> {
    let expr = prop_oneof![
        any::<String>().prop_map(WeightExpr::Tensor),
        vec(weight_id(), 1..4).prop_map(WeightExpr::ConcatRows),
        (weight_id(), weight_id(), any::<u32>())
            .prop_map(|(a, b, block)| WeightExpr::InterleaveRows { a, b, block }),
        (weight_id(), number()).prop_map(|(of, add)| WeightExpr::Offset { of, add }),
    ];
    let layout = prop_oneof![Just(Layout::RowMajor), Just(Layout::Rows16)];
    (name(), dtype(), vec(any::<u32>(), 0..4), expr, layout).prop_map(
        |(name, dtype, shape, expr, layout)| Weight {
            name,
            dtype,
            shape,
            expr,
            layout,
        },
    )
}

fn cache() -> impl Strategy<Value = Cache> {
    let sizes = (any::<u32>(), any::<u32>());
    let planned = (option::of(any::<u32>()), option::of(any::<u32>()), place());
    (name(), dtype(), sizes, planned).prop_map(|(name, dtype, sizes, planned)| Cache {
        name,
        dtype,
        kv_heads: sizes.0,
        head_dim: sizes.1,
        window: planned.0,
        capacity: planned.1,
        place: planned.2,
    })
}

fn op_kind() -> impl Strategy<Value = OpKind> {
    let cache_id = || (0..CACHES).prop_map(CacheId::new);
    let epilogue = prop_oneof![
        Just(Epilogue::None),
        any::<u32>().prop_map(|width| Epilogue::Geglu { width }),
        number().prop_map(|cap| Epilogue::Softcap { cap }),
    ];
    let plain = prop_oneof![
        Just(OpKind::Gelu),
        Just(OpKind::Mul),
        Just(OpKind::Add),
        Just(OpKind::SelectRows),
        Just(OpKind::SelectIndex),
        number().prop_map(|cap| OpKind::Softcap { cap }),
        any::<u32>().prop_map(|head_dim| OpKind::Rope { head_dim }),
        (any::<u32>(), any::<u32>()).prop_map(|(start, len)| OpKind::Columns { start, len }),
        (any::<u32>(), number(), number()).prop_map(|(head_dim, theta, factor)| {
            OpKind::RopeTable {
                head_dim,
                theta,
                factor,
            }
        }),
    ];
    let weighted = prop_oneof![
        (weight_id(), number()).prop_map(|(table, scale)| OpKind::Embed { table, scale }),
        weight_id().prop_map(|weight| OpKind::Linear { weight }),
        (weight_id(), number(), number()).prop_map(|(weight, eps, offset)| OpKind::RmsNorm {
            weight,
            eps,
            offset
        }),
        (
            weight_id(),
            option::of(weight_id()),
            option::of(weight_id()),
            number(),
            epilogue
        )
            .prop_map(
                |(weight, post_norm, norm, eps, epilogue)| OpKind::FusedLinear {
                    weight,
                    post_norm,
                    norm,
                    eps,
                    epilogue
                }
            ),
    ];
    let cached = prop_oneof![
        cache_id().prop_map(|cache| OpKind::KvWrite { cache }),
        (cache_id(), any::<u32>(), number(), number()).prop_map(
            |(cache, heads, scale, softcap)| OpKind::Attention {
                cache,
                heads,
                scale,
                softcap
            }
        ),
        (
            cache_id(),
            any::<u32>(),
            option::of(weight_id()),
            option::of(weight_id()),
            number()
        )
            .prop_map(|(cache, q_heads, q_norm, k_norm, eps)| OpKind::RopeKv {
                cache,
                q_heads,
                q_norm,
                k_norm,
                eps
            }),
    ];
    prop_oneof![plain, weighted, cached]
}

/// A function over up to 12 values in shuffled numbering, each defined at most once, used anywhere.
fn function() -> impl Strategy<Value = Function> {
    let values = vec(
        (tensor_type(), place()).prop_map(|(ty, place)| Value { ty, place }),
        1..12,
    );
    values
        .prop_flat_map(|values| {
            let n = values.len();
            let ids = Just((0..n).map(ValueId::new).collect::<Vec<_>>()).prop_shuffle();
            let uses = move |max| vec((0..n).prop_map(ValueId::new), 0..max);
            let ops = vec((op_kind(), uses(4), 0..3usize, place()), 0..6);
            (name(), Just(values), ids, 0..4usize, ops, uses(3))
        })
        .prop_map(|(name, values, ids, params, ops, results)| {
            let mut ids = ids.into_iter();
            let params = ids.by_ref().take(params).collect();
            let op = |(kind, operands, results, scratch)| Op {
                kind,
                operands,
                results: ids.by_ref().take(results).collect(),
                scratch,
            };
            let ops = ops.into_iter().map(op).collect();
            Function {
                name,
                values,
                params,
                ops,
                results,
            }
        })
}

fn module() -> impl Strategy<Value = Module> {
    let bounds = any::<[u32; 4]>().prop_map(|[chunk, outs, context, slots]| DimBounds {
        chunk,
        outs,
        context,
        slots,
    });
    (
        any::<String>(),
        bounds,
        vec(weight(), WEIGHTS..=WEIGHTS),
        vec(cache(), CACHES..=CACHES),
        vec(function(), 0..3),
        option::of(any::<u64>()),
    )
        .prop_map(
            |(name, bounds, mut weights, mut caches, functions, arena_bytes)| {
                for (i, weight) in weights.iter_mut().enumerate() {
                    weight.name.push_str(&i.to_string());
                }
                for (i, cache) in caches.iter_mut().enumerate() {
                    cache.name.push_str(&i.to_string());
                }
                Module {
                    name,
                    bounds,
                    weights,
                    caches,
                    functions,
                    arena_bytes,
                }
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn what_is_printed_parses_back(module in module()) {
        let text = print(&module);
        prop_assert_eq!(parse(&text), Ok(module), "{}", text);
    }

    #[test]
    fn every_f32_survives(bits in any::<u32>()) {
        let x = f32::from_bits(bits);
        prop_assume!(x.is_finite());
        let text = around(&format!("%1 : f32[?seq, 4] = softcap %0 {{cap = {x:?}}}"));
        let module = parse(&text).expect("a finite number");
        let OpKind::Softcap { cap } = module.functions[0].ops[0].kind else {
            panic!("one softcap")
        };
        prop_assert_eq!(cap.to_bits(), bits);
    }

    #[test]
    fn any_text_is_a_module_or_an_error(text in ".{0,200}") {
        let _ = parse(&text);
    }

    /// Damage to a good text: cut, doubled or overwritten. What still parses also prints and parses again.
    #[test]
    fn damaged_text_never_panics(at in 0.0..1.0f64, len in 0..40usize, with in "[ -~]{0,3}", double in any::<bool>()) {
        for name in ["layer.gir", "planned.gir"] {
            let text: Vec<char> = fixture(name).chars().collect();
            let from = (at * text.len() as f64) as usize;
            let to = (from + len).min(text.len());
            let mut damaged: String = text[..from].iter().collect();
            damaged.push_str(&with);
            damaged.extend(&text[if double { from } else { to }..]);
            if let Ok(module) = parse(&damaged) {
                let _ = crate::verify::verify(&module);
                prop_assert_eq!(parse(&print(&module)), Ok(module));
            }
        }
    }
}
