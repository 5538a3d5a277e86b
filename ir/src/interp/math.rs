//! The arithmetic of the interpreter: plain loops over f32 slices, in an order that depends neither on the number of
//! rows nor on the number of threads, so that a prompt evaluated at once and token by token gives the same bits.

/// Columns summed side by side in a dot product; one vector register or two on every machine.
const LANES: usize = 8;

/// Rows of `x` that share one pass over a weight row.
const ROWS: usize = 4;

/// Inner product.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    dot_rows([a], b)[0]
}

/// Inner products of several rows with `w`. Each is summed in the same order whatever `N` is.
fn dot_rows<const N: usize>(x: [&[f32]; N], w: &[f32]) -> [f32; N] {
    let n = w.len();
    let x = x.map(|row| &row[..n]);
    let mut sums = [[0f32; LANES]; N];
    let whole = n - n % LANES;
    for (i, w) in w[..whole].chunks_exact(LANES).enumerate() {
        for (sums, x) in sums.iter_mut().zip(&x) {
            let x = &x[i * LANES..][..LANES];
            for ((s, x), w) in sums.iter_mut().zip(x).zip(w) {
                *s += x * w;
            }
        }
    }
    let mut out = [0f32; N];
    for ((out, sums), x) in out.iter_mut().zip(&sums).zip(&x) {
        let tail: f32 = x[whole..].iter().zip(&w[whole..]).map(|(x, w)| x * w).sum();
        *out = sums.iter().sum::<f32>() + tail;
    }
    out
}

/// `out[r] = x[r] . w` for all rows of `x`, which has `w.len()` columns; writes to `out[r * stride]`.
pub(crate) fn dot_all(x: &[f32], w: &[f32], out: &mut [f32], stride: usize) {
    let mut groups = x.chunks_exact(w.len() * ROWS);
    let mut r = 0;
    for group in groups.by_ref() {
        let (a, b) = group.split_at(2 * w.len());
        let ((a0, a1), (b0, b1)) = (a.split_at(w.len()), b.split_at(w.len()));
        for sum in dot_rows::<ROWS>([a0, a1, b0, b1], w) {
            out[r * stride] = sum;
            r += 1;
        }
    }
    for row in groups.remainder().chunks_exact(w.len()) {
        out[r * stride] = dot(row, w);
        r += 1;
    }
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
    fn dot_is_the_same_alone_and_in_a_group() {
        let cols = 37;
        let x: Vec<f32> = (0..cols * 6)
            .map(|i| ((i * 37 % 101) as f32 - 50.0) / 7.0)
            .collect();
        let w: Vec<f32> = (0..cols)
            .map(|i| ((i * 53 % 97) as f32 - 48.0) / 9.0)
            .collect();
        let mut together = vec![0.0; 6];
        dot_all(&x, &w, &mut together, 1);
        for (r, row) in x.chunks(cols).enumerate() {
            assert_eq!(together[r].to_bits(), dot(row, &w).to_bits(), "row {r}");
            let exact: f64 = row
                .iter()
                .zip(&w)
                .map(|(a, b)| f64::from(*a) * f64::from(*b))
                .sum();
            assert!((f64::from(together[r]) - exact).abs() < 1e-3, "row {r}");
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
