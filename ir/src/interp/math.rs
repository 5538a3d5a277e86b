//! The arithmetic of the interpreter: plain loops over f32 slices, in an order that depends neither on the number of
//! rows nor on the number of threads, so that a prompt evaluated at once and token by token gives the same bits.

use crate::interp::frame::Tensor;
use crate::types::DType;

/// Columns summed side by side in a dot product: two vector registers of the oldest machine. One row at a time;
/// sharing a pass over `w` among several rows keeps the compiler from using vectors at all.
const LANES: usize = 8;

/// Inner product.
pub(crate) fn dot(x: &[f32], w: &[f32]) -> f32 {
    let (w_blocks, w_tail) = w.as_chunks::<LANES>();
    let (x_blocks, x_tail) = x.as_chunks::<LANES>();
    let mut sums = [0f32; LANES];
    for (x, w) in x_blocks.iter().zip(w_blocks) {
        for lane in 0..LANES {
            sums[lane] += x[lane] * w[lane];
        }
    }
    let tail: f32 = x_tail.iter().zip(w_tail).map(|(x, w)| x * w).sum();
    sums.iter().sum::<f32>() + tail
}

/// Each group of [`DType::GROUP`] columns of a row as multiples of a 127th of its greatest magnitude.
pub(crate) fn rounded_to_int8(x: &Tensor) -> Result<Tensor, String> {
    let mut rounded = Tensor::zeros(x.rows, x.cols)?;
    for r in 0..x.rows {
        let groups = x.row(r).chunks(DType::GROUP);
        for (from, to) in groups.zip(rounded.row_mut(r).chunks_mut(DType::GROUP)) {
            let greatest = from.iter().fold(0f32, |m, v| m.max(v.abs()));
            if greatest > 0.0 {
                let (inverse, scale) = (127.0 / greatest, greatest / 127.0);
                for (from, to) in from.iter().zip(to) {
                    *to = (from * inverse).round_ties_even() * scale;
                }
            }
        }
    }
    Ok(rounded)
}

/// Root-mean-square norm of each run of `weight.len()` values, in place. Source: Zhang & Sennrich 2019, eq. 4; the
/// square mean is taken in f64, which costs nothing here and takes the order of summation out of the result.
pub(crate) fn rms_norm(x: &mut [f32], weight: &[f32], eps: f32, offset: f32) {
    for run in x.chunks_exact_mut(weight.len()) {
        let squares: f64 = run.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
        let mean = (squares / run.len() as f64) as f32;
        let factor = 1.0 / (mean + eps).sqrt();
        for (x, w) in run.iter_mut().zip(weight) {
            *x = *x * factor * (offset + w);
        }
    }
}

/// GELU by its tanh approximation. Source: Hendrycks & Gimpel 2016, section 2.
pub(crate) fn gelu(x: f32) -> f32 {
    const SQRT_2_OVER_PI: f32 = 0.797_884_6;
    0.5 * x * (1.0 + (SQRT_2_OVER_PI * (x + 0.044_715 * x * x * x)).tanh())
}

/// `cap * tanh(x / cap)`. Source: Gemma 2 report, section 2.
pub(crate) fn softcap(x: f32, cap: f32) -> f32 {
    cap * (x / cap).tanh()
}

/// Softmax in place, the maximum subtracted first.
pub(crate) fn softmax(x: &mut [f32]) {
    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for x in x.iter_mut() {
        *x = (*x - max).exp();
        sum += *x;
    }
    x.iter_mut().for_each(|x| *x /= sum);
}

/// Rotates the pairs `(i, i + d/2)` of every head of a row by the angles of `table = [cos.., sin..]` of length `d`.
/// Source: Su et al. 2021, eq. 34, with the halves of a head as pairs.
pub(crate) fn rope(row: &mut [f32], table: &[f32]) {
    let half = table.len() / 2;
    let (cos, sin) = table.split_at(half);
    for head in row.chunks_exact_mut(table.len()) {
        let (lower, upper) = head.split_at_mut(half);
        for i in 0..half {
            let (a, b) = (lower[i], upper[i]);
            lower[i] = a * cos[i] - b * sin[i];
            upper[i] = b * cos[i] + a * sin[i];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gelu_matches_published_values() {
        // 0.5 * x * (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), evaluated to 9 digits.
        for (x, want) in [
            (0.0, 0.0),
            (1.0, 0.841_192),
            (-1.0, -0.158_808),
            (3.0, 2.996_362_7),
        ] {
            assert!((gelu(x) - want).abs() < 2e-6, "gelu({x}) = {}", gelu(x));
        }
    }

    #[test]
    fn dot_counts_every_column_once() {
        for cols in [1, 7, 8, 9, 37] {
            let x: Vec<f32> = (0..cols).map(|i| (i + 1) as f32).collect();
            let w: Vec<f32> = (0..cols).map(|i| (i % 3) as f32 - 1.0).collect();
            let want: i32 = (0..cols).map(|i| (i + 1) * (i % 3 - 1)).sum();
            assert_eq!(dot(&x, &w), want as f32, "{cols} columns");
        }
    }

    #[test]
    fn softmax_survives_large_scores() {
        let mut x = [1000.0, 1000.0, -1000.0];
        softmax(&mut x);
        assert_eq!(x, [0.5, 0.5, 0.0]);
    }

    #[test]
    fn rope_rotates_halves_of_each_head() {
        let mut row = [1.0, 2.0, 3.0, 4.0];
        // One quarter turn for each of two heads of two elements.
        rope(&mut row, &[0.0, 1.0]);
        assert_eq!(row, [-2.0, 1.0, -4.0, 3.0]);
    }
}
