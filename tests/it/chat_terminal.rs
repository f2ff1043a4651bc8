//! A conversation in a terminal: what is typed early or given up, and what is shown.
use crate::terminal::Terminal;
use std::{fs, io::Write, path::Path, process::Stdio};

const PROMPT: &str = "> ";
/// Weights as they are: nothing is quantized before the first prompt.
const CHAT: [&str; 8] = ["--dense", "--threads", "1", "chat", "--temp", "0", "--max-tokens", "6"];
/// Keys are taken one by one from here on, no longer after this.
const TAKEN: &str = "\x1b[?2004l";

/// What was said by whom, of a saved conversation.
fn messages(path: &Path, role: &str) -> Vec<String> {
    let saved: Vec<ram_run::Message> = serde_json::from_str(&fs::read_to_string(path).expect("a file")).expect("JSON");
    saved.into_iter().filter(|m| m.role == role).map(|m| m.content).collect()
}

#[test]
fn lines_that_are_typed_ahead_are_all_answered() {
    let folder = tempfile::tempdir().expect("a folder");
    // Longer than a line may be in a terminal that passes on whole lines, as it does before the program starts.
    let long = "and ".repeat(1250).trim().to_string();
    for (early, second) in [(true, "second"), (false, &long)] {
        let path = folder.path().join(format!("{early}.json"));
        let keys = format!("first\r{second}\rthird\r/save {}\r/exit\r", path.display());
        let mut terminal = Terminal::open(&CHAT, if early { &keys } else { "" });
        if !early {
            terminal.wait(PROMPT);
            terminal.keys(&keys);
        }
        terminal.end();
        assert_eq!(messages(&path, "user"), ["first", second, "third"]);
        assert_eq!(messages(&path, "assistant").len(), 3);
    }
}

#[test]
fn an_answer_is_interrupted_and_what_is_typed_meanwhile_is_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("talk.json");
    // Answers of thousands of tokens, if nothing ends them.
    let sampling = ["--temp", "1.5", "--top-k", "0", "--top-p", "1", "--min-p", "0", "--max-tokens", "4000"];
    let mut terminal = Terminal::open(&[&CHAT[..4], &sampling].concat(), "");
    terminal.wait(PROMPT);
    terminal.keys("Tell me\r");
    terminal.wait(TAKEN);
    terminal.keys("And then ?\r");
    terminal.keys("\x03");
    terminal.wait("And then ?");
    terminal.wait(TAKEN);
    terminal.keys("\x03");
    terminal.keys(format!("/save {}\r/exit\r", path.display()));
    let shown = terminal.end();
    assert_eq!(messages(&path, "user"), ["Tell me", "And then ?"], "{shown}");
    let answers = messages(&path, "assistant");
    assert!(answers.len() == 2 && answers.iter().all(|a| a.len() < 8000), "{answers:?}");
}

#[test]
fn messages_that_are_given_up_leave_nothing_behind() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("talk.json");
    let mut terminal = Terminal::open(&[&["--ctx", "64"], &CHAT[..]].concat(), "");
    terminal.wait(PROMPT);
    for begun in ["half a line", "\"\"\"\rone\rlast line", "one\\\rlast line"] {
        terminal.keys(begun);
        terminal.wait(" line");
        terminal.keys("\x03");
        terminal.wait("/exit ends");
        terminal.wait(PROMPT);
    }
    // Keys of another encoding.
    terminal.keys(b"caf\xe9\r");
    terminal.wait("no UTF-8");
    terminal.wait(PROMPT);
    // What is being edited stays in its turn until it is sent, and is no part of the next line.
    terminal.keys("What is Nauru ?\r/edit\r");
    for shown in ["What is Nauru ?", "/edit", "What is Nauru ?"] {
        terminal.wait(shown);
    }
    terminal.keys(" and more");
    terminal.wait("and more");
    terminal.keys("\x03");
    terminal.wait("stays as it was");
    // Too long for the context.
    terminal.keys(format!("/edit {}\r", "word ".repeat(100)));
    terminal.wait("the conversation has");
    terminal.keys(format!("And London ?\r/edit\r !\r/save {}\r/exit\r", path.display()));
    terminal.end();
    assert_eq!(messages(&path, "user"), ["What is Nauru ?", "And London ? !"]);
    assert_eq!(messages(&path, "assistant").len(), 2);
    for leaving in ["\"\"\"\rone\r/exit\r", "one\\\r/exit\r", "\"\"\"\r\x04"] {
        let mut terminal = Terminal::open(&CHAT, "");
        terminal.wait(PROMPT);
        terminal.keys(leaving);
        assert!(!terminal.end().contains("tokens/s"), "{leaving:?} is no message");
    }
}

#[test]
fn what_fails_leaves_the_conversation_as_it_was() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).expect("written");
        path.display().to_string()
    };
    let template = file("template.jinja", "{{ messages[-1].content }}{% if messages[-1].content == 'bad' %}{{ raise_exception('no') }}{% endif %}");
    let (nothing, stranger) = (file("a.json", "[{}]"), file("b.json", r#"[{"role": "nobody", "content": "x"}]"#));
    let path = folder.path().join("talk.json");
    let lines = [
        "good",
        "bad",
        "/edit bad",
        "/load /nowhere.json",
        "/load /dev/zero",
        &format!("/load {nothing}"),
        &format!("/load {stranger}"),
        &format!("/save {nothing}"),
        "/save /nowhere/talk.json",
        "/set temp -1",
        "/nonsense",
    ];
    let mut terminal = Terminal::open(&[&CHAT[..], &["--chat-template", &template]].concat(), "");
    terminal.wait(PROMPT);
    terminal.keys(format!("{}\r/save {}\r/exit\r", lines.join("\r"), path.display()));
    let shown = terminal.end();
    for word in
        ["chat template: no", "/nowhere.json", "/dev/zero: is a device", "is no conversation", "'nobody'", "/save!", "/nowhere", "--temp", "/help"]
    {
        assert!(shown.contains(word), "{word}: {shown}");
    }
    assert_eq!(messages(&path, "user"), ["good"]);
    assert_eq!(messages(&path, "assistant").len(), 1);
    assert_eq!(fs::read_to_string(nothing).expect("a file"), "[{}]");
}

#[test]
fn statistics_are_shown_where_they_are_wanted() {
    let keys = "one\r/set stats off\rtwo\r/set stats on\rthree\r/exit\r";
    for (quiet, lines) in [(&[][..], 2), (&["--quiet"], 1), (&["-q"], 1)] {
        let shown = Terminal::open(&[&CHAT[..], quiet].concat(), keys).end();
        assert_eq!(shown.matches("tokens/s;").count(), 2 * lines, "{shown}");
    }
}

#[test]
fn a_terminal_is_given_nothing_to_obey() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("talk.json");
    fs::write(&path, r#"[{"role": "user", "content": "red \u001b[31m\u009b31m \u202e"}]"#).expect("written");
    let args = ["--dense", "generate", "--max-tokens", "1", "red \x1b[31m\u{9b}31m\x07"];
    let harmless = |shown: &str| !shown.contains("\x1b[31m") && !shown.contains(['\x07', '\u{9b}', '\u{202e}']);
    let shown = Terminal::open(&args, "").end();
    assert!(shown.contains("red \\u{1b}[31m\\u{9b}31m\\u{7}") && harmless(&shown), "{shown:?}");
    assert!(crate::cli::stdout(&args).starts_with(args[4]), "a file gets the text itself");
    let mut terminal = Terminal::open(&CHAT, "");
    terminal.wait(PROMPT);
    terminal.keys(format!("/load {0}\r/undo\r/load {0}\r/edit\r", path.display()));
    for shown in ["taken back: red \\u{1b}[31m\\u{9b}31m \\u{202e}", "/edit", "red \\u{1b}[31m\\u{9b}31m \\u{202e}"] {
        terminal.wait(shown);
    }
    terminal.keys("\x03");
    terminal.wait("stays as it was");
    terminal.keys("/exit\r");
    let shown = terminal.end();
    assert!(harmless(&shown), "{shown:?}");
    let template = folder.path().join("template.jinja");
    fs::write(&template, "{{ raise_exception('red \x1b[31m') }}").expect("written");
    let template = template.to_str().expect("UTF-8");
    for args in [&["--model", "/red \x1b[31m", "inspect"][..], &["--objective", "red \u{9b}31m", "inspect"], &["chat", "--chat-template", template]] {
        let mut child = crate::cli::command(args).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
        // One that refuses its flags does not read.
        let _ = child.stdin.take().expect("a pipe").write_all(b"Hello\n");
        let out = child.wait_with_output().expect("it ends");
        let said = String::from_utf8(out.stderr).expect("UTF-8");
        assert!((said.contains("red \\u{1b}[31m") || said.contains("red \\u{9b}31m")) && harmless(&said), "{args:?}: {said:?}");
    }
}
