{#
Attention of one row over its cache, the positions split over workgroups: grid (kv_heads * batches, splits, rows).
A workgroup serves `queries` heads of one KV head and leaves its sums unnormalised in parts. With `rope` it norms and
rotates queries and the new key first, and the workgroup of the newest position stores key and value.

A chunk is what a thread loads of a key at once: `words` 32-bit words with `parts` vectors of `part` elements. `lanes`
threads share a key, in passes of `tile` positions. Of values, a thread has chunks of `value_parts` such vectors, which
`value_chunks` threads share.
#}
{% set head_words = chunks * parts %}
{% set chunk_type = {1: "u32", 2: "vec2<u32>", 4: "vec4<u32>"}[words] %}
{% set value_type = chunk_type if value_parts == parts else "vec2<u32>" %}
{# Whether every thread has a value for every load. #}
{% set all_values = value_groups * value_chunks == threads and tile % value_groups == 0 %}
{% set has_norm = q_norm is not none or k_norm is not none %}
{% include "call" %}
@group(0) @binding({{ input_binding }}) var<storage, read> input: array<f32>;
@group(0) @binding({{ keys_binding }}) var<storage, {{ cache_access }}> keys: array<{{ chunk_type }}>;
@group(0) @binding({{ values_binding }}) var<storage, {{ cache_access }}> values: array<{{ value_type }}>;
@group(0) @binding({{ output_binding }}) var<storage, read_write> output: array<vec{{ part }}<u32>>;
{% if rope %}
@group(0) @binding({{ table_binding }}) var<storage, read> table: array<f32>;
{% endif %}
{% if q_norm is not none %}
@group(0) @binding({{ q_norm }}) var<storage, read> q_norm: array<f32>;
{% endif %}
{% if k_norm is not none %}
@group(0) @binding({{ k_norm }}) var<storage, read> k_norm: array<f32>;
{% endif %}

alias Part = vec{{ part }}<f32>;
alias Chunk = {{ chunk_type }};
alias ValueChunk = {{ value_type }};

const HEAD_DIM = {{ head_dim }}u;
const HEADS = {{ heads }}u;
const KV_HEADS = {{ kv_heads }}u;
const GROUP = {{ group }}u;
const QUERIES = {{ queries }}u;
const BATCHES = {{ batches }}u;
const CAPACITY = {{ capacity }}u;
const CHUNKS = {{ chunks }}u;
const LANES = {{ lanes }}u;
const TILE = {{ tile }}u;
const PLANE = {{ dot_plane }}u;
const VALUE_CHUNKS = {{ value_chunks }}u;
const VALUE_GROUPS = {{ value_groups }}u;
const SPLITS = {{ splits }}u;
const LEAST = {{ least }}u;
const NONE = -3.0e38;
const NEGATIVE_INFINITY = 0xff800000u;

// Queries, and with rope the new key behind them: [head][part][chunk], so that neighbours read neighbouring vectors.
var<workgroup> query: array<Part, {{ (queries + (1 if rope else 0)) * head_words }}>;
// Products still in `LANES` sums each, [query][lane][position].
var<workgroup> dots: array<f32, {{ queries * lanes * dot_plane }}>;
// Scores of a tile, [query][position].
var<workgroup> scores: array<vec4<f32>, {{ queries * tile // 4 }}>;
// Weights of a tile, [position][query].
var<workgroup> weights: array<f32, {{ queries * tile }}>;
// What earlier sums are multiplied by.
var<workgroup> keep: array<f32, QUERIES>;
// Sums of the value groups, for `merged` queries at a time.
var<workgroup> sums: array<Part, {{ merged * value_parts * value_groups * value_chunks }}>;

{% include "cache_chunk" %}

// Where element `i` of a head lies in `query`: its vector, and `i % {{ part }}` is the component.
fn query_at(head: u32, i: u32) -> u32 {
    let vector = i / {{ part }}u;
    return (head * {{ parts }}u + vector % {{ parts }}u) * CHUNKS + vector / {{ parts }}u;
}

{% if rope %}
// Norms and rotates the queries and the new key, into `query`. Everything is loaded before anybody waits, by those too
// who have nothing to do with it: a branch would be waited for.
fn rotate(row: u32, kv_head: u32, first_head: u32, local: u32) {
    let lane = local % {{ team }}u;
    let index = local / {{ team }}u;
    let is_key = index == QUERIES;
    let in_use = index <= QUERIES;
    let head = select(first_head + min(index, QUERIES - 1u), HEADS + kv_head, is_key);
    let at = row * {{ input_cols }}u + head * HEAD_DIM;
    {% for i in range(pairs) %}
    {% set is_whole = (i + 1) * team <= head_dim // 2 %}
    let i_{{ i }} = {{ "lane + %du"|format(i * team) if is_whole else "min(lane + %du, %du)"|format(i * team, head_dim // 2 - 1) }};
    var a_{{ i }} = input[at + i_{{ i }}];
    var b_{{ i }} = input[at + {{ head_dim // 2 }}u + i_{{ i }}];
    let cosine_{{ i }} = table[row * HEAD_DIM + i_{{ i }}];
    let sine_{{ i }} = table[row * HEAD_DIM + {{ head_dim // 2 }}u + i_{{ i }}];
    {% if has_norm %}
    var weight_a_{{ i }} = 1.0;
    var weight_b_{{ i }} = 1.0;
    {% endif %}
    {% endfor %}
    {% for norm, which in [("q_norm", "!is_key"), ("k_norm", "is_key")] %}
    {% if (q_norm if norm == "q_norm" else k_norm) is not none %}
    if {{ which }} {
        {% for i in range(pairs) %}
        weight_a_{{ i }} = {{ norm }}[i_{{ i }}];
        weight_b_{{ i }} = {{ norm }}[{{ head_dim // 2 }}u + i_{{ i }}];
        {% endfor %}
    }
    {% endif %}
    {% endfor %}
    {% if has_norm %}
    var square = 0.0;
    {% for i in range(pairs) %}
    {% if (i + 1) * team > head_dim // 2 %}
    if lane + {{ i * team }}u < {{ head_dim // 2 }}u
    {% endif %}
    { square = fma(a_{{ i }}, a_{{ i }}, fma(b_{{ i }}, b_{{ i }}, square)); }
    {% endfor %}
    squares[local / 4u][local % 4u] = square;
    workgroupBarrier();
    var all = squares[index * {{ team // 4 }}u];
    for (var i = 1u; i < {{ team // 4 }}u; i++) {
        all += squares[index * {{ team // 4 }}u + i];
    }
    let total = (all.x + all.y) + (all.z + all.w);
    {% if q_norm is none %}
    let by = select(1.0, 1.0 / sqrt(total / {{ head_dim }}.0 + {{ eps }}), is_key);
    {% elif k_norm is none %}
    let by = select(1.0 / sqrt(total / {{ head_dim }}.0 + {{ eps }}), 1.0, is_key);
    {% else %}
    let by = 1.0 / sqrt(total / {{ head_dim }}.0 + {{ eps }});
    {% endif %}
    {% endif %}
    {% for i in range(pairs) %}
    if in_use{{ " && lane + %du < %du"|format(i * team, head_dim // 2) if (i + 1) * team > head_dim // 2 }} {
        {% if has_norm %}
        a_{{ i }} *= by * weight_a_{{ i }};
        b_{{ i }} *= by * weight_b_{{ i }};
        {% endif %}
        query[query_at(index, i_{{ i }})][i_{{ i }} % {{ part }}u] = a_{{ i }} * cosine_{{ i }} - b_{{ i }} * sine_{{ i }};
        query[query_at(index, i_{{ i }} + {{ head_dim // 2 }}u)][(i_{{ i }} + {{ head_dim // 2 }}u) % {{ part }}u] =
            b_{{ i }} * cosine_{{ i }} + a_{{ i }} * sine_{{ i }};
    }
    {% endfor %}
}
{% if has_norm %}
var<workgroup> squares: array<vec4<f32>, {{ threads // 4 }}>;
{% endif %}
{% endif %}

{# Beyond the last position in the cache, another is loaded, which nobody uses: a branch would be waited for. #}
{% macro load_keys(base) %}
        {
            let position = {{ base }} + key_row;
            let at = (cache_at + select(position, spare, position >= old_end){{ " % CAPACITY" if wraps }}) * CHUNKS + key_lane;
            {% for i in range(key_loads) %}
            {% if (i + 1) * lanes > chunks %}
            if key_lane + {{ i * lanes }}u < CHUNKS { key_{{ i }} = keys[at + {{ i * lanes }}u]; }
            {% else %}
            key_{{ i }} = keys[at + {{ i * lanes }}u];
            {% endif %}
            {% endfor %}
        }
{% endmacro %}
{% macro load_values(base) %}
        {% for i in range(value_loads) %}
        {
            let position = {{ base }} + value_row + {{ i }}u * VALUE_GROUPS;
            let at = (cache_at + select(position, spare, position >= old_end){{ " % CAPACITY" if wraps }}) * VALUE_CHUNKS + value_lane;
            {% if all_values %}
            value_{{ i }} = values[at];
            {% else %}
            if value_row + {{ i }}u * VALUE_GROUPS < value_rows { value_{{ i }} = values[at]; }
            {% endif %}
        }
        {% endfor %}
{% endmacro %}

@compute @workgroup_size({{ threads }})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let kv_head = group.x / BATCHES;
    let first_head = kv_head * GROUP + group.x % BATCHES * QUERIES;
    let split = group.y;
    let row = group.z;
    let newest = position_of(row);
    let first = {% if window %}select(0u, newest + 1u - {{ window }}u, newest >= {{ window }}u){% else %}0u{% endif %};
    let share = max((newest + 1u - first + SPLITS - 1u) / SPLITS, LEAST);
    let begin = first + split * share;
    let end = min(begin + share, newest + 1u);
    let out_row = row * {{ part_words // part }}u;
    let is_empty = begin >= end;
    if is_empty {
        for (var i = local; i < QUERIES * {{ head_words }}u; i += {{ threads }}u) {
            output[out_row + (split * HEADS + first_head) * {{ head_words }}u + i] = vec{{ part }}<u32>();
        }
        if local < QUERIES {
            let m_at = SPLITS * HEADS * HEAD_DIM + split * HEADS + first_head + local;
            let l_at = m_at + SPLITS * HEADS;
            output[out_row + m_at / {{ part }}u][m_at % {{ part }}u] = NEGATIVE_INFINITY;
            output[out_row + l_at / {{ part }}u][l_at % {{ part }}u] = 0u;
        }
        return;
    }
    // Positions below are in the cache.
    let old_end = {{ "min(end, newest)" if rope else "end" }};
    // A position that nobody writes now.
    {% if rope %}
    let spare = select(select(begin - 1u, {{ [1, capacity - 1] | min }}u, begin == 0u), old_end - 1u, old_end > begin);
    {% else %}
    let spare = end - 1u;
    {% endif %}
    let cache_at = (slot_of(row) * KV_HEADS + kv_head) * CAPACITY;

    let key_row = local / LANES;
    let key_lane = local % LANES;
    let value_row = local / VALUE_CHUNKS;
    let value_lane = local % VALUE_CHUNKS;
    {% if not all_values %}
    let value_rows = select(0u, TILE, value_row < VALUE_GROUPS);
    {% endif %}
    {% for i in range(key_loads) %}
    var key_{{ i }}: Chunk;
    {% endfor %}
    {% for i in range(value_loads) %}
    var value_{{ i }}: ValueChunk;
    {% endfor %}
    var base = begin;
    // The first tile is on its way while the queries are prepared.
{{ load_keys("base") }}
{{ load_values("base") }}

    {% if rope %}
    // The new value, as the cache will hold it.
    var new_value = ValueChunk();
    let is_last = end == newest + 1u;
    if is_last && local < VALUE_GROUPS * VALUE_CHUNKS {
        let at = row * {{ input_cols }}u + (HEADS + KV_HEADS + kv_head) * HEAD_DIM + value_lane * {{ part * value_parts }}u;
        {% for i in range(value_parts) %}
        let new_{{ i }} = Part({% for j in range(part) %}input[at + {{ i * part + j }}u]{{ ", " if not loop.last }}{% endfor %});
        {% endfor %}
        new_value = to_{{ "value_" if value_parts != parts }}chunk({% for i in range(value_parts) %}new_{{ i }}{{ ", " if not loop.last }}{% endfor %});
    }
    rotate(row, kv_head, first_head, local);
    workgroupBarrier();
    if is_last && local < VALUE_CHUNKS{{ " && group.x % BATCHES == 0u" if batches > 1 }} {
        let at = cache_at + newest{{ " % CAPACITY" if wraps }};
        {% if value_parts != parts %}
        if local < CHUNKS
        {% endif %}
        {
            keys[at * CHUNKS + local] = to_chunk({% for i in range(parts) %}query[(QUERIES * {{ parts }}u + {{ i }}u) * CHUNKS + local]{{ ", " if not loop.last }}{% endfor %});
        }
        values[at * VALUE_CHUNKS + local] = new_value;
    }
    {% else %}
    for (var i = local; i < QUERIES * HEAD_DIM; i += {{ threads }}u) {
        let head = first_head + i / HEAD_DIM;
        query[query_at(i / HEAD_DIM, i % HEAD_DIM)][i % HEAD_DIM % {{ part }}u] =
            input[row * {{ input_cols }}u + head * HEAD_DIM + i % HEAD_DIM];
    }
    workgroupBarrier();
    {% endif %}

    {% for j in range(softmax_loads) %}
    var greatest_{{ j }} = NONE;
    var sum_{{ j }} = 0.0;
    {% endfor %}
    {% for q in range(queries) %}
    {% for p in range(value_parts) %}
    var acc_{{ q }}_{{ p }} = Part();
    {% endfor %}
    {% endfor %}

    loop {
        if base >= end { break; }
        {% if rope %}
        if base + key_row == newest {
            {% for i in range(key_loads) %}
            {% if (i + 1) * lanes > chunks %}
            if key_lane + {{ i * lanes }}u < CHUNKS
            {% endif %}
            {
                let at = QUERIES * {{ head_words }}u + key_lane + {{ i * lanes }}u;
                key_{{ i }} = to_chunk({% for p in range(parts) %}query[at + {{ p * chunks }}u]{{ ", " if not loop.last }}{% endfor %});
            }
            {% endfor %}
        }
        {% endif %}
        {% for i in range(value_loads) %}
        if base + value_row + {{ i }}u * VALUE_GROUPS >= old_end { value_{{ i }} = {{ "new_value" if rope else "ValueChunk()" }}; }
        {% endfor %}
        // Products, each in LANES sums.
        {
            {% for q in range(queries) %}
            var dot_{{ q }} = 0.0;
            {% endfor %}
            {% for i in range(key_loads) %}
            {% if (i + 1) * lanes > chunks %}
            if key_lane + {{ i * lanes }}u < CHUNKS
            {% endif %}
            {
                {% for p in range(parts) %}
                let k_{{ p }} = part_{{ p }}(key_{{ i }});
                {% endfor %}
                {% for q in range(queries) %}
                {% for p in range(parts) %}
                dot_{{ q }} += dot(query[{{ (q * parts + p) * chunks + i * lanes }}u + key_lane], k_{{ p }});
                {% endfor %}
                {% endfor %}
            }
            {% endfor %}
            {% for q in range(queries) %}
            dots[{{ q * lanes * dot_plane }}u + key_lane * PLANE + key_row] = dot_{{ q }};
            {% endfor %}
        }
        // The next tile's keys come while this one's weights are made, its values while the sums are.
{{ load_keys("base + TILE") }}
        workgroupBarrier();
        {% for j in range(softmax_loads) %}
        var score_{{ j }} = NONE;
        {
            let i = local + {{ j * threads }}u;
            let q = i / TILE;
            let position = i % TILE;
            {% if (j + 1) * threads > queries * tile %}
            if q < QUERIES
            {% endif %}
            {
                var dot = 0.0;
                {% for lane in range(lanes) %}
                dot += dots[q * {{ lanes * dot_plane }}u + {{ lane }}u * PLANE + position];
                {% endfor %}
                {% if softcap %}
                // Beyond 10 the hyperbolic tangent is 1 in f32, and some drivers' is not a number.
                dot = {{ softcap }} * tanh(clamp(dot * {{ scale }} / {{ softcap }}, -10.0, 10.0));
                {% else %}
                dot *= {{ scale }};
                {% endif %}
                score_{{ j }} = select(NONE, dot, base + position < end);
                scores[i / 4u][i % 4u] = score_{{ j }};
            }
        }
        {% endfor %}
        workgroupBarrier();
        {% for j in range(softmax_loads) %}
        {
            let i = local + {{ j * threads }}u;
            let q = i / TILE;
            let position = i % TILE;
            {% if (j + 1) * threads > queries * tile %}
            if q < QUERIES
            {% endif %}
            {
                var most = scores[q * {{ tile // 4 }}u];
                for (var k = 1u; k < {{ tile // 4 }}u; k++) {
                    most = max(most, scores[q * {{ tile // 4 }}u + k]);
                }
                let greatest = max(greatest_{{ j }}, max(max(most.x, most.y), max(most.z, most.w)));
                let kept = exp(greatest_{{ j }} - greatest);
                let weight = select(0.0, exp(score_{{ j }} - greatest), base + position < end);
                greatest_{{ j }} = greatest;
                sum_{{ j }} = fma(sum_{{ j }}, kept, weight);
                weights[position * QUERIES + q] = weight;
                if position == 0u { keep[q] = kept; }
            }
        }
        {% endfor %}
        workgroupBarrier();
        {% for q in range(queries) %}
        {
            let kept = keep[{{ q }}];
            {% for p in range(value_parts) %}
            acc_{{ q }}_{{ p }} *= kept;
            {% endfor %}
        }
        {% endfor %}
        {% for i in range(value_loads) %}
        {% if not all_values %}
        if value_row + {{ i }}u * VALUE_GROUPS < value_rows
        {% endif %}
        {
            {% for p in range(value_parts) %}
            let v_{{ p }} = {{ "value_part" if value_parts != parts else "part_" ~ p }}(value_{{ i }});
            {% endfor %}
            {% for q in range(queries) %}
            {
                let weight = Part(weights[(value_row + {{ i }}u * VALUE_GROUPS) * QUERIES + {{ q }}u]);
                {% for p in range(value_parts) %}
                acc_{{ q }}_{{ p }} = fma(weight, v_{{ p }}, acc_{{ q }}_{{ p }});
                {% endfor %}
            }
            {% endfor %}
        }
        {% endfor %}
        base += TILE;
{{ load_values("base") }}
    }

    // Sums of exponentials over the positions of a tile, through the scores' memory.
    {% for j in range(softmax_loads) %}
    {
        let i = local + {{ j * threads }}u;
        {% if (j + 1) * threads > queries * tile %}
        if i < {{ queries * tile }}u
        {% endif %}
        { scores[i / 4u][i % 4u] = sum_{{ j }}; }
    }
    {% endfor %}
    {% for first in range(0, queries, merged) %}
    {% set count = [merged, queries - first] | min %}
    {% if not loop.first %}
    workgroupBarrier();
    {% endif %}
    if value_row < VALUE_GROUPS {
        {% for q in range(count) %}
        {% for p in range(value_parts) %}
        sums[({{ q * value_parts + p }}u * VALUE_GROUPS + value_row) * VALUE_CHUNKS + value_lane] = acc_{{ first + q }}_{{ p }};
        {% endfor %}
        {% endfor %}
    }
    workgroupBarrier();
    {% if loop.first %}
    {% for j in range(softmax_loads) %}
    {
        let i = local + {{ j * threads }}u;
        let q = i / TILE;
        if i % TILE == 0u && q < QUERIES {
            var all = scores[q * {{ tile // 4 }}u];
            for (var k = 1u; k < {{ tile // 4 }}u; k++) {
                all += scores[q * {{ tile // 4 }}u + k];
            }
            let m_at = SPLITS * HEADS * HEAD_DIM + split * HEADS + first_head + q;
            let l_at = m_at + SPLITS * HEADS;
            output[out_row + m_at / {{ part }}u][m_at % {{ part }}u] = bitcast<u32>(greatest_{{ j }});
            output[out_row + l_at / {{ part }}u][l_at % {{ part }}u] = bitcast<u32>((all.x + all.y) + (all.z + all.w));
        }
    }
    {% endfor %}
    {% endif %}
    for (var i = local; i < {{ count * head_words }}u; i += {{ threads }}u) {
        // [query][part][chunk]
        let at = i / VALUE_CHUNKS * (VALUE_GROUPS * VALUE_CHUNKS) + i % VALUE_CHUNKS;
        var all = sums[at];
        for (var k = 1u; k < VALUE_GROUPS; k++) {
            all += sums[at + k * VALUE_CHUNKS];
        }
        let head = first_head + {{ first }}u + i / {{ head_words }}u;
        let vector = i % VALUE_CHUNKS * {{ value_parts }}u + i / VALUE_CHUNKS % {{ value_parts }}u;
        output[out_row + (split * HEADS + head) * {{ head_words }}u + vector] = bitcast<vec{{ part }}<u32>>(all);
    }
    {% endfor %}
}
