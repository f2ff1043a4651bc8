//! Chat templates of random pieces: each renders or gives a sentence, and its process is ended where it takes too much.
use super::cases;
use crate::templates::renderer;
use proptest::prelude::*;
use ram_run::{Conversation, Error, Message, Template};

fn expression() -> impl Strategy<Value = String> {
    let leaf = prop::sample::select(vec![
        "messages",
        "m",
        "n.x",
        "n",
        "a",
        "'text'",
        "''",
        "1",
        "0",
        "-1",
        "1.5",
        "10000000000",
        "none",
        "true",
        "[]",
        "{}",
        "bos_token",
        "loop",
        "self",
        "range(9)",
        "strftime_now",
    ]);
    leaf.prop_map(String::from).prop_recursive(5, 24, 3, |inner| {
        let filter = prop::sample::select(vec![
            "join",
            "list",
            "tojson",
            "length",
            "string",
            "upper",
            "sort",
            "unique",
            "reverse",
            "first",
            "last",
            "batch(1000000000, 1)",
            "slice(1000000000)",
            "indent(1000000000)",
            "replace('a', 'bbbb')",
            "map('upper')",
            "select",
            "groupby('a')",
            "round(1000000)",
            "items",
            "dictsort",
            "pprint",
            "sum",
            "tojson(indent=100000000)",
            "format(1)",
            "default(n)",
            "min",
            "int",
            "trim",
            "e",
        ]);
        let method = prop::sample::select(vec![
            "strip()",
            "split()",
            "split('')",
            "upper()",
            "format(1, 2)",
            "items()",
            "keys()",
            "get(1)",
            "join(messages)",
            "replace('', 'xx')",
            "count('')",
            "x",
            "content",
            "splitlines()",
            "startswith([])",
            "title()",
            "find('')",
            "role",
        ]);
        let operator = prop::sample::select(vec!["+", "-", "*", "**", "/", "//", "%", "~", "==", "<", "in", "and", "or", "is"]);
        prop_oneof![
            (inner.clone(), filter).prop_map(|(a, f)| format!("({a}|{f})")),
            (inner.clone(), method).prop_map(|(a, m)| format!("({a}).{m}")),
            (inner.clone(), operator, inner.clone()).prop_map(|(a, o, b)| format!("({a} {o} {b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("[{a}, {b}]")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{{{a}: {b}}}")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a})[{b}]")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a})[{b}:]")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{a}({b})")),
            (inner.clone(), inner.clone(), inner).prop_map(|(a, b, c)| format!("({a} if {b} else {c})")),
        ]
    })
}

fn template() -> impl Strategy<Value = String> {
    let leaf =
        prop_oneof![4 => expression().prop_map(|e| format!("{{{{ {e} }}}}")), 1 => ".{0,8}".prop_map(String::from), 1 => Just("{% break %}".into())];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            (expression(), inner.clone()).prop_map(|(e, b)| format!("{{% for m in {e} %}}{b}{{% endfor %}}")),
            inner.clone().prop_map(|b| format!("{{% for i in range(90000) %}}{b}{{% endfor %}}")),
            (expression(), inner.clone()).prop_map(|(e, b)| format!("{{% if {e} %}}{b}{{% endif %}}")),
            (expression(), inner.clone()).prop_map(|(e, b)| format!("{{% set n.x = {e} %}}{b}")),
            (expression(), inner.clone()).prop_map(|(e, b)| format!("{{% set a = {e} %}}{b}")),
            inner.clone().prop_map(|b| format!("{{% set a %}}{b}{{% endset %}}")),
            inner.clone().prop_map(|b| format!("{{% macro f(a) %}}{b}{{{{ f(a) }}}}{{% endmacro %}}{{{{ f(1) }}}}")),
            prop::collection::vec(inner, 1..4).prop_map(|all| all.concat()),
        ]
    })
}

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn templates_render_or_say_why(body in template()) {
        let text = format!("{{% set n = namespace(x=1) %}}{body}");
        let messages = [Message::new("user", "Hello\n aa"), Message::new("assistant", "日本")];
        match Template::new(text).render_apart(renderer(), &Conversation::new(&messages, true), "<s>", "</s>") {
            Ok(said) => prop_assert!(said.len() < 2 << 20),
            Err(Error::Template(why)) => prop_assert!(!why.is_empty()),
            Err(other) => prop_assert!(false, "{other}"),
        }
    }
}
