//! Whatever is done to a module's text, nobody panics: lines left out or doubled, numbers replaced.

use super::*;
use std::panic::catch_unwind;

fn survives(what: &str, text: &str) {
    if catch_unwind(|| judge(text)).is_err() {
        panic!("{what}: somebody panicked");
    }
    // The simulator alone meets what the checker would have refused.
    let simulated = catch_unwind(|| {
        let module = Module::read(text).ok()?;
        check(&module, Array::npu2());
        simulate(&module).err()
    });
    assert!(simulated.is_ok(), "{what}: the simulator panicked");
}

/// The text with each number of line `at` replaced in turn.
fn renumbered(lines: &[&str], at: usize, number: &str) -> Vec<String> {
    let line = lines[at];
    let mut texts = Vec::new();
    let mut start = 0;
    while let Some(from) = line[start..].find(|c: char| c.is_ascii_digit()) {
        let from = start + from;
        let to = line[from..]
            .find(|c: char| !c.is_ascii_digit())
            .map_or(line.len(), |length| from + length);
        let edited = format!("{}{number}{}", &line[..from], &line[to..]);
        let mut changed = lines.to_vec();
        changed[at] = &edited;
        texts.push(changed.join("\n"));
        start = to;
    }
    texts
}

#[test]
fn lines_may_be_missing_or_doubled() {
    let lines: Vec<&str> = PARAMETER.lines().collect();
    for at in 0..lines.len() {
        let mut without = lines.clone();
        without.remove(at);
        survives(&format!("without line {}", at + 1), &without.join("\n"));
        let mut twice = lines.clone();
        twice.insert(at, lines[at]);
        survives(&format!("with line {} twice", at + 1), &twice.join("\n"));
    }
}

#[test]
fn numbers_may_be_anything() {
    for (name, text, numbers) in [
        ("parameter", PARAMETER, &["0", "-1", "3", "1000000000"][..]),
        ("one", ONE, &["1000000000"][..]),
    ] {
        let lines: Vec<&str> = text.lines().collect();
        for at in 0..lines.len() {
            for number in numbers {
                for (place, text) in renumbered(&lines, at, number).iter().enumerate() {
                    let what = format!("{name} line {} number {place}: {number}", at + 1);
                    survives(&what, text);
                }
            }
        }
    }
}
