{# The call: rows and what they stand for. Give the binding number as `call_binding`, the row set as `rows` ("seq", "out"). #}
@group(0) @binding({{ call_binding }}) var<storage, read> call: array<u32>;

// Rows that the step works on.
fn row_count() -> u32 {
    return call[{{ 0 if rows == "seq" else 1 }}];
}

// The call's row that row `r` of the step stands for.
fn call_row(r: u32) -> u32 {
{% if rows == "seq" %}
    return r;
{% else %}
    return call[7u + 4u * r];
{% endif %}
}

fn token_of(r: u32) -> u32 { return call[4u + 4u * call_row(r)]; }
fn position_of(r: u32) -> u32 { return call[5u + 4u * call_row(r)]; }
fn slot_of(r: u32) -> u32 { return call[6u + 4u * call_row(r)]; }
