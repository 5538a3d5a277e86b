{# The end of a multiplication on the matrix units: sums c0_0, c0_1, .. through workgroup memory and the epilogue. #}
    workgroupBarrier();
{% set times_scale = " * scale" if row_scales else "" %}
{% macro put(sum) %}
        if (r < rows && col < {{ out_cols }}u) {
{% if row_scales %}
            let scale = a_scale[r];
{% endif %}
{% if epilogue == "geglu" %}
            let value = geglu({{ sum("at") }}{{ times_scale }}, {{ sum("at + 4u") }}{{ times_scale }});
{% elif epilogue == "softcap" %}
            let value = softcap({{ sum("at") }}{{ times_scale }});
{% else %}
            let value = {{ sum("at") }}{{ times_scale }};
{% endif %}
{% if out_vectors %}
            y[(r * {{ y_cols }}u + p.first_col + col) / 4u] = value;
{% else %}
            let to = r * {{ y_cols }}u + p.first_col + col;
{% for c in range(4) %}
            {{ "if (col + %du < %du) { "|format(c, out_cols) if c else "{ " }}y[to + {{ c }}u] = value.{{ "xyzw"[c] }}; }
{% endfor %}
{% endif %}
        }
{% endmacro %}
{% macro sum_of_one(at) %}bitcast<vec4<f32>>(tile[{{ at }}]){% endmacro %}
{% macro sum_of_slices(at) %}({% for s in range(slices) %}{{ " + " if s else "" }}bitcast<vec4<f32>>(tile[{{ at }}{{ " + %du"|format(s * tile_m * (tile_n // 4 + 1)) if s else "" }}]){% endfor %}){% endmacro %}
{% if whole %}
    // The sums go through workgroup memory.
{% set sums_row = tile_n // 4 + 1 %}
{% set out_tile = tile_n // 2 if epilogue == "geglu" else tile_n %}
    let sums = {{ "slice * %du + "|format(tile_m * sums_row) if slices > 1 else "" }}tile_row * {{ sums_row }}u + tile_col / 4u;
{% for i in range(frags_m) %}
{% for j in range(frags_n) %}
    coopStoreT(c{{ i }}_{{ j }}, &tile_as_f32[sums + {{ i * mat * sums_row + j * mat // 4 }}u], {{ sums_row }}u);
{% endfor %}
{% endfor %}
    workgroupBarrier();
    for (var item = local; item < {{ tile_m * out_tile // 4 }}u; item += {{ threads }}u) {
        let tile_r = item / {{ out_tile // 4 }}u;
        let tile_c = item % {{ out_tile // 4 }}u;
        let at = tile_r * {{ sums_row }}u + {{ "tile_c / 4u * 8u + tile_c % 4u" if epilogue == "geglu" else "tile_c" }};
        let r = first_row + tile_r;
        let col = first_n{{ " / 2u" if epilogue == "geglu" else "" }} + tile_c * 4u;
{{ put(sum_of_slices) }}
    }
{% else %}
    // The sums go through workgroup memory in strips, each subgroup through its own part.
{% set strip_row = strip // 4 + 1 %}
{% set out_strip = strip // 2 if epilogue == "geglu" else strip %}
    let strip = subgroup * {{ mat * strip_row }}u;
{% for i in range(frags_m) %}
{% for s in range(subgroup_n // strip) %}
{% for j in range(strip // mat) %}
    coopStoreT(c{{ i }}_{{ s * strip // mat + j }}, &tile_as_f32[strip + {{ j * mat // 4 }}u], {{ strip_row }}u);
{% endfor %}
    subgroupBarrier();
    for (var item = lane; item < {{ mat * out_strip // 4 }}u; item += {{ subgroup_size }}u) {
        let strip_r = item / {{ out_strip // 4 }}u;
        let strip_c = item % {{ out_strip // 4 }}u;
        let at = strip + strip_r * {{ strip_row }}u + {{ "strip_c / 4u * 8u + strip_c % 4u" if epilogue == "geglu" else "strip_c" }};
        let r = first_row + tile_row + {{ i * mat }}u + strip_r;
        let col = (first_n + tile_col + {{ s * strip }}u){{ " / 2u" if epilogue == "geglu" else "" }} + strip_c * 4u;
{{ put(sum_of_one) }}
    }
    subgroupBarrier();
{% endfor %}
{% endfor %}
{% endif %}
