{#
Units of a matrix's work: four neighbouring rows by one group of columns.

format; unit_words: words of a row in a unit; units: of a row; words, groups of a row; b_data, b_scales.
#}
@group(0) @binding({{ b_data }}) var<storage, read> data: array<vec4<u32>>;
{% if quantized %}
@group(0) @binding({{ b_scales }}) var<storage, read> scales: array<vec2<u32>>;
{% endif %}

struct Unit {
{% for i in range(unit_words) %}
    w{{ i }}: vec4<u32>,
{% endfor %}
{% if quantized %}
    scales: vec2<u32>,
{% endif %}
}

// Unit `u`, or the last, of a quad of rows in a block.
fn load_unit(block: u32, quad: u32, u: u32) -> Unit {
    var unit: Unit;
    let at = min(u, {{ units - 1 }}u);
{% if words % unit_words == 0 %}
    let first = (block * {{ words }}u + at * {{ unit_words }}u) * 4u + quad;
{% for i in range(unit_words) %}
    unit.w{{ i }} = data[first + {{ 4 * i }}u];
{% endfor %}
{% else %}
{# Behind the last word stands the last again, to be multiplied by zero. #}
    let first = block * {{ words * 4 }}u + quad;
{% for i in range(unit_words) %}
    unit.w{{ i }} = data[first + 4u * min(at * {{ unit_words }}u + {{ i }}u, {{ words - 1 }}u)];
{% endfor %}
{% endif %}
{% if quantized %}
    unit.scales = scales[(block * {{ units }}u + at) * 4u + quad];
{% endif %}
    return unit;
}

// What a unit is multiplied by.
struct Operand {
{% if quantized %}
    // Int8 of 32 columns.
    a0: vec4<u32>,
    a1: vec4<u32>,
    scale: f32,
{% else %}
{% for i in range(unit_vectors) %}
    a{{ i }}: vec4<f32>,
{% endfor %}
{% endif %}
}

{% if quantized %}
fn packed_dot(a: u32, b: u32) -> i32 {
{% if dot4 %}
    return dot4I8Packed(a, b);
{% else %}
    return dot(unpack4xI8(a), unpack4xI8(b));
{% endif %}
}

fn dots(w: vec4<u32>, a: u32) -> vec4<i32> {
    return vec4<i32>(
        packed_dot(w.x, a),
        packed_dot(w.y, a),
        packed_dot(w.z, a),
        packed_dot(w.w, a),
    );
}

fn row_scales(s: vec2<u32>) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(s.x), unpack2x16float(s.y));
}
{% endif %}

fn add_unit(sums: vec4<f32>, unit: Unit, a: Operand) -> vec4<f32> {
{% if format == "q8" %}
    var d = dots(unit.w0, a.a0.x);
{% for i in range(1, 8) %}
    d += dots(unit.w{{ i }}, a.a{{ i // 4 }}.{{ "xyzw"[i % 4] }});
{% endfor %}
    return fma(vec4<f32>(d), row_scales(unit.scales) * a.scale, sums);
{% elif format == "q4" %}
    // Stored values are eight too large.
    var excess = packed_dot(a.a0.x, 0x01010101u);
{% for i in range(1, 8) %}
    excess += packed_dot(a.a{{ i // 4 }}.{{ "xyzw"[i % 4] }}, 0x01010101u);
{% endfor %}
    var d = vec4<i32>(-8 * excess);
{% for i in range(4) %}
    d += dots(unit.w{{ i }} & vec4<u32>(0x0f0f0f0fu), a.a{{ i // 2 }}.{{ "xyzw"[i % 2 * 2] }});
    d += dots((unit.w{{ i }} >> vec4<u32>(4u)) & vec4<u32>(0x0f0f0f0fu), a.a{{ i // 2 }}.{{ "xyzw"[i % 2 * 2 + 1] }});
{% endfor %}
    return fma(vec4<f32>(d), row_scales(unit.scales) * a.scale, sums);
{% elif format == "f32" %}
    var s = sums;
{% for i in range(unit_words) %}
    s = fma(bitcast<vec4<f32>>(unit.w{{ i }}), vec4<f32>(a.a{{ i // 4 }}.{{ "xyzw"[i % 4] }}), s);
{% endfor %}
    return s;
{% else %}
    var s = sums;
{% for i in range(unit_words) %}
{% set even = "a.a" ~ (i // 2) ~ "." ~ "xyzw"[i % 2 * 2] %}
{% set odd = "a.a" ~ (i // 2) ~ "." ~ "xyzw"[i % 2 * 2 + 1] %}
{% if format == "bf16" %}
    s = fma(bitcast<vec4<f32>>(unit.w{{ i }} << vec4<u32>(16u)), vec4<f32>({{ even }}), s);
    s = fma(bitcast<vec4<f32>>(unit.w{{ i }} & vec4<u32>(0xffff0000u)), vec4<f32>({{ odd }}), s);
{% else %}
    let x{{ i }} = unpack2x16float(unit.w{{ i }}.x);
    let y{{ i }} = unpack2x16float(unit.w{{ i }}.y);
    let z{{ i }} = unpack2x16float(unit.w{{ i }}.z);
    let w{{ i }} = unpack2x16float(unit.w{{ i }}.w);
    s = fma(vec4<f32>(x{{ i }}.x, y{{ i }}.x, z{{ i }}.x, w{{ i }}.x), vec4<f32>({{ even }}), s);
    s = fma(vec4<f32>(x{{ i }}.y, y{{ i }}.y, z{{ i }}.y, w{{ i }}.y), vec4<f32>({{ odd }}), s);
{% endif %}
{% endfor %}
    return s;
{% endif %}
}
