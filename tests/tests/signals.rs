//! `gemrun` interrupted from outside: it stops at once, keeps what a user would miss, leaves nothing half done, exit
//! code 130.

use gembin_tests::commands::gemrun_path;
use gembin_tests::{gemc, gemrun, model_dir, scratch_dir};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// What a command says that was stopped: 128 + SIGINT.
const STOPPED: Option<i32> = Some(130);

/// Positions of the bundle, as many as the model has.
const CONTEXT: usize = 2048;

/// So slow that a full context takes seconds, and none of the commands here is done before it is told to stop.
const SLOW: [&str; 6] = ["--device", "cpu", "--isa", "scalar", "--threads", "1"];

/// A model with a tokenizer and a long context, compiled once for the whole file.
fn story() -> &'static Path {
    static BUNDLE: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = BUNDLE.get_or_init(|| {
        let dir = scratch_dir();
        let path = dir.path().join("story.gembin");
        let model = model_dir("story-gemma3");
        let context = CONTEXT.to_string();
        gemc([
            "compile",
            model.to_str().unwrap(),
            "-o",
            path.to_str().unwrap(),
            "--context",
            &context,
        ])
        .success();
        (dir, path)
    });
    path
}

/// A command on the story model with all of its streams piped; killed if the test gives up on it.
struct Running(Child);

impl Running {
    fn start(name: &str, args: &[&str]) -> Self {
        let child = Command::new(gemrun_path())
            .arg(name)
            .arg(story())
            .args(args)
            .args(SLOW)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("gemrun starts");
        Self(child)
    }

    fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.0.id());
        let sent = Command::new("sh").args(["-c", &kill]).status();
        assert!(sent.expect("sh starts").success(), "{kill}");
    }

    /// Exit code, the rest of standard output, and standard error.
    fn end(mut self) -> (Option<i32>, String, String) {
        let (mut out, mut err) = (String::new(), String::new());
        let mut stderr = self.0.stderr.take().expect("piped");
        let reader = std::thread::spawn(move || {
            stderr.read_to_string(&mut err).expect("UTF-8");
            err
        });
        if let Some(mut stdout) = self.0.stdout.take() {
            stdout.read_to_string(&mut out).expect("UTF-8");
        }
        let code = self.0.wait().expect("the child can be waited for").code();
        (code, out, reader.join().expect("stderr is read"))
    }

    /// The first `count` bytes of standard output.
    fn first(&mut self, count: usize) -> String {
        let mut bytes = vec![0; count];
        let stdout = self.0.stdout.as_mut().expect("piped");
        stdout.read_exact(&mut bytes).expect("text comes");
        String::from_utf8(bytes).expect("the story is ASCII")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has usually ended by itself.
        let _ended = self.0.kill();
        let _ended = self.0.wait();
    }
}

/// Waits until `is_so`, for a minute.
#[track_caller]
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(60), "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

const STORY: [&str; 5] = [
    "--prompt",
    "Once upon a time",
    "--greedy",
    "--ignore-eos",
    "-n",
];

#[test]
fn a_stopped_generation_keeps_what_was_written() {
    for signal in ["INT", "TERM"] {
        let mut running = Running::start("generate", &[&STORY[..], &["2000"]].concat());
        let first = running.first(40);
        running.signal(signal);
        let (code, rest, stderr) = running.end();
        assert_eq!(code, STOPPED, "SIG{signal}: {stderr}");
        assert_eq!(stderr, "");
        let text = first + &rest;
        assert!(text.ends_with('\n'), "the line is ended: {text:?}");
        // As many tokens as the text has bytes are more than it has.
        let most = text.len().to_string();
        let bundle = story().to_str().unwrap();
        let args = [&["generate", bundle], &STORY[..], &[&most], &SLOW].concat();
        let whole = gemrun(args).success();
        assert!(whole.starts_with(text.trim_end_matches('\n')), "{text:?}");
    }
}

#[test]
fn a_stopped_generation_in_json_is_whole_and_says_why() {
    let args = [&STORY[..], &["2000", "--json"]].concat();
    let running = Running::start("generate", &args);
    // Nothing is printed before the end, so the time it has computed tells that it is in the middle.
    let stat = format!("/proc/{}/stat", running.0.id());
    wait_until("half a second of computing", || user_ticks(&stat) >= 50);
    running.signal("INT");
    let (code, out, stderr) = running.end();
    assert_eq!(code, STOPPED, "{stderr}");
    let report: serde_json::Value = serde_json::from_str(&out).expect("one JSON value");
    assert_eq!(report["ended"], "interrupted");
    let ids = report["ids"].as_array().expect("ids").len();
    assert_eq!(report["generated_tokens"], ids);
    assert!(ids < 2000, "{ids}");
}

/// Hundredths of a second that a process has computed: the 14th field, the second one being its name in brackets.
fn user_ticks(stat_file: &str) -> u64 {
    let stat = fs::read_to_string(stat_file).unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let ticks = fields.split_whitespace().nth(11).map(str::parse);
    ticks.and_then(Result::ok).unwrap_or(0)
}

#[test]
fn waiting_for_input_ends_at_once() {
    for (name, signal) in [("generate", "TERM"), ("chat", "INT")] {
        let mut running = Running::start(name, &["--greedy", "-n", "3"]);
        let stdin = running.0.stdin.take();
        if name == "chat" {
            // An answer shows that it waits for the next line.
            let mut stdin = stdin.as_ref().expect("piped");
            stdin.write_all(b"Hello!\n").expect("is read");
            let stdout = running.0.stdout.as_mut().expect("piped");
            let mut line = String::new();
            BufReader::new(stdout)
                .read_line(&mut line)
                .expect("answers");
        } else {
            let signals = format!("/proc/{}/status", running.0.id());
            wait_until("it listens to signals", || catches_sigint(&signals));
        }
        std::thread::sleep(Duration::from_millis(100));
        running.signal(signal);
        let (code, out, stderr) = running.end();
        assert_eq!((code, out.as_str(), stderr.as_str()), (STOPPED, "", ""));
        drop(stdin);
    }
}

/// Bit 1 of the mask of signals caught is SIGINT's.
fn catches_sigint(status_file: &str) -> bool {
    let status = fs::read_to_string(status_file).unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & 0b10 != 0)
}

/// As many ids as the context holds.
fn ids() -> String {
    vec!["5"; CONTEXT].join(",")
}

#[test]
fn stopped_logits_leave_nothing() {
    let dir = scratch_dir();
    let path = dir.path().join("out.safetensors");
    let args = ["--ids", &ids(), "-o", path.to_str().unwrap()];
    let running = Running::start("logits", &args);
    let count = || fs::read_dir(dir.path()).unwrap().count();
    wait_until("a temporary file", || count() > 0);
    assert!(!path.exists(), "the file has its name before it is whole");
    running.signal("INT");
    let (code, out, stderr) = running.end();
    assert_eq!((code, out.as_str(), stderr.as_str()), (STOPPED, "", ""));
    assert_eq!(count(), 0);
}

#[test]
fn stopped_logits_end_in_a_pipe_too() {
    let dir = scratch_dir();
    let pipe = dir.path().join("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status();
    assert!(made.expect("mkfifo starts").success());
    let args = ["--ids", &ids(), "-o", pipe.to_str().unwrap()];
    let running = Running::start("logits", &args);
    let mut reader = File::open(&pipe).unwrap();
    let row_bytes = 1024 * 4;
    let mut bytes = vec![0; 2 * row_bytes];
    reader.read_exact(&mut bytes).unwrap();
    // The pipe is full long before the last row, so it cannot have ended.
    running.signal("INT");
    reader.read_to_end(&mut bytes).unwrap();
    let (code, _, stderr) = running.end();
    assert_eq!((code, stderr.as_str()), (STOPPED, ""));
    assert!(bytes.len() < CONTEXT * row_bytes, "all rows were written");
}

#[test]
fn a_stopped_answer_ends_a_conversation_over_pipes() {
    let mut running = Running::start("chat", &["--greedy", "-n", "2000"]);
    let mut stdin = running.0.stdin.take().expect("piped");
    stdin
        .write_all(b"Write a story.\nAnother.\n")
        .expect("is read");
    let first = running.first(10);
    running.signal("INT");
    let (code, rest, stderr) = running.end();
    assert_eq!(code, STOPPED, "{stderr}");
    let answers = first + &rest;
    assert_eq!(answers.lines().count(), 1, "no second answer: {answers}");
    assert!(answers.ends_with('\n'), "{answers:?}");
}
