//! A conversation through a pipe: answers on stdout and nothing else.
use crate::cli::command;
use std::{
    io::{Read, Write},
    process::{Output, Stdio},
};

/// The chat with these lines on stdin.
fn chat(args: &[&str], lines: &[u8]) -> Output {
    let all = [&["--weights", "7MB"][..], args, &["chat", "--temp", "0", "--max-tokens", "12"]].concat();
    run(&all, lines)
}

fn run(args: &[&str], lines: &[u8]) -> Output {
    fed(command(args), lines)
}

fn fed(mut command: std::process::Command, lines: &[u8]) -> Output {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
    // A program that refuses its flags does not read.
    let _ = child.stdin.take().expect("a pipe").write_all(lines);
    child.wait_with_output().expect("it ends")
}

fn answers(out: &Output) -> Vec<String> {
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout.clone()).expect("UTF-8").lines().map(String::from).collect()
}

#[test]
fn answers_come_one_by_one_and_depend_on_what_was_said() {
    let two = answers(&chat(&[], b"What is Nauru ?\nAnd London ?\n/exit\nnever read\n"));
    assert_eq!(two.len(), 2);
    // Greedy: taking back, clearing and asking again give the same answer, whatever the cache held between.
    let again = answers(&chat(&[], b"Hello\n/clear\nWhat is Nauru ?\n/retry\n/undo\nWhat is Nauru ?\nNonsense .\n/edit And London ?\n"));
    assert_eq!(again[1..4], [&two[0][..]; 3]);
    assert_eq!(again[5], two[1]);
    let block = answers(&chat(&[], b"\"\"\"\nWhat is\nNauru ?\n\"\"\"\nWhat is\\\nNauru ?\n"));
    assert_eq!(block.len(), 2);
}

#[test]
fn conversations_are_saved_and_loaded() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("talk.json");
    let path = path.to_str().expect("UTF-8");
    let whole = answers(&chat(&[], b"What is Nauru ?\nAnd London ?\n"));
    answers(&chat(&[], format!("What is Nauru ?\n/save {path}\n").as_bytes()));
    let saved: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).expect("a file")).expect("JSON");
    assert_eq!((saved[0]["role"].as_str(), saved[1]["content"].as_str()), (Some("user"), Some(whole[0].trim())));
    assert_eq!(answers(&chat(&[], format!("/load {path}\nAnd London ?\n").as_bytes())), whole[1..]);
    std::fs::write(path, "no JSON").expect("written");
    let out = chat(&[], format!("/load {path}\n").as_bytes());
    assert!(out.status.code() == Some(4) && String::from_utf8_lossy(&out.stderr).contains(path));
}

#[test]
fn commands_say_what_they_did() {
    let home = tempfile::tempdir().expect("a folder");
    let with = |lines: &str| {
        let mut command = command(&["--dense", "chat", "--temp", "0", "--max-tokens", "4"]);
        command.env("HOME", home.path());
        fed(command, lines.as_bytes())
    };
    let lines = [
        ("/system Be brief", "the system message is set"),
        ("What is Nauru ?", ""),
        ("/stats", "3 messages, "),
        ("/set temp 0.5", "temp is 0.5"),
        ("/set stats off", "stats is off"),
        ("/save ~/talk.json", "saved 3 messages in "),
        ("/system", "there is no system message now"),
        ("/clear", "the conversation is forgotten"),
        ("/stats", "0 messages, 0 of 4096 tokens of context; last answer: none"),
        ("/load ~/talk.json", "loaded 3 messages from "),
        ("/clear", "the conversation is forgotten, the system message stays"),
        ("/load ~/talk.json", "loaded 3 messages from "),
        ("/undo", "taken back: What is Nauru ?"),
        ("/save! ~/talk.json", "saved 1 messages in "),
        ("/?", "/system TEXT"),
    ];
    let out = with(&lines.map(|(line, _)| line).join("\n"));
    assert_eq!(answers(&out).len(), 1);
    let text = String::from_utf8(out.stderr).expect("UTF-8");
    let mut told = text.lines();
    for (line, word) in lines.into_iter().filter(|(_, word)| !word.is_empty()) {
        assert!(told.any(|t| t.starts_with(word)), "{line}: {text}");
    }
    let out = with("/save ~/talk.json\n");
    assert!(out.status.code() == Some(2) && String::from_utf8_lossy(&out.stderr).contains("/save! "));
    assert!(std::fs::read_to_string(home.path().join("talk.json")).expect("a file").contains("Be brief"));
}

#[test]
fn a_full_context_stops_or_slides() {
    let lines = b"What is Nauru ?\nAnd London ?\nAnd the river ?\nAnd the town ?\nAnd the army ?\n";
    let stop = chat(&["--ctx", "48"], lines);
    assert_eq!(stop.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&stop.stderr).contains("--overflow slide"));
    let slide = run(&["--weights", "7MB", "--ctx", "48", "chat", "--temp", "0", "--max-tokens", "12", "--overflow", "slide"], lines);
    assert_eq!(answers(&slide).len(), 5);
    let long = "word ".repeat(100) + "\n";
    let too_long = run(&["--weights", "7MB", "--ctx", "48", "chat", "--overflow", "slide"], long.as_bytes());
    assert_eq!(too_long.status.code(), Some(2));
}

#[test]
fn templates_of_ones_own_and_thoughts() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("template.jinja");
    // A template that opens the thought itself: all that a model without the closing mark says is thought.
    std::fs::write(&path, "{{ messages[-1]['content'] }}{% if enable_thinking %}<think>{% endif %}").expect("written");
    let path = path.to_str().expect("UTF-8");
    let run = |think: &str| {
        let args = ["--weights", "7MB", "chat", "--temp", "0", "--max-tokens", "8", "--chat-template", path, "--think", think];
        let out = run(&args, b"The river\n");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).expect("UTF-8").trim().to_string()
    };
    assert_eq!(run("hide"), "");
    assert!(!run("on").is_empty() && !run("off").is_empty());
}

#[test]
fn what_cannot_be_read_is_said() {
    let out = chat(&[], b"abc\xff\n");
    assert!(out.status.code() == Some(2) && String::from_utf8_lossy(&out.stderr).contains("UTF-8"));
    for (line, word) in [("/nonsense", "/help"), ("/set temp -1", "--temp"), ("/load /nowhere.json", "/nowhere.json"), ("/undo", "no message")] {
        let out = chat(&[], format!("{line}\n").as_bytes());
        assert!(!out.status.success() && String::from_utf8_lossy(&out.stderr).contains(word), "{line}: {}", String::from_utf8_lossy(&out.stderr));
    }
    crate::cli::refused(&["chat", "--chat-template", "/nowhere.jinja"], 4, &["/nowhere.jinja"]);
    let larger = run(&["--budget", "900TB", "generate", "a"], b"");
    assert!(larger.status.code() == Some(2) && String::from_utf8_lossy(&larger.stderr).contains("this machine has"));
    assert!(command(&["--budget", "900TB", "plan"]).output().expect("runs").status.success(), "one machine may plan for another");
}

#[test]
fn an_interrupt_ends_the_answer_and_not_the_program() {
    // One thread without vector instructions, so that an answer of some hundred tokens takes its time.
    let args = ["--threads", "1", "--dense", "chat", "--temp", "1.5", "--top-k", "0", "--top-p", "1", "--min-p", "0", "--max-tokens", "150"];
    let slow = || {
        let mut command = command(&args);
        command.env("RAM_RUN_ISA", "scalar").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        command.spawn().expect("the program starts")
    };
    let mut whole = slow();
    whole.stdin.take().expect("a pipe").write_all(b"Tell me\n").expect("written");
    let whole = whole.wait_with_output().expect("it ends").stdout;
    let mut child = slow();
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(b"Tell me\n").expect("written");
    let mut first = [0];
    child.stdout.as_mut().expect("a pipe").read_exact(&mut first).expect("an answer begins");
    let sent = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("a signal");
    assert!(sent.success());
    stdin.write_all(b"/clear\n/set temp 0\n/set max-tokens 5\nHello\n").expect("it listens still");
    drop(stdin);
    let out = child.wait_with_output().expect("it ends");
    assert!(out.status.success());
    let rest = String::from_utf8(out.stdout).expect("UTF-8");
    let answer = format!("{}{}", char::from(first[0]), rest.lines().next().unwrap_or_default());
    let whole = String::from_utf8(whole).expect("UTF-8");
    assert!(whole.starts_with(&answer) && answer.len() < whole.trim_end().len(), "{answer:?} of {whole:?}");
    assert!(rest.lines().count() >= 2, "{rest:?}");
}
