//! Chat templates are strangers' programs: whatever one does, the answer is a text or one sentence, in bounded memory and time.
use crate::{bad_input::copy, cli};
use ram_run::{Conversation, Error, Message, Template};
use std::{
    fs,
    io::Write,
    process::{Command, Stdio},
};

/// The process in which the program renders.
pub fn renderer() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ram-run"));
    command.arg("render-template");
    command
}

fn render(text: &str, messages: &[Message]) -> Result<String, Error> {
    Template::new(text.into()).render_apart(renderer(), &Conversation::new(messages, true), "<s>", "</s>")
}

/// A value of `x` and another of `y` that hold themselves twice at each of 60 levels.
fn doubled(end: &str) -> String {
    let grow = "{% set n = namespace(x=1, y=1) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% set n.y = [n.y, n.y] %}{% endfor %}";
    format!("{grow}{{{{ {end} }}}}")
}

/// A list in a list in a list, as often as there is fuel for.
fn nested(end: &str) -> String {
    format!("{{% set n = namespace(x=1) %}}{{% for i in range(90000) %}}{{% set n.x = [n.x] %}}{{% endfor %}}{{{{ {end} }}}}")
}

/// `inner` that is said again and again to the program's process.
fn often(inner: &str) -> String {
    format!("{{% for i in range(90000) %}}{{% for j in range(90000) %}}{inner}{{% endfor %}}{{% endfor %}}")
}

#[test]
fn the_four_that_were_found_end_a_chat_with_a_sentence() {
    let c = copy("qwen2-no-bias-f16");
    for text in [
        format!("{{{{ {} 1 }}}}", "-".repeat(100_000)),
        "{{ [1, 2]|batch(10**10, 1)|list }}".into(),
        "{% set n = namespace(s='x' * 100) %}{% for i in range(27) %}{% set n.s = n.s ~ n.s %}{% endfor %}{{ n.s }}".into(),
        "{{ ([1] * 1000000000)|join }}".into(),
        "x".repeat(100_000_000),
    ] {
        let path = c.path.join("other.jinja");
        fs::write(&path, &text).expect("written");
        let [model, path] = [&c.path, &path].map(|p| p.to_str().expect("UTF-8"));
        let mut child = cli::command(&["--model", model, "--dense", "chat", "--chat-template", path])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts");
        let _ = child.stdin.take().expect("a pipe").write_all(b"hello\n");
        let out = child.wait_with_output().expect("ends");
        let said = String::from_utf8_lossy(&out.stderr);
        let told = said.lines().filter(|line| line.starts_with("ram-run: ")).collect::<Vec<_>>();
        assert_eq!(out.status.code(), Some(4), "{}: {said}", &text[..40]);
        assert!(told.len() == 1 && !said.contains("panicked") && !said.contains("overflow"), "{}: {said}", &text[..40]);
    }
}

#[test]
fn hostile_templates_are_refused() {
    let deep = 100_000;
    let mut all = vec![
        // Depth: of the source, of calls, of values.
        format!("{{{{ 1{} }}}}", "|abs".repeat(deep)),
        format!("{{% if a %}}{}{{% endif %}}", "{% elif a %}".repeat(deep / 2)),
        format!("{{{{ {}1{} }}}}", "[".repeat(deep), "]".repeat(deep)),
        "{% if a %}".repeat(deep),
        "{% macro f(x) %}{{ f(x + 1) }}{% endmacro %}{{ f(1) }}".into(),
        "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}".into(),
        "{% block a %}{{ self.a() }}{% endblock %}".into(),
        "{% include 'chat' %}".into(),
        "{% set n = namespace(x=1) %}{% set n.x = n %}{{ n }}".into(),
        "{% set n = namespace(x=1) %}{% set n.x = [n] %}{{ n|tojson }}".into(),
        "{% set a = namespace(x=1) %}{% set b = namespace(x=1) %}{% set a.x = [a] %}{% set b.x = [b] %}{{ a == b }}".into(),
        nested("n.x|tojson"),
        nested("n.x == [n.x]"),
        nested("{n.x: 1}"),
        // Size.
        "{{ 'x' * 10000000000 }}".into(),
        "{{ '%1000000000d'|format(1) }}".into(),
        "{{ '{:1000000000}'.format(1) }}".into(),
        "{{ ('{0:>60000}' * 10000).format(1) }}".into(),
        "{{ [[[1]]]|tojson(indent=1000000000) }}".into(),
        "{{ '\n'|indent(1000000000, true) }}".into(),
        "{{ ('a' * 100000).replace('a', 'b' * 100000) }}".into(),
        "{{ ('a' * 100000)|replace('a', 'b' * 100000) }}".into(),
        "{{ [1, 2]|slice(10000000000, 1)|list }}".into(),
        "{{ range(1000000000)|list }}".into(),
        "{{ 'abcdefgh' * 1000000 }}".into(),
        "{% set n = namespace(l={}) %}".to_string() + &often("{% set n.l = {'a': n.l, 'b': i, 'c': j} %}"),
        "{% set n = namespace(l='x') %}".to_string() + &often("{% set x %}{{ n.l }}{{ n.l }}{% endset %}{% set n.l = x %}"),
        format!("{{{{ {} }}}}", "9".repeat(100_000)),
        format!("{{{{ '{}' }}}}", "x".repeat(2_000_000)),
        // Time.
        often(""),
        "{% set s = [''] * 100000 %}".to_string() + &often("{% set x = ''.join(s) %}"),
        "{% set s = 'a' * 100000 %}".to_string() + &often("{% set x = s.isalpha() %}"),
        "{% set n = namespace(x=[1]) %}{% for i in range(40) %}{% set n.x = n.x + n.x %}{% endfor %}{% for z in n.x %}{% endfor %}".into(),
        format!("{{{{ a{} }}}}", " and a".repeat(deep)),
        format!("{{{{ a{} }}}}", "~a".repeat(deep)),
    ];
    all.extend(["n.x", "n.x == n.y", "(n.x ~ 'a')|length", "n.x|string|length", "raise_exception(n.x)", "n.x|tojson"].map(doubled));
    for text in all {
        match render(&text, &[Message::new("user", "Hello")]) {
            Err(Error::Template(why)) => assert!(!why.is_empty() && why.len() < 1000, "{}: {why}", &text[..text.len().min(80)]),
            other => panic!("{}: {:?}", &text[..text.len().min(80)], other.map(|said| said.len())),
        }
    }
}

/// As Qwen3's: a namespace, a reversed loop, string methods, slices.
const QWEN: &str = r#"{%- if tools %}{{- '<|im_start|>system\n' }}{%- for tool in tools %}{{- tool | tojson }}{%- endfor %}{%- endif %}
{%- if messages[0].role == 'system' %}{{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}{%- set content = message.content %}{%- else %}{%- set content = '' %}{%- endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>' + '\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- else %}
            {%- if '</think>' in content %}
                {%- set reasoning_content = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
                {%- set content = content.split('</think>')[-1].lstrip('\n') %}
            {%- endif %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index and (loop.last or reasoning_content) %}
            {{- '<|im_start|>' + message.role + '\n<think>\n' + reasoning_content.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\n' + content }}
        {%- endif %}
        {%- if message.tool_calls %}{%- for tool_call in message.tool_calls %}{{- tool_call.arguments | tojson }}{%- endfor %}{%- endif %}
        {{- '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}{%- endif %}"#;

/// As Mixtral's: roles must take turns, and the last message is found by filters.
const MIXTRAL: &str = r#"{%- if messages[0]["role"] == "system" %}{%- set system_message = messages[0]["content"] %}{%- set loop_messages = messages[1:] %}{%- else %}{%- set loop_messages = messages %}{%- endif %}
{{- bos_token }}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{%- for message in loop_messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{%- endif %}
    {%- if message["role"] == "user" %}
        {%- if (message == user_messages[-1]) and system_message is defined %}{{- "[INST] " + system_message + "\n\n" + message["content"] + " [/INST]" }}
        {%- else %}{{- "[INST] " + message["content"] + " [/INST]" }}{%- endif %}
    {%- else %}{{- " " + message["content"] | trim + eos_token }}{%- endif %}
{%- endfor %}"#;

/// As Llama 3.1's for tools: dates, `tojson(indent=4)`, filters in loops.
const LLAMA: &str = r#"{{- bos_token }}
{%- if custom_tools is defined %}{%- set tools = custom_tools %}{%- endif %}
{%- if not date_string is defined %}{%- set date_string = strftime_now("%d %b %Y") %}{%- endif %}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content']|trim %}{%- set messages = messages[1:] %}{%- else %}{%- set system_message = "" %}{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\n\n" }}{{- "Today Date: " + date_string + "\n\n" }}{{- {"name": "f", "parameters": {"type": "object", "required": ["x"]}} | tojson(indent=4) }}{{- system_message }}{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"#;

#[test]
fn long_conversations_render() {
    let words = "a long answer\nwith <b>lines</b>, of \"words\" ".repeat(30);
    for (name, template) in [("Qwen", QWEN), ("Mixtral", MIXTRAL), ("Llama", LLAMA)] {
        for turns in [1, 2, 1001] {
            let turn = |i: usize| Message::new(["user", "assistant"][i % 2], &format!("{i}: {}", &words[..1000]));
            let messages: Vec<Message> = (0..turns).map(turn).collect();
            let here = Template::new(template.into())
                .render(&Conversation::new(&messages, true), "<s>", "</s>")
                .unwrap_or_else(|e| panic!("{name} {turns}: {e}"));
            let apart = render(template, &messages).unwrap_or_else(|e| panic!("{name} {turns} apart: {e}"));
            assert!(here == apart && apart.len() > turns * 1000, "{name} {turns}: {}", apart.len());
            assert!(messages.iter().all(|m| apart.contains(m.content.trim())), "{name} {turns}");
        }
    }
}

#[test]
fn what_a_template_raises_is_told() {
    let said = render("{{ raise_exception('no system here') }}", &[]).expect_err("raises");
    assert_eq!(said.to_string(), "chat template: no system here");
    assert!(render("{% for", &[]).expect_err("no template").to_string().starts_with("chat template: "));
    assert_eq!(render("日本 {{ bos_token }}{{ messages|length }}", &[]).expect("renders"), "日本 <s>0");
    let none = Template::new(String::new()).render_apart(Command::new("/nowhere/at/all"), &Conversation::default(), "", "");
    assert!(matches!(none, Err(Error::Io { .. })));
}
