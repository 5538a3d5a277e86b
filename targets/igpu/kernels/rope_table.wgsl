{#
Cosines, then sines, of the angles of the rows' positions. `frequencies`: bits of f32.

A device's own functions are inaccurate at large angles. Here an angle, at most 2^24, becomes a fraction of a turn in
32-bit arithmetic: its mantissa times 1 / (2 pi), shifted by its exponent, modulo 1.
Source: Payne & Hanek 1983; coefficients of the Taylor series, which on an eighth of a turn suffice for f32.
#}
{% include "call" %}

@group(0) @binding({{ b_out }}) var<storage, read_write> out: array<f32>;

var<private> frequencies: array<u32, {{ half }}> = array<u32, {{ half }}>(
{% for f in frequencies %}
    {{ f }}u,
{% endfor %}
);

// Cosine and sine of an angle in -pi/4..=pi/4.
fn near_zero(x: f32) -> vec2<f32> {
    let s = x * x;
    let c = fma(s, fma(s, fma(s, fma(s, 2.4801587e-5, -1.3888889e-3), 4.1666667e-2), -0.5), 1.0);
    let t = fma(s, fma(s, fma(s, 2.7557319e-6, -1.9841270e-4), 8.3333333e-3), -1.6666667e-1);
    return vec2<f32>(c, fma(x * s, t, x));
}

// Cosine and sine of an angle in 0..=2^24.
fn cos_sin(angle: f32) -> vec2<f32> {
    if (angle < 0.78) {
        return near_zero(angle);
    }
    let bits = bitcast<u32>(angle);
    let mantissa = (bits & 0x7fffffu) | 0x800000u;
    // angle = mantissa * 2^-down; 0 <= down <= 24 up to 2^24.
    let down = 150u - (bits >> 23u);
    // 1 / (2 pi), 64 bits behind the point, shifted down by less than a word.
    let high = 0x28be60dbu >> down;
    let low = (0x28be60dbu << (32u - max(down, 1u))) * u32(down > 0u) | (0x9391054au >> down);
    // Whole turns fall off the top; of the low word's product what reaches the high word, but for its last bits.
    let m = vec2<u32>(mantissa >> 12u, mantissa & 0xfffu);
    let w = vec2<u32>(low >> 12u, low & 0xfffu);
    let turn = mantissa * high + ((m.x * w.x) >> 8u) + ((m.y * w.x) >> 20u) + ((m.x * w.y) >> 20u);
    let quarter = (turn + 0x20000000u) >> 30u;
    let rest = f32(bitcast<i32>(turn - (quarter << 30u))) * 1.4629180792671596e-9;
    let value = near_zero(rest);
    let turned = select(value, vec2<f32>(-value.y, value.x), (quarter & 1u) == 1u);
    return select(turned, -turned, (quarter & 2u) == 2u);
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let i = id.x;
    let row = id.y;
    if (i >= {{ half }}u) {
        return;
    }
    let value = cos_sin(f32(position_of(row)) * bitcast<f32>(frequencies[i]));
    out[row * {{ 2 * half }}u + i] = value.x;
    out[row * {{ 2 * half }}u + {{ half }}u + i] = value.y;
}
