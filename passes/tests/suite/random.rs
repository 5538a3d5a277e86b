//! Random programs: any ops in any order, results used anywhere. They find the uses that patterns forget to look at.

use crate::fixtures::CopyOfInput;
use crate::weights::{assert_same_results, mix};
use gembin_ir::{
    Cache, CacheId, DType, Dim, DimBounds, FunctionBuilder, Layout, Module, OpKind, TensorType,
    ValueId, Weight, WeightExpr, WeightId, text, verify::verify,
};
use gembin_passes::{fold_norm_offsets, fuse, lay_out, plan_memory, sink_select};

/// Width of all values but projections.
const WIDTH: u32 = 8;
const CACHES: usize = 3;

/// A program grown from `seed`: each step picks an op and operands among what there is.
pub fn program(seed: u64, steps: usize) -> Module {
    let bounds = DimBounds {
        chunk: 5,
        outs: 3,
        context: 16,
        slots: 2,
    };
    let mut module = Module::new(format!("random {seed}"), bounds);
    let shapes: [(&str, &[u32]); 9] = [
        ("embed", &[11, WIDTH]),
        ("a", &[WIDTH, WIDTH]),
        ("b", &[WIDTH, WIDTH]),
        ("c", &[WIDTH, WIDTH]),
        ("d", &[WIDTH, WIDTH]),
        ("n0", &[WIDTH]),
        ("n1", &[WIDTH]),
        ("n2", &[WIDTH / 2]),
        ("head", &[11, WIDTH]),
    ];
    for (name, shape) in shapes {
        module.add_weight(Weight {
            name: name.into(),
            dtype: DType::F32,
            shape: shape.to_vec(),
            expr: WeightExpr::Tensor(name.into()),
            layout: Layout::RowMajor,
        });
    }
    for i in 0..CACHES {
        module.add_cache(Cache {
            name: format!("kv{i}"),
            dtype: DType::F32,
            kv_heads: 2,
            head_dim: WIDTH / 2,
            window: (i == 1).then_some(3),
            capacity: None,
            place: None,
        });
    }
    let mut dice = Dice(seed);
    let mut f = FunctionBuilder::new(&module, "prefill");
    let [ids, pos, slot] = [(); 3].map(|()| f.param(TensorType::index(Dim::Seq)));
    let out = f.param(TensorType::index(Dim::Out));
    let table = OpKind::RopeTable {
        head_dim: WIDTH / 2,
        theta: 100.0,
        factor: 1.0,
    };
    let table = f.op1(table, &[pos]).unwrap();
    let embed = OpKind::Embed {
        table: WeightId::new(0),
        scale: 2.0,
    };
    let mut seq = vec![f.op1(embed, &[ids]).unwrap()];
    let mut outs: Vec<ValueId> = Vec::new();
    let mut caches = 0;
    for _ in 0..steps {
        let from_outs = !outs.is_empty() && dice.below(3) == 0;
        let pool = if from_outs { &outs } else { &seq };
        let (a, b) = (dice.recent(pool), dice.recent(pool));
        let kind = match dice.below(13) {
            0..=2 => OpKind::Linear {
                weight: WeightId::new(1 + dice.below(4)),
            },
            3 | 4 => OpKind::RmsNorm {
                weight: WeightId::new(5 + dice.below(3)),
                eps: [1e-6, 1e-3][dice.below(2)],
                offset: [0.0, 1.0][dice.below(2)],
            },
            5 => OpKind::Gelu,
            6 => OpKind::Mul,
            7 | 8 => OpKind::Add,
            9 => OpKind::Softcap { cap: 3.0 },
            10 if !from_outs => {
                outs.push(f.op1(OpKind::SelectRows, &[a, out]).unwrap());
                continue;
            }
            11 if !from_outs => {
                let rope = OpKind::Rope {
                    head_dim: WIDTH / 2,
                };
                seq.push(f.op1(rope, &[a, table]).unwrap());
                continue;
            }
            12 if !from_outs && caches < CACHES => {
                let cache = CacheId::new(caches);
                caches += 1;
                f.op(OpKind::KvWrite { cache }, &[a, b, pos, slot]).unwrap();
                let attention = OpKind::Attention {
                    cache,
                    heads: 2,
                    scale: 0.5,
                    softcap: 0.0,
                };
                let q = dice.recent(&seq);
                seq.push(f.op1(attention, &[q, pos, slot]).unwrap());
                continue;
            }
            _ => OpKind::Columns {
                start: 0,
                len: WIDTH,
            },
        };
        let operands: &[ValueId] = match kind {
            OpKind::Mul | OpKind::Add => &[a, b],
            _ => &[a],
        };
        let result = f.op1(kind, operands).unwrap();
        if from_outs {
            outs.push(result);
        } else {
            seq.push(result);
        }
    }
    let last = dice.recent(&seq);
    let selected = f.op1(OpKind::SelectRows, &[last, out]).unwrap();
    let mut x = selected;
    for other in outs {
        x = f.op1(OpKind::Add, &[x, other]).unwrap();
    }
    let head = OpKind::Linear {
        weight: WeightId::new(8),
    };
    let logits = f.op1(head, &[x]).unwrap();
    let function = f.finish(&[logits]);
    module.functions.push(function);
    module
}

struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 = mix(self.0);
        (self.0 >> 32) as usize % n
    }

    /// One of the last few, mostly: so that chains form as in models.
    fn recent(&mut self, pool: &[ValueId]) -> ValueId {
        let reach = if self.below(4) == 0 {
            pool.len()
        } else {
            pool.len().min(3)
        };
        pool[pool.len() - 1 - self.below(reach)]
    }
}

fn check(before: &Module, run: impl FnOnce(&mut Module)) -> Module {
    let mut after = before.clone();
    run(&mut after);
    let text = || format!("{}\n->\n{}", text::print(before), text::print(&after));
    if let Err(faults) = verify(&after) {
        panic!("{faults}\n{}", text());
    }
    let same = std::panic::catch_unwind(|| assert_same_results(before, &after));
    assert!(same.is_ok(), "{}", text());
    after
}

/// Seeds are fixed: a failure stays until it is fixed, and names the program.
#[test]
fn every_pass_keeps_the_meaning_of_random_programs() {
    for seed in 0..600 {
        let module = program(seed, 1 + seed as usize % 40);
        let folded = check(&module, fold_norm_offsets);
        let sunk = check(&folded, sink_select);
        let fused = check(&sunk, fuse);
        let laid_out = check(&fused, lay_out);
        check(&laid_out, |m| {
            plan_memory(m, &CopyOfInput).unwrap();
        });
        let fused = check(&folded, fuse);
        let sunk = check(&fused, sink_select);
        check(&sunk, fuse);
    }
}
