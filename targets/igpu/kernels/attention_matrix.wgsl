{#
Attention of many rows of one sequence on the matrix units: grid (rows / rows of a tile, kv_heads * batches). A workgroup
serves `queries` queries, the heads of one KV head for neighbouring rows, and goes through the positions that any of them
sees in tiles of `tile`; keys, then values of a tile lie in workgroup memory. Products: a subgroup makes a matrix of
scores, or `dot_splits` of them make one, each over a part of the head. Sums: a subgroup has `own_columns` columns of
matrices for all queries. What a row of earlier sums is multiplied by is loaded as a matrix whose columns are all alike.
#}
{% set row = chunks + 1 %}
{% set score_row = tile // 4 + 1 %}
{% set weight_row = tile // 8 + 1 %}
{% set strip_row = mat // 4 + 1 %}
{% set blocks = queries // mat %}
{% set columns = head_dim // mat %}
{% set steps = columns // dot_splits %}
{% set tasks = blocks * (tile // mat) * dot_splits %}
{% set stage_items = tile * chunks %}
{% set stage_loads = (stage_items + threads - 1) // threads %}
{% set all_own = columns % (threads // subgroup_size) == 0 %}
enable f16;
enable wgpu_cooperative_matrix;

{% include "call" %}
@group(0) @binding({{ input_binding }}) var<storage, read> input: array<vec4<f32>>;
@group(0) @binding({{ keys_binding }}) var<storage, read> keys: array<vec4<u32>>;
@group(0) @binding({{ values_binding }}) var<storage, read> values: array<vec4<u32>>;
@group(0) @binding({{ output_binding }}) var<storage, read_write> output: array<vec4<f32>>;

alias MatrixA = coop_mat{{ mat }}x{{ mat }}<f16, A>;
alias MatrixB = coop_mat{{ mat }}x{{ mat }}<f16, B>;
alias MatrixC = coop_mat{{ mat }}x{{ mat }}<f32, C>;

const HEADS = {{ heads }}u;
const KV_HEADS = {{ kv_heads }}u;
const GROUP = {{ group }}u;
const BATCHES = {{ batches }}u;
const TILE_HEADS = {{ tile_heads }}u;
const TILE_ROWS = {{ tile_rows }}u;
const CAPACITY = {{ capacity }}u;
const CHUNKS = {{ chunks }}u;
const QUERIES = {{ queries }}u;
const TILE = {{ tile }}u;
const THREADS = {{ threads }}u;
const SUBGROUPS = {{ threads // subgroup_size }}u;
const NONE = -3.0e38;

// 8 halves an element; rows, one a query or position, are padded by an element against bank conflicts.
var<workgroup> query: array<vec4<u32>, {{ queries * row }}>;
var<workgroup> query_as_f16: array<f16, {{ queries * row }}>;
// Keys or values of a tile; in the end the sums, 4 f32 an element.
var<workgroup> stage: array<vec4<u32>, {{ [tile * row, threads // subgroup_size * mat * strip_row] | max }}>;
var<workgroup> stage_as_f16: array<f16, {{ [tile * row, threads // subgroup_size * mat * strip_row] | max }}>;
var<workgroup> stage_as_f32: array<f32, {{ [tile * row, threads // subgroup_size * mat * strip_row] | max }}>;
// Scores of a tile, `dot_splits` times, and their weights.
var<workgroup> scores: array<vec4<f32>, {{ dot_splits * queries * score_row }}>;
var<workgroup> scores_as_f32: array<f32, {{ dot_splits * queries * score_row }}>;
var<workgroup> weights: array<vec4<u32>, {{ queries * weight_row }}>;
var<workgroup> weights_as_f16: array<f16, {{ queries * weight_row }}>;
// What a query's earlier sums are multiplied by; at the end what they are divided by.
var<workgroup> keep: array<f32, {{ queries }}>;

// Element by element; said in SPIR-V, for WGSL has only the difference.
fn product_by_element(a: MatrixC, b: MatrixC) -> MatrixC {
    return a - b;
}

fn to_halves(x: vec4<f32>) -> vec2<u32> {
    let y = clamp(x, vec4<f32>(-65504.0), vec4<f32>(65504.0));
    return vec2<u32>(pack2x16float(y.xy), pack2x16float(y.zw));
}

{# Beyond the last position it is loaded again, which nobody uses: a branch would be waited for. #}
{% macro load(from) %}
{% for i in range(stage_loads) %}
        {
            let item = {{ "local + %du"|format(i * threads) if (i + 1) * threads <= stage_items else "min(local + %du, %du)"|format(i * threads, stage_items - 1) }};
            let position = min(next_base + item / CHUNKS, end - 1u);
            next_{{ i }} = {{ from }}[cache_at + (position{{ " % CAPACITY" if wraps }}) * CHUNKS + item % CHUNKS];
        }
{% endfor %}
{% endmacro %}
{% macro store() %}
{% for i in range(stage_loads) %}
        {% if (i + 1) * threads > stage_items %}
        if local + {{ i * threads }}u < {{ stage_items }}u
        {% endif %}
        { stage[(local + {{ i * threads }}u) / CHUNKS * {{ row }}u + (local + {{ i * threads }}u) % CHUNKS] = next_{{ i }}; }
{% endfor %}
{% endmacro %}

@compute @workgroup_size({{ threads }})
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let local = subgroup * {{ subgroup_size }}u + lane;
{% include "tile_of_rows" %}
    {% for i in range(stage_loads) %}
    var next_{{ i }}: vec4<u32>;
    {% endfor %}
    var next_base = start;
    {{- load("keys") }}

    // Scaled before they become halves, and saturated like the keys.
    for (var i = local; i < QUERIES * CHUNKS; i += THREADS) {
        let q = i / CHUNKS;
        let row = min(first_row + q / TILE_HEADS, row_end - 1u);
        let head = first_head + q % TILE_HEADS;
        let at = ((row * HEADS + head) * CHUNKS + i % CHUNKS) * 2u;
        query[q * {{ row }}u + i % CHUNKS] =
            vec4<u32>(to_halves(input[at] * {{ scale }}), to_halves(input[at + 1u] * {{ scale }}));
    }

    // The softmax: {{ softmax_team }} neighbouring threads a query.
    let my_query = local / {{ softmax_team }}u;
    let my_lane = local % {{ softmax_team }}u;
    let my_row = first_row + my_query / TILE_HEADS;
    var my_end = 0u;
    if my_query < TILE_ROWS * TILE_HEADS && my_row < row_end {
        my_end = position_of(my_row) + 1u;
    }
    {% if window %}
    let my_start = select(0u, my_end - {{ window }}u, my_end > {{ window }}u);
    {% endif %}
    {% if queries * softmax_team < threads %}
    let score_query = min(my_query, QUERIES - 1u);
    {% else %}
    let score_query = my_query;
    {% endif %}
    var greatest = NONE;
    var sum = 0.0;

    {% if not all_own %}
    // Beyond the last column, a subgroup makes it again and drops it.
    {% endif %}
    {% for c in range(own_columns) %}
    let column_{{ c }} = {{ "subgroup * %du + %du"|format(own_columns, c) if all_own else "min(subgroup * %du + %du, %du)"|format(own_columns, c, columns - 1) }};
    {% endfor %}
    {% for b in range(blocks) %}
    {% for c in range(own_columns) %}
    var acc_{{ b }}_{{ c }} = MatrixC();
    {% endfor %}
    {% endfor %}

    for (var base = start; base < end; base += TILE) {
        workgroupBarrier();
        {{- store() }}
        next_base = base;
        {{- load("values") }}
        workgroupBarrier();
        {% for i in range(tasks // (threads // subgroup_size)) %}
        {
            let task = subgroup + {{ i }}u * SUBGROUPS;
            let block = task % {{ blocks }}u;
            let column = task / {{ blocks }}u % {{ tile // mat }}u;
            let split = task / {{ blocks * (tile // mat) }}u;
            let a_at = block * {{ mat * row }}u + split * {{ steps * mat // 8 }}u;
            let b_at = column * {{ mat * row }}u + split * {{ steps * mat // 8 }}u;
            var dots = MatrixC();
            {% if steps <= 16 %}
            {% for k in range(steps) %}
            dots = coopMultiplyAdd(
                coopLoadT<MatrixA>(&query_as_f16[a_at + {{ k * mat // 8 }}u], {{ row }}u),
                coopLoad<MatrixB>(&stage_as_f16[b_at + {{ k * mat // 8 }}u], {{ row }}u),
                dots,
            );
            {% endfor %}
            {% else %}
            for (var k = 0u; k < {{ steps * mat // 8 }}u; k += {{ mat // 8 }}u) {
                dots = coopMultiplyAdd(
                    coopLoadT<MatrixA>(&query_as_f16[a_at + k], {{ row }}u),
                    coopLoad<MatrixB>(&stage_as_f16[b_at + k], {{ row }}u),
                    dots,
                );
            }
            {% endif %}
            coopStoreT(dots, &scores_as_f32[(split * QUERIES + block * {{ mat }}u) * {{ score_row }}u + column * {{ mat // 4 }}u], {{ score_row }}u);
        }
        {% endfor %}
        workgroupBarrier();
        {{- store() }}
        next_base = base + TILE;
        {{- load("keys") }}

        {% set own_vectors = tile // softmax_team // 4 %}
        var most = greatest;
        {% for v in range(own_vectors) %}
        let at_{{ v }} = my_lane + {{ v * softmax_team }}u;
        let position_{{ v }} = vec4<u32>(base + at_{{ v }} * 4u) + vec4<u32>(0u, 1u, 2u, 3u);
        {% if window %}
        let seen_{{ v }} = (position_{{ v }} < vec4<u32>(my_end)) & (position_{{ v }} >= vec4<u32>(my_start));
        {% else %}
        let seen_{{ v }} = position_{{ v }} < vec4<u32>(my_end);
        {% endif %}
        var score_{{ v }} = scores[score_query * {{ score_row }}u + at_{{ v }}];
        {% for s in range(1, dot_splits) %}
        score_{{ v }} += scores[({{ s }}u * QUERIES + score_query) * {{ score_row }}u + at_{{ v }}];
        {% endfor %}
        {% if softcap %}
        // Beyond 10 the hyperbolic tangent is 1 in f32, and some drivers' is not a number.
        score_{{ v }} = {{ softcap }} * tanh(clamp(score_{{ v }} / {{ softcap }}, vec4<f32>(-10.0), vec4<f32>(10.0)));
        {% endif %}
        score_{{ v }} = select(vec4<f32>(NONE), score_{{ v }}, seen_{{ v }});
        most = max(most, max(max(score_{{ v }}.x, score_{{ v }}.y), max(score_{{ v }}.z, score_{{ v }}.w)));
        {% endfor %}
        {% for mask in [1, 2, 4, 8, 16] if mask < softmax_team %}
        most = max(most, subgroupShuffleXor(most, {{ mask }}u));
        {% endfor %}
        let kept = exp(greatest - most);
        greatest = most;
        sum *= kept;
        {% for v in range(own_vectors) %}
        let weight_{{ v }} = select(vec4<f32>(), exp(score_{{ v }} - most), seen_{{ v }});
        sum += (weight_{{ v }}.x + weight_{{ v }}.y) + (weight_{{ v }}.z + weight_{{ v }}.w);
        {% endfor %}
        {% if queries * softmax_team < threads %}
        if my_query < QUERIES
        {% endif %}
        {
            if my_lane == 0u { keep[my_query] = kept; }
            {% for v in range(own_vectors) %}
            {
                let at = my_query * {{ weight_row }}u + at_{{ v }} / 2u;
                let component = at_{{ v }} % 2u * 2u;
                weights[at][component] = pack2x16float(weight_{{ v }}.xy);
                weights[at][component + 1u] = pack2x16float(weight_{{ v }}.zw);
            }
            {% endfor %}
        }
        workgroupBarrier();

        var changed = false;
        for (var i = lane; i < QUERIES; i += {{ subgroup_size }}u) {
            changed |= keep[i] != 1.0;
        }
        {% for b in range(blocks) %}
        let kept_{{ b }} = coopLoad<MatrixC>(&keep[{{ b * mat }}u], 0u);
        {% endfor %}
        if subgroupAny(changed) {
            {% for b in range(blocks) %}
            {% for c in range(own_columns) %}
            acc_{{ b }}_{{ c }} = product_by_element(acc_{{ b }}_{{ c }}, kept_{{ b }});
            {% endfor %}
            {% endfor %}
        }
        {% for k in range(tile // mat) %}
        {
            {% for b in range(blocks) %}
            let weight_{{ b }} = coopLoadT<MatrixA>(&weights_as_f16[{{ b * mat * weight_row + k * mat // 8 }}u], {{ weight_row }}u);
            {% endfor %}
            {% for c in range(own_columns) %}
            {
                let value = coopLoadT<MatrixB>(&stage_as_f16[{{ k * mat * row }}u + column_{{ c }} * {{ mat // 8 }}u], {{ row }}u);
                {% for b in range(blocks) %}
                acc_{{ b }}_{{ c }} = coopMultiplyAdd(weight_{{ b }}, value, acc_{{ b }}_{{ c }});
                {% endfor %}
            }
            {% endfor %}
        }
        {% endfor %}
    }

    {% for mask in [1, 2, 4, 8, 16] if mask < softmax_team %}
    sum += subgroupShuffleXor(sum, {{ mask }}u);
    {% endfor %}
    workgroupBarrier();
    if my_lane == 0u{{ " && my_query < QUERIES" if queries * softmax_team < threads }} { keep[my_query] = 1.0 / sum; }
    workgroupBarrier();
    // The sums go through workgroup memory, each subgroup through its own part.
    let strip = subgroup * {{ mat * strip_row }}u;
    {% for c in range(own_columns) %}
    {
        {% for b in range(blocks) %}
        coopStoreT(acc_{{ b }}_{{ c }}, &stage_as_f32[strip], {{ strip_row }}u);
        subgroupBarrier();
        for (var item = lane; item < {{ mat * mat // 4 }}u; item += {{ subgroup_size }}u) {
            let strip_r = item / {{ mat // 4 }}u;
            let strip_c = item % {{ mat // 4 }}u;
            let q = {{ b * mat }}u + strip_r;
            let row = first_row + q / TILE_HEADS;
            if q < TILE_ROWS * TILE_HEADS && row < row_end{{ " && subgroup * " ~ own_columns ~ "u + " ~ c ~ "u < " ~ columns ~ "u" if not all_own }} {
                let head = first_head + q % TILE_HEADS;
                output[(row * HEADS + head) * {{ head_dim // 4 }}u + column_{{ c }} * {{ mat // 4 }}u + strip_c] =
                    bitcast<vec4<f32>>(stage[strip + strip_r * {{ strip_row }}u + strip_c]) * keep[q];
            }
        }
        subgroupBarrier();
        {% endfor %}
    }
    {% endfor %}
}
