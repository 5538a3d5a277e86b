//! Every rule is broken once: in `testdata/ir/bad/*.gir`, with the expected message on the faulty line, or here where
//! text cannot express the fault.

use super::{At, Faults, verify};
use crate::entity::{CacheId, ValueId, WeightId};
use crate::module::Module;
use crate::ops::OpKind;
use crate::text;
use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../testdata/ir")
}

fn good(name: &str) -> Module {
    let text = std::fs::read_to_string(folder().join(name)).expect("the fixture is there");
    text::parse(&text).unwrap_or_else(|e| panic!("{name}:{e}"))
}

/// Faults with their lines; one if the text does not even parse.
fn faults_of(text: &str) -> Vec<(usize, String)> {
    match text::parse_with_lines(text) {
        Err(error) => vec![(error.line, error.message)],
        Ok((module, lines)) => match verify(&module) {
            Ok(_) => vec![],
            Err(faults) => faults
                .iter()
                .map(|fault| (lines.line_of(fault.at), fault.to_string()))
                .collect(),
        },
    }
}

/// Checks that the faults of a file are those its `// error: ..` comments announce: on that line, with those words.
fn check(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).expect("readable");
    let mut expected: Vec<(usize, &str)> = Vec::new();
    for (i, line) in text.lines().enumerate() {
        expected.extend(
            line.split("// error: ")
                .skip(1)
                .map(|words| (i + 1, words.trim())),
        );
    }
    assert!(
        !expected.is_empty(),
        "{} announces no error",
        path.display()
    );
    let mut complaints = Vec::new();
    for (line, message) in faults_of(&text) {
        let announced = expected
            .iter()
            .position(|(l, words)| *l == line && message.contains(words));
        match announced {
            Some(i) => drop(expected.swap_remove(i)),
            None => complaints.push(format!("{}:{line}: unannounced: {message}", path.display())),
        }
    }
    for (line, words) in expected {
        complaints.push(format!("{}:{line}: not reported: {words}", path.display()));
    }
    complaints
}

#[test]
fn bad_modules_have_exactly_the_announced_faults() {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder().join("bad"))
        .expect("the folder is there")
        .map(|entry| entry.expect("readable").path())
        .collect();
    files.sort();
    assert!(files.len() >= 10, "the fixtures are there");
    let complaints: Vec<String> = files.iter().flat_map(|path| check(path)).collect();
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn good_modules_have_none() {
    for name in ["layer.gir", "planned.gir"] {
        let module = good(name);
        if let Err(faults) = verify(&module) {
            panic!("{name}:\n{faults}");
        }
    }
}

/// The faults of the layer after some damage that text cannot express.
fn after(damage: impl Fn(&mut Module)) -> Faults {
    let mut module = good("layer.gir");
    damage(&mut module);
    verify(&module).expect_err("the damage shows")
}

#[test]
fn ids_out_of_range_are_faults_and_nothing_follows_them() {
    let faults = after(|m| m.functions[0].ops[3].operands[0] = ValueId::new(99));
    assert_eq!(
        faults.to_string(),
        "function prefill, op 3, `%7 : f32[?seq, 16] = linear %99, @l0.q`: there is no %99"
    );
    let faults = after(|m| m.functions[0].ops[3].results[0] = ValueId::new(99));
    assert!(
        faults
            .to_string()
            .contains("`%99 : <no such value> = linear"),
        "{faults}"
    );
    let faults = after(|m| {
        m.functions[0].ops[3].kind = OpKind::Linear {
            weight: WeightId::new(77),
        }
    });
    assert!(
        faults
            .to_string()
            .ends_with("linear %6, <undeclared @w77>`: weight is not declared"),
        "{faults}"
    );
    let faults = after(|m| {
        m.functions[0].ops[10].kind = OpKind::KvWrite {
            cache: CacheId::new(5),
        }
    });
    assert!(
        faults.to_string().contains("cache is not declared"),
        "{faults}"
    );
    let faults = after(|m| m.functions[0].params[0] = ValueId::new(99));
    assert!(
        faults
            .to_string()
            .contains("function prefill: there is no %99"),
        "{faults}"
    );
    let faults = after(|m| m.functions[0].results[0] = ValueId::new(99));
    assert!(
        faults
            .to_string()
            .contains("function prefill, return: there is no %99"),
        "{faults}"
    );
}

#[test]
fn a_value_is_defined_once() {
    let faults = after(|m| m.functions[0].ops[4].results[0] = ValueId::new(7));
    let text = faults.to_string();
    assert!(
        text.contains("op 4") && text.contains("%7 is defined a second time"),
        "{text}"
    );
    let faults = after(|m| m.functions[0].params[1] = ValueId::new(0));
    assert!(
        faults
            .to_string()
            .contains("function prefill: %0 is two parameters"),
        "{faults}"
    );
}

#[test]
fn numbers_are_finite() {
    for x in [f32::NAN, f32::INFINITY] {
        let faults = after(|m| {
            let OpKind::Embed { scale, .. } = &mut m.functions[0].ops[0].kind else {
                panic!("the first op embeds")
            };
            *scale = x;
        });
        assert!(
            faults.to_string().contains(&format!("scale is {x}")),
            "{faults}"
        );
    }
}

#[test]
fn names_are_unique() {
    let faults = after(|m| m.weights[3].name = m.weights[2].name.clone());
    assert_eq!(
        faults.iter().map(|f| f.at).collect::<Vec<_>>(),
        [At::Weight(WeightId::new(3))]
    );
}

#[test]
fn undeclared_parts_of_weights_are_faults() {
    let faults = after(|m| {
        let of = WeightId::new(99);
        m.weights[1].expr = crate::WeightExpr::Offset { of, add: f32::NAN };
        m.weights[2].expr = crate::WeightExpr::ConcatRows(vec![]);
        m.weights[3].expr = crate::WeightExpr::Offset { of, add: 1.0 };
    });
    let text = faults.to_string();
    for want in [
        "weight @l0.in_norm: offset by NaN",
        "weight @l0.q: concat of nothing",
        "weight @l0.k: a part is not declared",
    ] {
        assert!(text.contains(want), "{text}");
    }
}

#[test]
fn long_chains_of_weights_are_measured_without_recursion() {
    let faults = after(|m| {
        for i in 0..100_000 {
            let mut next = m.weights[1].clone();
            next.name = format!("chain{i}");
            let of = WeightId::new(if i == 0 { 1 } else { m.weights.len() - 1 });
            next.expr = crate::WeightExpr::Offset { of, add: 1.0 };
            m.weights.push(next);
        }
    });
    assert_eq!(faults.iter().count(), 100_000 - 16);
    assert!(
        faults.to_string().ends_with("and 99884 more"),
        "the print is cut"
    );
}

#[test]
fn compact_drops_what_nothing_defines_and_numbers_in_order() {
    let mut module = good("planned.gir");
    module.functions[0].compact();
    verify(&module).expect("still valid");
    assert_eq!(module.functions[0].values.len(), 16);
    let mut swapped = good("layer.gir");
    let f = &mut swapped.functions[0];
    f.ops.swap(3, 4);
    f.compact();
    assert_eq!(f.ops[3].results, [ValueId::new(7)]);
    assert_eq!(f.ops[6].operands, [ValueId::new(8)]);
    verify(&swapped).expect("still valid");
}
