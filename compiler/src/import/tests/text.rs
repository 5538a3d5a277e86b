//! Stop tokens, templates, special tokens and tokenizer files.

use super::*;

#[test]
fn every_parameter_of_the_story_model_is_compiled() {
    let model = load("story-gemma3");
    assert_eq!(model.facts.parameters, 7_873_792);
    assert_eq!(model.text.stop_tokens, [1, 5]);
    assert_eq!(model.text.bos, Some(2));
    assert_eq!(model.text.eos, Some(1));
    assert_eq!(model.text.sampling.top_k, Some(64));
    let spelled = ("bos_token".to_owned(), "<bos>".to_owned());
    assert!(model.text.special_tokens.contains(&spelled));
    assert!(
        model
            .text
            .chat_template
            .is_some_and(|t| t.contains("add_generation_prompt"))
    );
    assert!(model.tokenizer_json.is_some());
    assert!(model.facts.notes.is_empty(), "{:?}", model.facts.notes);
}

#[test]
fn chat_templates_are_found_where_they_are() {
    let copy = Copy::of("gemma1-mqa");
    let template = |copy: &Copy| copy.import().expect("valid").text.chat_template;
    assert_eq!(template(&copy), None);
    let named =
        json!([{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]);
    copy.write_json(
        "tokenizer_config.json",
        &json!({"chat_template": named, "add_bos_token": false, "bos_token": {"content": "<bos>"}}),
    );
    assert_eq!(template(&copy).as_deref(), Some("D"));
    let text = copy.import().expect("valid").text;
    assert_eq!(text.bos, None);
    assert_eq!(
        text.special_tokens,
        [("bos_token".to_owned(), "<bos>".to_owned())]
    );
    copy.write_json("chat_template.json", &json!({"chat_template": "J"}));
    assert_eq!(template(&copy).as_deref(), Some("J"));
    fs::write(copy.path("chat_template.jinja"), "F").expect("write");
    assert_eq!(template(&copy).as_deref(), Some("F"));
}

#[test]
fn faults_in_the_text_files_are_named() {
    let cases = [
        (
            "generation_config.json",
            json!({"eos_token_id": [1, "x"]}),
            "generation_config.json: eos_token_id must be a token id or a list of token ids, not \"x\"",
        ),
        (
            "generation_config.json",
            json!({"top_p": 1.5}),
            "generation_config.json: top_p must be a number from 0 to 1, not 1.5",
        ),
        (
            "generation_config.json",
            json!({"temperature": -1}),
            "temperature must be a number of at least 0",
        ),
        (
            "generation_config.json",
            json!({"top_k": -1}),
            "top_k must be a whole number",
        ),
        (
            "tokenizer_config.json",
            json!({"chat_template": 1}),
            "tokenizer_config.json: chat_template must be a string",
        ),
        (
            "tokenizer_config.json",
            json!({"chat_template": [{"name": "a", "template": ""}, {"name": "b", "template": ""}]}),
            "chat_template names a, b but none is \"default\"",
        ),
        (
            "tokenizer_config.json",
            json!({"eos_token": 1}),
            "eos_token must be a string",
        ),
        (
            "chat_template.json",
            json!("x"),
            "chat_template.json: must hold a JSON object",
        ),
    ];
    for (file, value, want) in cases {
        let copy = Copy::of("gemma1-mqa");
        copy.write_json(file, &value);
        assert_says(&copy.fault(), want);
    }
}

#[test]
fn stop_tokens_fall_back_to_the_configuration() {
    let copy = Copy::of("gemma1-mqa");
    fs::remove_file(copy.path("generation_config.json")).expect("remove");
    copy.set("eos_token_id", json!([5, 1, 5, 9999]));
    let model = copy.import().expect("valid");
    assert_eq!(model.text.stop_tokens, [5, 1]);
    assert_eq!(model.text.eos, Some(5));
    let notes = model.facts.notes;
    assert!(
        notes
            .iter()
            .any(|n| n.contains("stop token 9999 is left out")),
        "{notes:?}"
    );
}

#[test]
fn only_a_sentencepiece_model_is_handed_on() {
    let copy = Copy::of("gemma1-mqa");
    let model = copy.import().expect("valid");
    assert!(!model.text.has_tokenizer);
    assert!(
        model
            .facts
            .notes
            .iter()
            .any(|n| n.contains("no tokenizer.json"))
    );
    fs::write(copy.path("tokenizer.model"), "x").expect("write");
    let model = copy.import().expect("valid");
    assert!(model.text.has_tokenizer);
    assert_eq!(model.tokenizer_model, Some(copy.path("tokenizer.model")));
    fs::write(copy.path("tokenizer.json"), "{}").expect("write");
    let model = copy.import().expect("valid");
    assert_eq!(model.tokenizer_model, None);
    assert_eq!(model.tokenizer_json, Some(copy.path("tokenizer.json")));
}
