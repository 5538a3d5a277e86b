{#
Attention of many rows of one sequence in f32: grid (rows / rows of a tile, kv_heads * batches). A workgroup serves
`queries` queries, the heads of one KV head for neighbouring rows, and goes through the positions that any of them sees
in tiles of `tile`. Products: keys and queries go through workgroup memory in slabs of 32 elements, a thread makes 2 x 4
scores. Sums: a thread has `own_chunks` chunks of `own_queries` queries.
#}
{% set chunk_type = {1: "u32", 2: "vec2<u32>", 4: "vec4<u32>"}[words] %}
{% set elements = part * parts %}
{% set slab_chunks = 32 // elements %}
{% set slab_parts = 32 // part %}
{% set slab_row = slab_parts + 1 %}
{% set row_chunks = chunks * parts %}
{% include "call" %}
@group(0) @binding({{ input_binding }}) var<storage, read> input: array<vec{{ part }}<f32>>;
@group(0) @binding({{ keys_binding }}) var<storage, read> keys: array<{{ chunk_type }}>;
@group(0) @binding({{ values_binding }}) var<storage, read> values: array<{{ chunk_type }}>;
@group(0) @binding({{ output_binding }}) var<storage, read_write> output: array<vec{{ part }}<f32>>;

alias Part = vec{{ part }}<f32>;
alias Chunk = {{ chunk_type }};

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
const NONE = -3.0e38;

// Slabs: a row a query or key, padded by a vector against bank conflicts.
var<workgroup> query_slab: array<Part, {{ queries * slab_row }}>;
var<workgroup> key_slab: array<Part, {{ tile * slab_row }}>;
// Scores, then weights: a row a query, padded.
var<workgroup> scores: array<vec4<f32>, {{ queries * (tile // 4 + 1) }}>;
var<workgroup> partial: array<f32, {{ threads }}>;
// What a query's earlier sums are multiplied by; at the end what they are divided by.
var<workgroup> keep: array<f32, {{ queries }}>;

{% include "cache_chunk" %}

@compute @workgroup_size({{ threads }})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
{% include "tile_of_rows" %}

    // The softmax: {{ softmax_team }} threads a query.
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
    var greatest = NONE;
    var sum = 0.0;

    // The sums.
    let sum_lane = local % {{ sum_lanes }}u;
    let sum_query = local / {{ sum_lanes }}u * {{ own_queries }}u;
    {% for q in range(own_queries) %}
    {% for c in range(own_chunks) %}
    {% for p in range(parts) %}
    var acc_{{ q }}_{{ c }}_{{ p }} = Part();
    {% endfor %}
    {% endfor %}
    {% endfor %}

    // The products.
    let dot_query = local / {{ tile // 4 }}u * 2u;
    let dot_key = local % {{ tile // 4 }}u;

    for (var base = start; base < end; base += TILE) {
        {% for q in range(2) %}
        {% for k in range(4) %}
        var dot_{{ q }}_{{ k }} = 0.0;
        {% endfor %}
        {% endfor %}
        for (var slab = 0u; slab < CHUNKS; slab += {{ slab_chunks }}u) {
            workgroupBarrier();
            for (var i = local; i < {{ queries * slab_parts }}u; i += THREADS) {
                let query = i / {{ slab_parts }}u;
                let at = i % {{ slab_parts }}u;
                let row = min(first_row + query / TILE_HEADS, row_end - 1u);
                let head = first_head + query % TILE_HEADS;
                var x = Part();
                if slab * {{ parts }}u + at < {{ row_chunks }}u {
                    x = input[(row * HEADS + head) * {{ row_chunks }}u + slab * {{ parts }}u + at];
                }
                query_slab[query * {{ slab_row }}u + at] = x * {{ scale }};
            }
            for (var i = local; i < {{ tile * slab_chunks }}u; i += THREADS) {
                let key = i / {{ slab_chunks }}u;
                let at = i % {{ slab_chunks }}u;
                var x = Chunk();
                if base + key < end && slab + at < CHUNKS {
                    x = keys[cache_at + ((base + key){{ " % CAPACITY" if wraps }}) * CHUNKS + slab + at];
                }
                {% for p in range(parts) %}
                key_slab[key * {{ slab_row }}u + at * {{ parts }}u + {{ p }}u] = part_{{ p }}(x);
                {% endfor %}
            }
            workgroupBarrier();
            for (var i = 0u; i < {{ slab_parts }}u; i++) {
                {% for q in range(2) %}
                let q_{{ q }} = query_slab[(dot_query + {{ q }}u) * {{ slab_row }}u + i];
                {% endfor %}
                {% for k in range(4) %}
                {
                    let k = key_slab[(dot_key + {{ k * tile // 4 }}u) * {{ slab_row }}u + i];
                    {% for q in range(2) %}
                    dot_{{ q }}_{{ k }} += dot(q_{{ q }}, k);
                    {% endfor %}
                }
                {% endfor %}
            }
        }
        {% for q in range(2) %}
        {% for k in range(4) %}
        scores[(dot_query + {{ q }}u) * {{ tile // 4 + 1 }}u + (dot_key + {{ k * tile // 4 }}u) / 4u][dot_key % 4u] = dot_{{ q }}_{{ k }};
        {% endfor %}
        {% endfor %}
        workgroupBarrier();

        {% set own_vectors = tile // softmax_team // 4 %}
        {% for v in range(own_vectors) %}
        let at_{{ v }} = my_query * {{ tile // 4 + 1 }}u + my_lane + {{ v * softmax_team }}u;
        let position_{{ v }} = vec4<u32>(base + (my_lane + {{ v * softmax_team }}u) * 4u) + vec4<u32>(0u, 1u, 2u, 3u);
        {% if window %}
        let seen_{{ v }} = (position_{{ v }} < vec4<u32>(my_end)) & (position_{{ v }} >= vec4<u32>(my_start));
        {% else %}
        let seen_{{ v }} = position_{{ v }} < vec4<u32>(my_end);
        {% endif %}
        {% if softcap %}
        // Beyond 10 the hyperbolic tangent is 1 in f32, and some drivers' is not a number.
        let capped_{{ v }} = {{ softcap }} * tanh(clamp(scores[at_{{ v }}] / {{ softcap }}, vec4<f32>(-10.0), vec4<f32>(10.0)));
        {% else %}
        let capped_{{ v }} = scores[at_{{ v }}];
        {% endif %}
        let score_{{ v }} = select(vec4<f32>(NONE), capped_{{ v }}, seen_{{ v }});
        {% endfor %}
        {
            var most = score_0;
            {% for v in range(1, own_vectors) %}
            most = max(most, score_{{ v }});
            {% endfor %}
            partial[local] = max(max(most.x, most.y), max(most.z, most.w));
        }
        workgroupBarrier();
        {
            var most = greatest;
            for (var i = 0u; i < {{ softmax_team }}u; i++) {
                most = max(most, partial[local - my_lane + i]);
            }
            let kept = exp(greatest - most);
            greatest = most;
            sum *= kept;
            if my_lane == 0u { keep[my_query] = kept; }
            {% for v in range(own_vectors) %}
            let weight_{{ v }} = select(vec4<f32>(), exp(score_{{ v }} - most), seen_{{ v }});
            sum += (weight_{{ v }}.x + weight_{{ v }}.y) + (weight_{{ v }}.z + weight_{{ v }}.w);
            scores[at_{{ v }}] = weight_{{ v }};
            {% endfor %}
        }
        workgroupBarrier();
        {% for q in range(own_queries) %}
        {
            let kept = keep[sum_query + {{ q }}u];
            {% for c in range(own_chunks) %}
            {% for p in range(parts) %}
            acc_{{ q }}_{{ c }}_{{ p }} *= kept;
            {% endfor %}
            {% endfor %}
        }
        {% endfor %}
        let seen = min(TILE, end - base);
        for (var key = 0u; key < seen; key++) {
            let at = cache_at + ((base + key){{ " % CAPACITY" if wraps }}) * CHUNKS + sum_lane;
            {% for q in range(own_queries) %}
            let weight_{{ q }} = Part(scores[(sum_query + {{ q }}u) * {{ tile // 4 + 1 }}u + key / 4u][key % 4u]);
            {% endfor %}
            {% for c in range(own_chunks) %}
            {% if (c + 1) * sum_lanes > chunks %}
            if sum_lane + {{ c * sum_lanes }}u < CHUNKS
            {% endif %}
            {
                let value = values[at + {{ c * sum_lanes }}u];
                {% for p in range(parts) %}
                let v_{{ p }} = part_{{ p }}(value);
                {% endfor %}
                {% for q in range(own_queries) %}
                {% for p in range(parts) %}
                acc_{{ q }}_{{ c }}_{{ p }} = fma(weight_{{ q }}, v_{{ p }}, acc_{{ q }}_{{ c }}_{{ p }});
                {% endfor %}
                {% endfor %}
            }
            {% endfor %}
        }
    }

    workgroupBarrier();
    partial[local] = sum;
    workgroupBarrier();
    if my_lane == 0u {
        var all = 0.0;
        for (var i = 0u; i < {{ softmax_team }}u; i++) {
            all += partial[local + i];
        }
        keep[my_query] = 1.0 / all;
    }
    workgroupBarrier();
    {% for q in range(own_queries) %}
    {
        let query = sum_query + {{ q }}u;
        let row = first_row + query / TILE_HEADS;
        let head = first_head + query % TILE_HEADS;
        if query < TILE_ROWS * TILE_HEADS && row < row_end {
            let at = (row * HEADS + head) * {{ row_chunks }}u;
            {% for c in range(own_chunks) %}
            {% if (c + 1) * sum_lanes > chunks %}
            if sum_lane + {{ c * sum_lanes }}u < CHUNKS
            {% endif %}
            {
                {% for p in range(parts) %}
                output[at + (sum_lane + {{ c * sum_lanes }}u) * {{ parts }}u + {{ p }}u] = acc_{{ q }}_{{ c }}_{{ p }} * keep[query];
                {% endfor %}
            }
            {% endfor %}
        }
    }
    {% endfor %}
}
