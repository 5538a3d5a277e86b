{# The rows asked for, copied. #}
{% include "call" %}

@group(0) @binding({{ b_x }}) var<storage, read> x: array<f32>;
@group(0) @binding({{ b_out }}) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x < {{ cols }}u) {
        out[id.y * {{ cols }}u + id.x] = x[call_row(id.y) * {{ cols }}u + id.x];
    }
}
