//! What is imported from good checkpoints.

use super::*;

#[test]
fn both_config_styles_give_the_same_model() {
    for name in ALL {
        let new = load(name);
        let older = model_dir(name).join("config.v4.json");
        if name == "story-gemma3-draft" {
            // The only one published in one style.
            assert!(!older.exists(), "{older:?}: compare it, too");
            continue;
        }
        let options = ImportOptions {
            config: Some(older),
            ..ImportOptions::default()
        };
        let old = import(&model_dir(name), &options).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(new.module, old.module, "{name}");
        assert_eq!(new.text, old.text, "{name}");
    }
}

#[test]
fn vision_tensors_are_left_out_with_one_note() {
    let notes = load("gemma3-multimodal").facts.notes;
    let vision: Vec<_> = notes
        .iter()
        .filter(|n| n.contains("vision tensors"))
        .collect();
    assert_eq!(vision.len(), 1, "{notes:?}");
    assert!(vision[0].contains("50 vision"), "{notes:?}");
}

#[test]
fn the_weights_are_those_of_the_file() {
    let model = load("gemma3-multimodal");
    let weight = model
        .module
        .weights
        .iter()
        .find(|w| w.name == "l2.k")
        .expect("l2.k");
    assert_eq!(weight.shape, [64, 96]);
    assert_eq!(weight.dtype, DType::Bf16);
    let WeightExpr::Tensor(tensor) = &weight.expr else {
        panic!("{:?}", weight.expr);
    };
    assert_eq!(
        tensor,
        "language_model.model.layers.2.self_attn.k_proj.weight"
    );
    let bytes = fs::read(model_dir("gemma3-multimodal").join("model.safetensors")).expect("file");
    let parsed = safetensors::SafeTensors::deserialize(&bytes).expect("valid");
    let data = parsed.tensor(tensor).expect("tensor").data().to_vec();
    let mut row = [0.0; 2 * 96];
    model
        .checkpoint
        .read_rows(tensor, 5, &mut row)
        .expect("rows");
    model.checkpoint.advise_done(tensor);
    for (n, x) in row.iter().enumerate() {
        let at = 2 * (5 * 96 + n);
        let want = half::bf16::from_le_bytes([data[at], data[at + 1]]);
        assert_eq!(x.to_bits(), want.to_f32().to_bits());
    }
    let past = model
        .checkpoint
        .read_rows(tensor, 63, &mut row)
        .expect_err("63 is the last");
    assert_says(&past, "k_proj.weight of shape [64, 96]");
}

/// Windows of the caches, and theta and factor of the tables.
fn spans(model: &Imported) -> (Vec<Option<u32>>, Vec<(f32, f32)>) {
    let windows = model.module.caches.iter().map(|c| c.window).collect();
    let tables = model.module.functions[0]
        .ops
        .iter()
        .filter_map(|op| match op.kind {
            OpKind::RopeTable { theta, factor, .. } => Some((theta, factor)),
            _ => None,
        })
        .collect();
    (windows, tables)
}

#[test]
fn windows_and_rope_follow_the_layers() {
    let (windows, tables) = spans(&load("gemma3-ropescale"));
    let w = Some(12);
    assert_eq!(windows, [w, w, None, w, w, None]);
    assert_eq!(tables, [(1e4, 1.0), (1e6, 8.0)]);
    let (windows, tables) = spans(&load("gemma2-gqa"));
    assert_eq!(windows, [Some(16), None, Some(16), None]);
    assert_eq!(tables, [(1e4, 1.0)]);
    assert_eq!(spans(&load("gemma1-mqa")).0, [None; 3]);
}

#[test]
fn the_oldest_spelling_of_linear_scaling_is_read() {
    let new = load("gemma3-ropescale");
    let copy = Copy::of("gemma3-ropescale");
    fs::copy(copy.path("config.v4.json"), copy.path("config.json")).expect("copy");
    copy.set("rope_scaling", json!({"type": "linear", "factor": 8.0}));
    assert_eq!(
        new.module.functions,
        copy.import().expect("valid").module.functions
    );
}

#[test]
fn absent_keys_take_the_family_s_defaults() {
    let read = |value: Value| {
        let Value::Object(map) = value else { panic!() };
        Config::read("config.json", &map).expect("valid")
    };
    // As gemma-3-4b was published.
    let c = read(json!({"model_type": "gemma3", "text_config": {
        "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34, "sliding_window": 1024,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "model_type": "gemma3_text"}}));
    assert_eq!(
        (c.heads, c.kv_heads, c.head_dim, c.vocab),
        (8, 4, 256, 262_208)
    );
    assert_eq!((c.attention_softcap, c.final_softcap), (None, None));
    assert_eq!(c.attention_scale, 0.0625);
    assert_eq!(
        c.layers[5],
        Layer {
            span: Span::Full,
            rope: Rope {
                theta: 1e6,
                factor: 8.0
            }
        }
    );
    assert_eq!(
        c.layers[4],
        Layer {
            span: Span::Window(1024),
            rope: Rope {
                theta: 1e4,
                factor: 1.0
            }
        }
    );
    let c = read(json!({"model_type": "gemma2"}));
    assert_eq!(
        (c.attention_softcap, c.final_softcap),
        (Some(50.0), Some(30.0))
    );
    assert_eq!(
        (c.hidden, c.ffn, c.layers.len(), c.max_positions),
        (2304, 9216, 26, 8192)
    );
    assert_eq!(c.layers[0].span, Span::Window(4096));
    assert_eq!(c.layers[1].span, Span::Full);
    let c = read(
        json!({"model_type": "gemma2", "attn_logit_softcapping": null, "final_logit_softcapping": null}),
    );
    assert_eq!((c.attention_softcap, c.final_softcap), (None, None));
    // As gemma-2b was published: "gelu" meant the approximation.
    let c = read(json!({"model_type": "gemma", "hidden_act": "gelu", "hidden_activation": null}));
    assert_eq!(
        (c.hidden, c.heads, c.kv_heads, c.vocab),
        (3072, 16, 16, 256_000)
    );
    assert!(c.tied);
    assert_eq!((c.bos, c.eos.as_slice()), (Some(2), &[1][..]));
}

#[test]
fn computed_buffers_are_passed_over() {
    let mut copy = Copy::of("gemma1-mqa");
    copy.edit(|t| {
        copy_tensor(
            t,
            "model.norm.weight",
            "model.layers.0.self_attn.rotary_emb.inv_freq",
        )
    });
    let module = copy.import().expect("valid").module;
    assert_eq!(module.weights, load("gemma1-mqa").module.weights);
}

#[test]
fn the_head_is_the_embedding_unless_it_has_other_values() {
    const HEAD: &str = "lm_head.weight";
    let weights = |copy: &Copy| copy.import().expect("valid").module.weights;
    let mut copy = Copy::of("gemma1-mqa");
    let tied = weights(&copy);
    copy.edit(|t| copy_tensor(t, "model.embed_tokens.weight", HEAD));
    assert_eq!(weights(&copy), tied);
    copy.edit(|t| t.get_mut(HEAD).expect("head").data[0] ^= 1);
    assert_eq!(weights(&copy).len(), tied.len() + 1);
    let notes = copy.import().expect("valid").facts.notes;
    assert!(notes.iter().any(|n| n.contains(HEAD)), "{notes:?}");
    copy.set("tie_word_embeddings", json!(false));
    let model = copy.import().expect("valid");
    assert!(!model.facts.notes.iter().any(|n| n.contains(HEAD)));
    let head = model.module.weights.last().expect("head");
    assert_eq!(head.expr, WeightExpr::Tensor(HEAD.to_owned()));
}

#[test]
fn all_three_dtypes_are_read() {
    const NAME: &str = "model.norm.weight";
    let row = |copy: &Copy| {
        let model = copy.import().expect("valid");
        let mut row = [0.0; 96];
        model.checkpoint.read_rows(NAME, 0, &mut row).expect("row");
        let dtype = model
            .module
            .weights
            .iter()
            .find(|w| w.name == "norm")
            .expect("norm")
            .dtype;
        (dtype, row)
    };
    let mut copy = Copy::of("gemma1-mqa");
    let (dtype, values) = row(&copy);
    assert_eq!(dtype, DType::Bf16);
    copy.edit(|t| {
        let norm = t.get_mut(NAME).expect("norm");
        norm.dtype = "F32";
        norm.data = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    });
    assert_eq!(row(&copy), (DType::F32, values));
    copy.edit(|t| {
        let norm = t.get_mut(NAME).expect("norm");
        norm.dtype = "F16";
        norm.data = values
            .iter()
            .flat_map(|x| half::f16::from_f32(*x).to_le_bytes())
            .collect();
    });
    assert_eq!(
        row(&copy),
        (DType::F16, values.map(|x| half::f16::from_f32(x).to_f32()))
    );
}

#[test]
fn shards_give_the_same_model_as_one_file() {
    let copy = Copy::of("gemma1-mqa");
    let one = copy.import().expect("valid").module;
    copy.write_index(copy.shard());
    let several = copy.import().expect("valid");
    assert_eq!(several.module, one);
    let names: Vec<_> = several.sources.iter().map(|s| s.name.as_str()).collect();
    assert!(
        names.ends_with(&[
            "model.safetensors.index.json",
            "a.safetensors",
            "b.safetensors"
        ]),
        "{names:?}"
    );
}

#[test]
fn bounds_keep_the_logits_of_a_call_small() {
    let config = |vocab: u32| {
        let Value::Object(map) = json!({"model_type": "gemma3_text", "vocab_size": vocab}) else {
            panic!()
        };
        Config::read("config.json", &map).expect("valid")
    };
    let outs = |vocab| {
        bounds(&config(vocab), &ImportOptions::default())
            .expect("valid")
            .outs
    };
    assert_eq!(outs(1024), 128);
    assert_eq!(outs(262_144), 16);
    assert_eq!(outs(1 << 24), 1);
    let b = bounds(
        &config(1024),
        &ImportOptions {
            context: Some(20),
            ..ImportOptions::default()
        },
    );
    assert_eq!(b.expect("valid").chunk, 20);
}

#[test]
fn sources_are_hashed_in_order() {
    let model = load("story-gemma3");
    let hashed = hash_sources(&model).expect("hashes");
    assert_eq!(hashed[0].name, "config.json");
    assert_eq!(hashed.len(), model.sources.len());
    for (source, file) in model.sources.iter().zip(&hashed) {
        let bytes = fs::read(&source.path).expect("file");
        assert_eq!(file.bytes, bytes.len() as u64);
        let want = xxhash_rust::xxh3::xxh3_128(&bytes).to_be_bytes();
        assert_eq!(file.xxh3_128, want, "{}", file.name);
    }
}
