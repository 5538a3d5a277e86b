{#
Sums over the slices of a block's columns, and what happens to them.

An invocation's number is `quad + 4 * (slice + slices * block)`. rows_tile: rows summed at once; blocks: of a workgroup;
geglu, has_cap, cap; out_cols; row_blocks of the matrix or its piece; pieces: whether push constants say where it starts.
#}
{% set block_lanes = 4 * slices %}
{# By row: of every subgroup, of 8 invocations or more, or of every block if that is less; of every quad. #}
{% set least_joined = [block_lanes, subgroup or 8] | min %}
{% set red_quads = threads // least_joined * 4 %}
var<workgroup> slice_sums: array<vec4<f32>, {{ rows_tile * red_quads }}>;

// Invocations whose sums a subgroup adds up.
fn joined() -> u32 {
    return min(SUBGROUP_LANES, {{ block_lanes }}u);
}

fn add_slices(sums: vec4<f32>, tile_row: u32) {
    var total = sums;
    let lanes = joined();
{% for distance in [4, 8, 16, 32] %}
{% if block_lanes > distance and (not subgroup or subgroup > distance) %}
{% if subgroup or distance == 4 %}
    total += subgroupShuffleXor(total, {{ distance }}u);
{% else %}
    if (lanes > {{ distance }}u) {
        total += subgroupShuffleXor(total, {{ distance }}u);
    }
{% endif %}
{% endif %}
{% endfor %}
    if (lane % lanes < 4u) {
        slice_sums[tile_row * {{ red_quads }}u + lane / lanes * 4u + lane % 4u] = total;
    }
}

// The sums of a quad of rows of the workgroup's block.
fn block_sums(tile_row: u32, block: u32, quad: u32) -> vec4<f32> {
    let parts = {{ block_lanes }}u / joined();
    let first = tile_row * {{ red_quads }}u + block * parts * 4u + quad;
    var total = slice_sums[first];
    for (var i = 1u; i < parts; i++) {
        total += slice_sums[first + i * 4u];
    }
    return total;
}

{% if geglu %}
// gelu(gate) * up, tanh approximation: gelu(x) = x / (1 + exp(-2 u)).
fn geglu(gate: vec4<f32>, up: vec4<f32>) -> vec4<f32> {
    let u = 0.7978845608 * fma(gate * gate * gate, vec4<f32>(0.044715), gate);
    return gate / (1.0 + exp(min(-2.0 * u, vec4<f32>(80.0)))) * up;
}
{% endif %}
{% if has_cap %}
fn tanh_of(x: f32) -> f32 {
    let size = abs(x);
    if (size < 0.25) {
        // 1 - 2 / (e + 1) would cancel.
        let s = x * x;
        let tail = fma(s, fma(s, fma(s, fma(s, -0.0088632355, 0.021869488), -0.053968254), 0.13333333), -0.33333333);
        return fma(x * s, tail, x);
    }
    let t = 1.0 - 2.0 / (exp(2.0 * min(size, 20.0)) + 1.0);
    return select(t, -t, x < 0.0);
}
{% endif %}

fn store_result(row: u32, block: u32, quad: u32, tile_row: u32, block_here: u32) {
{% if geglu %}
    let value = geglu(block_sums(tile_row, block_here, quad), block_sums(tile_row, block_here + 1u, quad));
    let col = {{ "p.first_row / 2u + " if pieces else "" }}block / 2u * 16u + quad * 4u;
{% else %}
{% if has_cap %}
    let sums = block_sums(tile_row, block_here, quad) / {{ cap }};
    let value = {{ cap }} * vec4<f32>(tanh_of(sums.x), tanh_of(sums.y), tanh_of(sums.z), tanh_of(sums.w));
{% else %}
    let value = block_sums(tile_row, block_here, quad);
{% endif %}
    let col = {{ "p.first_row + " if pieces else "" }}block * 16u + quad * 4u;
{% endif %}
    let at = row * {{ out_cols }}u + col;
{% for c in range(4) %}
{% if out_cols % 16 == 0 and not pieces %}
    out[at + {{ c }}u] = value.{{ "xyzw"[c] }};
{% else %}
    if (col + {{ c }}u < {{ out_cols }}u) {
        out[at + {{ c }}u] = value.{{ "xyzw"[c] }};
    }
{% endif %}
{% endfor %}
}

// Stores the sums of `rows` rows from `first_row` on.
fn store_results(first_row: u32, rows: u32, first_block: u32) {
{% set step = 2 if geglu else 1 %}
    for (var i = lane; i < {{ rows_tile * 4 * (blocks // step) }}u; i += {{ threads }}u) {
        let quad = i % 4u;
        let block_here = i / 4u % {{ blocks // step }}u * {{ step }}u;
        let tile_row = i / {{ 4 * (blocks // step) }}u;
        let block = first_block + block_here;
        if (tile_row < rows && block < {{ row_blocks }}u) {
            store_result(first_row + tile_row, block, quad, tile_row, block_here);
        }
    }
}
