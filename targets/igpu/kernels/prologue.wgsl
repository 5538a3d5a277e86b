{#
What a linear reads of a row: bindings and loads of four columns, zeros behind the last.

cols, vectors (of four), threads; post_norm, residual, stores_sum, norm, parts, eps; b_x, b_post_norm, b_residual, b_sum, b_norm: bindings of
those that there are; heads, head_dim, splits of parts; stored_vectors: vectors of four columns that are consumed.
#}
{% set whole = cols % 4 == 0 %}
{% set inputs = [("x", true, b_x), ("residual", residual, b_residual), ("post_norm", post_norm, b_post_norm), ("norm", norm, b_norm)] %}
{% for name, is_there, binding in inputs %}
{% if is_there and not (name == "x" and parts) %}
@group(0) @binding({{ binding }}) var<storage, read> {{ name }}: array<{{ "vec4<f32>" if whole else "f32" }}>;

fn load_{{ name }}(row: u32, i: u32) -> vec4<f32> {
{% if whole %}
    let value = {{ name }}[row * {{ vectors }}u + min(i, {{ vectors - 1 }}u)];
    return select(vec4<f32>(), value, i < {{ vectors }}u);
{% else %}
    var value = vec4<f32>();
{% for c in range(4) %}
    if (4u * i + {{ c }}u < {{ cols }}u) {
        value.{{ "xyzw"[c] }} = {{ name }}[row * {{ cols }}u + 4u * i + {{ c }}u];
    }
{% endfor %}
    return value;
{% endif %}
}

{% endif %}
{% endfor %}
{% if parts %}
{# Words of the sums, of a row. #}
{% set sums_words = splits * heads * head_dim %}
{% set parts_words = splits * heads * (head_dim + 2) %}
{% set part_vectors = head_dim % 4 == 0 %}
@group(0) @binding({{ b_x }}) var<storage, read> x: array<{{ "vec4<f32>" if part_vectors else "f32" }}>;

// Factors of the splits' sums, and how many splits are used. Those behind have sums of zero.
var<workgroup> split_factors: array<f32, {{ splits * heads }}>;
var<workgroup> used_splits: u32;

fn part_word(i: u32) -> f32 {
{% if part_vectors %}
    return x[i / 4u][i % 4u];
{% else %}
    return x[i];
{% endif %}
}

fn weigh_splits(row: u32) {
    for (var head = lane; head < {{ heads }}u; head += {{ threads }}u) {
        let maxima = row * {{ parts_words }}u + {{ sums_words }}u + head;
        let counts = maxima + {{ splits * heads }}u;
{% for s in range(splits) %}
        let m{{ s }} = part_word(maxima + {{ s * heads }}u);
        let l{{ s }} = part_word(counts + {{ s * heads }}u);
{% endfor %}
        // Empty splits have a maximum of minus infinity.
        var greatest = -3.0e38;
        var used = 0u;
{% for s in range(splits) %}
        greatest = max(greatest, m{{ s }});
        used += u32(!(l{{ s }} == 0.0));
{% endfor %}
        var sum = 0.0;
{% for s in range(splits) %}
        let e{{ s }} = exp(max(m{{ s }} - greatest, -100.0));
        sum += e{{ s }} * l{{ s }};
{% endfor %}
        // What is no number stays none: it is neither equal nor unequal to anything.
        let factor = select(1.0 / sum, 0.0, sum == 0.0);
{% for s in range(splits) %}
        split_factors[{{ s * heads }}u + head] = e{{ s }} * factor;
{% endfor %}
        if (head == 0u) {
            used_splits = used;
        }
    }
    workgroupBarrier();
}

// A vector of a split, not yet weighed.
fn load_split(row: u32, s: u32, i: u32) -> vec4<f32> {
{% if part_vectors %}
    let at = min(i, {{ vectors - 1 }}u);
    return x[row * {{ parts_words // 4 }}u + s * {{ heads * head_dim // 4 }}u + at];
{% else %}
    var value = vec4<f32>();
{% for c in range(4) %}
    if (4u * i + {{ c }}u < {{ cols }}u) {
        value.{{ "xyzw"[c] }} = x[row * {{ parts_words }}u + s * {{ heads * head_dim }}u + 4u * i + {{ c }}u];
    }
{% endfor %}
    return value;
{% endif %}
}

// What a vector of a split is to be multiplied by; zero behind the last column.
fn split_factor(s: u32, i: u32) -> vec4<f32> {
{% if part_vectors %}
    let head = min(i, {{ vectors - 1 }}u) / {{ head_dim // 4 }}u;
    return vec4<f32>(select(0.0, split_factors[s * {{ heads }}u + head], i < {{ vectors }}u));
{% else %}
    let cols = min(4u * i + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>({{ cols - 1 }}u)) / {{ head_dim }}u;
    return vec4<f32>(
{% for c in range(4) %}
        split_factors[s * {{ heads }}u + cols.{{ "xyzw"[c] }}],
{% endfor %}
    );
{% endif %}
}

{% endif %}
{% if stores_sum %}
@group(0) @binding({{ b_sum }}) var<storage, read_write> sum_out: array<{{ "vec4<f32>" if whole else "f32" }}>;

fn store_sum(row: u32, i: u32, value: vec4<f32>) {
{% if whole %}
    if (i < {{ vectors }}u) {
        sum_out[row * {{ vectors }}u + i] = value;
    }
{% else %}
{% for c in range(4) %}
    if (4u * i + {{ c }}u < {{ cols }}u) {
        sum_out[row * {{ cols }}u + 4u * i + {{ c }}u] = value.{{ "xyzw"[c] }};
    }
{% endfor %}
{% endif %}
}

{% endif %}
{% if post_norm or norm %}
fn norm_scale(square: f32) -> f32 {
    return 1.0 / sqrt(square / {{ cols }}.0 + {{ eps }});
}

{% endif %}
