{#
Finds the `keep` greatest of a row's values, which threads hold as lists: best first, equal ones by token. At most `keep`
lists have one of the greatest: those whose own greatest is among the `keep` greatest of all lists'. The least of these
bounds what must be looked at, few more than `keep` in most cases. It is collected, and counted how many are greater than
each: its rank. Of equal greatest values, the lower thread has the lower token. Give `most_found`, the most that can be
collected.
#}
const KEEP = {{ keep }}u;
const THREADS = {{ threads }}u;
// Threads that count together how many are greater than a value.
const TEAM = 8u;
// A token and an integer that orders like its logit. Nothing that counts is 0.
alias Entry = vec2<u32>;

var<workgroup> best: array<vec4<u32>, {{ threads // 4 }}>;
var<workgroup> bound: u32;
var<workgroup> found: atomic<u32>;
var<workgroup> list: array<Entry, {{ most_found }}>;
var<workgroup> ranks: array<atomic<u32>, {{ most_found }}>;

// Sets the bound, given the greatest of the thread's list. Whether the list has something to collect.
fn find_bound(local: u32, most: u32) -> bool {
    best[local / 4u][local % 4u] = most;
    if local == 0u { atomicStore(&found, 0u); }
    for (var i = local; i < {{ most_found }}u; i += THREADS) {
        atomicStore(&ranks[i], 0u);
    }
    workgroupBarrier();
    // An equal one of a lower thread comes before: to be more than `most - 1` is to be at least `most`.
    var rank = 0u;
    for (var i = 0u; i < {{ threads // 4 }}u; i++) {
        let thread = vec4<u32>(i * 4u) + vec4<u32>(0u, 1u, 2u, 3u);
        let least = vec4<u32>(most) + select(vec4<u32>(1u), vec4<u32>(), thread < vec4<u32>(local));
        let before = select(vec4<u32>(), vec4<u32>(1u), best[i] >= least);
        rank += (before.x + before.y) + (before.z + before.w);
    }
    if rank == KEEP - 1u { bound = most; }
    workgroupBarrier();
    return rank < KEEP;
}

fn collect(entry: Entry) {
    list[atomicAdd(&found, 1u)] = entry;
}

// Ranks what was collected. How much that is.
fn rank_found(local: u32) -> u32 {
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
    return n;
}
