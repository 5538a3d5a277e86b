{#
y[r][c] = sum over groups g of 32 columns: a_scale[r][g] w_scale[c][g] sum_k a[r][k] w[c][k], the inner sums of integers
on the matrix units; see src/gemm/int8.rs for the constants.
#}
enable f16;
enable wgpu_cooperative_matrix;

{% set call_binding = 0 %}
{% include "call" %}

struct P { first_col: u32 }
var<immediate> p: P;
// A row's int8, then its groups' scales.
@group(0) @binding(1) var<storage, read> a: array<vec4<u32>>;
// For activations of f16.
@group(0) @binding(2) var<storage, read> a_scale: array<f32>;
// The same word of 4 neighbouring rows.
@group(0) @binding(3) var<storage, read> w: array<vec4<u32>>;
// Scales of 4 neighbouring rows.
@group(0) @binding(4) var<storage, read> w_scale: array<vec2<u32>>;
@group(0) @binding(5) var<storage, read_write> y: array<{{ "vec4<f32>" if out_vectors else "f32" }}>;

// Tiles of a and w as int8, {{ chunk }} values an element, rows padded by one element against bank conflicts; in the end the
// sums as f32, 4 an element. The views' elements lie where this one's do; int8 is written f16, see src/spirv/int8.rs.
var<workgroup> tile: array<vec4<u32>, {{ tile_elements }}>;
var<workgroup> tile_as_{{ int8_view }}: array<f16, {{ tile_elements }}>;
var<workgroup> tile_as_f32: array<f32, {{ tile_elements }}>;
{% set groups_m = tile_k // 32 * tile_m %}
{% set groups_n = tile_k // 32 * tile_n %}
// Scales of the tiles: [groups][rows of a], [groups][rows of w].
var<workgroup> scales: array<f32, {{ groups_m + groups_n }}>;

{% if epilogue != "none" %}
{% include "gemm_epilogue" %}
{% endif %}

alias MatrixA = coop_mat{{ mat }}x{{ mat }}<f16, A>;
alias MatrixB = coop_mat{{ mat }}x{{ mat }}<f16, B>;
alias MatrixC = coop_mat{{ mat }}x{{ mat }}<f32, C>;

// WGSL has no such product: the difference becomes one afterwards.
fn product_by_element(x: MatrixC, y: MatrixC) -> MatrixC {
    return x - y;
}

{% if format == "q4" %}
// 16 times each integer: its four bits, less 8, are the upper half of a byte.
fn low_columns(word: u32) -> u32 {
    return ((word << 4u) & 0xf0f0f0f0u) ^ 0x80808080u;
}
fn high_columns(word: u32) -> u32 {
    return (word & 0xf0f0f0f0u) ^ 0x80808080u;
}
{% endif %}

{% set chunks = 16 // chunk %}
{% set row = tile_k // chunk + 1 %}
{% set sixteens = tile_k // 16 %}
{% set step_groups = tile_k // 32 %}
{% set b_start = tile_m * row %}
{% set frags_m = subgroup_m // mat %}
{% set frags_n = subgroup_n // mat %}
{% set a_items = tile_m * sixteens %}
{% set b_items = tile_n // 4 * sixteens %}
{% set sb_items = tile_n // 4 * step_groups %}
{% set a_rounds = (a_items + threads - 1) // threads %}
{% set b_rounds = (b_items + threads - 1) // threads %}
{% set sa_rounds = (groups_m + threads - 1) // threads %}
{% set sb_rounds = (sb_items + threads - 1) // threads %}
{# Words of a weight row in 16 columns. #}
{% set loads = 16 // values_per_word %}
{# An invocation's item of a round; some have none in the last round and take the last. #}
{% macro item(who, round, items) %}{{ "min(%s + %du, %du)"|format(who, round * threads, items - 1) if (round + 1) * threads > items else "%s + %du"|format(who, round * threads) }}{% endmacro %}
{% macro only(who, round, items) %}{{ "if (%s + %du < %du) "|format(who, round * threads, items) if (round + 1) * threads > items else "" }}{% endmacro %}
{# Brings the next tile of a and w into registers. #}
{% macro load(step) %}
{% for i in range(a_rounds) %}
        a{{ i }} = a[a_at{{ i }} + {{ step }} * {{ sixteens }}u];
{% endfor %}
{% for i in range(b_rounds) %}
{% for l in range(loads) %}
{% if k_tail %}
        b{{ i }}_{{ l }} = w[b_block{{ i }} + min(b_word{{ i }} + {{ step }} * {{ sixteens * loads }}u + {{ l }}u, {{ words - 1 }}u) * 4u];
{% else %}
        b{{ i }}_{{ l }} = w[b_at{{ i }} + {{ step }} * {{ sixteens * loads * 4 }}u{{ " + %du"|format(l * 4) if l else "" }}];
{% endif %}
{% endfor %}
{% endfor %}
{% for i in range(sa_rounds) %}
        {
            let group = sa_group{{ i }} + {{ step }} * {{ step_groups }}u;
            sa{{ i }} = a[sa_at{{ i }} + group / 4u][group % 4u];
        }
{% endfor %}
{% for i in range(sb_rounds) %}
        sb{{ i }} = w_scale[sb_block{{ i }} + {{ "min(sb_group%d + %s * %du, %du)"|format(i, step, step_groups, groups - 1) if k_tail else "(sb_group%d + %s * %du)"|format(i, step, step_groups) }} * 4u];
{% endfor %}
{% endmacro %}
{# Puts 16 columns into the tile. #}
{% macro put_columns(to, x, y, z, w) %}
{% if chunks == 1 %}
            tile[{{ to }}] = vec4<u32>({{ x }}, {{ y }}, {{ z }}, {{ w }});
{% else %}
            tile[{{ to }}] = vec4<u32>({{ x }}, {{ y }}, 0u, 0u);
            tile[{{ to }} + 1u] = vec4<u32>({{ z }}, {{ w }}, 0u, 0u);
{% endif %}
{% endmacro %}
{# Puts what is in registers into the tile. #}
{% macro store() %}
{% for i in range(a_rounds) %}
        {{ only("local", i, a_items) }}{
{{ put_columns("a_to%d"|format(i), "a%d.x"|format(i), "a%d.y"|format(i), "a%d.z"|format(i), "a%d.w"|format(i)) }}
        }
{% endfor %}
{% for i in range(b_rounds) %}
        {{ only("local", i, b_items) }}{
{% for r in range(4) %}
{% set c = "xyzw"[r] %}
{% set to = "b_to%d + %du"|format(i, r * row) %}
{% if format == "q4" %}
{{ put_columns(to, "low_columns(b%d_0.%s)"|format(i, c), "high_columns(b%d_0.%s)"|format(i, c), "low_columns(b%d_1.%s)"|format(i, c), "high_columns(b%d_1.%s)"|format(i, c)) }}
{% else %}
{{ put_columns(to, "b%d_0.%s"|format(i, c), "b%d_1.%s"|format(i, c), "b%d_2.%s"|format(i, c), "b%d_3.%s"|format(i, c)) }}
{% endif %}
{% endfor %}
        }
{% endfor %}
{% for i in range(sa_rounds) %}
        {{ only("mirror", i, groups_m) }}{ scales[sa_to{{ i }}] = bitcast<f32>(sa{{ i }}); }
{% endfor %}
{% for i in range(sb_rounds) %}
        {{ only("mirror", i, sb_items) }}{
            let of01 = unpack2x16float(sb{{ i }}.x){{ " * 0.0625" if format == "q4" else "" }};
            let of23 = unpack2x16float(sb{{ i }}.y){{ " * 0.0625" if format == "q4" else "" }};
            scales[sb_to{{ i }}] = of01.x;
            scales[sb_to{{ i }} + 1u] = of01.y;
            scales[sb_to{{ i }} + 2u] = of23.x;
            scales[sb_to{{ i }} + 3u] = of23.y;
        }
{% endfor %}
{% endmacro %}
{# Multiplies the tile. #}
{% macro compute() %}
{% for g in range(step_groups) %}
        {
{% for i in range(frags_m) %}
            // The same scale all along a row.
            let row_scale{{ i }} = coopLoad<MatrixC>(&scales[tile_row + {{ g * tile_m + i * mat }}u], 0u);
{% for k in range(32 // mat_k) %}
            let fa{{ i }}_{{ k }} = coopLoadT<MatrixA>(&tile_as_{{ int8_view }}[a_from + {{ i * mat * row + (g * 32 + k * mat_k) // chunk }}u], {{ row }}u);
{% endfor %}
{% endfor %}
{% for j in range(frags_n) %}
            // The same scale all along a column.
            let col_scale{{ j }} = coopLoadT<MatrixC>(&scales[tile_col + {{ groups_m + g * tile_n + j * mat }}u], 0u);
{% for k in range(32 // mat_k) %}
            let fb{{ j }}_{{ k }} = coopLoad<MatrixB>(&tile_as_{{ int8_view }}[b_from + {{ j * mat * row + (g * 32 + k * mat_k) // chunk }}u], {{ row }}u);
{% endfor %}
{% for i in range(frags_m) %}
{% for k in range(32 // mat_k) %}
            let p{{ i }}_{{ j }}_{{ k }} = coopMultiplyAdd(fa{{ i }}_{{ k }}, fb{{ j }}_{{ k }}, {{ "p%d_%d_%d"|format(i, j, k - 1) if k else "MatrixC()" }});
{% endfor %}
            c{{ i }}_{{ j }} += product_by_element(product_by_element(p{{ i }}_{{ j }}_{{ 32 // mat_k - 1 }}, col_scale{{ j }}), row_scale{{ i }});
{% endfor %}
{% endfor %}
        }
{% endfor %}
{% endmacro %}
@compute @workgroup_size({{ threads }})
fn main(
    @builtin(workgroup_id) group_id: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let rows = row_count();
    let first_row = group_id.x * {{ tile_m }}u;
    let first_n = group_id.y * {{ tile_n }}u;
    let mirror = {{ threads - 1 }}u - local;

    // Each round, an invocation brings 16 columns of a row of a, 16 columns of 4 rows of w, a scale of a, and scales of
    // 4 rows of w. Rows beyond the last are the last again; their results are dropped. Columns beyond the last are
    // zeros in a, and anything in w.
{% for i in range(a_rounds) %}
    let a_item{{ i }} = {{ item("local", i, a_items) }};
    let a_at{{ i }} = min(first_row + a_item{{ i }} / {{ sixteens }}u, max(rows, 1u) - 1u) * {{ int8_row }}u + a_item{{ i }} % {{ sixteens }}u;
    let a_to{{ i }} = a_item{{ i }} / {{ sixteens }}u * {{ row }}u + a_item{{ i }} % {{ sixteens }}u * {{ chunks }}u;
    var a{{ i }}: vec4<u32>;
{% endfor %}
{% for i in range(b_rounds) %}
    let b_item{{ i }} = {{ item("local", i, b_items) }};
    let b_quad{{ i }} = b_item{{ i }} % 4u;
    let b_word{{ i }} = b_item{{ i }} / 4u % {{ sixteens }}u * {{ loads }}u;
    let b_tile_block{{ i }} = b_item{{ i }} / {{ 4 * sixteens }}u;
    let b_block{{ i }} = min(first_n / 16u + b_tile_block{{ i }}, {{ blocks - 1 }}u) * {{ words * 4 }}u + b_quad{{ i }};
{% if not k_tail %}
    let b_at{{ i }} = b_block{{ i }} + b_word{{ i }} * 4u;
{% endif %}
    let b_to{{ i }} = {{ b_start }}u + (b_tile_block{{ i }} * 16u + b_quad{{ i }} * 4u) * {{ row }}u + b_item{{ i }} / 4u % {{ sixteens }}u * {{ chunks }}u;
{% for l in range(loads) %}
    var b{{ i }}_{{ l }}: vec4<u32>;
{% endfor %}
{% endfor %}
{% for i in range(sa_rounds) %}
    let sa_item{{ i }} = {{ item("mirror", i, groups_m) }};
    let sa_group{{ i }} = sa_item{{ i }} % {{ step_groups }}u;
    let sa_at{{ i }} = min(first_row + sa_item{{ i }} / {{ step_groups }}u, max(rows, 1u) - 1u) * {{ int8_row }}u + {{ int8_scales }}u;
    let sa_to{{ i }} = sa_group{{ i }} * {{ tile_m }}u + sa_item{{ i }} / {{ step_groups }}u;
    var sa{{ i }}: u32;
{% endfor %}
{% for i in range(sb_rounds) %}
    let sb_item{{ i }} = {{ item("mirror", i, sb_items) }};
    let sb_quad{{ i }} = sb_item{{ i }} % 4u;
    let sb_group{{ i }} = sb_item{{ i }} / 4u % {{ step_groups }}u;
    let sb_tile_block{{ i }} = sb_item{{ i }} / {{ 4 * step_groups }}u;
    let sb_block{{ i }} = min(first_n / 16u + sb_tile_block{{ i }}, {{ blocks - 1 }}u) * {{ groups * 4 }}u + sb_quad{{ i }};
    let sb_to{{ i }} = {{ groups_m }}u + sb_group{{ i }} * {{ tile_n }}u + sb_tile_block{{ i }} * 16u + sb_quad{{ i }} * 4u;
    var sb{{ i }}: vec2<u32>;
{% endfor %}

    let tile_row = subgroup / {{ tile_n // subgroup_n }}u * {{ subgroup_m }}u;
    let tile_col = subgroup % {{ tile_n // subgroup_n }}u * {{ subgroup_n }}u;
    let a_from = tile_row * {{ row }}u;
    let b_from = {{ b_start }}u + tile_col * {{ row }}u;
{% for i in range(frags_m) %}
{% for j in range(frags_n) %}
    var c{{ i }}_{{ j }} = MatrixC();
{% endfor %}
{% endfor %}

{{ load("0u") }}
    for (var step = 0u; step < {{ steps }}u; step++) {
        workgroupBarrier();
{{ store() }}
        workgroupBarrier();
        let next = min(step + 1u, {{ steps - 1 }}u);
{{ load("next") }}
{{ compute() }}
    }

{% include "gemm_sums" %}
}
