//! The gemrun binary over a tiny model: results, exit codes, and one line for each error. `logits` has a file of its own.

mod support;

use gembin_bundle::format::References;
use gembin_chat::{Message, Template};
use gembin_runtime::chat::encode_conversation;
use gembin_runtime::engine::{Engine, OpenOptions, Wanted};
use gembin_runtime::sampler::{Sampler, SamplingParams};
use gembin_tokenizer::Tokenizer;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::VOCAB;
use support::command::{Fixture, error, gemrun, json, piped, stdout};
use tempfile::TempDir;

fn references(bundle: &Path, tolerance: f32) -> References {
    let mut engine = Engine::open(bundle, &OpenOptions::default()).unwrap();
    let tokens = vec![2, 11, 5];
    let prefill_logits = engine.prefill(0, &tokens, Wanted::Last).unwrap().to_vec();
    let decode_logits = engine.decode(&[(0, 7)]).unwrap().to_vec();
    References {
        tokens,
        prefill_logits,
        decode_token: 7,
        decode_logits,
        tolerance,
    }
}

#[test]
fn greedy_ids_are_the_argmax_of_the_engine() {
    let fixture = Fixture::new();
    let output = fixture.run(
        "generate",
        &[
            "--ids",
            "2,11,5",
            "--greedy",
            "-n",
            "6",
            "--ignore-eos",
            "--json",
        ],
    );
    let got: Vec<u32> = serde_json::from_value(json(&output)["ids"].clone()).unwrap();

    let mut engine = Engine::open(&fixture.bundle, &OpenOptions::default()).unwrap();
    let argmax = |logits: &[f32]| {
        (0..logits.len())
            .max_by(|&a, &b| logits[a].total_cmp(&logits[b]))
            .unwrap() as u32
    };
    let mut want = vec![argmax(
        engine.prefill(0, &[2, 11, 5], Wanted::Last).unwrap(),
    )];
    while want.len() < 6 {
        let token = want[want.len() - 1];
        want.push(argmax(engine.decode(&[(0, token)]).unwrap()));
    }
    assert_eq!(got, want);
}

#[test]
fn ids_are_streamed_where_there_is_no_tokenizer() {
    let fixture = Fixture::new();
    let args = [
        "--ids",
        "2,11,5",
        "--seed",
        "3",
        "--temperature",
        "1",
        "-n",
        "4",
        "--ignore-eos",
    ];
    let once = stdout(&fixture.run("generate", &args));
    assert_eq!(once.trim_end().split(',').count(), 4, "{once}");
    assert_eq!(
        once,
        stdout(&fixture.run("generate", &args)),
        "same seed, same tokens"
    );
}

#[test]
fn a_generation_that_fills_the_context_says_so() {
    let fixture = Fixture::new();
    let output = fixture.run(
        "generate",
        &["--ids", "2", "--greedy", "--ignore-eos", "-n", "1000"],
    );
    // 96 positions: the prompt's one, and 95 tokens that were inputs, and one more that was sampled last.
    assert_eq!(stdout(&output).trim_end().split(',').count(), 96);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("context of 96 tokens is full"), "{stderr}");
}

#[test]
fn info_tells_of_caches_and_programs() {
    let fixture = Fixture::new();
    let info = json(&fixture.run("info", &["--json"]));
    assert_eq!(
        info["memory"]["caches"][1]["capacity_tokens"],
        support::RING
    );
    assert_eq!(
        info["memory"]["caches"][1]["window_tokens"],
        support::WINDOW
    );
    assert_eq!(info["plans"][0]["programs"][1]["max_rows"], support::CHUNK);
    assert_eq!(info["sections"][1]["kind"], "weights");
    let text = stdout(&fixture.run("info", &[]));
    for part in [
        "tiny",
        "random weights",
        "ring, window 4",
        "prefill_8",
        "9 linear",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
}

#[test]
fn bench_reports_medians_and_runs() {
    let fixture = Fixture::new();
    let args = [
        "--prompt-tokens",
        "20",
        "--gen-tokens",
        "5",
        "--repeat",
        "3",
        "--json",
    ];
    let report = json(&fixture.run("bench", &args));
    assert_eq!(report["runs"].as_array().unwrap().len(), 3);
    let mut rates: Vec<f64> = (0..3)
        .map(|run| {
            report["runs"][run]["decode"]["tokens_per_s"]
                .as_f64()
                .unwrap()
        })
        .collect();
    rates.sort_by(f64::total_cmp);
    assert_eq!(report["decode_tokens_per_s"].as_f64().unwrap(), rates[1]);
    assert!(report["prefill_tokens_per_s"].as_f64().unwrap() > 0.0);

    // Five tokens after twenty: every weight each time but for the embedding's rows, which the head reads whole; of
    // the first layer's keys and values all positions, of the second's four.
    let info = json(&fixture.run("info", &["--json"]));
    let weights = info["formats"][0]["bytes"].as_u64().unwrap();
    let embedding_row = 64 * 4;
    let decode = &report["runs"][0]["decode"];
    assert_eq!(decode["weight_bytes"], 5 * (weights + embedding_row));
    let position = 2 * 2 * 16 * 4;
    let positions: u64 = (21..26).map(|seen| seen + 4).sum();
    assert_eq!(decode["cache_bytes"], positions * position);
}

#[test]
fn verify_replays_the_references() {
    let fixture = Fixture::new();
    let good = references(&fixture.bundle, 1e-5);
    let bundle = support::write_as(fixture.dir.path(), "good.gembin", Some(&good));
    let report = json(&gemrun("verify", &bundle, &["--json"]));
    assert_eq!(report["ok"], true);
    assert_eq!(report["replays"][1]["name"], "decode");

    let mut bad = good;
    bad.decode_logits[3] += 1.0;
    let bundle = support::write_as(fixture.dir.path(), "bad.gembin", Some(&bad));
    let output = gemrun("verify", &bundle, &[]);
    assert!(error(&output, 1).contains("not reproduced"));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("replay prefill (3 tokens): ok"), "{text}");
    assert!(
        text.contains("replay decode (1 tokens): DIFFERENT"),
        "{text}"
    );
}

#[test]
fn verify_names_every_damaged_weight() {
    let fixture = Fixture::new();
    let mut bytes = std::fs::read(&fixture.bundle).unwrap();
    let end = bytes.len();
    let sections = json(&fixture.run("info", &["--json"]))["sections"].clone();
    let weights = sections[1]["offset"].as_u64().unwrap() as usize;
    bytes[weights] ^= 0x80;
    bytes[end - 4096 - 64] ^= 1;
    std::fs::write(&fixture.bundle, bytes).unwrap();
    let output = fixture.run("verify", &[]);
    let line = error(&output, 1);
    assert!(
        line.contains("2 parts of the weights are damaged: \"embedding\", "),
        "{line}"
    );
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.matches("damaged: ").count(), 2, "{text}");
    assert!(text.contains("\"embedding\""), "{text}");
    let output = fixture.run("generate", &["--ids", "2", "--check"]);
    assert!(error(&output, 1).contains("damaged weights"));
}

#[test]
fn devices_are_listed() {
    let output = Command::new(env!("CARGO_BIN_EXE_gemrun"))
        .args(["devices", "--json"])
        .output()
        .unwrap();
    let devices = json(&output);
    assert_eq!(devices[0]["name"], "cpu");
    assert_eq!(devices[0]["usable"], true);
    // The tests' set-up installs a Vulkan device in software.
    assert_eq!(devices[1]["name"], "vulkan:0", "{devices}");
    assert_eq!(devices[1]["usable"], true, "{devices}");
    let about = devices[1]["about"].as_str().unwrap();
    assert!(about.contains("wave ") && about.contains(" GiB"), "{about}");
}

#[test]
fn a_machine_without_a_gpu_says_so_and_lists_the_rest() {
    let output = Command::new(env!("CARGO_BIN_EXE_gemrun"))
        .arg("devices")
        .env("VK_DRIVER_FILES", "/nothing/here.json")
        .env("VK_ICD_FILENAMES", "/nothing/here.json")
        .output()
        .unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("cpu: "), "{text}");
    assert!(
        text.contains("vulkan: not usable: no Vulkan driver is installed")
            || text.contains("vulkan: not usable: no GPU with a Vulkan driver"),
        "{text}"
    );
}

#[test]
fn user_errors_are_one_line_and_exit_1() {
    let fixture = Fixture::new();
    let cases: &[(&str, &[&str], &str)] = &[
        (
            "generate",
            &["--ids", "2,1030"],
            "token id 1030 is out of range",
        ),
        ("generate", &["--prompt", "hello"], "has no tokenizer"),
        ("chat", &[], "has no tokenizer"),
        (
            "generate",
            &["--prompt-file", "/nothing/here"],
            "cannot read /nothing/here",
        ),
        (
            "eval",
            &["--text", "/nothing/here"],
            "cannot read /nothing/here",
        ),
        (
            "bench",
            &["--prompt-tokens", "90", "--gen-tokens", "9"],
            "context of 96",
        ),
    ];
    for (command, args, message) in cases {
        let line = error(&fixture.run(command, args), 1);
        assert!(line.contains(message), "{command} {args:?}: {line}");
    }
    let long = vec!["3"; 97].join(",");
    let line = error(&fixture.run("generate", &["--ids", &long]), 1);
    assert!(line.contains("97 tokens") && line.contains("96"), "{line}");
}

#[test]
fn wrong_usage_exits_2() {
    let fixture = Fixture::new();
    let cases: &[(&str, &[&str], &str)] = &[
        ("generate", &["--ids", "2,x"], "token id 2 is \"x\""),
        ("generate", &["--ids", ""], "no token ids"),
        (
            "generate",
            &["--prompt", "a", "--ids", "2"],
            "cannot be used with",
        ),
        ("generate", &["--no-such-option"], "--no-such-option"),
        ("generate", &["--isa", "sse9"], "sse9"),
        (
            "generate",
            &["--stop", ""],
            "an empty one would stop at once",
        ),
        ("generate", &["-n", "-1"], "a whole number from 0"),
        ("generate", &["--seed", "-1"], "-1"),
        ("generate", &["--top-k", "-1"], "-1 is not in 0..="),
        (
            "eval",
            &["--text", "x", "--max-docs", "0"],
            "a whole number from 1",
        ),
        ("logits", &["--ids", "2"], "--output"),
        ("bench", &["--threads", "0"], "0 is not in 1..=512"),
        (
            "bench",
            &["--threads", "100000"],
            "100000 is not in 1..=512",
        ),
        ("bench", &["--repeat", "0"], "0 is not in 1.."),
    ];
    for (command, args, message) in cases {
        let text = error(&fixture.run(command, args), 2);
        assert!(text.contains(message), "{command} {args:?}: {text}");
    }
    for name in ["tpu", "cpu:1", "vulkan:", "tpu:0"] {
        let text = error(&fixture.run("generate", &["--device", name]), 1);
        assert!(
            text.contains(&format!("unknown device {name}; known: auto, cpu, vulkan")),
            "{text}"
        );
    }
    let text = error(
        &fixture.run("generate", &["--ids", "2", "--device", "vulkan:0"]),
        1,
    );
    assert!(
        text.contains("no plan that runs on vulkan:0 alone; its plans: cpu"),
        "{text}"
    );
}

#[test]
fn sampling_parameters_out_of_range_are_wrong_usage_with_the_range() {
    let fixture = Fixture::new();
    for (option, values, range) in [
        ("--temperature", ["nan", "-1", "inf"], "0 (greedy) or more"),
        ("--top-p", ["2", "0", "-0.5"], "above 0 and at most 1"),
        ("--min-p", ["inf", "-1", "1.5"], "from 0 to 1"),
        ("--repetition-penalty", ["0", "-1", "nan"], "above 0"),
        ("--temperature", ["warm", "", "1,5"], "it must be a number"),
        ("--min-p", ["-inf", "--greedy", "-x"], "'--min-p <P>': "),
    ] {
        for value in values {
            for command in ["generate", "chat"] {
                let text = error(&fixture.run(command, &[option, value]), 2);
                assert!(text.contains(range), "{option} {value}: {text}");
                assert!(!text.contains("tip"), "{option} {value}: {text}");
            }
        }
    }
}

#[test]
fn more_threads_than_cores_are_remarked_once() {
    let fixture = Fixture::new();
    let cores = std::thread::available_parallelism().unwrap().get();
    let note = |threads: usize| {
        let threads = threads.to_string();
        let args = ["--ids", "2", "-n", "1", "--threads", &threads];
        let output = fixture.run("generate", &args);
        stdout(&output);
        String::from_utf8(output.stderr).unwrap()
    };
    let more = cores + 1;
    let told = note(more);
    assert!(
        told.starts_with(&format!("note: {more} threads on {cores} core")),
        "{told}"
    );
    assert_eq!(told.lines().count(), 1, "{told}");
    assert_eq!(note(cores), "");
}

#[test]
fn every_command_explains_itself_with_examples() {
    for command in [
        "generate", "chat", "info", "eval", "logits", "bench", "verify", "devices",
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_gemrun"))
            .args([command, "--help"])
            .output()
            .unwrap();
        let text = stdout(&output);
        assert!(text.contains(&format!("\n  gemrun {command}")), "{text}");
    }
}

#[test]
fn a_reader_that_goes_away_ends_the_program_quietly() {
    let fixture = Fixture::new();
    let mut child = Command::new(env!("CARGO_BIN_EXE_gemrun"))
        .arg("info")
        .arg(&fixture.bundle)
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

/// A model with a tokenizer, and its parts.
struct Speaking {
    dir: TempDir,
    bundle: PathBuf,
    engine: Engine,
    tokenizer: Tokenizer,
}

impl Speaking {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let bundle = support::write_with_text(dir.path());
        let engine = Engine::open(&bundle, &OpenOptions::default()).unwrap();
        let tokenizer = Tokenizer::load(engine.bundle().tokenizer().unwrap()).unwrap();
        Self {
            dir,
            bundle,
            engine,
            tokenizer,
        }
    }

    /// The text that greedy decoding writes after `prompt`, the whole of it run at once.
    fn greedy(&mut self, prompt: &[u32], count: usize) -> String {
        let mut sampler = Sampler::new(VOCAB as usize, SamplingParams::greedy(), 0).unwrap();
        self.engine.reset(0).unwrap();
        let logits = self.engine.prefill(0, prompt, Wanted::Last).unwrap();
        let mut tokens = vec![sampler.sample(logits).unwrap()];
        while tokens.len() < count && tokens.last() != Some(&support::STOP) {
            let last = tokens[tokens.len() - 1];
            tokens.push(
                sampler
                    .sample(self.engine.decode(&[(0, last)]).unwrap())
                    .unwrap(),
            );
        }
        self.tokenizer.decode(&tokens, false)
    }
}

#[test]
fn a_prompt_is_the_same_from_argument_file_and_stdin() {
    let mut model = Speaking::new();
    let mut prompt = vec![2];
    prompt.extend(model.tokenizer.encode("Once upon a time"));
    let want = format!("{}\n", model.greedy(&prompt, 8));
    let file = model.dir.path().join("prompt.txt");
    std::fs::write(&file, "Once upon a time\n").unwrap();
    let args = ["--greedy", "-n", "8"];
    let with = |more: [&str; 2]| {
        stdout(&gemrun(
            "generate",
            &model.bundle,
            &[&args[..], &more].concat(),
        ))
    };
    assert_eq!(with(["--prompt", "Once upon a time"]), want);
    assert_eq!(with(["--prompt-file", file.to_str().unwrap()]), want);
    let output = piped("generate", &model.bundle, &args, b"Once upon a time\n");
    assert_eq!(stdout(&output), want);
}

#[test]
fn bytes_that_are_no_text_are_refused_with_their_place() {
    let model = Speaking::new();
    let output = piped("generate", &model.bundle, &[], b"ab\xff");
    assert!(error(&output, 1).contains("stdin: not valid UTF-8 at byte 2"));
    let output = piped("chat", &model.bundle, &[], b"\xff\n");
    assert!(error(&output, 1).contains("not valid UTF-8 at byte 0"));
}

#[test]
fn a_conversation_in_the_cache_is_answered_like_one_run_at_once() {
    let mut model = Speaking::new();
    let template = Template::new(
        support::TEMPLATE,
        &[("bos_token".to_owned(), "<bos>".to_owned())],
    )
    .unwrap();
    let mut messages = Vec::new();
    let mut want = String::new();
    let mut prompt_tokens = Vec::new();
    for question in ["Who are you?", "And who am I?", "Why?"] {
        messages.push(Message::new("user", question));
        let prompt = encode_conversation(&template, &model.tokenizer, &messages).unwrap();
        prompt_tokens.push(prompt.len());
        let answer = model.greedy(&prompt, 5);
        want += &format!("{answer}\n");
        messages.push(Message::new("assistant", answer));
    }
    // The same again after a reset.
    let input = b"Who are you?\nAnd who am I?\n\nWhy?\n/reset\nWho are you?\n/quit\nnever\n";
    let args = ["--greedy", "-n", "5", "--stats"];
    let output = piped("chat", &model.bundle, &args, input);
    let first = want.lines().next().unwrap();
    assert_eq!(stdout(&output), format!("{want}{first}\n"));
    // Only what is new of a turn has been run.
    let stderr = String::from_utf8(output.stderr).unwrap();
    let run: Vec<usize> = stderr
        .lines()
        .filter_map(|line| {
            line.strip_prefix("prompt:")?
                .split_whitespace()
                .next()?
                .parse()
                .ok()
        })
        .collect();
    assert_eq!(run.len(), 4, "{stderr}");
    assert_eq!((run[0], run[3]), (prompt_tokens[0], prompt_tokens[0]));
    assert!(
        run[1] < prompt_tokens[1] && run[2] < prompt_tokens[2],
        "{run:?} {prompt_tokens:?}"
    );
}

#[test]
fn eval_sums_the_log_probabilities_of_every_token_after_the_first() {
    let mut model = Speaking::new();
    let documents = ["Once upon a time", "The cat sat."];
    let (mut tokens, mut nll) = (0, 0.0);
    for document in documents {
        let mut ids = vec![2];
        ids.extend(model.tokenizer.encode(document));
        ids.push(support::STOP);
        model.engine.reset(0).unwrap();
        for pair in ids.windows(2) {
            let logits = model.engine.decode(&[(0, pair[0])]).unwrap();
            let sum: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
            nll += sum.ln() - f64::from(logits[pair[1] as usize]);
            tokens += 1;
        }
    }
    let file = model.dir.path().join("text.txt");
    std::fs::write(
        &file,
        format!("\u{feff}{}\n \t\n\n{}\nmore\n", documents[0], documents[1]),
    )
    .unwrap();
    let args = [
        "--text",
        file.to_str().unwrap(),
        "--max-docs",
        "2",
        "--json",
    ];
    let score = json(&gemrun("eval", &model.bundle, &args));
    assert_eq!(score["tokens"], tokens);
    let got = score["nll"].as_f64().unwrap();
    assert!((got - nll).abs() < 1e-4 * nll, "{got} {nll}");
    let perplexity = score["perplexity"].as_f64().unwrap();
    assert!((perplexity - (got / f64::from(tokens)).exp()).abs() < 1e-9);

    std::fs::write(&file, format!("short\n{}\n", "fox ".repeat(200))).unwrap();
    let output = gemrun("eval", &model.bundle, &["--text", file.to_str().unwrap()]);
    let line = error(&output, 1);
    let inputs = 1 + model.tokenizer.encode(&"fox ".repeat(200)).len();
    assert!(
        line.contains("line 2: ")
            && line.contains(&format!("{inputs} tokens do not fit the context of 96")),
        "{line}"
    );
}

#[test]
fn a_stop_string_ends_the_text_before_it() {
    let mut model = Speaking::new();
    let mut prompt = vec![2];
    prompt.extend(model.tokenizer.encode("Once"));
    let whole = model.greedy(&prompt, 12);
    let stop: String = whole.chars().skip(4).take(3).collect();
    let want = &whole[..whole.find(&stop).unwrap()];
    let args = [
        "--prompt", "Once", "--greedy", "-n", "12", "--stop", &stop, "--json",
    ];
    let report = json(&gemrun("generate", &model.bundle, &args));
    assert_eq!(report["text"], want);
    assert_eq!(report["ended"], "stop_string");
}
