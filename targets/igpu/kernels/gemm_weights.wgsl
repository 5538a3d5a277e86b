{# Weights to f16: `halves(words.., scale)` makes 8 neighbouring columns of a row. #}
{% macro dequantize(format) %}
{% if format in ["q8", "q4"] %}
// An integer in the last bits of a half whose other bits are 0x6400, 1024 in f16, is added to 1024.
fn biased(bits: u32, mask: u32) -> vec2<f16> {
    return vec2<f16>(unpack2x16float((bits & mask) | 0x64006400u));
}
// Columns 0, 2 and 1, 3 to words of columns 0, 1 and 2, 3.
fn ordered(even: vec2<f16>, odd: vec2<f16>) -> vec2<u32> {
    return vec2<u32>(
        pack2x16float(vec2<f32>(vec2<f16>(even.x, odd.x))),
        pack2x16float(vec2<f32>(vec2<f16>(even.y, odd.y))),
    );
}
{% endif %}
{% if format == "q4" %}
fn halves(word: u32, scale: f16) -> vec4<u32> {
    let shifted = word >> 8u;
    let even = (biased(word, 0x000f000fu) - 1032.0h) * scale;
    let odd = (biased(shifted, 0x000f000fu) - 1032.0h) * scale;
    // 16 times the integer, without a shift: (1024 + 16 v) / 16 - 72.
    let high_even = fma(biased(word, 0x00f000f0u), vec2<f16>(0.0625h), vec2<f16>(-72.0h)) * scale;
    let high_odd = fma(biased(shifted, 0x00f000f0u), vec2<f16>(0.0625h), vec2<f16>(-72.0h)) * scale;
    return vec4<u32>(ordered(even, odd), ordered(high_even, high_odd));
}
{% elif format == "q8" %}
fn quarter(word: u32, scale: f16) -> vec2<u32> {
    let unsigned = word ^ 0x80808080u;
    let even = (biased(unsigned, 0x00ff00ffu) - 1152.0h) * scale;
    let odd = (biased(unsigned >> 8u, 0x00ff00ffu) - 1152.0h) * scale;
    return ordered(even, odd);
}
fn halves(word0: u32, word1: u32, scale: f16) -> vec4<u32> {
    return vec4<u32>(quarter(word0, scale), quarter(word1, scale));
}
{% elif format == "f16" %}
fn halves(word0: u32, word1: u32, word2: u32, word3: u32) -> vec4<u32> {
    return vec4<u32>(word0, word1, word2, word3);
}
{% elif format == "bf16" %}
fn from_bf16(word: u32) -> u32 {
    let value = vec2<f32>(bitcast<f32>(word << 16u), bitcast<f32>(word & 0xffff0000u));
    return pack2x16float(vec2<f32>(vec2<f16>(clamp(value, vec2<f32>(-65504.0), vec2<f32>(65504.0)))));
}
fn halves(word0: u32, word1: u32, word2: u32, word3: u32) -> vec4<u32> {
    return vec4<u32>(from_bf16(word0), from_bf16(word1), from_bf16(word2), from_bf16(word3));
}
{% else %}
fn from_f32(word0: u32, word1: u32) -> u32 {
    let value = vec2<f32>(bitcast<f32>(word0), bitcast<f32>(word1));
    return pack2x16float(vec2<f32>(vec2<f16>(clamp(value, vec2<f32>(-65504.0), vec2<f32>(65504.0)))));
}
fn halves(w0: u32, w1: u32, w2: u32, w3: u32, w4: u32, w5: u32, w6: u32, w7: u32) -> vec4<u32> {
    return vec4<u32>(from_f32(w0, w1), from_f32(w2, w3), from_f32(w4, w5), from_f32(w6, w7));
}
{% endif %}
{% endmacro %}
