{# y[r][c] = a_scale[r] * sum_k a[r][k] w[c][k] on the matrix units; see src/gemm.rs for the constants. #}
{% from "gemm_weights" import dequantize %}
{% set quantized = format in ["q8", "q4"] %}
enable f16;
enable wgpu_cooperative_matrix;

{% set call_binding = 0 %}
{% include "call" %}

struct P { first_col: u32 }
var<immediate> p: P;
@group(0) @binding(1) var<storage, read> a: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> a_scale: array<f32>;
// The same word of 4 neighbouring rows.
@group(0) @binding(3) var<storage, read> w: array<vec4<u32>>;
{% if quantized %}
// Scales of 4 neighbouring rows.
@group(0) @binding(4) var<storage, read> w_scale: array<vec2<u32>>;
{% endif %}
@group(0) @binding({{ 5 if quantized else 4 }}) var<storage, read_write> y: array<{{ "vec4<f32>" if out_vectors else "f32" }}>;

// Tiles of a and w as f16, 8 values an element, rows padded by one element against bank conflicts; in the end the sums
// as f32, 4 an element. The views' elements lie where this one's do.
var<workgroup> tile: array<vec4<u32>, {{ tile_elements }}>;
var<workgroup> tile_as_f16: array<f16, {{ tile_elements }}>;
var<workgroup> tile_as_f32: array<f32, {{ tile_elements }}>;

{{ dequantize(format) }}
{% if epilogue != "none" %}
{% include "gemm_epilogue" %}
{% endif %}

alias MatrixA = coop_mat{{ mat }}x{{ mat }}<f16, A>;
alias MatrixB = coop_mat{{ mat }}x{{ mat }}<f16, B>;
alias MatrixC = coop_mat{{ mat }}x{{ mat }}<f32, C>;

{% set row = tile_k // 8 + 1 %}
{% set octets = tile_k // 8 %}
{% set b_start = tile_m * row %}
{% set stage = (tile_m + tile_n) * row %}
{% set frags_m = subgroup_m // mat %}
{% set frags_n = subgroup_n // mat %}
{% set a_items = tile_m * octets %}
{% set b_items = tile_n // 4 * octets %}
{% set a_rounds = (a_items + threads - 1) // threads %}
{% set b_rounds = (b_items + threads - 1) // threads %}
{# Words of a weight row in 8 columns. #}
{% set loads = 8 // values_per_word %}
{# Brings the next tile of a and w into registers. #}
{% macro load(step) %}
{% for i in range(a_rounds) %}
        a{{ i }} = a[a_at{{ i }} + {{ step }} * {{ octets }}u];
{% endfor %}
{% for i in range(b_rounds) %}
{% if k_tail %}
        {
            let word = b_octet{{ i }} * {{ loads }}u + {{ step }} * {{ octets * loads }}u;
{% for l in range(loads) %}
            b{{ i }}_{{ l }} = w[b_block{{ i }} + min(word + {{ l }}u, {{ words - 1 }}u) * 4u];
{% if not quantized %}
            if (word + {{ l }}u >= {{ words }}u) { b{{ i }}_{{ l }} = vec4<u32>(); }
{% endif %}
{% endfor %}
{% if quantized %}
            let group = (b_octet{{ i }} + {{ step }} * {{ octets }}u) / 4u;
            s{{ i }} = w_scale[b_scale{{ i }} + min(group, {{ groups - 1 }}u) * 4u];
            if (group >= {{ groups }}u) { s{{ i }} = vec2<u32>(); }
{% endif %}
        }
{% else %}
{% for l in range(loads) %}
        b{{ i }}_{{ l }} = w[b_at{{ i }} + {{ step }} * {{ octets * loads * 4 }}u{{ " + %du"|format(l * 4) if l else "" }}];
{% endfor %}
{% if quantized %}
        s{{ i }} = w_scale[b_scale{{ i }} + {{ step }} * {{ tile_k // 32 * 4 }}u];
{% endif %}
{% endif %}
{% endfor %}
{% endmacro %}
{# Puts what is in registers into the tile at `base`. #}
{% macro store(base) %}
{% for i in range(a_rounds) %}
{% set guarded = (i + 1) * threads > a_items %}
        {{ "if (local + %du < %du) { "|format(i * threads, a_items) if guarded else "" }}tile[{{ base }} + a_to{{ i }}] = a{{ i }};{{ " }" if guarded else "" }}

{% endfor %}
{% for i in range(b_rounds) %}
{% set guarded = (i + 1) * threads > b_items %}
        {{ "if (local + %du < %du) "|format(i * threads, b_items) if guarded else "" }}{
{% if quantized %}
            let scales01 = vec2<f16>(unpack2x16float(s{{ i }}.x));
            let scales23 = vec2<f16>(unpack2x16float(s{{ i }}.y));
{% endif %}
{% for r in range(4) %}
{% set c = "xyzw"[r] %}
            tile[{{ base }} + b_to{{ i }} + {{ r * row }}u] = halves({% for l in range(loads) %}b{{ i }}_{{ l }}.{{ c }}, {% endfor %}{{ ("scales01" if r < 2 else "scales23") + "." + "xy"[r % 2] if quantized else "" }});
{% endfor %}
        }
{% endfor %}
{% endmacro %}
{# Multiplies the tile at `base`. #}
{% macro compute(base) %}
{% for k in range(tile_k // slices // mat) %}
        {
{% for i in range(frags_m) %}
            let fa{{ i }} = coopLoadT<MatrixA>(&tile_as_f16[{{ base }} + a_from + {{ i * mat * row + k * mat // 8 }}u], {{ row }}u);
{% endfor %}
{% for j in range(frags_n) %}
            let fb{{ j }} = coopLoad<MatrixB>(&tile_as_f16[{{ base }} + b_from + {{ j * mat * row + k * mat // 8 }}u], {{ row }}u);
{% for i in range(frags_m) %}
            c{{ i }}_{{ j }} = coopMultiplyAdd(fa{{ i }}, fb{{ j }}, c{{ i }}_{{ j }});
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

    // Each round, an invocation brings 8 columns of a row of a, and 8 columns of 4 rows of w. Rows beyond the last are
    // the last again; their results are dropped.
{% for i in range(a_rounds) %}
    let a_item{{ i }} = {{ "min(local + %du, %du)"|format(i * threads, a_items - 1) if (i + 1) * threads > a_items else "local + %du"|format(i * threads) }};
    let a_at{{ i }} = min(first_row + a_item{{ i }} / {{ octets }}u, max(rows, 1u) - 1u) * {{ padded_k // 8 }}u + a_item{{ i }} % {{ octets }}u;
    let a_to{{ i }} = a_item{{ i }} / {{ octets }}u * {{ row }}u + a_item{{ i }} % {{ octets }}u;
    var a{{ i }}: vec4<u32>;
{% endfor %}
{% for i in range(b_rounds) %}
    let b_item{{ i }} = {{ "min(local + %du, %du)"|format(i * threads, b_items - 1) if (i + 1) * threads > b_items else "local + %du"|format(i * threads) }};
    let b_quad{{ i }} = b_item{{ i }} % 4u;
    let b_octet{{ i }} = b_item{{ i }} / 4u % {{ octets }}u;
    let b_tile_block{{ i }} = b_item{{ i }} / {{ 4 * octets }}u;
    let b_row_block{{ i }} = min(first_n / 16u + b_tile_block{{ i }}, {{ blocks - 1 }}u);
    let b_block{{ i }} = b_row_block{{ i }} * {{ words * 4 }}u + b_quad{{ i }};
{% if not k_tail %}
    let b_at{{ i }} = b_block{{ i }} + b_octet{{ i }} * {{ loads * 4 }}u;
{% endif %}
{% if quantized %}
    let b_scale{{ i }} = b_row_block{{ i }} * {{ groups * 4 }}u + b_quad{{ i }}{{ "" if k_tail else " + b_octet%d / 4u * 4u"|format(i) }};
    var s{{ i }}: vec2<u32>;
{% endif %}
    let b_to{{ i }} = {{ b_start }}u + (b_tile_block{{ i }} * 16u + b_quad{{ i }} * 4u) * {{ row }}u + b_octet{{ i }};
{% for l in range(loads) %}
    var b{{ i }}_{{ l }}: vec4<u32>;
{% endfor %}
{% endfor %}

    let tile_row = subgroup / {{ tile_n // subgroup_n }}u{{ " %% %du"|format(tile_m // subgroup_m) if slices > 1 else "" }} * {{ subgroup_m }}u;
    let tile_col = subgroup % {{ tile_n // subgroup_n }}u * {{ subgroup_n }}u;
{% if slices > 1 %}
    // Subgroups with the same rows and columns share out each step's columns of a and w; their sums meet in the end.
    let slice = subgroup / {{ (tile_m // subgroup_m) * (tile_n // subgroup_n) }}u;
    let a_from = tile_row * {{ row }}u + slice * {{ octets // slices }}u;
    let b_from = {{ b_start }}u + tile_col * {{ row }}u + slice * {{ octets // slices }}u;
{% else %}
    let a_from = tile_row * {{ row }}u;
    let b_from = {{ b_start }}u + tile_col * {{ row }}u;
{% endif %}
{% for i in range(frags_m) %}
{% for j in range(frags_n) %}
    var c{{ i }}_{{ j }} = MatrixC();
{% endfor %}
{% endfor %}

{{ load("0u") }}
{% if stages == 2 %}
{{ store("0u") }}
    for (var step = 0u; step < {{ steps }}u; step++) {
        workgroupBarrier();
        let next = min(step + 1u, {{ steps - 1 }}u);
{{ load("next") }}
        let base = step % 2u * {{ stage }}u;
{{ compute("base") }}
        // Nobody reads the other stage any more: the barrier was after its use.
        let other = {{ stage }}u - base;
{{ store("other") }}
    }
{% else %}
    for (var step = 0u; step < {{ steps }}u; step++) {
        workgroupBarrier();
{{ store("0u") }}
        workgroupBarrier();
        let next = min(step + 1u, {{ steps - 1 }}u);
{{ load("next") }}
{{ compute("0u") }}
    }
{% endif %}

{% include "gemm_sums" %}
}
