{# y[r][c] = a_scale[r] * sum_k a[r][k] w[c][k] with f32 arithmetic: 64 x 64 results a workgroup, 4 x 4 an invocation. #}
{% set quantized = format in ["q8", "q4"] %}
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
@group(0) @binding({{ 5 if quantized else 4 }}) var<storage, read_write> y: array<f32>;

// [32 columns][16 quads of rows] of a, then of w; in the end [64 rows][16 quads of columns] of the sums.
var<workgroup> tile: array<vec4<f32>, 1024>;

{% if epilogue != "none" %}
{% include "gemm_epilogue" %}
{% endif %}

{% set loads = 8 // values_per_word %}
// Column `c` of 8 in 4 neighbouring rows of w, unscaled.
{% if format == "q4" %}
fn column(words: vec4<u32>, c: u32) -> vec4<f32> {
    let shift = vec4<u32>(c % 4u * 8u + c / 4u * 4u);
    return vec4<f32>(vec4<i32>((words >> shift) & vec4<u32>(15u)) - vec4<i32>(8));
}
{% elif format == "q8" %}
fn column(words: vec4<u32>, c: u32) -> vec4<f32> {
    return vec4<f32>(bitcast<vec4<i32>>(words << vec4<u32>(24u - c % 4u * 8u)) >> vec4<u32>(24u));
}
{% elif format == "f16" %}
fn column(words: vec4<u32>, c: u32) -> vec4<f32> {
    let shifted = words >> vec4<u32>(c % 2u * 16u);
    return vec4<f32>(unpack2x16float(shifted.x).x, unpack2x16float(shifted.y).x, unpack2x16float(shifted.z).x, unpack2x16float(shifted.w).x);
}
{% elif format == "bf16" %}
fn column(words: vec4<u32>, c: u32) -> vec4<f32> {
    return bitcast<vec4<f32>>((words >> vec4<u32>(c % 2u * 16u)) << vec4<u32>(16u));
}
{% else %}
fn column(words: vec4<u32>, c: u32) -> vec4<f32> {
    return bitcast<vec4<f32>>(words);
}
{% endif %}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group_id: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let rows = row_count();
    let first_row = group_id.x * 64u;
    let first_n = group_id.y * 64u;
    let tile_row = local / 16u;
    let tile_col = local % 16u;
    // 8 columns of 4 rows: the first 64 invocations bring a, the next 64 bring w.
    let octet = local / 16u % 4u;
    let quad = local % 16u;
    let a_row = vec4<u32>(first_row + quad * 4u) + vec4<u32>(0u, 1u, 2u, 3u);
    let a_at = min(a_row, vec4<u32>(max(rows, 1u) - 1u)) * {{ padded_k // 8 }}u + vec4<u32>(octet);
    let row_block = min(first_n / 16u + quad / 4u, {{ blocks - 1 }}u);
    let w_at = row_block * {{ words * 4 }}u + quad % 4u;
{% if quantized %}
    let scale_at = row_block * {{ groups * 4 }}u + quad % 4u;
{% endif %}
    var sum0 = vec4<f32>();
    var sum1 = vec4<f32>();
    var sum2 = vec4<f32>();
    var sum3 = vec4<f32>();

    for (var step = 0u; step < {{ (k + 31) // 32 }}u; step++) {
        workgroupBarrier();
        if (local < 64u) {
            let row0 = a[a_at.x + step * 4u];
            let row1 = a[a_at.y + step * 4u];
            let row2 = a[a_at.z + step * 4u];
            let row3 = a[a_at.w + step * 4u];
{% for half in range(4) %}
            {
                let v0 = unpack2x16float(row0.{{ "xyzw"[half] }});
                let v1 = unpack2x16float(row1.{{ "xyzw"[half] }});
                let v2 = unpack2x16float(row2.{{ "xyzw"[half] }});
                let v3 = unpack2x16float(row3.{{ "xyzw"[half] }});
                tile[(octet * 8u + {{ half * 2 }}u) * 16u + quad] = vec4<f32>(v0.x, v1.x, v2.x, v3.x);
                tile[(octet * 8u + {{ half * 2 + 1 }}u) * 16u + quad] = vec4<f32>(v0.y, v1.y, v2.y, v3.y);
            }
{% endfor %}
        } else if (local < 128u) {
{% if quantized %}
            let packed = w_scale[scale_at + step * 4u];
            let scale = vec4<f32>(unpack2x16float(packed.x), unpack2x16float(packed.y));
{% endif %}
            let word = (step * 4u + octet) * {{ loads }}u;
{% for l in range(loads) %}
            {
{% if words % (32 // values_per_word) %}
                var words = w[w_at + min(word + {{ l }}u, {{ words - 1 }}u) * 4u];
                if (word + {{ l }}u >= {{ words }}u) { words = vec4<u32>(); }
{% else %}
                let words = w[w_at + (word + {{ l }}u) * 4u];
{% endif %}
{% for v in range(values_per_word) %}
                tile[512u + (octet * 8u + {{ l * values_per_word + v }}u) * 16u + quad] = column(words, {{ l * values_per_word + v }}u){{ " * scale" if quantized else "" }};
{% endfor %}
            }
{% endfor %}
        }
        workgroupBarrier();
        for (var c = 0u; c < 32u; c++) {
            let of_a = tile[c * 16u + tile_row];
            let of_w = tile[512u + c * 16u + tile_col];
            sum0 = fma(vec4<f32>(of_a.x), of_w, sum0);
            sum1 = fma(vec4<f32>(of_a.y), of_w, sum1);
            sum2 = fma(vec4<f32>(of_a.z), of_w, sum2);
            sum3 = fma(vec4<f32>(of_a.w), of_w, sum3);
        }
    }

    workgroupBarrier();
{% for i in range(4) %}
    tile[(tile_row * 4u + {{ i }}u) * 16u + tile_col] = sum{{ i }};
{% endfor %}
    workgroupBarrier();
{% set quads = 8 if epilogue == "geglu" else 16 %}
    for (var item = local; item < {{ 64 * quads }}u; item += 256u) {
        let r = first_row + item / {{ quads }}u;
        let quad_col = item % {{ quads }}u;
        let at = item / {{ quads }}u * 16u + {{ "quad_col / 4u * 8u + quad_col % 4u" if epilogue == "geglu" else "quad_col" }};
        let col = first_n{{ " / 2u" if epilogue == "geglu" else "" }} + quad_col * 4u;
        if (r < rows && col < {{ out_cols }}u) {
            let scale = a_scale[r];
{% if epilogue == "geglu" %}
            let value = geglu(tile[at] * scale, tile[at + 4u] * scale);
{% elif epilogue == "softcap" %}
            let value = softcap(tile[at] * scale);
{% else %}
            let value = tile[at] * scale;
{% endif %}
            let to = r * {{ y_cols }}u + p.first_col + col;
{% for c in range(4) %}
            {{ "if (col + %du < %du) { "|format(c, out_cols) if c else "{ " }}y[to + {{ c }}u] = value.{{ "xyzw"[c] }}; }
{% endfor %}
        }
    }
}
