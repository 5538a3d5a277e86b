//! Templates of the forms that checkpoints bring.

use crate::{ChatError, Message, Template, check_template};

fn special() -> Vec<(String, String)> {
    [("bos_token", "<bos>"), ("eos_token", "<eos>")]
        .map(|(name, spelling)| (name.to_owned(), spelling.to_owned()))
        .to_vec()
}

fn render(source: &str, messages: &[(&str, &str)]) -> Result<String, ChatError> {
    let messages: Vec<Message> = messages.iter().map(|(r, c)| Message::new(*r, *c)).collect();
    Template::new(source, &special())?.render(&messages, true)
}

/// No system role, turns must alternate.
const ALTERNATING: &str = "\
{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}
{% for message in messages %}
    {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('turns must alternate') }}
    {% endif %}
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
    {{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}";

/// The system message goes before the first turn; content may be text or a list of parts.
const WITH_SYSTEM: &str = "\
{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set prefix = messages[0]['content'] + '\\n\\n' -%}
    {%- else -%}
        {%- set prefix = messages[0]['content'][0]['text'] + '\\n\\n' -%}
    {%- endif -%}
    {%- set turns = messages[1:] -%}
{%- else -%}
    {%- set prefix = '' -%}
    {%- set turns = messages -%}
{%- endif -%}
{%- for message in turns -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception('roles must alternate') }}
    {%- endif -%}
    {{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\\n' + (prefix if loop.first else '') }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for part in message['content'] -%}
            {%- if part['type'] == 'image' -%}{{ '<start_of_image>' }}
            {%- elif part['type'] == 'text' -%}{{ part['text'] | trim }}
            {%- endif -%}
        {%- endfor -%}
    {%- else -%}
        {{ raise_exception('bad content') }}
    {%- endif -%}
    {{ '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\\n' }}{%- endif -%}";

#[test]
fn an_alternating_template_renders() {
    let turns = [("user", " Hi \n"), ("assistant", "Hello"), ("user", "Bye")];
    let expected = "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\nHello<end_of_turn>\n\
                    <start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\n";
    assert_eq!(render(ALTERNATING, &turns).expect("renders"), expected);
}

#[test]
fn a_template_with_a_system_message_renders() {
    let turns = [("system", "Be brief."), ("user", " Hi ")];
    let expected = "<bos><start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n<start_of_turn>model\n";
    assert_eq!(render(WITH_SYSTEM, &turns).expect("renders"), expected);
    let expected = "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n";
    assert_eq!(render(WITH_SYSTEM, &turns[1..]).expect("renders"), expected);
}

#[test]
fn a_refusal_carries_the_template_s_words() {
    for (turns, words) in [
        ([("system", "x"), ("user", "y")], "no system role"),
        ([("user", "x"), ("user", "y")], "turns must alternate"),
    ] {
        let error = render(ALTERNATING, &turns).expect_err("is refused");
        assert!(
            matches!(&error, ChatError::Refused(message) if message == words),
            "{error}"
        );
    }
}

#[test]
fn python_s_methods_and_filters_work() {
    for (source, expected) in [
        (
            "{{ messages[0].content.strip().split(' ')[0].upper() }}",
            "A",
        ),
        (
            "{{ messages[0]['content'].replace('b', 'x').startswith('a') }}",
            "True",
        ),
        (
            "{{ messages | tojson }}",
            "[{\"role\": \"user\", \"content\": \"a b <é>\"}]",
        ),
        ("{{ [1, 2] | tojson(indent=1) }}", "[\n 1,\n 2\n]"),
        ("{{ strftime_now('%Y') | length }}", "4"),
        (
            "{{ eos_token }}{{ pad_token }}{{ tools is none }}",
            "<eos>True",
        ),
        (
            "{% set n = namespace(x=0) %}{% for i in range(9) %}{% if i == 3 %}{% break %}{% endif %}{% set n.x = i %}{% endfor %}{{ n.x }}",
            "2",
        ),
        ("{% macro m(x) %}[{{ x }}]{% endmacro %}{{ m('q') }}", "[q]"),
        ("  {% if true %}\nx\n  {% endif %}\ny\n", "x\ny"),
        ("{{ messages[-1].role ~ messages | length }}", "user1"),
    ] {
        assert_eq!(
            render(source, &[("user", "a b <é>")]).expect(source),
            expected,
            "{source}"
        );
    }
}

#[test]
fn a_syntax_error_is_placed() {
    let error = check_template("one\n{% if %}", &[]).expect_err("is refused");
    assert!(
        matches!(error, ChatError::Syntax { line: 2, .. }),
        "{error}"
    );
    assert!(
        error.to_string().starts_with("chat template, line 2: "),
        "{error}"
    );
    assert!(!error.to_string().contains('\n'));
    assert!(check_template("{{ 'open", &[]).is_err());
    assert!(check_template(&"{{ (".repeat(10_000), &[]).is_err());
    assert!(check_template(&"(".repeat(100_000), &[]).is_ok(), "text");
    assert!(
        check_template(
            &format!("{{{{ {}1{} }}}}", "(".repeat(9999), ")".repeat(9999)),
            &[]
        )
        .is_err()
    );
    assert!(check_template(WITH_SYSTEM, &[]).is_ok());
}

#[test]
fn a_template_that_cannot_render_one_message_is_refused() {
    for source in [
        "{{ nosuch(1) }}",
        "{{ raise_exception('never') }}",
        "{% if false %}text{% endif %}",
        "",
    ] {
        assert!(check_template(source, &[]).is_err(), "{source:?}");
    }
    let bos = [("bos_token".to_owned(), "<bos>".to_owned())];
    assert!(check_template("{{ bos_token }}", &bos).is_ok());
}

#[test]
fn a_template_without_end_is_stopped() {
    for source in [
        "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}",
        "{% set x = 'abcdefghijklmnop' * 10000 %}{% for a in range(9999) %}{{ x }}{% endfor %}",
    ] {
        let error = render(source, &[]).expect_err("is stopped");
        assert!(matches!(error, ChatError::Unbounded { .. }), "{error}");
    }
    let error =
        render("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", &[]).expect_err("is stopped");
    assert!(error.to_string().contains("recursion"), "{error}");
    assert!(render("{% include 'chat template' %}", &[]).is_err());
    assert!(render("{% include '/etc/passwd' %}", &[]).is_err());
}

#[test]
fn an_error_while_rendering_is_placed() {
    let error = render("\n\n{{ messages[5]['role'] }}", &[]).expect_err("fails");
    assert!(
        matches!(error, ChatError::Failed { line: 3, .. }),
        "{error}"
    );
}
