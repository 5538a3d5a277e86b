{#
The `keep` greatest of `count` values of a row, best first, equal ones by token: of a slice of a row of logits
(`from_logits`: grid (slices, rows)), or of what the slices left (grid (rows)).

At most `keep` threads hold one of the greatest: those whose own greatest is among the `keep` greatest of all threads'.
The least of these bounds what must be looked at, `keep * own` values at most and few more than `keep` in most cases.
Those are collected and each counts how many are greater: its rank. Logits are compared as integers of the same order.
#}
{% if from_logits %}
@group(0) @binding(0) var<storage, read> input: array<u32>;
@group(0) @binding(1) var<storage, read_write> output: array<vec2<u32>>;
{% else %}
@group(0) @binding(0) var<storage, read> input: array<vec2<u32>>;
@group(0) @binding(1) var<storage, read_write> output: array<vec2<u32>>;
{% endif %}

const KEEP = {{ keep }}u;
const OWN = {{ own }}u;
const THREADS = {{ threads }}u;
// A token and the integer of its logit. Nothing is as small as 0.
alias Entry = vec2<u32>;

var<workgroup> best_tokens: array<vec4<u32>, {{ threads // 4 }}>;
var<workgroup> best_keys: array<vec4<u32>, {{ threads // 4 }}>;
var<workgroup> bound: Entry;
var<workgroup> found: atomic<u32>;
var<workgroup> list: array<Entry, {{ keep * own }}>;

fn is_before(a: Entry, b: Entry) -> bool {
    return a.y > b.y || (a.y == b.y && a.x < b.x);
}

{% if from_logits %}
// Orders like the number; zeros are equal, and what is no number comes first.
fn key_of(bits: u32) -> u32 {
    let magnitude = bits & 0x7fffffffu;
    if magnitude > 0x7f800000u { return 0xffffffffu; }
    if magnitude == 0u { return 0x80000000u; }
    return select(bits | 0x80000000u, ~bits, bits >= 0x80000000u);
}
{% endif %}

// The thread's value `i`; beyond the last, something that comes after every other.
fn entry(row: u32, slice: u32, local: u32, i: u32) -> Entry {
    {% if from_logits %}
    let token = slice * {{ own * threads }}u + i * THREADS + local;
    if token >= {{ count }}u { return Entry(token, 0u); }
    return Entry(token, key_of(input[row * {{ count }}u + token]));
    {% else %}
    let index = i * THREADS + local;
    if index >= {{ count }}u { return Entry(0x80000000u + index, 0u); }
    return input[row * {{ count }}u + index];
    {% endif %}
}

@compute @workgroup_size({{ threads }})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    {% if from_logits %}
    let slice = group.x;
    let row = group.y;
    {% else %}
    let slice = 0u;
    let row = group.x;
    {% endif %}
    var best = entry(row, slice, local, 0u);
    for (var i = 1u; i < OWN; i++) {
        let other = entry(row, slice, local, i);
        if is_before(other, best) { best = other; }
    }
    best_tokens[local / 4u][local % 4u] = best.x;
    best_keys[local / 4u][local % 4u] = best.y;
    if local == 0u { atomicStore(&found, 0u); }
    workgroupBarrier();
    var rank = 0u;
    for (var i = 0u; i < {{ threads // 4 }}u; i++) {
        let tokens = best_tokens[i];
        let keys = best_keys[i];
        let before = (keys > vec4<u32>(best.y)) | ((keys == vec4<u32>(best.y)) & (tokens < vec4<u32>(best.x)));
        let one = select(vec4<u32>(), vec4<u32>(1u), before);
        rank += (one.x + one.y) + (one.z + one.w);
    }
    if rank == KEEP - 1u { bound = best; }
    workgroupBarrier();
    if rank < KEEP {
        for (var i = 0u; i < OWN; i++) {
            let mine = entry(row, slice, local, i);
            if !is_before(bound, mine) { list[atomicAdd(&found, 1u)] = mine; }
        }
    }
    workgroupBarrier();
    let n = atomicLoad(&found);
    for (var i = local; i < n; i += THREADS) {
        let mine = list[i];
        var before = 0u;
        for (var j = 0u; j < n; j++) {
            before += select(0u, 1u, is_before(list[j], mine));
        }
        if before < KEEP {
            {% if from_logits %}
            // By rank, then by slice: the next threads then have the best of one slice each.
            output[(row * KEEP + before) * {{ slices }}u + slice] = mine;
            {% else %}
            output[row * KEEP + before] = Entry(mine.x, select(~mine.y, mine.y & 0x7fffffffu, mine.y >= 0x80000000u));
            {% endif %}
        }
    }
}
