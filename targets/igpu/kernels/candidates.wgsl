{#
The `keep` greatest logits of a slice of a row: grid (slices, rows). A thread has `own` neighbouring logits. Leaves
`[slices][keep]` entries a row.
#}
{% set vectors = count % 4 == 0 %}
{% set most_found = keep * own %}
@group(0) @binding(0) var<storage, read> input: array<{{ "vec4<u32>" if vectors else "u32" }}>;
@group(0) @binding(1) var<storage, read_write> output: array<vec2<u32>>;

{% include "candidates_rank" %}

// Orders like the number; zeros are equal, and what is no number comes first.
fn key_of(bits: u32) -> u32 {
    let magnitude = bits & 0x7fffffffu;
    let key = select(bits | 0x80000000u, ~bits, bits >= 0x80000000u);
    return select(select(key, 0x80000000u, magnitude == 0u), 0xfffffffeu, magnitude > 0x7f800000u);
}

@compute @workgroup_size({{ threads }})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let slice = group.x;
    let row = group.y;
    let first = slice * {{ own * threads }}u + local * {{ own }}u;
    // Beyond the last, something that comes after every other.
    {% for i in range(0, own, 4) %}
    {% if vectors %}
    let logits_{{ i }} = input[(row * {{ count }}u + min(first + {{ i }}u, {{ count - 4 }}u)) / 4u];
    {% else %}
    let logits_{{ i }} = vec4<u32>({% for j in range(4) %}input[row * {{ count }}u + min(first + {{ i + j }}u, {{ count - 1 }}u)]{{ ", " if not loop.last }}{% endfor %});
    {% endif %}
    {% for j in range(4) %}
    let own_{{ i + j }} = select(0u, key_of(logits_{{ i }}.{{ "xyzw"[j] }}), first + {{ i + j }}u < {{ count }}u);
    {% endfor %}
    {% endfor %}
    var most = own_0;
    {% for i in range(1, own) %}
    most = max(most, own_{{ i }});
    {% endfor %}
    if find_bound(local, most) {
        {% for i in range(own) %}
        if own_{{ i }} >= bound { collect(Entry(first + {{ i }}u, own_{{ i }})); }
        {% endfor %}
    }
    let n = rank_found(local);
    for (var i = local; i < n; i += THREADS) {
        let place = atomicLoad(&ranks[i]);
        if place < KEEP {
            output[(row * {{ slices }}u + slice) * KEEP + place] = list[i];
        }
    }
}
