//! `gemrun` as a user meets it: text in, text out.

use gembin_tests::commands::{gemrun_path, peak_memory_bytes, run};
use gembin_tests::{gemc, gemrun, model_dir, scratch_dir};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The story model in q8, compiled once for the whole file.
fn story() -> &'static str {
    static BUNDLE: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = BUNDLE.get_or_init(|| {
        let dir = scratch_dir();
        let path = dir.path().join("story.gembin");
        let model = model_dir("story-gemma3");
        gemc([
            "compile",
            model.to_str().unwrap(),
            "-o",
            path.to_str().unwrap(),
        ])
        .success();
        (dir, path)
    });
    path.to_str().unwrap()
}

fn generate(args: &[&str]) -> String {
    gemrun(
        ["generate", story()]
            .into_iter()
            .chain(args.iter().copied()),
    )
    .success()
}

#[test]
fn the_same_seed_gives_the_same_text_and_another_seed_another() {
    let prompt = [
        "--chat",
        "--prompt",
        "Write a story about a brave fox.",
        "--max-tokens",
        "60",
    ];
    let with = |seed: &str, threads: &str| {
        let mut args = prompt.to_vec();
        args.extend(["--seed", seed, "--threads", threads]);
        generate(&args)
    };
    let text = with("7", "1");
    assert_eq!(text, with("7", "1"));
    assert_eq!(
        text,
        with("7", "2"),
        "the number of threads changed the text"
    );
    let others = ["8", "9", "10"].map(|seed| with(seed, "1"));
    assert!(
        others.iter().any(|other| *other != text),
        "four seeds, one text: {text}"
    );
}

#[test]
fn greedy_has_several_names_and_filters_that_leave_all_change_nothing() {
    let with = |options: &[&str]| {
        let prompt = ["--prompt", "Once upon a time", "-n", "40", "--seed", "5"];
        generate(&[&prompt[..], options].concat())
    };
    let greedy = with(&["--greedy"]);
    assert_eq!(with(&["--temperature", "0"]), greedy);
    assert_eq!(with(&["--temperature", "1.3", "--top-k", "1"]), greedy);
    assert_eq!(with(&["--temperature", "1.3", "--min-p", "1"]), greedy);
    let sampled = with(&["--temperature", "1.3", "--top-k", "0", "--top-p", "1"]);
    assert_ne!(
        sampled, greedy,
        "40 tokens at temperature 1.3 are not the likeliest"
    );
    let all = ["--temperature", "1.3", "--top-k", "1000000", "--top-p", "1"];
    assert_eq!(
        with(&[&all[..], &["--min-p", "0", "--repetition-penalty", "1"]].concat()),
        sampled
    );
    let penalty = ["--greedy", "--repetition-penalty", "1.8"];
    assert_ne!(with(&penalty), greedy, "40 tokens of a story repeat none");
}

#[test]
fn a_chat_prompt_gives_a_story_that_ends_by_itself() {
    let text = generate(&[
        "--chat",
        "--prompt",
        "Write a story about a brave fox.",
        "--greedy",
        "--max-tokens",
        "400",
    ]);
    assert!(text.contains("fox"), "{text}");
    assert!(text.split_whitespace().count() > 30, "{text}");
    assert!(!text.contains("<end_of_turn>"), "{text}");
}

#[test]
fn a_prompt_comes_from_argument_file_or_standard_input() {
    let prompt = "Once upon a time";
    let dir = scratch_dir();
    let file = dir.path().join("prompt.txt");
    fs::write(&file, prompt).unwrap();
    let flags = ["--greedy", "--max-tokens", "20"];
    let argument = generate(&[&["--prompt", prompt][..], &flags].concat());
    let from_file = generate(&[&["--prompt-file", file.to_str().unwrap()][..], &flags].concat());
    let mut command = Command::new(gemrun_path());
    command.args(["generate", story()]).args(flags);
    let piped = run(&mut command, prompt.as_bytes()).success();
    assert_eq!(argument, from_file);
    assert_eq!(argument, piped);
    assert!(!argument.trim().is_empty());
}

#[test]
fn a_stop_string_ends_the_text_before_it() {
    let flags = [
        "--prompt",
        "Once upon a time",
        "--greedy",
        "--max-tokens",
        "60",
    ];
    let whole = generate(&flags);
    let word = whole
        .split_whitespace()
        .nth(6)
        .expect("some words")
        .to_owned();
    let cut = generate(&[&flags[..], &["--stop", &word]].concat());
    assert!(!cut.contains(&word), "{cut:?} holds {word:?}");
    assert!(
        whole.starts_with(cut.trim_end_matches('\n')),
        "{cut:?} is no start of {whole:?}"
    );
}

#[test]
fn an_empty_prompt_is_a_document_from_its_start() {
    assert!(
        !generate(&["--prompt", "", "--max-tokens", "10", "--seed", "3"])
            .trim()
            .is_empty()
    );
}

#[test]
fn chat_remembers_earlier_turns_and_forgets_them_on_reset() {
    let mut command = Command::new(gemrun_path());
    command.args(["chat", story(), "--greedy", "--max-tokens", "40"]);
    let (first, second) = (
        "Write a story about a brave fox.",
        "Write a story about a shy owl.",
    );
    let out = run(
        &mut command,
        format!("{first}\n{second}\n/reset\n{first}\n").as_bytes(),
    );
    let out = out.success();
    let answers: Vec<&str> = out.lines().collect();
    assert_eq!(answers.len(), 3, "an answer a turn: {out}");
    assert_eq!(answers[0], answers[2], "a reset starts over");

    // The same conversation as one prompt, nothing of it cached.
    let turn = |role: &str, text: &str| format!("<start_of_turn>{role}\n{text}<end_of_turn>\n");
    let whole = [
        turn("user", first),
        turn("model", answers[0].trim()),
        turn("user", second),
        "<start_of_turn>model\n".to_owned(),
    ];
    let again = generate(&[
        "--prompt",
        &whole.concat(),
        "--greedy",
        "--max-tokens",
        "40",
    ]);
    assert_eq!(answers[1].trim(), again.trim());
}

#[test]
fn info_bench_and_devices_print_json() {
    let parse = |text: String| -> serde_json::Value {
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
    };
    let info = parse(gemrun(["info", story(), "--json"]).success());
    assert!(info.is_object());
    let bench = gemrun([
        "bench",
        story(),
        "--prompt-tokens",
        "20",
        "--gen-tokens",
        "5",
        "--repeat",
        "2",
        "--json",
    ]);
    let bench = parse(bench.success());
    for key in ["prefill_tokens_per_s", "decode_tokens_per_s"] {
        assert!(
            bench[key].as_f64().is_some_and(|v| v > 0.0),
            "{key} in {bench}"
        );
    }
    assert_eq!(bench["runs"].as_array().map(Vec::len), Some(2));
}

#[test]
fn every_command_has_help_with_examples() {
    for (tool, commands) in [
        (
            gemrun_path(),
            &[
                "generate", "chat", "info", "eval", "logits", "bench", "verify", "devices",
            ][..],
        ),
        (
            gembin_tests::commands::gemc_path(),
            &["compile", "emit", "synth"],
        ),
    ] {
        for name in commands {
            let out = run(Command::new(tool).args([name, "--help"]), b"").success();
            assert!(out.contains("Example"), "{name} --help has no example");
        }
    }
}

#[test]
fn a_conversation_fills_the_context_and_says_so() {
    let dir = scratch_dir();
    let path = dir.path().join("m.gembin");
    let model = model_dir("story-gemma3-draft");
    gemc([
        Path::new("compile"),
        &model,
        Path::new("-o"),
        &path,
        Path::new("--context"),
        Path::new("24"),
    ])
    .success();
    let out = gemrun([
        "generate",
        path.to_str().unwrap(),
        "--prompt",
        "One day",
        "--ignore-eos",
        "--max-tokens",
        "100",
    ]);
    assert_eq!(out.code, Some(0), "{}", out.stderr);
    assert!(
        out.stderr.contains("24"),
        "no notice that the context is full: {}",
        out.stderr
    );
}

#[test]
fn resident_memory_is_the_bundle_and_the_planned_arena_and_little_more() {
    let info = gemrun(["info", story(), "--json"]).success();
    let info: serde_json::Value = serde_json::from_str(&info).expect("one JSON value");
    let arena = info["memory"]["arena_bytes"]
        .as_u64()
        .unwrap_or_else(|| panic!("no size of the arena in {info}"));
    let bundle = fs::metadata(story()).expect("the bundle is there").len();
    let mut command = Command::new(gemrun_path());
    command.args(["generate", story(), "--prompt", "One day", "--ignore-eos"]);
    command.args(["--max-tokens", "1500"]);
    let peak = peak_memory_bytes(&mut command, "VmRSS");
    let most = bundle + arena + (64 << 20);
    assert!(peak <= most, "{peak} bytes resident, at most {most}");
}
