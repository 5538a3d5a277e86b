{# Rows through a linear's prologue into the form that kernels over many rows read. A workgroup does a row. #}
{% include "lanes" %}

{% include "prologue" %}

{% if form == "int8" %}
{% include "int8_groups" %}

@group(0) @binding({{ b_out }}) var<storage, read_write> out: array<u32>;
{% if many %}
// For rows of f16.
@group(0) @binding({{ b_row_scale }}) var<storage, read_write> row_scale: array<f32>;
{% endif %}

fn consume(row: u32, i: u32, value: vec4<f32>) {
    let q = quantize(value);
    if (i < {{ stored_vectors }}u) {
        out[row * {{ out_words }}u + i] = q.word;
        if (lane % 8u == 0u) {
            out[row * {{ out_words }}u + {{ stored_vectors }}u + i / 8u] = bitcast<u32>(q.scale);
        }
    }
}
{% elif form == "f16" %}
@group(0) @binding({{ b_out }}) var<storage, read_write> out: array<vec2<u32>>;
@group(0) @binding({{ b_row_scale }}) var<storage, read_write> row_scale: array<f32>;

var<private> inverse: f32;
var<private> scale_of_row: f32;

// The power of two that brings the row's greatest magnitude to 8192..16384.
fn measure(greatest_here: f32) {
    let greatest = greatest_of_all(greatest_here, 2u);
    let exponent = clamp(bitcast<u32>(greatest) >> 23u, 40u, 240u) - 13u;
    scale_of_row = bitcast<f32>(exponent << 23u);
    inverse = bitcast<f32>((254u - exponent) << 23u);
}

fn consume(row: u32, i: u32, value: vec4<f32>) {
    if (i < {{ stored_vectors }}u) {
        let v = value * inverse;
        out[row * {{ stored_vectors }}u + i] = vec2<u32>(pack2x16float(v.xy), pack2x16float(v.zw));
    }
    if (i == 0u) {
        row_scale[row] = scale_of_row;
    }
}
{% else %}
@group(0) @binding({{ b_out }}) var<storage, read_write> out: array<vec4<f32>>;

fn consume(row: u32, i: u32, value: vec4<f32>) {
    if (i < {{ stored_vectors }}u) {
        out[row * {{ stored_vectors }}u + i] = value;
    }
}
{% endif %}

@compute @workgroup_size({{ threads }})
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(subgroup_size) subgroup_size: u32,
    @builtin(subgroup_id) subgroup_id: u32,
    @builtin(subgroup_invocation_id) subgroup_invocation_id: u32,
) {
    take_place(subgroup_size, subgroup_id, subgroup_invocation_id);
    let row = group.x;
    let keeps_sum = true;
{% include "prologue_row" %}
}
