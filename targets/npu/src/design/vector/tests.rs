//! Configurations for real models: that there are some, what they take, what is predicted of them, and one as text.

use super::*;
use crate::aie::DialectVersion;
use crate::cost::CoreTile;
use crate::design::linear::weights::WeightForm;
use crate::design::linear::{Linear, Shape};
use crate::design::prepare::{Activations, Inputs};
use crate::design::{gelu, prepare, rope, snapshot};
use crate::legality;
use crate::module::Module;

/// A model's sizes.
struct Model {
    name: &'static str,
    layers: u32,
    hidden: u32,
    width: u32,
    query_heads: u32,
    kv_heads: u32,
    head: u32,
}

const MODELS: [Model; 4] = [
    Model {
        name: "Gemma 2 2B",
        layers: 26,
        hidden: 2304,
        width: 9216,
        query_heads: 8,
        kv_heads: 4,
        head: 256,
    },
    Model {
        name: "Gemma 3 1B",
        layers: 26,
        hidden: 1152,
        width: 6912,
        query_heads: 4,
        kv_heads: 1,
        head: 256,
    },
    Model {
        name: "Gemma 3 4B",
        layers: 34,
        hidden: 2560,
        width: 10240,
        query_heads: 8,
        kv_heads: 4,
        head: 256,
    },
    Model {
        name: "Gemma 3 27B",
        layers: 62,
        hidden: 5376,
        width: 21504,
        query_heads: 32,
        kv_heads: 16,
        head: 128,
    },
];

impl Model {
    /// A layer's works: before qkv and before gate and up, before the attention's product, the gate, the rotation.
    fn works(&self, array: &Array, tokens: u32, depth: u32) -> Vec<(Work, u32)> {
        let linear = Linear {
            form: WeightForm::Groups4,
            tile: CoreTile {
                tokens: 64,
                depth,
                outputs: 64,
            },
            most_depth: self.width,
            native_rows: 4,
        };
        let layout = |depth| {
            let shape = Shape {
                tokens,
                depth,
                outputs: 1024,
            };
            Activations::of(&linear, array, shape)
        };
        let prepare = |inputs, features| {
            Work::Prepare(Prepare {
                inputs,
                features,
                eps: 1e-6,
                layout: layout(features),
            })
        };
        let all = Inputs {
            x: true,
            post_norm: true,
            residual: true,
            norm: true,
        };
        let none = Inputs {
            x: true,
            post_norm: false,
            residual: false,
            norm: false,
        };
        vec![
            (prepare(all, self.hidden), 2),
            (prepare(none, self.query_heads * self.head), 1),
            (
                Work::Gelu(Gelu {
                    width: self.width,
                    layout: layout(self.width),
                }),
                1,
            ),
            (
                Work::Rope(Rope {
                    tokens,
                    query_heads: self.query_heads,
                    kv_heads: self.kv_heads,
                    head: self.head,
                    positions: 8192,
                    query_factor: 0.0625,
                    eps: 1e-6,
                    query_norm: true,
                    key_norm: true,
                }),
                1,
            ),
        ]
    }
}

/// Every model's works have one configuration, legal in every number of tokens.
#[test]
fn models_have_configurations() {
    let array = Array::npu1();
    for model in MODELS {
        let works: Vec<Work> = [1, 32, 64, 256, 512]
            .into_iter()
            .flat_map(|tokens| model.works(array, tokens, 160))
            .map(|(work, _)| work)
            .collect();
        let design = Vector::for_works(array, Programs::All, &works)
            .unwrap_or_else(|error| panic!("{}: {error}", model.name));
        println!(
            "{}: {design:?}, {:?}: {} bytes, memory tile {}",
            model.name,
            design.core_memory(array),
            design.core_memory(array).bytes(),
            design.memory_tile_bytes(array)
        );
        let text = design
            .emit(array, DialectVersion::Elements, "vector", &works)
            .unwrap();
        let module = Module::read(&text).unwrap_or_else(|error| panic!("{error}"));
        let faults: Vec<String> = legality::check(&module, array)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert!(faults.is_empty(), "{}", faults.join("\n"));
        let mut layer = 0.0;
        for (work, count) in model.works(array, 512, 160) {
            let predicted = work.predict(&design, array);
            layer += f64::from(count) * predicted.seconds();
            println!(
                "  {count} x {}: {:.0} us; cores {:.0}, shims {:.0}, DDR {:.0}; {:.1} MB",
                work.name(),
                predicted.seconds() * 1e6,
                predicted.compute_s * 1e6,
                predicted.stream_s * 1e6,
                predicted.memory_s * 1e6,
                predicted.ddr_bytes / 1e6
            );
        }
        println!(
            "  all layers: {:.1} ms",
            layer * f64::from(model.layers) * 1e3
        );
    }
}

/// What cores do in the simulator is what is predicted of them, at a real model's sizes.
#[test]
fn predictions_agree_with_the_simulated_array() {
    let array = Array::npu1();
    let model = &MODELS[2];
    let tokens = 64;
    let works: Vec<Work> = model
        .works(array, tokens, 128)
        .into_iter()
        .map(|(work, _)| work)
        .collect();
    let design = Vector::for_works(array, Programs::All, &works).unwrap();
    let mut simulator = prepare::tests::configured(&design, &works);
    let form = WeightForm::Groups4;
    for work in &works {
        let report = match work {
            Work::Prepare(work) => {
                prepare::tests::check(&design, &mut simulator, form, work, tokens, 1).0
            }
            Work::Gelu(work) => gelu::tests::check(&design, &mut simulator, form, work, tokens, 2),
            Work::Rope(work) => rope::tests::check(&design, &mut simulator, work, 3),
        };
        let busy = report.cores.iter().map(|core| core.busy_cycles).max();
        let busy = busy.unwrap_or(0) as f64;
        let predicted = work.predict(&design, array);
        let cycles = predicted.compute_s * array.clock_hz;
        let bytes = (report.host_bytes_read + report.host_bytes_written) as f64;
        println!(
            "{}: {busy} busy of {} cycles, {cycles:.0} predicted; {bytes} bytes, {:.0} predicted",
            work.name(),
            report.cycles,
            predicted.ddr_bytes
        );
        let ratio = busy / cycles;
        assert!((0.75..1.25).contains(&ratio), "{}: {ratio}", work.name());
        let ratio = bytes / predicted.ddr_bytes;
        assert!((0.99..1.01).contains(&ratio), "{}: {ratio}", work.name());
    }
}

/// What a configuration looks like, each of the two that share nothing: FIFOs, a core, a sequence.
#[test]
fn configurations_are_as_they_were() {
    let array = Array::npu1();
    let model = Model {
        name: "small",
        layers: 1,
        hidden: 128,
        width: 256,
        query_heads: 2,
        kv_heads: 1,
        head: 64,
    };
    let works: Vec<Work> = model
        .works(array, 16, 64)
        .into_iter()
        .map(|(work, _)| work)
        .collect();
    for (name, programs) in [("panels", Programs::Panels), ("rope", Programs::Rope)] {
        let own: Vec<Work> = works
            .iter()
            .filter(|work| programs.has(work))
            .copied()
            .collect();
        let design = Vector::for_works(array, programs, &own).unwrap();
        let text = design
            .emit(array, DialectVersion::Subviews, name, &own)
            .unwrap();
        snapshot::assert_module(&format!("vector_{name}"), &text);
    }
}
