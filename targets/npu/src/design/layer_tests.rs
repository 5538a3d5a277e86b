//! A whole layer of a model on the simulated array, through designs alone: three configurations, ten dispatches, each
//! reading what the one before it wrote; against plain arithmetic with the same rounded weights.

use super::attention::{self, Attention};
use super::gelu::{self, Gelu};
use super::linear::pack::quantize;
use super::linear::trial::Trial;
use super::linear::weights::WeightForm;
use super::linear::{self, Linear, sequence_name};
use super::prepare::pack::{float_bytes, panels, rows};
use super::prepare::tests::{distance, values_of};
use super::prepare::{self, Activations, Inputs, Prepare};
use super::random::Random;
use super::rope::{self, Rope};
use super::vector::{Programs, Vector, Work};
use crate::aie::DialectVersion;
use crate::array::Array;
use crate::legality;
use crate::module::Module;
use crate::simulator::{HostBuffer, Simulator};

const TOKENS: u32 = 24;
const HIDDEN: u32 = 256;
const FFN: u32 = 512;
const HEADS: u32 = 4;
const KV_HEADS: u32 = 1;
const HEAD: u32 = 64;
const CAPACITY: u32 = 64;
const EPS: f32 = 1e-6;
const THETA: f32 = 10_000.0;

/// A layer's numbers.
struct Layer {
    qkv: Trial,
    o: Trial,
    gate_up: Trial,
    down: Trial,
    input_norm: Vec<f32>,
    query_norm: Vec<f32>,
    key_norm: Vec<f32>,
    post_attention_norm: Vec<f32>,
    pre_ffn_norm: Vec<f32>,
    post_ffn_norm: Vec<f32>,
}

fn shape(depth: u32, outputs: u32) -> linear::Shape {
    linear::Shape {
        tokens: TOKENS,
        depth,
        outputs,
    }
}

impl Layer {
    fn new(form: WeightForm, random: &mut Random) -> Self {
        let mut matrix = |depth: u32, outputs: u32| {
            let size = 1.0 / (depth as f32).sqrt();
            let floats: Vec<f32> = (0..depth * outputs)
                .map(|_| random.normal() * size)
                .collect();
            Trial::rounded(form, shape(depth, outputs), &floats)
        };
        let (qkv, o) = (
            matrix(HIDDEN, (HEADS + 2 * KV_HEADS) * HEAD),
            matrix(HEADS * HEAD, HIDDEN),
        );
        let (gate_up, down) = (matrix(HIDDEN, 2 * FFN), matrix(FFN, HIDDEN));
        let mut norm = |features: u32| -> Vec<f32> {
            (0..features).map(|_| 1.0 + 0.2 * random.normal()).collect()
        };
        Self {
            qkv,
            o,
            gate_up,
            down,
            input_norm: norm(HIDDEN),
            query_norm: norm(HEAD),
            key_norm: norm(HEAD),
            post_attention_norm: norm(HIDDEN),
            pre_ffn_norm: norm(HIDDEN),
            post_ffn_norm: norm(HIDDEN),
        }
    }

    /// The layer in plain arithmetic; `rounded`: with weights and activations rounded to 8 bits as the array does.
    fn expected(&self, hidden: &[Vec<f32>], rounded: bool) -> Vec<Vec<f32>> {
        let project = |matrix: &Trial, outputs: u32, tokens: &[Vec<f32>]| -> Vec<Vec<f32>> {
            let matrix: Vec<Vec<f32>> = (0..outputs).map(|row| matrix.row(row, rounded)).collect();
            let of_token = |features: &Vec<f32>| {
                let features = match rounded {
                    true => values_of(&[quantize(features)]).remove(0),
                    false => features.clone(),
                };
                let dot = |row: &Vec<f32>| {
                    let terms = row.iter().zip(&features).map(|(w, x)| f64::from(w * x));
                    terms.sum::<f64>() as f32
                };
                matrix.iter().map(dot).collect()
            };
            tokens.iter().map(of_token).collect()
        };
        let normed = |rows: &[Vec<f32>], weight: &[f32]| -> Vec<Vec<f32>> {
            rows.iter().map(|row| rms_norm(row, weight)).collect()
        };
        let head = HEAD as usize;
        let qkv = project(
            &self.qkv,
            (HEADS + 2 * KV_HEADS) * HEAD,
            &normed(hidden, &self.input_norm),
        );
        let part = |token: usize, at: u32| &qkv[token][at as usize * head..][..head];
        let rotated = |token: usize, at: u32, norm: &[f32]| {
            let mut values = rms_norm(part(token, at), norm);
            for pair in 0..head / 2 {
                let [cosine, sine] = angle(token as u32, pair as u32);
                let (a, b) = (values[pair], values[head / 2 + pair]);
                values[pair] = a * cosine - b * sine;
                values[head / 2 + pair] = b * cosine + a * sine;
            }
            values
        };
        let keys: Vec<Vec<f32>> = (0..hidden.len())
            .map(|token| rotated(token, HEADS, &self.key_norm))
            .collect();
        let attended: Vec<Vec<f32>> = (0..hidden.len())
            .map(|token| {
                let of_head = |query_head: u32| {
                    let query = rotated(token, query_head, &self.query_norm);
                    let scores: Vec<f32> = keys[..=token]
                        .iter()
                        .map(|key| {
                            scale() * key.iter().zip(&query).map(|(k, q)| k * q).sum::<f32>()
                        })
                        .collect();
                    let most = scores.iter().fold(f32::MIN, |most, score| most.max(*score));
                    let weights: Vec<f32> =
                        scores.iter().map(|score| (score - most).exp()).collect();
                    let sum: f32 = weights.iter().sum();
                    let mut out = vec![0.0; head];
                    for (position, weight) in weights.iter().enumerate() {
                        let value = part(position, HEADS + KV_HEADS);
                        for (out, value) in out.iter_mut().zip(value) {
                            *out += weight / sum * value;
                        }
                    }
                    out
                };
                (0..HEADS).flat_map(of_head).collect()
            })
            .collect();
        let o = project(&self.o, HIDDEN, &attended);
        let middle = sum(hidden, &normed(&o, &self.post_attention_norm));
        let gate_up = project(&self.gate_up, 2 * FFN, &normed(&middle, &self.pre_ffn_norm));
        let gated: Vec<Vec<f32>> = gate_up
            .iter()
            .map(|row| {
                let at = |feature: usize, which: usize| {
                    row[feature / 16 * 32 + which * 16 + feature % 16]
                };
                (0..FFN as usize)
                    .map(|feature| gelu_of(at(feature, 0)) * at(feature, 1))
                    .collect()
            })
            .collect();
        let down = project(&self.down, HIDDEN, &gated);
        sum(&middle, &normed(&down, &self.post_ffn_norm))
    }
}

fn scale() -> f32 {
    1.0 / (HEAD as f32).sqrt()
}

fn angle(position: u32, pair: u32) -> [f32; 2] {
    let frequency = THETA.powf(-2.0 * pair as f32 / HEAD as f32);
    let angle = position as f32 * frequency;
    [angle.cos(), angle.sin()]
}

fn rms_norm(row: &[f32], weight: &[f32]) -> Vec<f32> {
    let squares: f64 = row.iter().map(|x| f64::from(*x).powi(2)).sum();
    let factor = 1.0 / ((squares / row.len() as f64) as f32 + EPS).sqrt();
    row.iter()
        .zip(weight)
        .map(|(x, w)| x * factor * w)
        .collect()
}

fn gelu_of(x: f32) -> f32 {
    0.5 * x * (1.0 + (0.797_884_6 * (x + 0.044_715 * x * x * x)).tanh())
}

fn sum(a: &[Vec<f32>], b: &[Vec<f32>]) -> Vec<Vec<f32>> {
    a.iter()
        .zip(b)
        .map(|(a, b)| a.iter().zip(b).map(|(a, b)| a + b).collect())
        .collect()
}

/// A configured array.
struct Configured(Simulator);

impl Configured {
    fn new(text: &str) -> Self {
        let array = Array::npu1();
        let module = Module::read(text).unwrap_or_else(|error| panic!("{error}"));
        let faults = legality::check(&module, array);
        assert!(faults.is_empty(), "{}", faults[0]);
        Self(Simulator::new(&module, array).unwrap_or_else(|error| panic!("{error}")))
    }

    /// Runs a sequence: inputs are cut or padded to what it reads, of outputs only the size is given.
    fn run(&mut self, sequence: &str, inputs: &[&[u8]], sizes: &[u64]) -> Vec<Vec<u8>> {
        let mut buffers: Vec<HostBuffer> = sizes
            .iter()
            .enumerate()
            .map(|(at, &size)| match inputs.get(at) {
                Some(bytes) => {
                    let mut bytes = bytes.to_vec();
                    bytes.resize(size as usize, 0);
                    HostBuffer::input(bytes)
                }
                None => HostBuffer::output(size as usize),
            })
            .collect();
        self.0
            .run(sequence, &mut buffers)
            .unwrap_or_else(|error| panic!("{sequence}: {error}"));
        let outputs = buffers.iter().skip(inputs.len());
        outputs.map(|buffer| buffer.bytes().to_vec()).collect()
    }
}

#[test]
fn a_layer_runs_through_designs_alone() {
    for form in [WeightForm::Groups8, WeightForm::Groups4] {
        let mut random = Random(77);
        let layer = Layer::new(form, &mut random);
        let hidden: Vec<Vec<f32>> = (0..TOKENS)
            .map(|_| (0..HIDDEN).map(|_| random.normal()).collect())
            .collect();
        let result = on_the_array(form, &layer, &hidden);
        let exact = layer.expected(&hidden, false);
        let rounded = layer.expected(&hidden, true);
        let [by_design, from_f32] = [&rounded, &exact].map(|expected| distance(&result, expected));
        println!("{form:?}: {by_design:.5} from the same roundings, {from_f32:.5} from none");
        // Numbers without any structure: what bfloat16 between dispatches moves, rounding to 8 bits amplifies, four times
        // in a row (0.5 % after the first product, 1.4 % after the third, 2.8 % after the last, before its norm and the
        // residual).
        assert!(by_design < 0.025, "{form:?}: {by_design}");
        assert!(from_f32 < 0.04, "{form:?}: {from_f32}");
    }
}

fn on_the_array(form: WeightForm, layer: &Layer, hidden: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let array = Array::npu1();
    // Three configurations.
    let matrices = [&layer.qkv, &layer.o, &layer.gate_up, &layer.down];
    let shapes = [
        shape(HIDDEN, (HEADS + 2 * KV_HEADS) * HEAD),
        shape(HEADS * HEAD, HIDDEN),
        shape(HIDDEN, 2 * FFN),
        shape(FFN, HIDDEN),
    ];
    let products = Linear::search(array, form, &shapes.map(|shape| (shape, 1))).unwrap();
    let attention_shape = attention::Shape {
        tokens: TOKENS,
        context: TOKENS,
        slack: 0,
        window: None,
        capacity: CAPACITY,
    };
    let attention = Attention::search(
        array,
        HEAD,
        [HEADS, KV_HEADS],
        None,
        &[(attention_shape, 1)],
    )
    .unwrap();
    let prologue = |inputs: Inputs, features: u32, before: usize| Prepare {
        inputs,
        features,
        eps: EPS,
        layout: Activations::of(&products, array, shapes[before]),
    };
    let inputs = |x: bool, post_norm: bool, residual: bool, norm: bool| Inputs {
        x,
        post_norm,
        residual,
        norm,
    };
    let first = prologue(inputs(false, false, true, true), HIDDEN, 0);
    let of_o = prologue(inputs(true, false, false, false), HEADS * HEAD, 1);
    let middle = prologue(inputs(true, true, true, true), HIDDEN, 2);
    // The next layer's, whose sums are this one's result.
    let last = prologue(inputs(true, true, true, true), HIDDEN, 0);
    let gate = Gelu {
        width: FFN,
        layout: Activations::of(&products, array, shapes[3]),
    };
    let rotation = Rope {
        tokens: TOKENS,
        query_heads: HEADS,
        kv_heads: KV_HEADS,
        head: HEAD,
        positions: 2 * CAPACITY,
        query_factor: attention.query_factor(scale()),
        eps: EPS,
        query_norm: true,
        key_norm: true,
    };
    let mut works = vec![Work::Gelu(gate), Work::Rope(rotation)];
    for prologue in [first, of_o, middle, last] {
        if !works.iter().any(|work| work.name() == prologue.name()) {
            works.push(Work::Prepare(prologue));
        }
    }
    let vector = Vector::for_works(array, Programs::All, &works).unwrap();

    let version = DialectVersion::default();
    let mut multiply =
        Configured::new(&products.emit(array, version, "products", &shapes).unwrap());
    let text = attention
        .emit(array, version, "attention", &[attention_shape])
        .unwrap();
    let mut attend = Configured::new(&text);
    let mut along = Configured::new(&vector.emit(array, version, "vector", &works).unwrap());

    let mut product = |at: usize, activations: &[u8]| -> Vec<u8> {
        let (matrix, shape) = (matrices[at], shapes[at]);
        let plane = matrix.plane(products.weight_bytes(shape));
        let scales =
            linear::pack::scale_table(&products, shape, |row, group| matrix.scale(row, group));
        let sizes = [
            products.activation_bytes(array, shape),
            products.weight_bytes(shape),
            products.scale_table_bytes(shape),
            products.result_bytes(array, shape),
        ];
        multiply
            .run(
                &sequence_name(shape),
                &[activations, &plane, &scales],
                &sizes,
            )
            .remove(0)
    };
    let table = |work: &Prepare, post_norm: Option<&[f32]>, norm: Option<&[f32]>| {
        prepare::pack::table(work, &vector, array, post_norm, norm)
    };
    let sizes = |work: &Prepare| work.buffer_bytes(&vector, array);

    let padded = first.padded_features(&vector, array);
    let residual = float_bytes(&panels(hidden, first.layout.panels, padded));
    let weights = table(&first, None, Some(&layer.input_norm));
    let made = along.run(&first.name(), &[&residual, &weights], &sizes(&first));
    let [residual, activations] = made.try_into().expect("sums and activations");
    let qkv = product(0, &activations);

    let angles = rope::pack::table(
        &rotation,
        &vector,
        array,
        [Some(&layer.query_norm), Some(&layer.key_norm)],
        angle,
    );
    let made = along.run(
        &rotation.name(),
        &[&qkv, &angles],
        &rotation.buffer_bytes(&vector, array),
    );
    let [queries, keys, values] = made.try_into().expect("queries, keys and values");
    // One head's keys, and its values behind them.
    let half = (CAPACITY * HEAD * 2) as usize;
    let mut cache = keys;
    cache.resize(half, 0);
    cache.extend(values);
    let parameters = attention::pack::parameters(&attention, array, attention_shape, 0);
    let attended = attend
        .run(
            &attention::sequence_name(attention_shape),
            &[&queries, &cache, &parameters],
            &attention.buffer_bytes(array, attention_shape),
        )
        .remove(0);

    let weights = table(&of_o, None, None);
    let activations = along
        .run(&of_o.name(), &[&attended, &weights], &sizes(&of_o))
        .remove(0);
    let o = product(1, &activations);

    let weights = table(
        &middle,
        Some(&layer.post_attention_norm),
        Some(&layer.pre_ffn_norm),
    );
    let made = along.run(&middle.name(), &[&o, &residual, &weights], &sizes(&middle));
    let [residual, activations] = made.try_into().expect("sums and activations");
    let gate_up = product(2, &activations);

    let headers = gelu::pack::table(&gate, &vector, array);
    let activations = along
        .run(
            &gate.name(),
            &[&gate_up, &headers],
            &gate.buffer_bytes(&vector, array),
        )
        .remove(0);
    let down = product(3, &activations);

    let weights = table(&last, Some(&layer.post_ffn_norm), Some(&layer.input_norm));
    let made = along.run(&last.name(), &[&down, &residual, &weights], &sizes(&last));
    let sums: Vec<f32> = made[0]
        .chunks_exact(4)
        .map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
        .collect();
    rows(&sums, padded, TOKENS, HIDDEN)
}
