{# Chunks of a cache: `part_N(chunk)` gives the N-th vector of elements, `to_chunk(..)` makes one. `f16`: of halves. #}
{% if f16 %}
{% if words == 4 %}
fn part_0(c: vec4<u32>) -> vec4<f32> { return vec4<f32>(unpack2x16float(c.x), unpack2x16float(c.y)); }
fn part_1(c: vec4<u32>) -> vec4<f32> { return vec4<f32>(unpack2x16float(c.z), unpack2x16float(c.w)); }
fn to_chunk(a: vec4<f32>, b: vec4<f32>) -> vec4<u32> {
    return vec4<u32>(to_halves(a.xy), to_halves(a.zw), to_halves(b.xy), to_halves(b.zw));
}
// Half a chunk.
fn value_part(c: vec2<u32>) -> vec4<f32> { return vec4<f32>(unpack2x16float(c.x), unpack2x16float(c.y)); }
fn to_value_chunk(a: vec4<f32>) -> vec2<u32> { return vec2<u32>(to_halves(a.xy), to_halves(a.zw)); }
{% else %}
fn part_0(c: u32) -> vec2<f32> { return unpack2x16float(c); }
fn to_chunk(a: vec2<f32>) -> u32 { return to_halves(a); }
{% endif %}

// The largest finite f16 stands for everything beyond: an infinity would be no number one product later. A NaN stays.
fn to_halves(x: vec2<f32>) -> u32 {
    let least = select(x, vec2<f32>(-65504.0), x < vec2<f32>(-65504.0));
    return pack2x16float(select(least, vec2<f32>(65504.0), least > vec2<f32>(65504.0)));
}
{% else %}
fn part_0(c: vec{{ words }}<u32>) -> vec{{ words }}<f32> { return bitcast<vec{{ words }}<f32>>(c); }
fn to_chunk(a: vec{{ words }}<f32>) -> vec{{ words }}<u32> { return bitcast<vec{{ words }}<u32>>(a); }
{% endif %}
