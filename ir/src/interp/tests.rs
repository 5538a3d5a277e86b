//! Each op against values computed by hand, and the walk around them: arguments, caches, errors.

use super::{EvalError, Inputs, Interpreter};
use crate::module::Module;
use crate::text;
use crate::weights::{ExprWeights, TensorSource};

/// Tensors by name, with their number of columns.
struct Tensors(Vec<(&'static str, usize, Vec<f32>)>);

impl TensorSource for Tensors {
    fn read_rows(&self, tensor: &str, first_row: usize, out: &mut [f32]) -> Result<(), String> {
        let found = self.0.iter().find(|(name, ..)| *name == tensor);
        let (_, cols, values) = found.ok_or_else(|| format!("no tensor {tensor}"))?;
        let start = first_row * cols;
        let values = values.get(start..start + out.len());
        out.copy_from_slice(values.ok_or_else(|| format!("{tensor} has no such rows"))?);
        Ok(())
    }
}

/// A module whose function `f` has rows of `@x` as `%4` and returns the value `%9`.
fn module(cols: usize, declarations: &str, body: &str) -> Module {
    let text = format!(
        "module \"m\" {{chunk = 4, outs = 2, context = 8, slots = 2}}\n\
         weight @x : f32[4, {cols}] = tensor \"x\"\n{declarations}\n\
         func f(%0 : i32[?seq], %1 : i32[?seq], %2 : i32[?seq], %3 : i32[?out]) {{\n\
         %4 : f32[?seq, {cols}] = embed %0, @x {{scale = 1.0}}\n{body}\nreturn %9\n}}"
    );
    // Bodies skip numbers; `unused` fills the gaps.
    let unused: String = (5..9)
        .filter(|n| !body.contains(&format!("%{n} :")))
        .map(|n| format!("unused %{n} : i32[?seq]\n"))
        .collect();
    let text = text.replace("return %9", &format!("{unused}return %9"));
    text::parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

fn inputs<'a>(ids: &'a [i32], pos: &'a [i32], slot: &'a [i32]) -> Inputs<'a> {
    Inputs {
        ids,
        pos,
        slot,
        out: &[0],
    }
}

/// `%9` for the first `rows` rows of `x`, at positions 0, 1, ...
fn eval(
    cols: usize,
    x: &[f32],
    declarations: &str,
    tensors: &[(&'static str, usize, &[f32])],
    body: &str,
) -> Vec<f32> {
    let module = module(cols, declarations, body);
    let mut source = Tensors(
        tensors
            .iter()
            .map(|(n, c, v)| (*n, *c, v.to_vec()))
            .collect(),
    );
    source.0.push(("x", cols, x.to_vec()));
    let rows: Vec<i32> = (0..(x.len() / cols) as i32).collect();
    let slot = vec![0; rows.len()];
    let weights = ExprWeights {
        module: &module,
        source: &source,
    };
    let mut interpreter = Interpreter::new(&module, &weights);
    let results = interpreter.call("f", &inputs(&rows, &rows, &slot));
    results.unwrap_or_else(|e| panic!("{e}")).remove(0).data
}

fn close(got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len(), "{got:?}");
    for (g, w) in got.iter().zip(want) {
        assert!(
            (g - w).abs() <= 1e-6 * w.abs().max(1.0),
            "got {got:?}, want {want:?}"
        );
    }
}

#[test]
fn embed_scales_the_rows_asked_for() {
    let module = module(2, "", "%9 : f32[?seq, 2] = embed %0, @x {scale = 3.0}");
    let source = Tensors(vec![("x", 2, vec![0., 1., 2., 3., 4., 5., 6., 7.])]);
    let weights = ExprWeights {
        module: &module,
        source: &source,
    };
    let mut interpreter = Interpreter::new(&module, &weights);
    let got = interpreter
        .call("f", &inputs(&[3, 0], &[0, 1], &[0, 0]))
        .expect("in range");
    assert_eq!(got[0].data, [18., 21., 0., 3.]);
    for (id, message) in [
        (4, "token id 4 in row 1 is outside the vocabulary of 4"),
        (-1, "token id -1"),
    ] {
        let error = interpreter
            .call("f", &inputs(&[0, id], &[0, 1], &[0, 0]))
            .expect_err("out of range");
        assert!(
            error.to_string().starts_with("f, op 0 (embed): "),
            "{error}"
        );
        assert!(error.to_string().contains(message), "{error}");
    }
}

#[test]
fn rms_norm_of_a_row_and_of_its_heads() {
    // Mean square of (3, 4) with eps 0.5 is 13; weights are 1 + w.
    let w: &[(&'static str, usize, &[f32])] = &[("w", 2, &[1.0, 0.0])];
    let declare = "weight @w : f32[2] = tensor \"w\"";
    let f = 1.0 / 13f32.sqrt();
    let body = "%9 : f32[?seq, 2] = rms_norm %4, @w {eps = 0.5, offset = 1.0}";
    close(&eval(2, &[3., 4.], declare, w, body), &[6. * f, 4. * f]);
    let body = "%9 : f32[?seq, 4] = rms_norm %4, @w {eps = 0.5, offset = 0.0}";
    close(
        &eval(4, &[3., 4., -4., 3.], declare, w, body),
        &[3. * f, 0., -4. * f, 0.],
    );
}

#[test]
fn linear_multiplies_by_the_transpose() {
    let w: &[(&'static str, usize, &[f32])] = &[("w", 2, &[1., 2., 3., 4., 5., 6.])];
    let declare = "weight @w : f32[3, 2] = tensor \"w\"";
    let body = "%9 : f32[?seq, 3] = linear %4, @w";
    close(
        &eval(2, &[1., 10., -1., 0.], declare, w, body),
        &[21., 43., 65., -1., -3., -5.],
    );
}

#[test]
fn linear_over_many_slabs_is_the_same_as_row_by_row() {
    // 40 columns by 7,000 rows are more than one slab, and not a whole number of them.
    let (rows, cols) = (7000, 40);
    let w: Vec<f32> = (0..rows * cols)
        .map(|i| ((i * 7919 % 1013) as f32 - 500.0) / 300.0)
        .collect();
    let x: Vec<f32> = (0..4 * cols)
        .map(|i| ((i * 31 % 17) as f32 - 8.0) / 5.0)
        .collect();
    let declare = format!("weight @w : f32[{rows}, {cols}] = tensor \"w\"");
    let body = format!("%9 : f32[?seq, {rows}] = linear %4, @w");
    let got = eval(cols, &x, &declare, &[("w", cols, &w)], &body);
    for r in 0..4 {
        for n in (0..rows).step_by(613).chain([rows - 1]) {
            let pairs = x[r * cols..][..cols].iter().zip(&w[n * cols..][..cols]);
            let want: f64 = pairs.map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
            let got = got[r * rows + n];
            assert!(
                (f64::from(got) - want).abs() < 1e-4,
                "[{r}, {n}]: {got}, not {want}"
            );
        }
    }
}

#[test]
fn rope_table_and_rope_turn_by_position() {
    // Frequencies of theta 16 and 4 elements: 1 and 1/4; with factor 2 a half of them.
    let body = "%9 : f32[?seq, 4] = rope_table %1 {head_dim = 4, theta = 16.0, factor = 2.0}";
    let got = eval(1, &[0., 0.], "", &[], body);
    let (a, b) = (0.5f32, 0.125f32);
    close(&got, &[1., 1., 0., 0., a.cos(), b.cos(), a.sin(), b.sin()]);
    let body = "%5 : f32[?seq, 2] = rope_table %1 {head_dim = 2, theta = 10000.0, factor = 1.0}\n\
                %9 : f32[?seq, 4] = rope %4, %5 {head_dim = 2}";
    let got = eval(4, &[1., 2., 3., 4., 1., 0., 0., 1.], "", &[], body);
    let (c, s) = (1f32.cos(), 1f32.sin());
    close(&got, &[1., 2., 3., 4., c, s, -s, c]);
}

#[test]
fn rope_frequencies_are_rounded_to_f32_first() {
    let table = "func f(%0 : i32[?seq], %1 : i32[?seq], %2 : i32[?seq]) {\n\
                 %3 : f32[?seq, 256] = rope_table %1 {head_dim = 256, theta = 10000.0, factor = 1.0}\nreturn %3\n}";
    let text =
        format!("module \"m\" {{chunk = 1, outs = 1, context = 200000, slots = 1}}\n{table}");
    let module = text::parse(&text).expect("parses");
    let source = Tensors(vec![]);
    let weights = ExprWeights {
        module: &module,
        source: &source,
    };
    let inputs = Inputs {
        ids: &[0],
        pos: &[131_071],
        slot: &[0],
        out: &[],
    };
    let got = Interpreter::new(&module, &weights)
        .call("f", &inputs)
        .expect("in range");
    // 10000^(6/256) is 1.24093771 in f32 and the angle 105622.547; unrounded it is 105622.541, whose cosine is -0.5856.
    close(&got[0].data[3..4], &[-0.590_005]);
}

const KV: &str = "cache @kv : f32 {kv_heads = 1, head_dim = 1, window = 2}";

#[test]
fn attention_is_causal_windowed_and_shared_by_heads() {
    // Keys are 0, so all visible positions weigh the same: the mean of the last two values.
    let body = "%5 : f32[?seq, 1] = columns %4 {start = 0, len = 1}\n\
                %6 : f32[?seq, 1] = columns %4 {start = 1, len = 1}\n\
                kv_write %5, %6, %1, %2, @kv\n\
                %9 : f32[?seq, 2] = attention %4, %1, %2, @kv {heads = 2, scale = 1.0, softcap = 0.0}";
    let got = eval(2, &[0., 1., 0., 2., 0., 4., 0., 8.], KV, &[], body);
    close(&got, &[1., 1., 1.5, 1.5, 3., 3., 6., 6.]);
}

#[test]
fn attention_weighs_by_scaled_and_capped_scores() {
    // Keys 1 and 2, values 3 and 5, query heads (2, 5) in row 1.
    let want = |softcap: f32, q: f32| {
        let score = |k: f32| {
            let s = 0.5 * q * k;
            if softcap > 0.0 {
                softcap * (s / softcap).tanh()
            } else {
                s
            }
        };
        let (a, b) = (score(1.0).exp(), score(2.0).exp());
        (3.0 * a + 5.0 * b) / (a + b)
    };
    for softcap in [0.0, 1.5] {
        let body = format!(
            "%5 : f32[?seq, 1] = columns %4 {{start = 2, len = 1}}\n\
             %6 : f32[?seq, 1] = columns %4 {{start = 3, len = 1}}\n\
             %7 : f32[?seq, 2] = columns %4 {{start = 0, len = 2}}\n\
             kv_write %5, %6, %1, %2, @kv\n\
             %9 : f32[?seq, 2] = attention %7, %1, %2, @kv {{heads = 2, scale = 0.5, softcap = {softcap:?}}}"
        );
        let got = eval(4, &[0., 0., 1., 3., 2., 5., 2., 5.], KV, &[], &body);
        close(&got[2..], &[want(softcap, 2.0), want(softcap, 5.0)]);
    }
}

#[test]
fn grouped_heads_read_their_own_kv_head() {
    let declare = "cache @kv : f16 {kv_heads = 2, head_dim = 1}";
    let body = "%5 : f32[?seq, 2] = columns %4 {start = 0, len = 2}\n\
                kv_write %5, %5, %1, %2, @kv\n\
                %9 : f32[?seq, 4] = attention %4, %1, %2, @kv {heads = 4, scale = 1.0, softcap = 0.0}";
    close(
        &eval(4, &[7., 9., 0., 0.], declare, &[], body),
        &[7., 7., 9., 9.],
    );
}

#[test]
fn elementwise_ops() {
    let x = [1.0, -2.0];
    let gelu = |x: f32| 0.5 * x * (1.0 + (0.797_884_6 * (x + 0.044_715 * x.powi(3))).tanh());
    close(
        &eval(2, &x, "", &[], "%9 : f32[?seq, 2] = gelu %4"),
        &[gelu(1.), gelu(-2.)],
    );
    close(
        &eval(2, &x, "", &[], "%9 : f32[?seq, 2] = mul %4, %4"),
        &[1., 4.],
    );
    close(
        &eval(2, &x, "", &[], "%9 : f32[?seq, 2] = add %4, %4"),
        &[2., -4.],
    );
    let capped = [3. * (1f32 / 3.).tanh(), -3. * (2f32 / 3.).tanh()];
    close(
        &eval(2, &x, "", &[], "%9 : f32[?seq, 2] = softcap %4 {cap = 3.0}"),
        &capped,
    );
}

#[test]
fn columns_and_rows_are_picked() {
    let body = "%9 : f32[?seq, 2] = columns %4 {start = 1, len = 2}";
    close(
        &eval(3, &[1., 2., 3., 4., 5., 6.], "", &[], body),
        &[2., 3., 5., 6.],
    );
    let body = "%5 : i32[?out] = select_index %0, %3\n\
                %6 : f32[?out, 1] = embed %5, @x {scale = 1.0}\n\
                %7 : f32[?out, 1] = select_rows %4, %3\n\
                %8 : f32[?out, 1] = mul %6, %7\n\
                %9 : f32[?out, 1] = add %8, %7";
    let module = module(1, "", body);
    let source = Tensors(vec![("x", 1, vec![1., 2., 3., 4.])]);
    let weights = ExprWeights {
        module: &module,
        source: &source,
    };
    let mut interpreter = Interpreter::new(&module, &weights);
    let all = |out: &'static [i32]| Inputs {
        ids: &[3, 2, 1],
        pos: &[0, 1, 2],
        slot: &[0, 0, 0],
        out,
    };
    let got = interpreter.call("f", &all(&[2, 0])).expect("in range");
    assert_eq!((got[0].rows, got[0].data.as_slice()), (2, &[6., 20.][..]));
    for (out, rows) in [(3, &[0, 3]), (-1, &[0, -1])] {
        let error = interpreter
            .call("f", &all(rows))
            .expect_err("no such row")
            .to_string();
        assert!(
            error.contains(&format!(
                "out row {out} at index 1 is outside the call's 3 rows"
            )),
            "{error}"
        );
    }
}

#[test]
fn fused_linear_does_what_its_parts_do() {
    let declare = "weight @w : f32[32, 2] = interleave @g, @u block 16\n\
                   weight @g : f32[3, 2] = tensor \"g\"\n\
                   weight @u : f32[3, 2] = tensor \"u\"\n\
                   weight @n : f32[2] = tensor \"n\"\n\
                   weight @p : f32[2] = tensor \"p\"";
    let tensors: &[(&'static str, usize, &[f32])] = &[
        ("g", 2, &[1., 0., 0., 1., 1., 1.]),
        ("u", 2, &[2., 0., 0., 2., -1., 1.]),
        ("n", 2, &[1.5, 2.]),
        ("p", 2, &[0.5, 3.]),
    ];
    let x = [3.0, 4.0, -1.0, 2.0];
    for (epilogue, last, width) in [
        ("epilogue = geglu(3)", "", 3),
        (
            "epilogue = softcap(2.0)",
            "%9 : f32[?seq, 3] = softcap %8 {cap = 2.0}",
            3,
        ),
        ("eps = 1e-6", "", 3),
    ] {
        let weight = if epilogue.contains("geglu") {
            "@w"
        } else {
            "@g"
        };
        let eps = if epilogue.starts_with("eps") {
            ""
        } else {
            ", eps = 1e-6"
        };
        let fused = format!(
            "%5 : f32[?seq, 2], %9 : f32[?seq, {width}] = \
             fused_linear %4, %4, {weight} {{post_norm = @p, norm = @n, {epilogue}{eps}}}"
        );
        let norms = "%5 : f32[?seq, 2] = rms_norm %4, @p {eps = 1e-6, offset = 0.0}\n\
                     %10 : f32[?seq, 2] = add %4, %5\n\
                     %11 : f32[?seq, 2] = rms_norm %10, @n {eps = 1e-6, offset = 0.0}\n";
        let tail = if epilogue.contains("geglu") {
            "%6 : f32[?seq, 3] = linear %11, @g\n%7 : f32[?seq, 3] = linear %11, @u\n\
             %8 : f32[?seq, 3] = gelu %6\n%9 : f32[?seq, 3] = mul %8, %7"
                .to_owned()
        } else if last.is_empty() {
            "%9 : f32[?seq, 3] = linear %11, @g".to_owned()
        } else {
            format!("%8 : f32[?seq, 3] = linear %11, @g\n{last}")
        };
        let got = eval(2, &x, declare, tensors, &fused);
        close(
            &got,
            &eval(2, &x, declare, tensors, &format!("{norms}{tail}")),
        );
    }
    let sum = "%9 : f32[?seq, 2], %5 : f32[?seq, 3] = fused_linear %4, %4, @g {eps = 1e-6}";
    close(&eval(2, &x, declare, tensors, sum), &[6., 8., -2., 4.]);
}

#[test]
fn rope_kv_does_what_its_parts_do() {
    let declare = "cache @kv : f16 {kv_heads = 1, head_dim = 2}\n\
                   weight @qn : f32[2] = tensor \"qn\"\nweight @kn : f32[2] = tensor \"kn\"";
    let tensors: &[(&'static str, usize, &[f32])] = &[("qn", 2, &[1.5, 2.]), ("kn", 2, &[0.5, 3.])];
    let table = "%5 : f32[?seq, 2] = rope_table %1 {head_dim = 2, theta = 10000.0, factor = 1.0}\n";
    let attention = "attention %8, %1, %2, @kv {heads = 2, scale = 0.7, softcap = 0.0}";
    let fused = format!(
        "{table}%8 : f32[?seq, 4] = rope_kv %4, %5, %1, %2, @kv {{q_heads = 2, q_norm = @qn, k_norm = @kn, eps = 1e-6}}\n\
         %9 : f32[?seq, 4] = {attention}"
    );
    let parts = format!(
        "{table}%6 : f32[?seq, 4] = columns %4 {{start = 0, len = 4}}\n\
         %7 : f32[?seq, 4] = rms_norm %6, @qn {{eps = 1e-6, offset = 0.0}}\n\
         %8 : f32[?seq, 4] = rope %7, %5 {{head_dim = 2}}\n\
         %10 : f32[?seq, 2] = columns %4 {{start = 4, len = 2}}\n\
         %11 : f32[?seq, 2] = rms_norm %10, @kn {{eps = 1e-6, offset = 0.0}}\n\
         %12 : f32[?seq, 2] = rope %11, %5 {{head_dim = 2}}\n\
         %13 : f32[?seq, 2] = columns %4 {{start = 6, len = 2}}\n\
         kv_write %12, %13, %1, %2, @kv\n\
         %9 : f32[?seq, 4] = {attention}"
    );
    let x: Vec<f32> = (0..24).map(|i| (i * 7 % 11) as f32 - 5.0).collect();
    let got = eval(8, &x, declare, tensors, &fused);
    assert!(got.iter().any(|x| x.abs() > 0.1), "{got:?}");
    close(&got, &eval(8, &x, declare, tensors, &parts));
}

/// The layer of the text fixtures with made-up tensors.
fn layer(name: &str) -> (Module, Tensors) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../testdata/ir/");
    let text = std::fs::read_to_string(format!("{path}{name}")).expect("the fixture is there");
    let module = text::parse(&text).expect("parses");
    let mut tensors = Vec::new();
    for weight in &module.weights {
        let crate::WeightExpr::Tensor(name) = &weight.expr else {
            continue;
        };
        let (rows, cols) = weight.rows_cols();
        // Multiplicative hashing: values between -0.4 and 0.6 that look unrelated.
        let values =
            (0..rows * cols).map(|i| (i.wrapping_mul(2_654_435_761) >> 16) as f32 / 65536.0 - 0.4);
        let name: &'static str = name.clone().leak();
        tensors.push((name, cols as usize, values.collect()));
    }
    (module, Tensors(tensors))
}

#[test]
fn a_prompt_at_once_and_token_by_token_gives_the_same_bits() {
    let (module, source) = layer("layer.gir");
    let weights = ExprWeights {
        module: &module,
        source: &source,
    };
    let ids = [5, 9, 40, 3, 3, 17, 22];
    let pos: Vec<i32> = (0..7).collect();
    let slot = [1; 7];
    let all = Inputs {
        ids: &ids,
        pos: &pos,
        slot: &slot,
        out: &[6, 2],
    };
    let at_once = Interpreter::new(&module, &weights)
        .call("prefill", &all)
        .expect("runs");
    let mut interpreter = Interpreter::new(&module, &weights);
    for i in 0..7 {
        let one = Inputs {
            ids: &ids[i..=i],
            pos: &pos[i..=i],
            slot: &slot[i..=i],
            out: &[0],
        };
        let got = interpreter.call("prefill", &one).expect("runs");
        if let Some(r) = [6, 2].iter().position(|out| *out == i) {
            assert_eq!(got[0].data, at_once[0].row(r), "token {i}");
        }
    }
    assert!(at_once[0].data.iter().all(|x| x.is_finite()));
}

#[test]
fn a_planned_ring_is_as_good_as_an_endless_cache() {
    let (planned, source) = layer("planned.gir");
    let mut endless = planned.clone();
    endless.arena_bytes = None;
    endless.caches[0].capacity = None;
    endless.caches[0].place = None;
    for value in &mut endless.functions[0].values {
        value.place = None;
    }
    for op in &mut endless.functions[0].ops {
        op.scratch = None;
    }
    let (a, b) = (
        ExprWeights {
            module: &planned,
            source: &source,
        },
        ExprWeights {
            module: &endless,
            source: &source,
        },
    );
    let (mut ring, mut endless) = (
        Interpreter::new(&planned, &a),
        Interpreter::new(&endless, &b),
    );
    for chunk in 0..4 {
        let pos: Vec<i32> = (chunk * 8..chunk * 8 + 8).collect();
        let ids: Vec<i32> = pos.iter().map(|p| p * 5 % 48).collect();
        let inputs = Inputs {
            ids: &ids,
            pos: &pos,
            slot: &[0; 8],
            out: &[0, 7],
        };
        let got = ring
            .call("prefill", &inputs)
            .expect("the ring holds the window");
        assert_eq!(
            got,
            endless.call("prefill", &inputs).expect("runs"),
            "chunk {chunk}"
        );
    }
    // Going back further than the window was kept is refused, not computed wrongly.
    let back = Inputs {
        ids: &[1],
        pos: &[22],
        slot: &[0],
        out: &[0],
    };
    let error = ring
        .call("prefill", &back)
        .expect_err("17 and 18 are gone")
        .to_string();
    assert!(
        error.contains("(attention): position 17 of slot 0 was"),
        "{error}"
    );
}

#[test]
fn arguments_are_checked() {
    let (module, source) = layer("layer.gir");
    let weights = ExprWeights {
        module: &module,
        source: &source,
    };
    let mut interpreter = Interpreter::new(&module, &weights);
    let good = Inputs {
        ids: &[1],
        pos: &[0],
        slot: &[0],
        out: &[0],
    };
    for (inputs, want) in [
        (Inputs { pos: &[], ..good }, "`pos` has 0 entries, `ids` 1"),
        (
            Inputs {
                slot: &[0, 0],
                ..good
            },
            "`slot` has 2 entries, `ids` 1",
        ),
        (
            Inputs {
                ids: &[],
                pos: &[],
                slot: &[],
                out: &[0],
            },
            "`ids` has 0 entries, ?seq must be 1 to 8",
        ),
        (
            Inputs {
                ids: &[1; 9],
                pos: &[0; 9],
                slot: &[0; 9],
                out: &[0],
            },
            "?seq must be 1 to 8",
        ),
        (
            Inputs {
                out: &[0, 0, 0],
                ..good
            },
            "`out` has 3 entries, ?out must be 1 to 2",
        ),
        (
            Inputs { pos: &[32], ..good },
            "position 32 is outside the context of 32",
        ),
        (Inputs { slot: &[2], ..good }, "slot 2 is not one of 2"),
        (Inputs { out: &[1], ..good }, "out row 1"),
        (
            Inputs { pos: &[3], ..good },
            "position 1 of slot 0 was never stored, and the query at 3 needs it",
        ),
    ] {
        let error = interpreter
            .call("prefill", &inputs)
            .expect_err(want)
            .to_string();
        assert!(error.contains(want), "{error}");
    }
    assert_eq!(
        interpreter.call("train", &good),
        Err(EvalError::NoFunction("train".into()))
    );
    interpreter
        .call("prefill", &good)
        .expect("good arguments still work");
}

#[test]
fn invalid_modules_and_missing_tensors_are_errors() {
    let (mut module, mut source) = layer("layer.gir");
    source.0.retain(|(name, ..)| !name.contains("down_proj"));
    let inputs = Inputs {
        ids: &[1],
        pos: &[0],
        slot: &[0],
        out: &[0],
    };
    let weights = ExprWeights {
        module: &module,
        source: &source,
    };
    let error = Interpreter::new(&module, &weights)
        .call("prefill", &inputs)
        .expect_err("no tensor");
    assert!(
        error
            .to_string()
            .contains("(linear): no tensor model.layers.0.mlp.down_proj"),
        "{error}"
    );
    module.functions[0].ops.remove(3);
    let weights = ExprWeights {
        module: &module,
        source: &source,
    };
    let error = Interpreter::new(&module, &weights)
        .call("prefill", &inputs)
        .expect_err("no %7");
    assert!(
        matches!(&error, EvalError::Invalid(faults) if faults.contains("%7 is used before it is defined")),
        "{error}"
    );
}
