{#
Inside `main`: takes `row` through the prologue and gives every vector of four columns to `consume(row, i, value)`,
where eight neighbouring invocations hold a group of 32 columns. `keeps_sum` says whether this workgroup stores the sum.
By `in_registers`, which parts ask for, a row is held in `steps` vectors an invocation; else it is read as it is
consumed. With `two_passes` its greatest magnitude goes to `measure(greatest)` first.
#}
{% if parts %}
    weigh_splits(row);
{% endif %}
{% if in_registers %}
{% for k in range(steps) %}
    let i{{ k }} = {{ k * threads }}u + lane;
    var v{{ k }} = {{ "vec4<f32>()" if parts else "load_x(row, i" ~ k ~ ")" }};
{% endfor %}
{% if parts %}
{# Splits together: their loads are under way at once. #}
{% set together = 12 if steps == 1 else 6 if steps == 2 else 4 if steps <= 4 else 1 %}
    for (var s = 0u; s < used_splits; s += {{ together }}u) {
{% for k in range(steps) %}
{% for t in range(together) %}
        let x{{ k }}_{{ t }} = load_split(row, s + {{ t }}u, i{{ k }});
{% endfor %}
{% endfor %}
{% for k in range(steps) %}
{% for t in range(together) %}
        v{{ k }} = fma(x{{ k }}_{{ t }}, split_factor(s + {{ t }}u, i{{ k }}), v{{ k }});
{% endfor %}
{% endfor %}
    }
{% endif %}
{% if residual %}
{% for k in range(steps) %}
    let r{{ k }} = load_residual(row, i{{ k }});
{% endfor %}
{% endif %}
{% if post_norm %}
    var post_square = 0.0;
{% for k in range(steps) %}
    post_square += dot(v{{ k }}, v{{ k }});
{% endfor %}
{% for k in range(steps) %}
    let p{{ k }} = load_post_norm(0u, i{{ k }});
{% endfor %}
    let post_scale = norm_scale(sum_of_all(post_square, 0u));
{% for k in range(steps) %}
    v{{ k }} = v{{ k }} * post_scale * p{{ k }};
{% endfor %}
{% endif %}
{% if residual %}
{% for k in range(steps) %}
    v{{ k }} += r{{ k }};
{% endfor %}
{% if stores_sum %}
    if (keeps_sum) {
{% for k in range(steps) %}
        store_sum(row, i{{ k }}, v{{ k }});
{% endfor %}
    }
{% endif %}
{% endif %}
{% if norm %}
    var square = 0.0;
{% for k in range(steps) %}
    square += dot(v{{ k }}, v{{ k }});
{% endfor %}
{% for k in range(steps) %}
    let n{{ k }} = load_norm(0u, i{{ k }});
{% endfor %}
    let scale = norm_scale(sum_of_all(square, 1u));
{% for k in range(steps) %}
    v{{ k }} = v{{ k }} * scale * n{{ k }};
{% endfor %}
{% endif %}
{% if two_passes %}
    var most = vec4<f32>();
{% for k in range(steps) %}
    most = max(most, abs(v{{ k }}));
{% endfor %}
    measure(max(max(most.x, most.y), max(most.z, most.w)));
{% endif %}
{% for k in range(steps) %}
    consume(row, i{{ k }}, v{{ k }});
{% endfor %}
{% else %}
{% if two_passes %}
    var most = vec4<f32>();
    for (var i = lane; i < {{ vectors }}u; i += {{ threads }}u) {
        var value = load_x(row, i);
{% if residual %}
        value += load_residual(row, i);
{% endif %}
        most = max(most, abs(value));
    }
    measure(max(max(most.x, most.y), max(most.z, most.w)));
{% endif %}
{# Loads of a batch are under way at once. #}
{% set batch = steps if steps <= 12 else 4 %}
    // Every invocation makes as many steps, for groups are made together.
    for (var step = 0u; step < {{ steps }}u; step += {{ batch }}u) {
{% for k in range(batch) %}
        let i{{ k }} = (step + {{ k }}u) * {{ threads }}u + lane;
        var v{{ k }} = load_x(row, i{{ k }});
{% endfor %}
{% if residual %}
{% for k in range(batch) %}
        v{{ k }} += load_residual(row, i{{ k }});
{% endfor %}
{% if stores_sum %}
        if (keeps_sum) {
{% for k in range(batch) %}
            store_sum(row, i{{ k }}, v{{ k }});
{% endfor %}
        }
{% endif %}
{% endif %}
{% for k in range(batch) %}
        consume(row, i{{ k }}, v{{ k }});
{% endfor %}
    }
{% endif %}
