{# What happens to sums, four at a time. #}
{% if epilogue == "geglu" %}
// gelu(gate) * up with gelu's tanh approximation: x (1 + tanh(u)) / 2 = x / (1 + exp(-2 u)). The bound keeps the
// divisor in the range where division is precise; beyond it the result is 0 to single precision.
fn geglu(gate: vec4<f32>, up: vec4<f32>) -> vec4<f32> {
    let u2 = 1.5957691216057308 * gate * (1.0 + 0.044715 * gate * gate);
    return gate / (1.0 + exp(min(-u2, vec4<f32>(80.0)))) * up;
}
{% elif epilogue == "softcap" %}
// cap * tanh(x / cap), with tanh(u) = 1 - 2 / (exp(2 u) + 1).
fn softcap(x: vec4<f32>) -> vec4<f32> {
    let e = exp(min(x * {{ 2.0 / cap }}, vec4<f32>(80.0)));
    return {{ cap }} * (1.0 - 2.0 / (e + 1.0));
}
{% endif %}
