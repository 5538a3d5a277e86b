{#
One row by a matrix, with the row's prologue done again by every workgroup: loads of the first weights are under way
while it is. A workgroup takes `blocks` blocks of 16 rows; each block's columns are cut among `slices` invocations a quad.
#}
{% include "lanes" %}

{% include "prologue" %}

{% include "unit" %}

{% include "finish" %}

@group(0) @binding({{ b_out }}) var<storage, read_write> out: array<f32>;
{% if pieces %}
struct Immediates {
    // Of the piece.
    first_row: u32,
}
var<immediate> p: Immediates;
{% endif %}

{% if quantized %}
{% include "int8_groups" %}

var<workgroup> row_values: array<vec4<u32>, {{ units * 2 }}>;
var<workgroup> row_scale: array<f32, {{ units }}>;

fn consume(row: u32, i: u32, value: vec4<f32>) {
    let q = quantize(value);
    let words = words_of_four(q.word);
    if (i < {{ stored_vectors }}u) {
        if (lane % 4u == 0u) {
            row_values[i / 4u] = words;
        }
        if (lane % 8u == 0u) {
            row_scale[i / 8u] = q.scale;
        }
    }
}

fn operand(tile_row: u32, u: u32) -> Operand {
    let at = min(u, {{ units - 1 }}u);
    return Operand(row_values[2u * at], row_values[2u * at + 1u], row_scale[at]);
}
{% else %}
{% if stored_vectors > 0 %}
var<workgroup> row_values: array<vec4<f32>, {{ stored_vectors }}>;

fn consume(row: u32, i: u32, value: vec4<f32>) {
    if (i < {{ stored_vectors }}u) {
        row_values[i] = value;
    }
}
{% endif %}

fn operand(tile_row: u32, u: u32) -> Operand {
    let first = min(u, {{ units - 1 }}u) * {{ unit_vectors }}u;
    return Operand(
{% for i in range(unit_vectors) %}
        {{ "row_values[first + " ~ i ~ "u]" if stored_vectors > 0 else "load_x(0u, first + " ~ i ~ "u)" }},
{% endfor %}
    );
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
    let row = 0u;
    let keeps_sum = group.x == 0u;
    let quad = lane % 4u;
    let slice = lane / 4u % {{ slices }}u;
    let first_block = group.x * {{ blocks }}u;
    let block = min(first_block + lane / {{ 4 * slices }}u, {{ row_blocks - 1 }}u);

{% for d in range(depth) %}
    var unit{{ d }} = load_unit(block, quad, slice + {{ d * slices }}u);
{% endfor %}
{% if stored_vectors > 0 %}
{% include "prologue_row" %}
    workgroupBarrier();
{% endif %}

{% include "turns" %}

    add_slices(sums0, 0u);
    workgroupBarrier();
    store_results(0u, 1u, first_block);
}
