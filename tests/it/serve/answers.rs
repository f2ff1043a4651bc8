//! What is answered: chat, texts, tokens, errors.
use super::Serving;
use serde_json::{Value, json};

fn said(n: usize) -> Value {
    json!({"messages": [{"role": "user", "content": "What is a river ?"}], "max_tokens": n, "temperature": 0, "ignore_eos": true})
}

fn with(mut body: Value, more: Value) -> Value {
    for (key, value) in more.as_object().expect("an object") {
        body[key] = value.clone();
    }
    body
}

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";

/// The stream has the form that clients of the original rely on, to the byte, and says the same as the answer at once.
#[test]
fn streams_are_what_clients_read() {
    let server = Serving::bundled(&[]);
    let whole = server.ask(CHAT, &said(6));
    let reply = server.post(CHAT, &with(said(6), json!({"stream": true, "stream_options": {"include_usage": true}})));
    for (name, value) in [("content-type", "text/event-stream"), ("cache-control", "no-cache"), ("x-accel-buffering", "no")] {
        assert_eq!(reply.header(name).as_deref(), Some(value));
    }
    assert!(reply.header("x-request-id").is_some_and(|id| id.starts_with("req_")));
    let chunks = reply.chunks();
    let (id, created, print) = (&chunks[0]["id"], &chunks[0]["created"], &chunks[0]["system_fingerprint"]);
    let begin = format!(
        r#"{{"id":{id},"object":"chat.completion.chunk","created":{created},"model":"tiny-qwen3-moe","system_fingerprint":{print},"choices":[{{"index":0,"delta":"#
    );
    let delta = |delta: &str, reason: &str| format!(r#"{begin}{delta},"logprobs":null,"finish_reason":{reason}}}]"#);
    let events = reply.events();
    assert_eq!(events[0], delta(r#"{"role":"assistant","content":""}"#, "null") + "}");
    let content: Vec<&str> = chunks[1..].iter().filter_map(|c| c["choices"][0]["delta"]["content"].as_str()).collect();
    for (event, text) in events[1..].iter().zip(&content) {
        assert_eq!(*event, delta(&json!({"content": text}).to_string(), "null") + "}");
    }
    assert_eq!(whole["choices"][0]["message"]["content"], content.concat());
    let end = &events[content.len() + 1];
    assert!(end.starts_with(&(delta("{}", r#""length""#) + r#","timings":{"#)), "{end}");
    let usage = &chunks[chunks.len() - 1];
    assert_eq!(usage["choices"], json!([]));
    assert_eq!((&usage["usage"]["completion_tokens"], &usage["usage"]["total_tokens"]), (&json!(6), &json!(25)));
    assert_eq!(whole["usage"]["prompt_tokens"], usage["usage"]["prompt_tokens"]);
    // Without being asked for it, usage is on the last chunk.
    let chunks = server.post(CHAT, &with(said(3), json!({"stream": true}))).chunks();
    let last = &chunks[chunks.len() - 1];
    assert!(last["choices"][0]["finish_reason"] == "length" && last["usage"]["completion_tokens"] == 3, "{last}");
    // All answers of one prompt, each by its index; the first is the one that is alone.
    let many = server.ask(CHAT, &with(said(6), json!({"n": 3, "temperature": 1, "seed": 5})));
    let texts: Vec<&str> = (0..3).filter_map(|n| many["choices"][n]["message"]["content"].as_str()).collect();
    let alone = server.ask(CHAT, &with(said(6), json!({"temperature": 1, "seed": 6})));
    assert!(texts.len() == 3 && texts[0] != texts[1] && alone["choices"][0]["message"]["content"] == texts[1], "{texts:?} {alone}");
    let streamed = server.post(CHAT, &with(said(6), json!({"n": 3, "temperature": 1, "seed": 5, "stream": true}))).chunks();
    for (n, text) in texts.iter().enumerate() {
        let own = streamed.iter().filter(|c| c["choices"][0]["index"] == n).filter_map(|c| c["choices"][0]["delta"]["content"].as_str());
        assert_eq!(own.collect::<String>(), *text);
    }
}

#[test]
fn progress_is_told_where_it_is_asked_for() {
    let server = Serving::bundled(&[]);
    let long = json!([{"role": "user", "content": "a river and a town ".repeat(300)}]);
    let body = with(said(1), json!({"messages": long, "stream": true, "return_progress": true}));
    let chunks = server.post(CHAT, &body).chunks();
    let told: Vec<&Value> = chunks.iter().map(|c| &c["prompt_progress"]).filter(|p| !p.is_null()).collect();
    assert!(told.len() > 2 && told[0]["processed"] == 0 && told[0]["total"].as_u64() > Some(1000), "{told:?}");
    assert!(told.iter().all(|p| p["processed"].as_u64() <= p["total"].as_u64()));
}

/// A title request in between does not cost the conversation what was computed of it; and what was computed changes nothing.
#[test]
fn conversations_go_on_where_they_were() {
    let server = Serving::bundled(&[]);
    let long = "a river and a town ".repeat(60);
    let ask = |messages: &Value| server.ask(CHAT, &with(said(20), json!({"messages": messages, "logprobs": true})));
    let mut messages = json!([{"role": "user", "content": long}]);
    let first = ask(&messages);
    server.ask(CHAT, &with(said(5), json!({"messages": [{"role": "user", "content": "Give a title."}]})));
    messages.as_array_mut().expect("a list").extend([first["choices"][0]["message"].clone(), json!({"role": "user", "content": "And ?"})]);
    let second = ask(&messages);
    let (cached, prompt) = (&second["usage"]["prompt_tokens_details"]["cached_tokens"], first["usage"]["prompt_tokens"].as_u64().expect("a number"));
    assert!(cached.as_u64() >= Some(prompt * 95 / 100), "{cached} of {prompt}");
    let fresh = Serving::bundled(&[]);
    let again = fresh.ask(CHAT, &with(said(20), json!({"messages": messages, "logprobs": true})));
    assert_eq!((&again["choices"], 0), (&second["choices"], again["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap_or(9)));
}

#[test]
fn fields_mean_what_they_mean_elsewhere() {
    let server = Serving::bundled(&[]);
    let text = |body: Value| server.ask(CHAT, &body)["choices"][0]["message"]["content"].as_str().expect("a text").to_string();
    let whole = text(said(12));
    // Null is absent, 12.0 is 12, the newer name wins, what is not known is left out.
    for more in [
        json!({"stop": null, "top_p": null, "unknown": {"a": 1}, "user": "me", "store": true}),
        json!({"max_tokens": 99, "max_completion_tokens": 12.0}),
        json!({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": [{"type": "text", "text": "What is a river ?"}]}]}),
    ] {
        assert_eq!(text(with(said(12), more.clone())), whole, "{more}");
    }
    // Before a stop string, and not a byte of it.
    let stop: String = whole.chars().skip(5).take(3).collect();
    let found = server.ask(CHAT, &with(said(12), json!({"stop": [stop, "never there"]})));
    let at = whole.find(&stop).expect("there");
    let choice = &found["choices"][0];
    assert!(choice["message"]["content"] == whole[..at] && choice["finish_reason"] == "stop" && choice["stop_reason"] == stop, "{found}");
    // A bias forbids what is likeliest; a message that goes on goes on.
    let likeliest = server.ask(CHAT, &with(said(1), json!({"logprobs": true, "top_logprobs": 2})));
    let content = &likeliest["choices"][0]["logprobs"]["content"][0];
    assert!(content["top_logprobs"][0]["token"] == content["token"] && content["top_logprobs"].as_array().map(Vec::len) == Some(2), "{content}");
    let token = &server.ask("/tokenize", &json!({"content": content["token"]}))["tokens"][0];
    assert_ne!(text(with(said(1), json!({"logit_bias": {token.to_string(): -100}}))), content["token"].as_str().expect("a text"));
    let begun = json!([{"role": "user", "content": "What is a river ?"}, {"role": "assistant", "content": &whole[..at]}]);
    let prompt = server.ask("/apply-template", &json!({"messages": begun}))["prompt"].as_str().expect("a text").to_string();
    assert!(prompt.ends_with(&whole[..at].trim_end()), "{prompt}");
    // Tokens, there and back; counts are the tokenizer's.
    let counted = server.ask("/tokenize", &json!({"messages": [{"role": "user", "content": "What is a river ?"}]}));
    assert_eq!(counted["count"], server.ask(CHAT, &said(1))["usage"]["prompt_tokens"]);
    let back = server.ask("/detokenize", &json!({"tokens": counted["tokens"]}));
    assert_eq!(back["content"], server.ask("/apply-template", &json!({"messages": [{"role": "user", "content": "What is a river ?"}]}))["prompt"]);
    let pieces = server.ask("/tokenize", &json!({"content": "日本", "with_pieces": true}));
    assert!(pieces["tokens"][0]["piece"].is_array(), "{pieces}");
    assert_eq!(server.ask("/detokenize", &json!({"tokens": server.ask("/tokenize", &json!({"content": "日本 a"}))["tokens"]}))["content"], "日本 a");
}

#[test]
fn texts_go_on_and_are_scored() {
    let server = Serving::bundled(&[]);
    let prompt = "The river flows through the town";
    let one = server.ask(TEXT, &json!({"prompt": prompt, "temperature": 0, "max_tokens": 8, "ignore_eos": true}));
    let tokens = server.ask("/tokenize", &json!({"content": prompt, "add_special": true}))["tokens"].clone();
    let both = server.ask(TEXT, &json!({"prompt": [prompt, tokens], "temperature": 0, "max_tokens": 8, "ignore_eos": true}));
    assert!((0..2).all(|n| both["choices"][n]["text"] == one["choices"][0]["text"] && both["choices"][n]["index"] == n), "{one} {both}");
    let chunks = server.post(TEXT, &json!({"prompt": prompt, "temperature": 0, "max_tokens": 8, "ignore_eos": true, "stream": true})).chunks();
    assert_eq!(
        chunks.iter().filter_map(|c| c["choices"][0]["text"].as_str()).collect::<String>(),
        one["choices"][0]["text"].as_str().expect("a text")
    );
    // As evaluation harnesses ask: the prompt's own tokens, and one that follows.
    let scored = server.ask(TEXT, &json!({"prompt": tokens, "echo": true, "logprobs": 1, "max_tokens": 1, "temperature": 0}));
    let lists = &scored["choices"][0]["logprobs"];
    let n = tokens.as_array().map_or(0, Vec::len);
    for key in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        assert_eq!(lists[key].as_array().map(Vec::len), Some(n + 1), "{key}: {lists}");
    }
    assert!(lists["token_logprobs"][0].is_null() && lists["token_logprobs"][1].as_f64() < Some(0.0), "{lists}");
    assert!(scored["choices"][0]["text"].as_str().is_some_and(|text| text.starts_with(prompt)));
    assert_eq!(server.ask(TEXT, &json!({"prompt": prompt, "echo": true, "max_tokens": 0}))["choices"][0]["text"], prompt);
}

/// What stands between two texts is asked for in the model's own tokens.
#[test]
fn holes_are_written_with_the_models_tokens() {
    const MARKS: [&str; 3] = ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"];
    let folder = tempfile::tempdir().expect("a folder");
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/models/tiny-qwen3-moe")).expect("the bundled model").flatten() {
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).expect("a copy");
    }
    let path = folder.path().join("tokenizer.json");
    let mut tokenizer: Value = serde_json::from_slice(&std::fs::read(&path).expect("a tokenizer")).expect("JSON");
    // The marks take the places of the last three tokens that are merged.
    for (id, mark) in (4093..).zip(MARKS) {
        tokenizer["model"]["merges"].as_array_mut().expect("a list").pop();
        tokenizer["model"]["vocab"].as_object_mut().expect("a map").retain(|_, token| *token != id);
        let mut added = tokenizer["added_tokens"][0].clone();
        (added["id"], added["content"]) = (id.into(), mark.into());
        tokenizer["added_tokens"].as_array_mut().expect("a list").push(added);
    }
    std::fs::write(&path, tokenizer.to_string()).expect("written");
    let server = Serving::start(&["--model", folder.path().to_str().expect("a path")], &[]);
    let ask = |more: Value| server.post(TEXT, &with(json!({"temperature": 0, "max_tokens": 8, "ignore_eos": true}), more));
    let between = ask(json!({"prompt": "The river", "suffix": " the sea."})).json();
    let by_hand = ask(json!({"prompt": "<|fim_prefix|>The river<|fim_suffix|> the sea.<|fim_middle|>"})).json();
    assert_eq!(between["usage"]["prompt_tokens"], by_hand["usage"]["prompt_tokens"], "{between} {by_hand}");
    assert_eq!(between["choices"], by_hand["choices"]);
    for (more, param) in [
        (json!({"prompt": [5], "suffix": "b"}), "prompt"),
        (json!({"prompt": "a", "suffix": "b", "echo": true}), "echo"),
        (json!({"prompt": "a", "suffix": 1}), "suffix"),
    ] {
        let reply = ask(more);
        assert_eq!((reply.status, &reply.json()["error"]["param"]), (400, &json!(param)));
    }
}

/// Every mistake of a caller has a status that says so, and names its place.
#[test]
fn mistakes_are_named() {
    let server = Serving::bundled(&["--strict-model"]);
    let long = "a river and a town ".repeat(3000);
    for (path, body, status, kind, param) in [
        (CHAT, json!([]), 400, "invalid_request_error", Value::Null),
        (CHAT, json!({}), 400, "invalid_request_error", json!("messages")),
        (CHAT, json!({"messages": []}), 400, "invalid_request_error", json!("messages")),
        (CHAT, json!({"messages": [{"content": "a"}]}), 400, "invalid_request_error", json!("messages[0].role")),
        (CHAT, json!({"messages": [{"role": "wizard", "content": "a"}]}), 400, "invalid_request_error", json!("messages[0].role")),
        (CHAT, json!({"messages": [{"role": "user", "content": 7}]}), 400, "invalid_request_error", json!("messages[0].content")),
        (
            CHAT,
            json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
            400,
            "invalid_request_error",
            json!("messages[0].content[0]"),
        ),
        (CHAT, with(said(1), json!({"temperature": "hot"})), 400, "invalid_request_error", json!("temperature")),
        (CHAT, with(said(1), json!({"temperature": -1})), 400, "invalid_request_error", json!("temperature")),
        (CHAT, with(said(1), json!({"top_p": 2})), 400, "invalid_request_error", json!("top_p")),
        (CHAT, with(said(1), json!({"n": 1000000})), 400, "invalid_request_error", json!("n")),
        (CHAT, with(said(1), json!({"logprobs": true, "top_logprobs": 21})), 400, "invalid_request_error", json!("top_logprobs")),
        (CHAT, with(said(1), json!({"logit_bias": {"x": 1}})), 400, "invalid_request_error", json!("logit_bias")),
        (CHAT, with(said(1), json!({"stop": vec!["a"; 17]})), 400, "invalid_request_error", json!("stop")),
        (CHAT, with(said(1), json!({"functions": []})), 400, "invalid_request_error", json!("functions")),
        (CHAT, with(said(1), json!({"tools": [{"type": "function"}]})), 400, "invalid_request_error", json!("tools[0].function")),
        (
            CHAT,
            with(said(1), json!({"chat_template_kwargs": {"messages": []}})),
            400,
            "invalid_request_error",
            json!("chat_template_kwargs.messages"),
        ),
        (CHAT, with(said(1), json!({"messages": [{"role": "user", "content": long}]})), 400, "exceed_context_size_error", Value::Null),
        (CHAT, with(said(1), json!({"model": "another"})), 404, "invalid_request_error", json!("model")),
        (TEXT, json!({}), 400, "invalid_request_error", json!("prompt")),
        (TEXT, json!({"prompt": [-1]}), 400, "invalid_request_error", json!("prompt")),
        (TEXT, json!({"prompt": [99999999]}), 400, "invalid_request_error", Value::Null),
        (TEXT, json!({"prompt": ""}), 400, "invalid_request_error", Value::Null),
        (TEXT, json!({"prompt": "a", "suffix": "b"}), 400, "invalid_request_error", json!("suffix")),
        ("/v1/embeddings", json!({}), 501, "not_supported_error", Value::Null),
        ("/detokenize", json!({"tokens": [1, 1e9]}), 400, "invalid_request_error", json!("tokens[1]")),
        ("/v1/nothing", json!({}), 404, "invalid_request_error", Value::Null),
        ("/v1/models", json!({}), 405, "invalid_request_error", Value::Null),
    ] {
        let reply = server.post(path, &body);
        let error = &reply.json()["error"];
        let shown: String = body.to_string().chars().take(120).collect();
        assert_eq!((reply.status, error["type"].as_str(), &error["param"]), (status, Some(kind), &param), "{path} {shown}: {error}");
        assert!(error["message"].as_str().is_some_and(|m| m.len() > 10), "{error}");
    }
    let long = server.post(CHAT, &with(said(1), json!({"messages": [{"role": "user", "content": "a river ".repeat(9000)}]}))).json();
    let error = &long["error"];
    assert!(error["code"] == "context_length_exceeded" && error["n_ctx"] == 4096 && error["n_prompt_tokens"].as_u64() > Some(4096), "{error}");
    let message = error["message"].as_str().expect("a text");
    assert!(message.contains("maximum context length is 4096 tokens") && message.contains("exceeds the available context size"));
    // No JSON, and none to its end.
    for body in ["{", "nonsense", "\u{fffd}", "{\"messages\": [", &"[".repeat(1000)] {
        let reply = server.raw(&server.head(CHAT, body.len()), body.as_bytes());
        assert_eq!((reply.status, reply.json()["error"]["type"].as_str()), (400, Some("invalid_request_error")), "{body}");
    }
    assert!(server.post("/v1/models", &json!({})).header("allow").is_some_and(|allow| allow.contains("GET")));
}
