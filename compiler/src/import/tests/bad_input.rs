//! Every damage is refused with one line that names it.

use super::*;

#[test]
fn unusable_settings_are_named() {
    let cases: &[(&str, &str, Value, &str)] = &[
        (
            "gemma3-text",
            "model_type",
            json!("llama"),
            "model_type \"llama\" is not supported; supported: gemma, gemma2, gemma3_text, gemma3",
        ),
        (
            "gemma3-text",
            "model_type",
            json!("gemma3n_text"),
            "\"gemma3n_text\" is not supported",
        ),
        (
            "gemma3-text",
            "model_type",
            json!(null),
            "model_type null is not supported",
        ),
        (
            "gemma3-text",
            "hidden_size",
            json!(0),
            "config.json: hidden_size must be a whole number from 1 to 16777216, not 0",
        ),
        (
            "gemma3-text",
            "hidden_size",
            json!(-96),
            "hidden_size must be a whole number",
        ),
        (
            "gemma3-text",
            "hidden_size",
            json!(1e12),
            "hidden_size must be a whole number",
        ),
        (
            "gemma3-text",
            "intermediate_size",
            json!("160"),
            "intermediate_size must be a whole number from 1 to 16777216, not \"160\"",
        ),
        (
            "gemma3-text",
            "intermediate_size",
            json!([160]),
            "intermediate_size must be a whole number",
        ),
        (
            "gemma3-text",
            "num_hidden_layers",
            json!(1_000_000_000),
            "num_hidden_layers must be a whole number from 1 to 4096",
        ),
        (
            "gemma3-text",
            "num_hidden_layers",
            json!(6),
            "layer_types names 7 layers, not 6",
        ),
        (
            "gemma3-text",
            "num_key_value_heads",
            json!(3),
            "num_key_value_heads 3 does not divide num_attention_heads 4",
        ),
        (
            "gemma3-text",
            "head_dim",
            json!(33),
            "head_dim must be even",
        ),
        (
            "gemma3-text",
            "vocab_size",
            json!(4_294_967_296u64),
            "vocab_size must be",
        ),
        (
            "gemma3-text",
            "rms_norm_eps",
            json!(0),
            "rms_norm_eps must be a positive number, not 0",
        ),
        (
            "gemma3-text",
            "query_pre_attn_scalar",
            json!(-1),
            "query_pre_attn_scalar must be a positive number",
        ),
        (
            "gemma2-gqa",
            "final_logit_softcapping",
            json!(0.0),
            "final_logit_softcapping must be a positive number",
        ),
        (
            "gemma3-text",
            "sliding_window",
            json!(0),
            "sliding_window must be a whole number",
        ),
        (
            "gemma3-text",
            "sliding_window",
            json!(null),
            "sliding_window is null, but layers have one",
        ),
        (
            "gemma3-text",
            "layer_types",
            json!(["linear_attention", 1, 2, 3, 4, 5, 6]),
            "layer_types may name sliding_attention and full_attention, not \"linear_attention\"",
        ),
        (
            "gemma3-text",
            "attention_bias",
            json!(true),
            "attention_bias true is not supported",
        ),
        (
            "gemma3-text",
            "use_bidirectional_attention",
            json!("all"),
            "use_bidirectional_attention \"all\" is not supported",
        ),
        (
            "gemma3-text",
            "hidden_activation",
            json!("gelu"),
            "hidden_activation \"gelu\" is not supported",
        ),
        (
            "gemma1-mqa",
            "hidden_activation",
            json!("silu\nx"),
            "hidden_activation \"silu\\nx\" is not supported",
        ),
        (
            "gemma1-mqa",
            "rope_parameters",
            json!({"rope_type": "yarn", "factor": 2.0}),
            "rope_parameters.rope_type \"yarn\" is not supported",
        ),
        (
            "gemma1-mqa",
            "rope_scaling",
            json!({"type": "dynamic", "factor": 2.0}),
            "rope_scaling.type \"dynamic\" is not supported",
        ),
        (
            "gemma1-mqa",
            "rope_scaling",
            json!({"rope_type": "linear"}),
            "rope_scaling.factor is absent",
        ),
        (
            "gemma1-mqa",
            "rope_scaling",
            json!({"rope_type": "linear", "factor": 0}),
            "rope_scaling.factor must be a positive number",
        ),
        (
            "gemma3-text",
            "rope_parameters",
            json!({"rope_theta": 1e4}),
            "rope_parameters must hold full_attention and sliding_attention",
        ),
        (
            "gemma3-text",
            "rope_parameters",
            json!({"full_attention": {"partial_rotary_factor": 0.25}}),
            "rope_parameters.full_attention.partial_rotary_factor 0.25 is not supported",
        ),
        (
            "gemma3-text",
            "rope_parameters",
            json!(3),
            "rope_parameters must be an object, not 3",
        ),
        (
            "gemma3-text",
            "quantization_config",
            json!({"bits": 4}),
            "quantization_config is set",
        ),
        (
            "gemma3-text",
            "tie_word_embeddings",
            json!("yes"),
            "tie_word_embeddings must be true or false",
        ),
        (
            "gemma3-text",
            "tie_word_embeddings",
            json!(false),
            "missing tensor lm_head.weight of shape [320, 96], which tie_word_embeddings false asks for",
        ),
        (
            "gemma3-text",
            "eos_token_id",
            json!("<eos>"),
            "eos_token_id must be a token id or a list",
        ),
        (
            "gemma3-text",
            "hidden_size",
            json!(128),
            "tensor model.embed_tokens.weight has shape [320, 96], the configuration asks for [320, 128]",
        ),
        (
            "gemma3-multimodal",
            "text_config",
            json!("x"),
            "text_config must be an object",
        ),
        (
            "gemma3-multimodal",
            "text_config",
            json!({"hidden_size": "big"}),
            "config.json: text_config.hidden_size must be a whole number",
        ),
    ];
    for (model, key, value, want) in cases {
        let copy = Copy::of(model);
        copy.set(key, value.clone());
        assert_says(&copy.fault(), want);
    }
}

#[test]
fn products_of_settings_stay_in_bounds() {
    let Value::Object(map) = json!({
        "model_type": "gemma", "num_attention_heads": 65_536, "num_key_value_heads": 65_536, "head_dim": 65_536,
    }) else {
        panic!()
    };
    let got = Config::read("config.json", &map).expect_err("2^32 is too wide");
    assert_says(
        &got.to_string(),
        "num_attention_heads 65536 of head_dim 65536 are wider",
    );
}

#[test]
fn damaged_tensors_are_named() {
    type Damage = fn(&mut BTreeMap<String, Tensor>);
    let cases: &[(Damage, &str)] = &[
        (
            |t| drop(t.remove("model.layers.1.mlp.up_proj.weight")),
            "missing tensor model.layers.1.mlp.up_proj.weight of shape [160, 96]",
        ),
        (
            |t| t.get_mut("model.norm.weight").expect("norm").shape = vec![1, 96],
            "tensor model.norm.weight has shape [1, 96], the configuration asks for [96]",
        ),
        (
            |t| t.get_mut("model.norm.weight").expect("norm").dtype = "I16",
            "tensor model.norm.weight has dtype I16; supported: BF16, F16, F32",
        ),
        (
            |t| t.get_mut("model.norm.weight").expect("norm").dtype = "Q\n7",
            "tensor model.norm.weight has dtype Q\\n7; supported",
        ),
        (
            |t| {
                copy_tensor(
                    t,
                    "model.norm.weight",
                    "model.layers.3.input_layernorm.weight",
                )
            },
            "unexpected tensor model.layers.3.input_layernorm.weight: a gemma of 3 layers",
        ),
        (
            |t| copy_tensor(t, "model.norm.weight", "adapter\n.weight"),
            "unexpected tensor adapter\\n.weight",
        ),
        (
            |t| copy_tensor(t, "model.norm.weight", "vision_tower.norm.weight"),
            "unexpected tensor vision_tower.norm.weight",
        ),
        (
            |t| copy_tensor(t, "model.norm.weight", "language_model.model.norm.weight"),
            "tensors language_model.model.norm.weight and model.norm.weight are the same part",
        ),
        (
            |t| copy_tensor(t, "model.norm.weight", "lm_head.weight"),
            "tensor lm_head.weight has shape [96], the configuration asks for [320, 96]",
        ),
    ];
    for (damage, want) in cases {
        let mut copy = Copy::of("gemma1-mqa");
        copy.edit(damage);
        assert_says(&copy.fault(), want);
    }
}

#[test]
fn nan_names_its_tensor_and_place_unless_it_is_allowed() {
    const NAME: &str = "model.layers.0.mlp.up_proj.weight";
    let mut copy = Copy::of("gemma1-mqa");
    copy.edit(|t| {
        let at = 2 * (3 * 96 + 7);
        t.get_mut(NAME).expect("up").data[at..at + 2].copy_from_slice(&0x7fc0u16.to_le_bytes());
    });
    let mut rows = vec![0.0; 4 * 96];
    let model = copy
        .import()
        .expect("values are checked when they are read");
    let got = model
        .checkpoint
        .read_rows(NAME, 2, &mut rows)
        .expect_err("NaN");
    assert_says(
        &got,
        "model.layers.0.mlp.up_proj.weight holds NaN at row 3, column 7",
    );
    let options = ImportOptions {
        allow_nonfinite: true,
        ..ImportOptions::default()
    };
    let model = import(copy.dir.path(), &options).expect("valid");
    model
        .checkpoint
        .read_rows(NAME, 2, &mut rows)
        .expect("allowed");
    assert!(rows[96 + 7].is_nan());
}

#[test]
fn an_index_that_lies_is_refused() {
    const NORM: &str = "model.norm.weight";
    type Damage = fn(&Copy, &mut Map<String, Value>);
    let cases: &[(Damage, &str)] = &[
        (
            |copy, _| fs::remove_file(copy.path("b.safetensors")).expect("remove"),
            "b.safetensors: missing shard, named by model.safetensors.index.json",
        ),
        (
            |_, map| drop(map.insert(NORM.into(), json!("../b.safetensors"))),
            "shard \"../b.safetensors\" lies outside",
        ),
        (
            |_, map| drop(map.insert(NORM.into(), json!("/etc/passwd"))),
            "shard \"/etc/passwd\" lies outside",
        ),
        (
            |_, map| drop(map.insert(NORM.into(), json!(3))),
            "weight_map.model.norm.weight must be a string, not 3",
        ),
        (
            |_, map| drop(map.insert(NORM.into(), json!("a.safetensors"))),
            "a.safetensors: tensor model.norm.weight is not in it, though the index says so",
        ),
        (
            |_, map| drop(map.remove(NORM)),
            "b.safetensors: tensor model.norm.weight is in it, but not in the index",
        ),
        (
            |copy, _| copy.save_some("b.safetensors", |_| true),
            "tensors model.embed_tokens.weight in a.safetensors and model.embed_tokens.weight in b.safetensors are the same part",
        ),
        (
            |copy, _| fs::write(copy.path("b.safetensors"), "").expect("write"),
            "b.safetensors: truncated: 0 bytes",
        ),
    ];
    for (damage, want) in cases {
        let copy = Copy::of("gemma1-mqa");
        let mut map = copy.shard();
        damage(&copy, &mut map);
        copy.write_index(map);
        assert_says(&copy.fault(), want);
    }
    let copy = Copy::of("gemma1-mqa");
    copy.shard();
    copy.write_json("model.safetensors.index.json", &json!({}));
    assert_says(
        &copy.fault(),
        "model.safetensors.index.json: weight_map is absent",
    );
}

#[test]
fn directories_without_the_files_are_refused() {
    let dir = TempDir::new().expect("temporary directory");
    let fault = |path: &Path| match import(path, &ImportOptions::default()) {
        Ok(_) => panic!("must be refused"),
        Err(e) => e.to_string(),
    };
    assert_says(&fault(&dir.path().join("none")), "not a directory");
    assert_says(&fault(dir.path()), "config.json: no such file");
    let copy = Copy::of("gemma1-mqa");
    assert_says(&fault(&copy.path("config.json")), "not a directory");
    fs::remove_file(copy.path("model.safetensors")).expect("remove");
    assert_says(
        &copy.fault(),
        "no model.safetensors and no model.safetensors.index.json",
    );
    fs::write(copy.path("pytorch_model.bin"), "x").expect("write");
    assert_says(&copy.fault(), "pytorch_model files are not read");
    fs::write(copy.path("config.json"), "{\"model_type\": ").expect("write");
    assert_says(&copy.fault(), "config.json: not valid JSON");
    fs::write(copy.path("config.json"), "[]").expect("write");
    assert_says(
        &copy.fault(),
        "config.json: must hold a JSON object, not []",
    );
}

#[test]
fn a_weights_file_cut_anywhere_is_refused() {
    let copy = Copy::of("gemma1-mqa");
    let whole = fs::read(copy.path("model.safetensors")).expect("weights");
    for cut in [0, 7, 8, 100, 5000, whole.len() / 2, whole.len() - 1] {
        fs::write(copy.path("model.safetensors"), &whole[..cut]).expect("write");
        assert_says(&copy.fault(), "model.safetensors: truncated");
    }
}

#[test]
fn options_that_do_not_fit_are_named() {
    let fault = |change: fn(&mut ImportOptions)| {
        let mut options = ImportOptions::default();
        change(&mut options);
        match import(&model_dir("gemma1-mqa"), &options) {
            Ok(_) => panic!("must be refused"),
            Err(e) => e.to_string(),
        }
    };
    assert_says(
        &fault(|o| o.context = Some(513)),
        "context 513 is more than the model's max_position_embeddings 512",
    );
    assert_says(&fault(|o| o.context = Some(0)), "context 0 must be");
    assert_says(&fault(|o| o.chunk = 0), "chunk 0 must be");
    assert_says(&fault(|o| o.slots = 0), "slots 0 must be from 1");
}
