{#
Rows of a table, scaled. An invocation does a word of a row; a table that no device must be able to bind at once comes
in pieces, each with bindings of its own.

format, values_per_word; words of a row as it is stored, and those that hold columns: used_words; groups, cols; pieces:
[first row, row behind the last, b_data, b_scales]; whole: whether they are the whole table; scale.
#}
{% include "call" %}

@group(0) @binding({{ b_out }}) var<storage, read_write> out: array<f32>;
{% for piece in pieces %}
@group(0) @binding({{ piece[2] }}) var<storage, read> data{{ loop.index0 }}: array<u32>;
{% if quantized %}
@group(0) @binding({{ piece[3] }}) var<storage, read> scales{{ loop.index0 }}: array<u32>;
{% endif %}
{% endfor %}

fn store(row: u32, col: u32, value: f32) {
{% if cols % values_per_word == 0 %}
    out[row * {{ cols }}u + col] = value;
{% else %}
    if (col < {{ cols }}u) {
        out[row * {{ cols }}u + col] = value;
    }
{% endif %}
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let word = id.x;
    let row = id.y;
    let token = token_of(row);
    if (word < {{ used_words }}u{{ "" if whole else " && token >= " ~ pieces[0][0] ~ "u && token < " ~ pieces[-1][1] ~ "u" }}) {
        var bits: u32;
{% if quantized %}
        var scale_bits: u32;
{% endif %}
{% for piece in pieces %}
        {{ "else " if not loop.first else "" }}{{ "if (token < " ~ piece[1] ~ "u) " if not loop.last else "" }}{
            let block = (token - {{ piece[0] }}u) / 16u;
            bits = data{{ loop.index0 }}[(block * {{ words }}u + word) * 16u + token % 16u];
{% if quantized %}
            let at = (block * {{ groups }}u + word / {{ 32 // values_per_word }}u) * 16u + token % 16u;
            scale_bits = scales{{ loop.index0 }}[at / 2u] >> (at % 2u * 16u);
{% endif %}
        }
{% endfor %}
        let col = word * {{ values_per_word }}u;
{% if format == "f32" %}
        store(row, col, {{ scale }} * bitcast<f32>(bits));
{% elif format == "bf16" %}
        store(row, col, {{ scale }} * bitcast<f32>(bits << 16u));
        store(row, col + 1u, {{ scale }} * bitcast<f32>(bits & 0xffff0000u));
{% elif format == "f16" %}
        let pair = unpack2x16float(bits);
        store(row, col, {{ scale }} * pair.x);
        store(row, col + 1u, {{ scale }} * pair.y);
{% else %}
        let factor = {{ scale }} * unpack2x16float(scale_bits).x;
{% for c in range(values_per_word) %}
{% if format == "q8" %}
        store(row, col + {{ c }}u, factor * f32(extractBits(bitcast<i32>(bits), {{ 8 * c }}u, 8u)));
{% else %}
        store(row, col + {{ c }}u, factor * (f32(extractBits(bits, {{ 8 * (c % 4) + 4 * (c // 4) }}u, 4u)) - 8.0));
{% endif %}
{% endfor %}
{% endif %}
    }
}
