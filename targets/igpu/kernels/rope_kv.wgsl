{#
Norms and rotates the heads of q and k, stores k and v: grid (heads of q, k and v / 8, rows), 32 threads a head. A thread
computes whole words of the result, two elements with halves, and so rotates both of a pair only if it has both.
#}
{% include "call" %}
@group(0) @binding({{ qkv_binding }}) var<storage, read> qkv: array<f32>;
@group(0) @binding({{ keys_binding }}) var<storage, read_write> keys: array<u32>;
@group(0) @binding({{ values_binding }}) var<storage, read_write> values: array<u32>;
@group(0) @binding({{ out_binding }}) var<storage, read_write> out: array<f32>;
@group(0) @binding({{ table_binding }}) var<storage, read> table: array<f32>;
{% if q_norm is not none %}
@group(0) @binding({{ q_norm }}) var<storage, read> q_norm: array<f32>;
{% endif %}
{% if k_norm is not none %}
@group(0) @binding({{ k_norm }}) var<storage, read> k_norm: array<f32>;
{% endif %}

const HEAD_DIM = {{ head_dim }}u;
const HALF = {{ head_dim // 2 }}u;
const Q_HEADS = {{ heads }}u;
const KV_HEADS = {{ kv_heads }}u;
const CAPACITY = {{ capacity }}u;
const TEAM = 32u;

{% if q_norm is not none or k_norm is not none %}
var<workgroup> squares: array<f32, 256>;
{% endif %}

{% if f16 %}
{% set words = 1 %}
{% include "cache_chunk" %}
{% endif %}

// Element `i` of the head at `at`, normed by `by` and rotated.
fn rotated(at: u32, row: u32, i: u32, by: f32, is_key: bool) -> f32 {
    let is_low = i < HALF;
    let pair = select(i - HALF, i, is_low);
    let other = select(i - HALF, i + HALF, is_low);
    let x = normed(at, i, by, is_key);
    let y = normed(at, other, by, is_key);
    let cosine = table[row * HEAD_DIM + pair];
    let sine = table[row * HEAD_DIM + HALF + pair];
    return fma(x, cosine, select(y * sine, -y * sine, is_low));
}

fn normed(at: u32, i: u32, by: f32, is_key: bool) -> f32 {
    {% if q_norm is not none and k_norm is not none %}
    return qkv[at + i] * (by * select(q_norm[i], k_norm[i], is_key));
    {% elif q_norm is not none %}
    return qkv[at + i] * select(by * q_norm[i], 1.0, is_key);
    {% elif k_norm is not none %}
    return qkv[at + i] * select(1.0, by * k_norm[i], is_key);
    {% else %}
    return qkv[at + i];
    {% endif %}
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let row = group.y;
    let head = group.x * 8u + local / TEAM;
    let lane = local % TEAM;
    let is_head = head < Q_HEADS + 2u * KV_HEADS;
    let at = row * {{ (heads + 2 * kv_heads) * head_dim }}u + select(0u, head * HEAD_DIM, is_head);
    var by = 1.0;
    {% if q_norm is not none or k_norm is not none %}
    var square = 0.0;
    if head < Q_HEADS + KV_HEADS {
        for (var i = lane; i < HEAD_DIM; i += TEAM) {
            let x = qkv[at + i];
            square = fma(x, x, square);
        }
    }
    squares[local] = square;
    workgroupBarrier();
    var total = 0.0;
    for (var i = 0u; i < TEAM; i++) {
        total += squares[local - lane + i];
    }
    by = 1.0 / sqrt(total / {{ head_dim }}.0 + {{ eps }});
    {% endif %}
    if head < Q_HEADS {
        for (var i = lane; i < HEAD_DIM; i += TEAM) {
            out[row * {{ heads * head_dim }}u + head * HEAD_DIM + i] = rotated(at, row, i, by, false);
        }
    } else if is_head {
        let kv_head = (head - Q_HEADS) % KV_HEADS;
        let cache_row = (slot_of(row) * KV_HEADS + kv_head) * CAPACITY + position_of(row){{ " % CAPACITY" if wraps }};
        let to = cache_row * {{ head_dim // 2 if f16 else head_dim }}u;
        if head < Q_HEADS + KV_HEADS {
            for (var i = lane; i < {{ head_dim // 2 if f16 else head_dim }}u; i += TEAM) {
                {% if f16 %}
                keys[to + i] = to_halves(vec2<f32>(rotated(at, row, 2u * i, by, true), rotated(at, row, 2u * i + 1u, by, true)));
                {% else %}
                keys[to + i] = bitcast<u32>(rotated(at, row, i, by, true));
                {% endif %}
            }
        } else {
            for (var i = lane; i < {{ head_dim // 2 if f16 else head_dim }}u; i += TEAM) {
                {% if f16 %}
                values[to + i] = to_halves(vec2<f32>(qkv[at + 2u * i], qkv[at + 2u * i + 1u]));
                {% else %}
                values[to + i] = bitcast<u32>(qkv[at + i]);
                {% endif %}
            }
        }
    }
}
