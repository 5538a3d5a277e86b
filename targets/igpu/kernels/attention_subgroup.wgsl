{#
Attention of one row over its cache as `attention_split` does it, same grid, same parts, for subgroups of a known size and
halves: a position is a matter of `lanes` neighbours, who hold `own` chunks of 8 elements of each query, of a key and of a
value in registers, so that nobody waits for other subgroups before the end. With `rope`, everybody norms and rotates the
same queries and the same new key; who comes to the newest position takes those and stores them.

Scores: a lane has `together` positions times `padded` queries, a power of two, as sums over its own elements. Adding up
over the lanes, each step halves how many of them a lane goes on with, so that in the end every lane has its own few
scores, number `query * together + position`, and does the softmax of those alone. Lanes of a query are neighbours.
#}
{# Scores of a position's lanes, those of one lane, lanes that have the same, lanes of a query. #}
{% set scores = padded * together %}
{% set slots = [scores // lanes, 1] | max %}
{% set copies = [lanes // scores, 1] | max %}
{% set query_lanes = lanes // padded %}
{% set chunk_type = "vec4<u32>" %}
{% set words = 4 %}
{% set f16 = true %}
{% set has_norm = q_norm is not none or k_norm is not none %}
{% set per_step = threads // lanes %}
{% set batch = per_step * together %}
{% set vectors = own * 2 %}
{% include "call" %}
@group(0) @binding({{ input_binding }}) var<storage, read> input: array<vec4<f32>>;
@group(0) @binding({{ keys_binding }}) var<storage, {{ cache_access }}> keys: array<vec4<u32>>;
@group(0) @binding({{ values_binding }}) var<storage, {{ cache_access }}> values: array<vec4<u32>>;
@group(0) @binding({{ output_binding }}) var<storage, read_write> output: array<vec4<u32>>;
{% if rope %}
@group(0) @binding({{ table_binding }}) var<storage, read> table: array<vec4<f32>>;
{% endif %}
{% if q_norm is not none %}
@group(0) @binding({{ q_norm }}) var<storage, read> q_norm: array<vec4<f32>>;
{% endif %}
{% if k_norm is not none %}
@group(0) @binding({{ k_norm }}) var<storage, read> k_norm: array<vec4<f32>>;
{% endif %}

const HEAD_VECTORS = {{ head_dim // 4 }}u;
const HEADS = {{ heads }}u;
const KV_HEADS = {{ kv_heads }}u;
const GROUP = {{ group }}u;
const QUERIES = {{ queries }}u;
const BATCHES = {{ batches }}u;
const CAPACITY = {{ capacity }}u;
const CHUNKS = {{ chunks }}u;
const LANES = {{ lanes }}u;
const PER_STEP = {{ per_step }}u;
const SPLITS = {{ splits }}u;
const LEAST = {{ least }}u;
const NONE = -3.0e38;
const NEGATIVE_INFINITY = 0xff800000u;

// What each group of lanes leaves: sums [query][lane group][vector], greatest scores and sums of exponentials.
var<workgroup> sums: array<vec4<f32>, {{ queries * per_step * head_dim // 4 }}>;
var<workgroup> states: array<vec2<f32>, {{ queries * per_step }}>;

{% include "cache_chunk" %}

{# Adds up over the lanes of a position. #}
{% macro add_lanes(name, indent) %}
{% if lanes == subgroup_size %}
{{ indent }}{{ name }} = subgroupAdd({{ name }});
{% else %}
{% for mask in [1, 2, 4, 8, 16, 32] if mask < lanes %}
{{ indent }}{{ name }} += subgroupShuffleXor({{ name }}, {{ mask }}u);
{% endfor %}
{% endif %}
{% endmacro %}
{# What a lane of the position has. #}
{% macro from_lane(name, which) %}
{% if lanes == subgroup_size %}subgroupBroadcast({{ name }}, {{ which }}u){% else %}subgroupShuffle({{ name }}, invocation - lane + {{ which }}u){% endif %}
{% endmacro %}
{# Loads a head of `input`. #}
{% macro load_head(name, at) %}
    {% for v in range(vectors) %}
    var {{ name }}_{{ v }} = input[{{ at }} + (lane + {{ v // 2 * lanes }}u) * 2u + {{ v % 2 }}u];
    {% endfor %}
{% endmacro %}
{% macro norm_head(name, weight) %}
    {
        var square = 0.0;
        {% for v in range(vectors) %}
        square += dot({{ name }}_{{ v }}, {{ name }}_{{ v }});
        {% endfor %}
{{ add_lanes("square", "        ") -}}
{{ "" }}        let by = 1.0 / sqrt(square / {{ head_dim }}.0 + {{ eps }});
        {% for v in range(vectors) %}
        {{ name }}_{{ v }} *= by * {{ weight }}_{{ v }};
        {% endfor %}
    }
{% endmacro %}
{# Pairs are half a head apart: in the same lane with several chunks, else half of the lanes away. #}
{% macro rotate_head(name) %}
    {% if own == 1 %}
    {
        {% for v in range(2) %}
        let other_{{ v }} = subgroupShuffleXor({{ name }}_{{ v }}, {{ lanes // 2 }}u);
        {{ name }}_{{ v }} = fma({{ name }}_{{ v }}, cosine_{{ v }}, other_{{ v }} * sine_{{ v }});
        {% endfor %}
    }
    {% else %}
    {% for v in range(own) %}
    {
        let low = {{ name }}_{{ v }};
        let high = {{ name }}_{{ v + own }};
        {{ name }}_{{ v }} = fma(low, cosine_{{ v }}, -high * sine_{{ v }});
        {{ name }}_{{ v + own }} = fma(high, cosine_{{ v }}, low * sine_{{ v }});
    }
    {% endfor %}
    {% endif %}
{% endmacro %}
{% macro load_cache() %}
        {% for b in range(together) %}
        {% for c in range(own) %}
        key_{{ b }}_{{ c }} = vec4<u32>();
        value_{{ b }}_{{ c }} = vec4<u32>();
        {% endfor %}
        if base + {{ b }}u * PER_STEP < old_end {
            let at = cache_at + ((base + {{ b }}u * PER_STEP){{ " % CAPACITY" if wraps }}) * CHUNKS + lane;
            {% for c in range(own) %}
            key_{{ b }}_{{ c }} = keys[at + {{ c * lanes }}u];
            value_{{ b }}_{{ c }} = values[at + {{ c * lanes }}u];
            {% endfor %}
        }
        {% endfor %}
{% endmacro %}

@compute @workgroup_size({{ threads }})
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_invocation_id) invocation: u32,
) {
    let local = subgroup * {{ subgroup_size }}u + invocation;
    let kv_head = group.x / BATCHES;
    let first_head = kv_head * GROUP + group.x % BATCHES * QUERIES;
    let split = group.y;
    let row = group.z;
    let newest = position_of(row);
    let first = {% if window %}select(0u, newest + 1u - {{ window }}u, newest >= {{ window }}u){% else %}0u{% endif %};
    let share = max((newest + 1u - first + SPLITS - 1u) / SPLITS, LEAST);
    let begin = first + split * share;
    let end = min(begin + share, newest + 1u);
    let out_row = row * {{ part_words // 4 }}u;
    if begin >= end {
        for (var i = local; i < QUERIES * HEAD_VECTORS; i += {{ threads }}u) {
            output[out_row + (split * HEADS + first_head) * HEAD_VECTORS + i] = vec4<u32>();
        }
        if local < QUERIES {
            let m_at = {{ splits * heads * head_dim }}u + split * HEADS + first_head + local;
            let l_at = m_at + SPLITS * HEADS;
            output[out_row + m_at / 4u][m_at % 4u] = NEGATIVE_INFINITY;
            output[out_row + l_at / 4u][l_at % 4u] = 0u;
        }
        return;
    }
    // Positions below are in the cache.
    let old_end = {{ "min(end, newest)" if rope else "end" }};
    let cache_at = (slot_of(row) * KV_HEADS + kv_head) * (CAPACITY * CHUNKS);
    let lane = local % LANES;
    var base = begin + local / LANES;
    {% for b in range(together) %}
    {% for c in range(own) %}
    var key_{{ b }}_{{ c }}: vec4<u32>;
    var value_{{ b }}_{{ c }}: vec4<u32>;
    {% endfor %}
    {% endfor %}
    // The first positions are on their way while the queries are prepared.
    {{- load_cache() }}

    {% for q in range(queries) %}
{{ load_head("q" ~ q, "row * %du + (first_head + %du) * HEAD_VECTORS"|format(input_cols // 4, q)) -}}
    {% endfor %}
    {% if rope %}
{{ load_head("k", "row * %du + (HEADS + kv_head) * HEAD_VECTORS"|format(input_cols // 4)) -}}
{{ load_head("v", "row * %du + (HEADS + KV_HEADS + kv_head) * HEAD_VECTORS"|format(input_cols // 4)) -}}
    {% for v in range([own, 2] | max) %}
    {% if own == 1 %}
    // The lower half of a head is rotated against the upper one.
    let cosine_{{ v }} = table[row * HEAD_VECTORS + lane % {{ lanes // 2 }}u * 2u + {{ v }}u];
    let sine_{{ v }} = select(1.0, -1.0, lane < {{ lanes // 2 }}u) * table[row * HEAD_VECTORS + {{ head_dim // 8 }}u + lane % {{ lanes // 2 }}u * 2u + {{ v }}u];
    {% else %}
    let cosine_{{ v }} = table[row * HEAD_VECTORS + (lane + {{ v // 2 * lanes }}u) * 2u + {{ v % 2 }}u];
    let sine_{{ v }} = table[row * HEAD_VECTORS + {{ head_dim // 8 }}u + (lane + {{ v // 2 * lanes }}u) * 2u + {{ v % 2 }}u];
    {% endif %}
    {% endfor %}
    {% for name in ["q_norm", "k_norm"] %}
    {% if (q_norm if name == "q_norm" else k_norm) is not none %}
    {% for v in range(vectors) %}
    let {{ name }}_{{ v }} = {{ name }}[(lane + {{ v // 2 * lanes }}u) * 2u + {{ v % 2 }}u];
    {% endfor %}
    {% endif %}
    {% endfor %}
    {% for q in range(queries) %}
    {% if q_norm is not none %}
{{ norm_head("q" ~ q, "q_norm") -}}
    {% endif %}
{{ rotate_head("q" ~ q) -}}
    {% endfor %}
    {% if k_norm is not none %}
{{ norm_head("k", "k_norm") -}}
    {% endif %}
{{ rotate_head("k") -}}
    {% endif %}

    // Of the lane's query.
    var greatest = NONE;
    var sum = 0.0;
    let first_score = lane / {{ copies }}u * {{ slots }}u;
    {% for step in halvings if step.halves %}
    let is_upper_{{ step.mask }} = (lane & {{ step.mask }}u) != 0u;
    {% endfor %}
    {% for q in range(queries) %}
    {% for v in range(vectors) %}
    var acc_{{ q }}_{{ v }} = vec4<f32>();
    {% endfor %}
    {% endfor %}

    // As many turns for everybody: lanes are asked across positions.
    for (var turn = begin; turn < end; turn += {{ batch }}u) {
        {% if rope %}
        {% for b in range(together) %}
        if base + {{ b }}u * PER_STEP == newest && newest < end {
            let at = cache_at + (newest{{ " % CAPACITY" if wraps }}) * CHUNKS + lane;
            {% for c in range(own) %}
            key_{{ b }}_{{ c }} = to_chunk(k_{{ 2 * c }}, k_{{ 2 * c + 1 }});
            value_{{ b }}_{{ c }} = to_chunk(v_{{ 2 * c }}, v_{{ 2 * c + 1 }});
            {% if batches > 1 %}
            if group.x % BATCHES == 0u {
                keys[at + {{ c * lanes }}u] = key_{{ b }}_{{ c }};
                values[at + {{ c * lanes }}u] = value_{{ b }}_{{ c }};
            }
            {% else %}
            keys[at + {{ c * lanes }}u] = key_{{ b }}_{{ c }};
            values[at + {{ c * lanes }}u] = value_{{ b }}_{{ c }};
            {% endif %}
            {% endfor %}
        }
        {% endfor %}
        {% endif %}
        {% for b in range(together) %}
        {% for q in range(queries) %}
        var dot_{{ q * together + b }} = 0.0;
        {% endfor %}
        {% for c in range(own) %}
        {
            let low = part_0(key_{{ b }}_{{ c }});
            let high = part_1(key_{{ b }}_{{ c }});
            {% for q in range(queries) %}
            dot_{{ q * together + b }} += dot(q{{ q }}_{{ 2 * c }}, low) + dot(q{{ q }}_{{ 2 * c + 1 }}, high);
            {% endfor %}
        }
        {% endfor %}
        {% endfor %}
        {# Queries of the padding have no sums; what two of them would make is left out. #}
        {% for step in halvings %}
        {% for i in range(step.left) %}
        {% if i < step.known %}
        {% if i + step.left < step.known %}
        dot_{{ i }} = select(dot_{{ i }}, dot_{{ i + step.left }}, is_upper_{{ step.mask }})
            + subgroupShuffleXor(select(dot_{{ i + step.left }}, dot_{{ i }}, is_upper_{{ step.mask }}), {{ step.mask }}u);
        {% elif step.halves %}
        dot_{{ i }} = select(dot_{{ i }}, 0.0, is_upper_{{ step.mask }})
            + subgroupShuffleXor(select(0.0, dot_{{ i }}, is_upper_{{ step.mask }}), {{ step.mask }}u);
        {% else %}
        dot_{{ i }} += subgroupShuffleXor(dot_{{ i }}, {{ step.mask }}u);
        {% endif %}
        {% endif %}
        {% endfor %}
        {% endfor %}
        var most = greatest;
        {% for i in range(slots) %}
        {% if softcap %}
        // Beyond 10 the hyperbolic tangent is 1 in f32, and some drivers' is not a number.
        dot_{{ i }} = {{ softcap }} * tanh(clamp(dot_{{ i }} * {{ scale }} / {{ softcap }}, -10.0, 10.0));
        {% else %}
        dot_{{ i }} *= {{ scale }};
        {% endif %}
        let is_seen_{{ i }} = base + (first_score + {{ i }}u) % {{ together }}u * PER_STEP < end;
        most = max(most, select(NONE, dot_{{ i }}, is_seen_{{ i }}));
        {% endfor %}
        {% for mask in [1, 2, 4, 8, 16, 32] if mask < query_lanes %}
        most = max(most, subgroupShuffleXor(most, {{ mask }}u));
        {% endfor %}
        let kept = exp(greatest - most);
        greatest = most;
        sum *= kept;
        {% for i in range(slots) %}
        let weight_{{ i }} = select(0.0, exp(dot_{{ i }} - most), is_seen_{{ i }});
        sum += weight_{{ i }};
        {% endfor %}
        {% for q in range(queries) %}
        {
            let factor = vec4<f32>({{ from_lane("kept", q * query_lanes) }});
            {% for v in range(vectors) %}
            acc_{{ q }}_{{ v }} *= factor;
            {% endfor %}
        }
        {% endfor %}
        {% for b in range(together) %}
        {
            {% for q in range(queries) %}
            {% set score = q * together + b %}
            let weight_of_{{ q }} = vec4<f32>({{ from_lane("weight_" ~ score % slots, score // slots * copies) }});
            {% endfor %}
            {% for c in range(own) %}
            let low_{{ c }} = part_0(value_{{ b }}_{{ c }});
            let high_{{ c }} = part_1(value_{{ b }}_{{ c }});
            {% for q in range(queries) %}
            acc_{{ q }}_{{ 2 * c }} = fma(weight_of_{{ q }}, low_{{ c }}, acc_{{ q }}_{{ 2 * c }});
            acc_{{ q }}_{{ 2 * c + 1 }} = fma(weight_of_{{ q }}, high_{{ c }}, acc_{{ q }}_{{ 2 * c + 1 }});
            {% endfor %}
            {% endfor %}
        }
        {% endfor %}
        base += {{ batch }}u;
        {{- load_cache() }}
    }

    {
        let at = local / LANES;
        {% for mask in [1, 2, 4, 8, 16, 32] if mask >= copies and mask < query_lanes %}
        sum += subgroupShuffleXor(sum, {{ mask }}u);
        {% endfor %}
        if lane % {{ query_lanes }}u == 0u{{ " && lane < " ~ queries * query_lanes ~ "u" if padded > queries }} { states[lane / {{ query_lanes }}u * PER_STEP + at] = vec2<f32>(greatest, sum); }
        {% for q in range(queries) %}
        {% for v in range(vectors) %}
        sums[({{ q * per_step }}u + at) * HEAD_VECTORS + (lane + {{ v // 2 * lanes }}u) * 2u + {{ v % 2 }}u] = acc_{{ q }}_{{ v }};
        {% endfor %}
        {% endfor %}
    }
    workgroupBarrier();
    for (var i = local; i < QUERIES * HEAD_VECTORS; i += {{ threads }}u) {
        let q = i / HEAD_VECTORS;
        let vector = i % HEAD_VECTORS;
        var greatest = NONE;
        for (var g = 0u; g < PER_STEP; g++) {
            greatest = max(greatest, states[q * PER_STEP + g].x);
        }
        var all = vec4<f32>();
        var sum = 0.0;
        for (var g = 0u; g < PER_STEP; g++) {
            let state = states[q * PER_STEP + g];
            let factor = exp(state.x - greatest);
            sum = fma(state.y, factor, sum);
            all = fma(sums[(q * PER_STEP + g) * HEAD_VECTORS + vector], vec4<f32>(factor), all);
        }
        output[out_row + (split * HEADS + first_head) * HEAD_VECTORS + i] = bitcast<vec4<u32>>(all);
        if vector == 0u {
            let m_at = {{ splits * heads * head_dim }}u + split * HEADS + first_head + q;
            let l_at = m_at + SPLITS * HEADS;
            output[out_row + m_at / 4u][m_at % 4u] = bitcast<u32>(greatest);
            output[out_row + l_at / 4u][l_at % 4u] = bitcast<u32>(sum);
        }
    }
}
