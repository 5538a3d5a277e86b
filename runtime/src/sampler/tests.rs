//! What a sampler must do, on small distributions with known answers.

use super::{Likely, SampleError, Sampler, SamplingParams};
use proptest::prelude::*;

fn params() -> SamplingParams {
    SamplingParams {
        temperature: 1.0,
        ..SamplingParams::greedy()
    }
}

/// How often each token is drawn in `n` draws.
fn counts(params: SamplingParams, logits: &[f32], n: usize) -> Vec<usize> {
    let mut sampler = Sampler::new(logits.len(), params, 42).expect("good parameters");
    let mut counts = vec![0; logits.len()];
    for _ in 0..n {
        counts[sampler.sample(logits).expect("good logits") as usize] += 1;
    }
    counts
}

/// Logits of these probabilities.
fn logs(probabilities: &[f32]) -> Vec<f32> {
    probabilities.iter().map(|p| p.ln()).collect()
}

#[track_caller]
fn near(counts: &[usize], probabilities: &[f64]) {
    let n: usize = counts.iter().sum();
    for (token, (count, p)) in counts.iter().zip(probabilities).enumerate() {
        // Five standard deviations.
        let slack = 5.0 * (n as f64 * p * (1.0 - p)).sqrt();
        let expected = n as f64 * p;
        assert!(
            (*count as f64 - expected).abs() <= slack,
            "token {token}: {count}, not {expected}"
        );
    }
}

const P: [f32; 4] = [0.1, 0.4, 0.2, 0.3];

#[test]
fn temperature_one_draws_the_softmax() {
    near(&counts(params(), &logs(&P), 20_000), &P.map(f64::from));
}

#[test]
fn a_low_temperature_sharpens() {
    let sharper = SamplingParams {
        temperature: 0.5,
        ..params()
    };
    near(
        &counts(sharper, &logs(&P), 20_000),
        &[1.0, 16.0, 4.0, 9.0].map(|p| p / 30.0),
    );
}

#[test]
fn top_k_keeps_k() {
    let two = SamplingParams {
        top_k: 2,
        ..params()
    };
    near(
        &counts(two, &logs(&P), 20_000),
        &[0.0, 4.0 / 7.0, 0.0, 3.0 / 7.0],
    );
    assert_eq!(
        counts(two, &[5.0; 6], 500)[2..],
        [0; 4],
        "of equal ones the lower ids stay"
    );
}

#[test]
fn top_p_keeps_the_fewest_that_reach_it() {
    for (top_p, kept) in [
        (0.01, 1),
        (0.39, 1),
        (0.41, 2),
        (0.69, 2),
        (0.71, 3),
        (0.95, 4),
    ] {
        let drawn = counts(SamplingParams { top_p, ..params() }, &logs(&P), 5000);
        assert_eq!(
            drawn.iter().filter(|count| **count > 0).count(),
            kept,
            "top-p {top_p}"
        );
    }
}

#[test]
fn top_p_counts_what_top_k_leaves() {
    // 0.4 / 0.7 of the two kept reaches 0.57, which 0.4 of all does not.
    let both = SamplingParams {
        top_k: 2,
        top_p: 0.55,
        ..params()
    };
    assert_eq!(counts(both, &logs(&P), 1000), [0, 1000, 0, 0]);
}

#[test]
fn min_p_is_relative_to_the_best() {
    let half = SamplingParams {
        min_p: 0.51,
        ..params()
    };
    near(
        &counts(half, &logs(&P), 20_000),
        &[0.0, 4.0 / 7.0, 0.0, 3.0 / 7.0],
    );
    let hot = SamplingParams {
        temperature: 2.0,
        ..half
    };
    assert!(
        counts(hot, &logs(&P), 1000)[2] > 0,
        "the temperature comes first"
    );
}

#[test]
fn greedy_takes_the_lowest_id_of_equals() {
    let mut sampler = Sampler::new(5, SamplingParams::greedy(), 0).expect("good");
    assert_eq!(sampler.sample(&[0.0, 3.0, -1.0, 3.0, 3.0]), Ok(1));
    assert_eq!(sampler.sample(&[-0.0, 0.0, -1.0, 0.0, 0.0]), Ok(0));
}

#[test]
fn the_penalty_counts_a_token_once_and_both_signs() {
    let penalty = SamplingParams {
        repetition_penalty: 2.0,
        ..SamplingParams::greedy()
    };
    let mut sampler = Sampler::new(3, penalty, 0).expect("good");
    sampler.prompt(&[0, 0, 0]);
    assert_eq!(sampler.sample(&[4.0, 1.9, -9.0]), Ok(0));
    assert_eq!(sampler.sample(&[4.0, 2.1, -9.0]), Ok(1));
    sampler.accept(1);
    assert_eq!(sampler.sample(&[-4.0, -5.0, -7.9]), Ok(2));
    sampler.restart(&[]);
    assert_eq!(sampler.sample(&[4.0, 2.1, -9.0]), Ok(0));
    sampler.accept(77);
}

#[test]
fn broken_logits_are_named() {
    let mut sampler = Sampler::new(3, params(), 0).expect("good");
    let error = sampler.sample(&[0.0, f32::NAN, 1.0]).expect_err("NaN");
    assert!(error.to_string().contains("token 1 is NaN"), "{error}");
    assert!(matches!(
        sampler.sample(&[0.0, 1.0, f32::INFINITY]),
        Err(SampleError::NotFinite { token: 2, .. })
    ));
    assert_eq!(
        sampler.sample(&[f32::NEG_INFINITY; 3]),
        Err(SampleError::Nothing)
    );
    assert_eq!(
        sampler.sample(&[0.0]),
        Err(SampleError::Vocabulary {
            expected: 3,
            got: 1
        })
    );
    assert_eq!(
        sampler.sample(&[f32::NEG_INFINITY, f32::NEG_INFINITY, -4.0]),
        Ok(2)
    );
}

#[test]
fn bad_parameters_are_named() {
    let bad = |change: fn(&mut SamplingParams), text: &str| {
        let mut params = params();
        change(&mut params);
        let error = Sampler::new(3, params, 0)
            .expect_err("is refused")
            .to_string();
        assert_eq!(error, text);
    };
    bad(
        |p| p.temperature = -1.0,
        "temperature is -1; it must be 0 (greedy) or more",
    );
    bad(
        |p| p.temperature = f32::NAN,
        "temperature is NaN; it must be 0 (greedy) or more",
    );
    bad(
        |p| p.top_p = 0.0,
        "top-p is 0; it must be above 0 and at most 1",
    );
    bad(
        |p| p.top_p = 1.5,
        "top-p is 1.5; it must be above 0 and at most 1",
    );
    bad(|p| p.min_p = -0.5, "min-p is -0.5; it must be from 0 to 1");
    bad(
        |p| p.repetition_penalty = 0.0,
        "repetition penalty is 0; it must be above 0",
    );
}

/// Made-up logits of a large vocabulary.
fn large(vocab: u32) -> Vec<f32> {
    (0..vocab)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 24) as f32 * 12.0)
        .collect()
}

#[test]
fn the_same_seed_draws_the_same_tokens_everywhere() {
    let logits = large(262_144);
    for (top_k, top_p) in [(64, 0.95), (0, 0.9), (0, 1.0)] {
        let typical = SamplingParams {
            top_k,
            top_p,
            ..params()
        };
        let draw = |seed| -> Vec<u32> {
            let mut sampler = Sampler::new(logits.len(), typical, seed).expect("good");
            (0..6)
                .map(|_| sampler.sample(&logits).expect("good"))
                .collect()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }
    // Numbers fixed for all machines and versions.
    let mut sampler = Sampler::new(4, params(), 1).expect("good");
    let drawn: Vec<u32> = (0..16)
        .map(|_| sampler.sample(&logs(&P)).expect("good"))
        .collect();
    assert_eq!(drawn, FIXED);
}

const FIXED: [u32; 16] = [3, 3, 1, 3, 1, 2, 3, 2, 0, 1, 3, 1, 0, 1, 0, 1];

#[test]
fn a_large_vocabulary_is_fast_enough() {
    let logits = large(262_144);
    for (name, params) in [
        ("greedy", SamplingParams::greedy()),
        (
            "top-k 64, top-p 0.95",
            SamplingParams {
                top_k: 64,
                top_p: 0.95,
                ..params()
            },
        ),
        (
            "top-p 0.95",
            SamplingParams {
                top_p: 0.95,
                ..params()
            },
        ),
        (
            "min-p 0.05",
            SamplingParams {
                min_p: 0.05,
                ..params()
            },
        ),
        ("temperature 1", params()),
    ] {
        let mut sampler = Sampler::new(logits.len(), params, 1).expect("good");
        let start = std::time::Instant::now();
        for _ in 0..20 {
            let token = sampler.sample(&logits).expect("good");
            assert!(token < 262_144);
        }
        println!("{name}: {:?} a token", start.elapsed() / 20);
    }
}

proptest! {
    /// The plain way: sort everything, then filter.
    #[test]
    fn the_tokens_left_are_those_of_a_full_sort(
        logits in prop::collection::vec(-8i32..8, 1..300),
        top_k in 0u32..80,
        top_p in 0.05f32..=1.0,
        min_p in prop_oneof![Just(0.0f32), 0.0f32..0.5],
    ) {
        let logits: Vec<f32> = logits.into_iter().map(|l| l as f32 * 0.25).collect();
        let params = SamplingParams { top_k, top_p, min_p, ..params() };
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b)));
        if top_k > 0 {
            order.truncate(top_k as usize);
        }
        let weight = |token: usize| f64::from(logits[token] - logits[order[0]]).exp();
        let total: f64 = order.iter().map(|token| weight(*token)).sum();
        let mut mass = 0.0;
        // Slack where rounding may decide.
        let (mut sure, mut possible) = (0, 0);
        for token in &order {
            let relative = weight(*token);
            let p = f64::from(top_p) * total;
            let min = f64::from(min_p);
            sure += usize::from((mass < p * (1.0 - 1e-5) && relative > min * (1.0 + 1e-5)) || mass == 0.0);
            possible += usize::from(mass < p * (1.0 + 1e-5) && relative > min * (1.0 - 1e-5) || mass == 0.0);
            mass += relative;
        }
        let mut sampler = Sampler::new(logits.len(), params, 3).expect("good");
        let token = sampler.sample(&logits).expect("good");
        let mut left: Vec<usize> = sampler.candidates.iter().map(|c| c.token as usize).collect();
        left.sort_by_key(|token| order.iter().position(|other| other == token));
        if top_p < 1.0 || top_k > 0 || min_p > 0.0 {
            prop_assert!((sure..=possible).contains(&left.len()), "{sure} {} {possible}", left.len());
            prop_assert_eq!(&left[..], &order[..left.len()]);
        }
        prop_assert!(left.contains(&(token as usize)));
    }
}

/// The `count` most likely tokens, best first, equal ones by id.
fn likely(logits: &[f32], count: usize) -> Vec<Likely> {
    let mut all: Vec<Likely> = (0..)
        .zip(logits)
        .map(|(token, &logit)| Likely { token, logit })
        .collect();
    all.sort_by(|a, b| b.logit.total_cmp(&a.logit).then(a.token.cmp(&b.token)));
    all.truncate(count);
    all
}

proptest! {
    #[test]
    fn the_most_likely_tokens_give_the_draw_of_all_logits(
        logits in prop::collection::vec(-9i8..9, 20..60),
        top_k in 1u32..20,
        top_p in 0.1f32..=1.0,
        min_p in 0.0f32..0.3,
        temperature in prop::sample::select(vec![0.0f32, 0.4, 1.0, 2.5]),
        seed: u64,
    ) {
        let logits: Vec<f32> = logits.into_iter().map(|l| f32::from(l) / 2.0).collect();
        let params = SamplingParams { temperature, top_k, top_p, min_p, ..params() };
        let mut all = Sampler::new(logits.len(), params, seed).expect("good parameters");
        let mut few = all.clone();
        let best = likely(&logits, 20);
        for _ in 0..4 {
            prop_assert_eq!(
                few.sample_likely(&best).expect("good logits"),
                Some(all.sample(&logits).expect("good logits"))
            );
        }
    }
}

#[test]
fn the_most_likely_tokens_are_refused_where_they_do_not_decide() {
    let best = likely(&logs(&P), 3);
    let refuses = |params: SamplingParams| {
        let mut sampler = Sampler::new(4, params, 1).expect("good parameters");
        sampler.sample_likely(&best).expect("good logits").is_none()
    };
    assert!(refuses(params()));
    assert!(refuses(SamplingParams {
        repetition_penalty: 1.1,
        ..SamplingParams::greedy()
    }));
    assert!(!refuses(SamplingParams {
        top_k: 3,
        ..params()
    }));
    let mut greedy = Sampler::new(4, SamplingParams::greedy(), 1).expect("good parameters");
    let nan = [Likely {
        token: 3,
        logit: f32::NAN,
    }];
    assert!(matches!(
        greedy.sample_likely(&nan),
        Err(SampleError::NotFinite { token: 3, .. })
    ));
}
