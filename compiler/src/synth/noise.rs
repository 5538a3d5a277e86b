//! Gaussian bf16 values, any run of them computable by itself, fast.
//!
//! A counter is mixed to 64 random bits, which are four indices into a table of 65,536 quantiles of the normal
//! distribution, already scaled and rounded to bf16. Value `n` of a tensor depends on the seed, the tensor's name and
//! `n` alone: not on threads, on the order of writing, or on what else is in the checkpoint.
//!
//! Source: the mixing function is that of SplitMix64 (Steele, Lea & Flood 2014).

use half::bf16;
use std::sync::LazyLock;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Entries of the table: what 16 bits can index.
const QUANTILES: usize = 1 << 16;
/// Values made of one mixed counter. Runs must start at a multiple of it.
pub(super) const VALUES_A_DRAW: u64 = 4;

/// The values of one tensor.
pub(super) struct Noise {
    key: u64,
    table: Vec<[u8; 2]>,
}

impl Noise {
    /// Values of mean 0 and the given standard deviation.
    pub fn new(seed: u64, tensor: &str, std_dev: f32) -> Self {
        Self {
            key: mix(xxh3_64_with_seed(tensor.as_bytes(), seed)),
            table: NORMAL
                .iter()
                .map(|x| bf16::from_f32(x * std_dev).to_le_bytes())
                .collect(),
        }
    }

    /// Values `first..` as little-endian bf16, filling `out`; `first` is a multiple of [`VALUES_A_DRAW`].
    pub fn fill(&self, first: u64, out: &mut [u8]) {
        debug_assert_eq!(first % VALUES_A_DRAW, 0);
        let draw = |n: u64| {
            let bits = mix(self.key.wrapping_add(n.wrapping_mul(WEYL)));
            [bits, bits >> 16, bits >> 32, bits >> 48].map(|b| self.table[usize::from(b as u16)])
        };
        let mut n = first / VALUES_A_DRAW;
        let (quads, rest) = out.as_chunks_mut::<8>();
        for quad in quads {
            let [a, b, c, d] = draw(n);
            *quad = [a[0], a[1], b[0], b[1], c[0], c[1], d[0], d[1]];
            n += 1;
        }
        for (value, x) in rest.as_chunks_mut::<2>().0.iter_mut().zip(draw(n)) {
            *value = x;
        }
    }
}

/// Increment of the counter: 2^64 divided by the golden ratio, odd.
const WEYL: u64 = 0x9e37_79b9_7f4a_7c15;

/// Makes 64 evenly distributed bits of a counter.
pub(super) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Entry `n` is the point below which `(n + 1/2) / 65536` of a standard normal distribution lies, found by adding up
/// the density's integral from 0 and mirroring.
static NORMAL: LazyLock<Vec<f32>> = LazyLock::new(|| {
    const STEP: f64 = 1.0 / 8192.0;
    let density = |x: f64| (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
    let half = QUANTILES / 2;
    let mut table = vec![0.0; QUANTILES];
    let (mut x, mut below, mut here) = (0.0, 0.5, density(0.0));
    for n in half..QUANTILES {
        let want = (n as f64 + 0.5) / QUANTILES as f64;
        loop {
            let next = density(x + STEP);
            let gain = 0.5 * (here + next) * STEP;
            if below + gain >= want {
                let point = (x + STEP * (want - below) / gain) as f32;
                table[n] = point;
                table[QUANTILES - 1 - n] = -point;
                break;
            }
            (x, below, here) = (x + STEP, below + gain, next);
        }
    }
    table
});

#[cfg(test)]
mod tests {
    use super::*;

    fn values(noise: &Noise, first: u64, count: usize) -> Vec<f32> {
        let mut out = vec![0; 2 * count];
        noise.fill(first, &mut out);
        let bf16_of = |b: &[u8; 2]| bf16::from_le_bytes(*b).to_f32();
        out.as_chunks::<2>().0.iter().map(bf16_of).collect()
    }

    #[test]
    fn values_are_normal() {
        let n = 1 << 20;
        let v = values(&Noise::new(1, "a", 0.5), 0, n);
        let mean = v.iter().map(|x| f64::from(*x)).sum::<f64>() / n as f64;
        let var = v.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / n as f64;
        let within = v.iter().filter(|x| x.abs() < 0.5).count() as f64 / n as f64;
        assert!(mean.abs() < 2e-3, "{mean}");
        assert!((var.sqrt() - 0.5).abs() < 2e-3, "{var}");
        assert!((within - 0.6827).abs() < 3e-3, "{within}");
    }

    #[test]
    fn any_run_is_the_same_as_the_whole() {
        let noise = Noise::new(7, "b", 1.0);
        let whole = values(&noise, 0, 1003);
        assert_eq!(values(&noise, 500, 503), whole[500..]);
    }

    #[test]
    fn seeds_and_names_give_other_values() {
        let first = |seed, name| values(&Noise::new(seed, name, 1.0), 0, 64);
        assert_ne!(first(1, "a"), first(2, "a"));
        assert_ne!(first(1, "a"), first(1, "b"));
        assert_eq!(first(1, "a"), first(1, "a"));
    }
}
