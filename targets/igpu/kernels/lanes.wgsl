{#
Where an invocation stands in its workgroup, and sums over the workgroup.

threads; subgroup: the size of subgroups, or 0 for any of 8 or more.
#}
{% set most_subgroups = threads // (subgroup or 8) %}

// An invocation's number, counted through the subgroups: neighbours by number are neighbours in a subgroup.
var<private> lane: u32;
var<private> subgroup_lane: u32;
var<private> subgroup: u32;
{% if subgroup %}
const SUBGROUP_LANES = {{ subgroup }}u;
const SUBGROUPS = {{ most_subgroups }}u;
{% else %}
var<private> SUBGROUP_LANES: u32;
var<private> SUBGROUPS: u32;
{% endif %}

fn take_place(size: u32, id: u32, invocation: u32) {
{% if not subgroup %}
    SUBGROUP_LANES = size;
    SUBGROUPS = {{ threads }}u / size;
{% endif %}
    lane = id * SUBGROUP_LANES + invocation;
    subgroup_lane = invocation;
    subgroup = id;
}

// A part of a total from every subgroup. Each total of a kernel has its own parts.
var<workgroup> totals: array<f32, {{ 3 * most_subgroups }}>;

// The sum over the workgroup, equal in every invocation.
fn sum_of_all(value: f32, which: u32) -> f32 {
    let at = which * {{ most_subgroups }}u;
    let part = subgroupAdd(value);
    if (subgroup_lane == 0u) {
        totals[at + subgroup] = part;
    }
    workgroupBarrier();
    var total = totals[at];
    for (var i = 1u; i < SUBGROUPS; i++) {
        total += totals[at + i];
    }
    return total;
}

// The maximum over the workgroup, equal in every invocation.
fn greatest_of_all(value: f32, which: u32) -> f32 {
    let at = which * {{ most_subgroups }}u;
    let part = subgroupMax(value);
    if (subgroup_lane == 0u) {
        totals[at + subgroup] = part;
    }
    workgroupBarrier();
    var greatest = totals[at];
    for (var i = 1u; i < SUBGROUPS; i++) {
        greatest = max(greatest, totals[at + i]);
    }
    return greatest;
}
