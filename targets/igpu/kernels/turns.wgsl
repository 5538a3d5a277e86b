{#
Inside `main`: adds up a slice of the columns for `rows_tile` rows into `sums0`, ... The first `depth` units are loaded
or on their way in `unit0`, ...; `turns`: units of a slice; `unrolled`: whether turns are written out.
#}
{% for r in range(rows_tile) %}
    var sums{{ r }} = vec4<f32>();
{% endfor %}
{% macro add(unit, u, partial) %}
{% for r in range(rows_tile) %}
        let added{{ r }} = add_unit(sums{{ r }}, {{ unit }}, operand({{ r }}u, {{ u }}));
        sums{{ r }} = {{ "select(sums" ~ r ~ ", added" ~ r ~ ", " ~ u ~ " < " ~ units ~ "u)" if partial else "added" ~ r }};
{% endfor %}
{% endmacro %}
{# Each unit's place is loaded again before it is added up, in all turns but the last `depth`. #}
{% set looped = turns - ((turns - 1) % depth + 1) %}
{% if unrolled %}
{% for turn in range(looped) %}
    {
        let unit = unit{{ turn % depth }};
        unit{{ turn % depth }} = load_unit(block, quad, slice + {{ (turn + depth) * slices }}u);
{{ add("unit", "(slice + " ~ (turn * slices) ~ "u)", false) -}}
    }
{% endfor %}
{% elif looped > 0 %}
    for (var turn = 0u; turn < {{ looped }}u; turn += {{ depth }}u) {
{% for d in range(depth) %}
        {
            let unit = unit{{ d }};
            let u = slice + (turn + {{ d }}u) * {{ slices }}u;
            unit{{ d }} = load_unit(block, quad, u + {{ depth * slices }}u);
{{ add("unit", "u", false) -}}
        }
{% endfor %}
    }
{% endif %}
{% for turn in range(looped, turns) %}
    {
{{ add("unit" ~ (turn % depth), "(slice + " ~ (turn * slices) ~ "u)", (turn + 1) * slices > units) -}}
    }
{% endfor %}
