//! Configurations for real models: that there are some, what they take, what is predicted of them, and one as text.

use super::*;
use crate::aie::DialectVersion;
use crate::cost::CoreTile;
use crate::design::linear::weights::WeightForm;
use crate::design::linear::{Linear, Shape};
use crate::design::prepare::{Activations, Inputs};
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
                    positions: 4096,
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
