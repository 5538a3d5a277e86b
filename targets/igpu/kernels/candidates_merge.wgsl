{#
The `keep` greatest of what the slices of a row left: grid (rows). A slice's entries are sorted and shared by `sharers`
threads, of which each has every so many-th: a sorted list again, of which few entries are ever read.
#}
{% set length = keep // sharers %}
{% set ahead = [length, 4] | min %}
{% set most_found = keep * length %}
@group(0) @binding(0) var<storage, read> input: array<vec2<u32>>;
@group(0) @binding(1) var<storage, read_write> output: array<vec2<u32>>;

{% include "candidates_rank" %}

@compute @workgroup_size({{ threads }})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let row = group.x;
    let has_list = local < {{ slices * sharers }}u;
    let first = row * {{ slices * keep }}u + select(0u, local / {{ sharers }}u * KEEP + local % {{ sharers }}u, has_list);
    {% for i in range(ahead) %}
    let ahead_{{ i }} = input[first + {{ i * sharers }}u];
    {% endfor %}
    if find_bound(local, select(0u, ahead_0.y, has_list)) {
        collect(ahead_0);
        {% for i in range(1, ahead) %}
        if ahead_{{ i }}.y >= bound { collect(ahead_{{ i }}); }
        {% endfor %}
        {% if length > ahead %}
        var i = {{ ahead }}u;
        while i < {{ length }}u {
            let next = input[first + i * {{ sharers }}u];
            if next.y < bound { break; }
            collect(next);
            i++;
        }
        {% endif %}
    }
    let n = rank_found(local);
    for (var i = local; i < n; i += THREADS) {
        let place = atomicLoad(&ranks[i]);
        if place < KEEP {
            let found = list[i];
            output[row * KEEP + place] = vec2<u32>(found.x, select(~found.y, found.y & 0x7fffffffu, found.y >= 0x80000000u));
        }
    }
}
