{#
Inside `main`: adds up a slice of the columns for `rows_tile` rows into `sums0`, ... The first `depth` units are loaded
or on their way in `unit0`, ...; `turns`: units of a slice.
#}
{% for r in range(rows_tile) %}
    var sums{{ r }} = vec4<f32>();
{% endfor %}
{% if turns <= 8 %}
{% for turn in range(turns) %}
{% set d = turn % depth %}
{% set partial = (turn + 1) * slices > units %}
    {
        let unit = unit{{ d }};
        let u = slice + {{ turn * slices }}u;
{% if turn + depth < turns %}
        unit{{ d }} = load_unit(block, quad, slice + {{ (turn + depth) * slices }}u);
{% endif %}
{% for r in range(rows_tile) %}
        let added{{ r }} = add_unit(sums{{ r }}, unit, operand({{ r }}u, u));
        sums{{ r }} = {{ "select(sums" ~ r ~ ", added" ~ r ~ ", u < " ~ units ~ "u)" if partial else "added" ~ r }};
{% endfor %}
    }
{% endfor %}
{% else %}
    for (var turn = 0u; turn < {{ turns }}u; turn += {{ depth }}u) {
{% for d in range(depth) %}
        {
            let unit = unit{{ d }};
            let u = slice + (turn + {{ d }}u) * {{ slices }}u;
            // Behind the last unit this is the last again.
            unit{{ d }} = load_unit(block, quad, u + {{ depth * slices }}u);
{% for r in range(rows_tile) %}
            let added{{ r }} = add_unit(sums{{ r }}, unit, operand({{ r }}u, u));
            sums{{ r }} = select(sums{{ r }}, added{{ r }}, u < {{ units }}u);
{% endfor %}
        }
{% endfor %}
    }
{% endif %}
