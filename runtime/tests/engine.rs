//! The engine over a tiny model: however tokens reach it, the logits are those of the sequence.

mod support;

use gembin_runtime::engine::{Engine, OpenOptions, Wanted};
use gembin_runtime::error::Error;
use std::ops::ControlFlow;
use support::{CHUNK, CONTEXT, RING, SLOTS, VOCAB, WINDOW};
use tempfile::TempDir;

/// The engine, and the directory that its file lies in.
fn engine() -> (Engine, TempDir) {
    let dir = TempDir::new().unwrap();
    let path = support::write(dir.path(), None);
    let options = OpenOptions {
        threads: 2,
        ..OpenOptions::default()
    };
    (Engine::open(&path, &options).unwrap(), dir)
}

fn tokens(count: usize) -> Vec<u32> {
    (0..count as u32).map(|i| (i * i + 3) % VOCAB).collect()
}

/// Logits after every token, one decode call each.
fn one_by_one(engine: &mut Engine, slot: usize, tokens: &[u32]) -> Vec<Vec<f32>> {
    tokens
        .iter()
        .map(|&token| engine.decode(&[(slot, token)]).unwrap().to_vec())
        .collect()
}

#[track_caller]
fn assert_close(got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len());
    let norm = want.iter().map(|w| w * w).sum::<f32>().sqrt();
    let difference = got
        .iter()
        .zip(want)
        .map(|(g, w)| (g - w) * (g - w))
        .sum::<f32>()
        .sqrt();
    assert!(norm > 0.0);
    assert!(
        difference <= 1e-5 * norm,
        "relative error {}",
        difference / norm
    );
}

#[test]
fn prefill_in_chunks_gives_the_logits_of_decoding_one_by_one() {
    let (mut engine, _dir) = engine();
    // Two whole chunks and a rest, past the ring.
    let tokens = tokens(2 * CHUNK as usize + 5);
    assert!(tokens.len() > RING as usize);
    let want = one_by_one(&mut engine, 0, &tokens);
    engine.reset(0).unwrap();
    let got = engine.prefill(0, &tokens, Wanted::Last).unwrap();
    assert_close(got, &want[tokens.len() - 1]);
    assert_eq!(engine.len(0).unwrap(), tokens.len());
}

#[test]
fn every_row_is_given_once_in_order() {
    let (mut engine, _dir) = engine();
    let tokens = tokens(19);
    let want = one_by_one(&mut engine, 0, &tokens);
    engine.reset(0).unwrap();
    let mut got: Vec<Vec<f32>> = Vec::new();
    let nothing = engine
        .prefill(
            0,
            &tokens,
            Wanted::Every(&mut |first, rows| {
                assert_eq!(first, got.len());
                got.extend(rows.chunks(VOCAB as usize).map(<[f32]>::to_vec));
                ControlFlow::Continue(())
            }),
        )
        .unwrap();
    assert!(nothing.is_empty());
    assert_eq!(got.len(), want.len());
    for (got, want) in got.iter().zip(&want) {
        assert_close(got, want);
    }
}

#[test]
fn a_prefill_that_is_stopped_keeps_what_was_given() {
    let (mut engine, _dir) = engine();
    let tokens = tokens(19);
    let (mut calls, mut given) = (0, 0);
    let mut stop_at_second = |_: usize, rows: &[f32]| {
        calls += 1;
        given += rows.len() / VOCAB as usize;
        if calls == 2 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    let wanted = Wanted::Every(&mut stop_at_second);
    assert!(engine.prefill(0, &tokens, wanted).unwrap().is_empty());
    assert_eq!(calls, 2);
    assert_eq!(engine.len(0).unwrap(), given);
    assert!(given < tokens.len());
    // What follows is as if it had been given in one piece.
    let got = engine.prefill(0, &tokens[given..], Wanted::Last).unwrap();
    let got = got.to_vec();
    let want = engine.prefill(1, &tokens, Wanted::Last).unwrap();
    assert_close(&got, want);
}

#[test]
fn a_prompt_in_pieces_is_the_same_prompt() {
    let (mut engine, _dir) = engine();
    let tokens = tokens(23);
    let want = engine.prefill(0, &tokens, Wanted::Last).unwrap().to_vec();
    let (head, tail) = tokens.split_at(10);
    assert!(engine.prefill(1, head, Wanted::Nothing).unwrap().is_empty());
    assert_close(engine.prefill(1, tail, Wanted::Last).unwrap(), &want);
}

#[test]
fn sequences_decoded_together_do_not_see_each_other() {
    let (mut engine, _dir) = engine();
    let prompts: Vec<Vec<u32>> = (0..SLOTS).map(|i| tokens(5 + 4 * i as usize)).collect();
    let mut want = Vec::new();
    for (slot, prompt) in prompts.iter().enumerate() {
        engine.prefill(slot, prompt, Wanted::Nothing).unwrap();
        want.push(engine.decode(&[(slot, 9)]).unwrap().to_vec());
        engine.reset(slot).unwrap();
        engine.prefill(slot, prompt, Wanted::Nothing).unwrap();
    }
    let calls: Vec<(usize, u32)> = (0..SLOTS as usize).rev().map(|slot| (slot, 9)).collect();
    let got = engine.decode(&calls).unwrap().to_vec();
    for (row, &(slot, _)) in got.chunks(VOCAB as usize).zip(&calls) {
        assert_close(row, &want[slot]);
    }
    assert_eq!(engine.len(1).unwrap(), prompts[1].len() + 1);
}

#[test]
fn a_truncated_sequence_goes_on_like_one_that_never_was_longer() {
    let (mut engine, _dir) = engine();
    let tokens = tokens(20);
    let want = one_by_one(&mut engine, 0, &tokens[..18]);
    engine.reset(0).unwrap();
    engine.prefill(0, &tokens, Wanted::Nothing).unwrap();
    // The ring holds positions 9 to 19, and the token at 12 sees those from 9 on.
    let kept = (20 - RING + WINDOW - 1) as usize;
    assert_eq!(kept, 12);
    assert_eq!(engine.truncate(0, kept).unwrap(), kept);
    let got = engine.prefill(0, &tokens[kept..18], Wanted::Last).unwrap();
    assert_close(got, &want[17]);
    assert_eq!(engine.truncate(0, kept - 1).unwrap(), 0);
}

#[test]
fn truncation_beyond_what_the_ring_holds_empties_the_sequence() {
    let (mut engine, _dir) = engine();
    let tokens = tokens(20);
    let want = one_by_one(&mut engine, 0, &tokens[..6]);
    assert_eq!(engine.truncate(0, 3).unwrap(), 3);
    engine.prefill(0, &tokens[3..], Wanted::Nothing).unwrap();
    assert_eq!(engine.truncate(0, 5).unwrap(), 0);
    let got = engine.prefill(0, &tokens[..6], Wanted::Last).unwrap();
    assert_close(got, &want[5]);
}

#[test]
fn a_sequence_fills_its_context_and_no_more() {
    let (mut engine, _dir) = engine();
    let tokens = tokens(CONTEXT as usize);
    engine.prefill(0, &tokens[1..], Wanted::Nothing).unwrap();
    engine.decode(&[(0, 3)]).unwrap();
    let error = engine.decode(&[(0, 3)]).unwrap_err();
    assert!(
        matches!(
            error,
            Error::ContextFull {
                tokens: 97,
                context: 96
            }
        ),
        "{error}"
    );
    let long = vec![3; CONTEXT as usize + 1];
    let error = engine.prefill(1, &long, Wanted::Last).unwrap_err();
    assert!(error.to_string().contains("97 tokens") && error.to_string().contains("96"));
    assert_eq!(engine.len(1).unwrap(), 0);
}

#[test]
fn bad_calls_are_refused_before_anything_runs() {
    let (mut engine, _dir) = engine();
    let slots = SLOTS as usize;
    assert!(matches!(
        engine.prefill(0, &[3, VOCAB], Wanted::Last),
        Err(Error::TokenOutOfRange { id: VOCAB, .. })
    ));
    assert!(matches!(
        engine.prefill(0, &[], Wanted::Last),
        Err(Error::NoTokens)
    ));
    assert!(matches!(engine.decode(&[]), Err(Error::NoTokens)));
    assert!(matches!(
        engine.decode(&[(0, u32::MAX)]),
        Err(Error::TokenOutOfRange { .. })
    ));
    assert!(matches!(
        engine.decode(&[(slots, 1)]),
        Err(Error::SlotOutOfRange { .. })
    ));
    assert!(matches!(
        engine.decode(&[(1, 1), (1, 2)]),
        Err(Error::SlotTwice { slot: 1 })
    ));
    assert!(matches!(
        engine.decode(&[(0, 1), (1, 1), (2, 1), (0, 1)]),
        Err(Error::TooManySequences {
            sequences: 4,
            most: 3
        })
    ));
    assert!(matches!(
        engine.truncate(slots, 0),
        Err(Error::SlotOutOfRange { .. })
    ));
    for slot in 0..slots {
        assert_eq!(engine.len(slot).unwrap(), 0);
    }
}

#[test]
fn files_that_are_no_bundles_are_named_in_one_line() {
    let dir = TempDir::new().unwrap();
    let open = |path: &std::path::Path| {
        let error = Engine::open(path, &OpenOptions::default())
            .err()
            .expect("must be refused")
            .to_string();
        assert!(!error.contains('\n'), "{error}");
        error
    };
    assert!(open(&dir.path().join("nothing")).contains("No such file"));
    assert!(open(dir.path()).contains("is a directory"));
    let file = dir.path().join("file");
    std::fs::write(&file, b"").unwrap();
    assert!(open(&file).contains("is empty"));
    std::fs::write(&file, b"hello").unwrap();
    assert!(open(&file).contains("not a gembin file"));
    let whole = std::fs::read(support::write(dir.path(), None)).unwrap();
    std::fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    assert!(open(&file).contains("truncated"));
}

#[test]
fn a_damaged_weight_is_found_only_when_asked() {
    use gembin_runtime::loader::Integrity;
    let dir = TempDir::new().unwrap();
    let path = support::write(dir.path(), None);
    let mut bytes = std::fs::read(&path).unwrap();
    let engine = Engine::open(&path, &OpenOptions::default()).unwrap();
    let weights = engine
        .bundle()
        .sections()
        .last()
        .map(|section| section.offset as usize)
        .unwrap();
    drop(engine);
    bytes[weights + 5] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    assert!(Engine::open(&path, &OpenOptions::default()).is_ok());
    let thorough = OpenOptions {
        integrity: Integrity::Weights,
        ..OpenOptions::default()
    };
    let error = Engine::open(&path, &thorough).err().unwrap().to_string();
    assert!(error.contains("\"embedding\""), "{error}");
}
