{#
Up to `rows_tile` rows, prepared before, by a matrix whose words are read once for them. Work is divided as in `gemv`.
#}
{% include "call" %}

{% include "lanes" %}

{% include "unit" %}

{% include "finish" %}

@group(0) @binding({{ b_out }}) var<storage, read_write> out: array<f32>;
@group(0) @binding({{ b_x }}) var<storage, read> rows: array<{{ "vec4<u32>" if quantized else "vec4<f32>" }}>;
{% if pieces %}
struct Immediates {
    // Of the piece.
    first_row: u32,
}
var<immediate> p: Immediates;
{% endif %}

// The tile's first row, and how many it has.
var<private> first_row: u32;
var<private> tile_rows: u32;

fn operand(tile_row: u32, u: u32) -> Operand {
    // Behind the last row stands the last again.
    let row = (first_row + min(tile_row, tile_rows - 1u)) * {{ row_vectors }}u;
{% if quantized %}
    let at = min(u, {{ units - 1 }}u);
    let scale = bitcast<f32>(rows[row + {{ 2 * padded_groups }}u + at / 4u][at % 4u]);
    return Operand(rows[row + 2u * at], rows[row + 2u * at + 1u], scale);
{% else %}
    let first = row + min(u, {{ units - 1 }}u) * {{ unit_vectors }}u;
    return Operand(
{% for i in range(unit_vectors) %}
        rows[first + {{ i }}u],
{% endfor %}
    );
{% endif %}
}

@compute @workgroup_size({{ threads }})
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(subgroup_size) subgroup_size: u32,
    @builtin(subgroup_id) subgroup_id: u32,
    @builtin(subgroup_invocation_id) subgroup_invocation_id: u32,
) {
    take_place(subgroup_size, subgroup_id, subgroup_invocation_id);
    first_row = group.y * {{ rows_tile }}u;
    tile_rows = min(row_count() - first_row, {{ rows_tile }}u);
    let quad = lane % 4u;
    let slice = lane / 4u % {{ slices }}u;
    let first_block = group.x * {{ blocks }}u;
    let block = min(first_block + lane / {{ 4 * slices }}u, {{ row_blocks - 1 }}u);

{% for d in range(depth) %}
    var unit{{ d }} = load_unit(block, quad, slice + {{ d * slices }}u);
{% endfor %}
{% include "turns" %}

{% for r in range(rows_tile) %}
    add_slices(sums{{ r }}, {{ r }}u);
{% endfor %}
    workgroupBarrier();
    store_results(first_row, tile_rows, first_block);
}
