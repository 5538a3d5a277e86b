{# Where an invocation stands in its workgroup, and sums over the workgroup. Constant: `threads`. #}

// An invocation's number, counted through the subgroups: neighbours by number are neighbours in a subgroup.
var<private> lane: u32;
var<private> subgroup_lanes: u32;
var<private> subgroup_lane: u32;
var<private> subgroup: u32;
var<private> subgroups: u32;

fn take_place(size: u32, id: u32, invocation: u32) {
    lane = id * size + invocation;
    subgroup_lanes = size;
    subgroup_lane = invocation;
    subgroup = id;
    subgroups = {{ threads }}u / size;
}

// A part of a total from every subgroup, of 8 invocations or more. Each total of a kernel has its own parts.
var<workgroup> totals: array<f32, {{ 2 * threads // 8 }}>;

// The sum over the workgroup, equal in every invocation.
fn sum_of_all(value: f32, which: u32) -> f32 {
    let at = which * {{ threads // 8 }}u;
    let part = subgroupAdd(value);
    if (subgroup_lane == 0u) {
        totals[at + subgroup] = part;
    }
    workgroupBarrier();
    var total = totals[at];
    for (var i = 1u; i < subgroups; i++) {
        total += totals[at + i];
    }
    return total;
}

// The maximum over the workgroup, equal in every invocation.
fn greatest_of_all(value: f32, which: u32) -> f32 {
    let at = which * {{ threads // 8 }}u;
    let part = subgroupMax(value);
    if (subgroup_lane == 0u) {
        totals[at + subgroup] = part;
    }
    workgroupBarrier();
    var greatest = totals[at];
    for (var i = 1u; i < subgroups; i++) {
        greatest = max(greatest, totals[at + i]);
    }
    return greatest;
}
