{#
The `keep` greatest of `count` values of a row, best first, equal ones by token: of a slice of a row of logits
(`from_logits`: grid (slices, rows)), or of what the slices left (grid (rows)).

At most `keep` threads hold one of the greatest: those whose own greatest is among the `keep` greatest of all threads'.
The least of these bounds what must be looked at, `keep * own` values at most and few more than `keep` in most cases.
Those are collected, and it is counted how many are greater than each: its rank. Logits are compared as integers of the
same order. A thread's values lie together, so that of equal greatest values the lower thread has the lower token.
#}
@group(0) @binding(0) var<storage, read> input: array<{{ "u32" if from_logits else "vec2<u32>" }}>;
@group(0) @binding(1) var<storage, read_write> output: array<vec2<u32>>;

const KEEP = {{ keep }}u;
const OWN = {{ own }}u;
const THREADS = {{ threads }}u;
const COUNT = {{ count }}u;
// Threads that count together how many are greater than a value.
const TEAM = 8u;
// A token and the integer of its logit. Nothing that counts is 0.
alias Entry = vec2<u32>;

var<workgroup> best: array<vec4<u32>, {{ threads // 4 }}>;
var<workgroup> bound: u32;
var<workgroup> found: atomic<u32>;
var<workgroup> list: array<Entry, {{ keep * own }}>;
var<workgroup> ranks: array<atomic<u32>, {{ keep * own }}>;

{% if from_logits %}
// Orders like the number; zeros are equal, and what is no number comes first.
fn key_of(bits: u32) -> u32 {
    let magnitude = bits & 0x7fffffffu;
    if magnitude > 0x7f800000u { return 0xfffffffeu; }
    if magnitude == 0u { return 0x80000000u; }
    return select(bits | 0x80000000u, ~bits, bits >= 0x80000000u);
}
{% endif %}

// Value `index` of the slice; beyond the last, something that comes after every other.
fn entry(row: u32, slice: u32, index: u32) -> Entry {
    {% if from_logits %}
    let token = slice * {{ own * threads }}u + index;
    if token >= COUNT { return Entry(token, 0u); }
    return Entry(token, key_of(input[row * COUNT + token]));
    {% else %}
    if index >= COUNT { return Entry(0x80000000u + index, 0u); }
    return input[row * COUNT + index];
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
    {% for i in range(own) %}
    let own_{{ i }} = entry(row, slice, local * OWN + {{ i }}u);
    {% endfor %}
    var most = own_0.y;
    {% for i in range(1, own) %}
    most = max(most, own_{{ i }}.y);
    {% endfor %}
    best[local / 4u][local % 4u] = most;
    if local == 0u { atomicStore(&found, 0u); }
    for (var i = local; i < {{ keep * own }}u; i += THREADS) {
        atomicStore(&ranks[i], 0u);
    }
    workgroupBarrier();
    // An equal one of a lower thread comes before: more than `most - 1` is at least `most`.
    var rank = 0u;
    for (var i = 0u; i < {{ threads // 4 }}u; i++) {
        let thread = vec4<u32>(i * 4u) + vec4<u32>(0u, 1u, 2u, 3u);
        let least = vec4<u32>(most) + select(vec4<u32>(1u), vec4<u32>(), thread < vec4<u32>(local));
        let before = select(vec4<u32>(), vec4<u32>(1u), best[i] >= least);
        rank += (before.x + before.y) + (before.z + before.w);
    }
    if rank == KEEP - 1u { bound = most; }
    workgroupBarrier();
    if rank < KEEP {
        {% for i in range(own) %}
        if own_{{ i }}.y >= bound { list[atomicAdd(&found, 1u)] = own_{{ i }}; }
        {% endfor %}
    }
    workgroupBarrier();
    let n = atomicLoad(&found);
    for (var i = local; i < n * TEAM; i += THREADS) {
        let mine = list[i / TEAM];
        var before = 0u;
        for (var j = i % TEAM; j < n; j += TEAM) {
            let other = list[j];
            before += select(0u, 1u, other.y > mine.y || (other.y == mine.y && other.x < mine.x));
        }
        atomicAdd(&ranks[i / TEAM], before);
    }
    workgroupBarrier();
    for (var i = local; i < n; i += THREADS) {
        let mine = list[i];
        let place = atomicLoad(&ranks[i]);
        if place < KEEP {
            {% if from_logits %}
            output[(row * {{ slices }}u + slice) * KEEP + place] = mine;
            {% else %}
            output[row * KEEP + place] = Entry(mine.x, select(~mine.y, mine.y & 0x7fffffffu, mine.y >= 0x80000000u));
            {% endif %}
        }
    }
}
