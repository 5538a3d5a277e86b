{# Weights to f16: `halves(words.., scale)` makes 8 neighbouring columns of a row. #}
{% macro dequantize(format) %}
{% if format in ["q8", "q4"] %}
// Bytes 0 and 1, each an integer plus {{ 8 if format == "q4" else 128 }}, to halves: 0x6400 is 1024 in f16, whose last bit is worth one.
fn pair(bytes: u32, scale: f16) -> u32 {
    let biased = (bytes & 0xffu) | ((bytes & 0xff00u) << 8u) | 0x64006400u;
    let exact = vec2<f16>(unpack2x16float(biased)) - vec2<f16>({{ "1032.0" if format == "q4" else "1152.0" }}h);
    return pack2x16float(vec2<f32>(exact * scale));
}
{% endif %}
{% if format == "q4" %}
fn halves(word: u32, scale: f16) -> vec4<u32> {
    let low = word & 0x0f0f0f0fu;
    let high = (word >> 4u) & 0x0f0f0f0fu;
    return vec4<u32>(pair(low, scale), pair(low >> 16u, scale), pair(high, scale), pair(high >> 16u, scale));
}
{% elif format == "q8" %}
fn halves(word0: u32, word1: u32, scale: f16) -> vec4<u32> {
    let b0 = word0 ^ 0x80808080u;
    let b1 = word1 ^ 0x80808080u;
    return vec4<u32>(pair(b0, scale), pair(b0 >> 16u, scale), pair(b1, scale), pair(b1 >> 16u, scale));
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
