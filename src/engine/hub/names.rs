//! What `--model` may say: a folder, a repository at the hub, or the short name of one.
use super::Repository;
use crate::{Error, error::Setting};
use std::path::{Path, PathBuf};
use url::Url;

/// Where a model is.
#[derive(Debug)]
pub enum Place {
    /// In a folder.
    Folder(PathBuf),
    /// At the hub.
    Hub(Repository),
}

/// Names whose repository depends on what is asked of the model: (name, to chat, otherwise).
const KNOWN: [(&str, &str, &str); 17] = [
    ("mistralai/Mixtral-8x7B", "mistralai/Mixtral-8x7B-Instruct-v0.1", "mistralai/Mixtral-8x7B-v0.1"),
    ("Qwen/Qwen1.5-MoE-A2.7B", "Qwen/Qwen1.5-MoE-A2.7B-Chat", "Qwen/Qwen1.5-MoE-A2.7B"),
    ("Qwen/Qwen2-57B-A14B", "Qwen/Qwen2-57B-A14B-Instruct", "Qwen/Qwen2-57B-A14B"),
    ("Qwen/Qwen3-30B-A3B", "Qwen/Qwen3-30B-A3B", "Qwen/Qwen3-30B-A3B"),
    ("Qwen/Qwen3-235B-A22B", "Qwen/Qwen3-235B-A22B", "Qwen/Qwen3-235B-A22B"),
    ("Qwen/Qwen3-Next-80B-A3B", "Qwen/Qwen3-Next-80B-A3B-Instruct", "Qwen/Qwen3-Next-80B-A3B-Instruct"),
    ("allenai/OLMoE-1B-7B", "allenai/OLMoE-1B-7B-0924-Instruct", "allenai/OLMoE-1B-7B-0924"),
    ("baidu/ERNIE-4.5-21B-A3B", "baidu/ERNIE-4.5-21B-A3B-PT", "baidu/ERNIE-4.5-21B-A3B-Base-PT"),
    ("deepseek-ai/DeepSeek-V2-Lite", "deepseek-ai/DeepSeek-V2-Lite-Chat", "deepseek-ai/DeepSeek-V2-Lite"),
    ("deepseek-ai/DeepSeek-V3", "deepseek-ai/DeepSeek-V3", "deepseek-ai/DeepSeek-V3-Base"),
    ("google/gemma-4-26B-A4B", "google/gemma-4-26B-A4B-it", "google/gemma-4-26B-A4B"),
    ("ibm-granite/granite-3.1-1b-a400m", "ibm-granite/granite-3.1-1b-a400m-instruct", "ibm-granite/granite-3.1-1b-a400m-base"),
    ("ibm-granite/granite-3.1-3b-a800m", "ibm-granite/granite-3.1-3b-a800m-instruct", "ibm-granite/granite-3.1-3b-a800m-base"),
    ("microsoft/Phi-3.5-MoE", "microsoft/Phi-3.5-MoE-instruct", "microsoft/Phi-3.5-MoE-instruct"),
    ("moonshotai/Kimi-K2", "moonshotai/Kimi-K2-Instruct", "moonshotai/Kimi-K2-Base"),
    ("tencent/Hunyuan-A13B", "tencent/Hunyuan-A13B-Instruct", "tencent/Hunyuan-A13B-Pretrain"),
    ("zai-org/GLM-4.5-Air", "zai-org/GLM-4.5-Air", "zai-org/GLM-4.5-Air-Base"),
];

/// Hosts of the hub, beside the one that the environment names.
const HOSTS: [&str; 3] = ["huggingface.co", "www.huggingface.co", "hf.co"];
/// Folders where people keep models: a path below one that is mistyped is no question to the hub.
const FOLDERS: [&str; 4] = ["models", "model", "checkpoints", "weights"];
/// Files of models.
const ENDINGS: [&str; 4] = [".gguf", ".safetensors", ".json", ".bin"];

/// What a name means; what is there goes before a repository of that name. An address at the hub is its repository.
///
/// # Errors
/// [`Error::File`] for an address that is no model's, and for ORG/NAME that is rather the path of a folder which is not there;
/// [`Error::Setting`] for a `revision` beside an address with another one.
pub fn place(name: &str, revision: &str, chat: bool) -> Result<Place, Error> {
    let bad = |reason: String| Error::File { path: name.into(), reason };
    if name.starts_with(['.', '/']) || Path::new(name).exists() {
        return Ok(Place::Folder(name.into()));
    }
    let (id, revision) = match address(name) {
        Some(path) => {
            let (id, own) =
                repository(&path).ok_or_else(|| bad("is no model's address at the hub: give ORG/NAME or https://huggingface.co/ORG/NAME".into()))?;
            match own {
                Some(own) if revision != "main" && revision != own => {
                    return Err(Error::setting(Setting::Revision, revision, format!("the address {name} already says {own}: give one of them")));
                }
                own => (id, own.unwrap_or_else(|| revision.into())),
            }
        }
        None if name.contains("://") => {
            return Err(bad("is no address at the hub: give ORG/NAME, https://huggingface.co/ORG/NAME, or a folder".into()));
        }
        None if !is_id(name) || ENDINGS.iter().any(|e| name.to_ascii_lowercase().ends_with(e)) => return Ok(Place::Folder(name.into())),
        None => {
            let (first, _) = name.split_once('/').unwrap_or((name, ""));
            if FOLDERS.contains(&first) || Path::new(first).is_dir() {
                return Err(bad(format!("there is no such folder here; to ask the hub for a repository of that name give hf.co/{name}")));
            }
            (name.into(), revision.into())
        }
    };
    let known = KNOWN.iter().find(|(short, ..)| *short == id).map(|&(_, talks, plain)| if chat { talks } else { plain });
    Ok(Place::Hub(Repository { id: known.map_or(id, Into::into), revision, dataset: false }))
}

/// The path of an address at the hub, with or without its scheme.
fn address(name: &str) -> Option<String> {
    let url = if name.contains("://") { Url::parse(name) } else { Url::parse(&format!("https://{name}")) }.ok()?;
    if HOSTS.contains(&url.host_str()?) {
        return Some(url.path().into());
    }
    let own = super::endpoint().ok().filter(|own| (own.host(), own.port()) == (url.host(), url.port()))?;
    url.path().strip_prefix(own.path().trim_end_matches('/')).map(Into::into)
}

/// ORG/NAME and the revision in an address' path.
fn repository(path: &str) -> Option<(String, Option<String>)> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let (org, name, revision) = match parts[..] {
        ["datasets" | "spaces", ..] => return None,
        [org, name] => (org, name, None),
        [org, name, "tree", revision] => (org, name, Some(revision.replace("%2F", "/"))),
        _ => return None,
    };
    Some((format!("{org}/{name}"), revision)).filter(|(id, _)| is_id(id))
}

/// ORG/NAME of the letters that the hub allows.
fn is_id(name: &str) -> bool {
    let plain = |part: &str| {
        let letters = part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        letters && !part.is_empty() && !part.starts_with(['-', '.']) && !part.ends_with(['-', '.']) && !part.contains("..") && !part.contains("--")
    };
    name.split_once('/').is_some_and(|(org, name)| plain(org) && plain(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str, chat: bool) -> Option<String> {
        match place(name, "main", chat) {
            Ok(Place::Hub(r)) => Some(r.id),
            _ => None,
        }
    }

    #[test]
    fn short_names_mean_what_is_asked_for() {
        for (short, talks, plain) in KNOWN {
            assert_eq!((id(short, true).as_deref(), id(short, false).as_deref()), (Some(talks), Some(plain)));
            assert_eq!(id(&format!("hf.co/{short}"), true).as_deref(), Some(talks));
        }
        assert_eq!(id("a/b.C-1_2", true).as_deref(), Some("a/b.C-1_2"));
    }

    #[test]
    fn folders_and_what_is_no_name() {
        for name in ["./a/b", "/a/b", "a", "a/b/c", "../x", "a/..", "a/b?c", "a/", "/", "", "run/template", "a--b/c", "a/b.gguf", "a/b.Safetensors"] {
            assert!(matches!(place(name, "main", false), Ok(Place::Folder(_))), "{name}");
        }
        // A checkout has these folders, and no such thing in them.
        for name in ["models/qwen", "run/x", "checkpoints/x", "weights/x", "hub/none"] {
            let e = place(name, "main", false).expect_err(name).to_string();
            assert!(e.contains("no such folder") && e.contains(&format!("hf.co/{name}")), "{e}");
        }
    }

    #[test]
    fn addresses_are_repositories() {
        for before in ["https://huggingface.co", "http://huggingface.co", "HTTPS://HuggingFace.co", "huggingface.co", "hf.co", "https://hf.co"] {
            for (after, revision) in
                [("", "main"), ("/", "main"), ("?library=x#y", "main"), ("/tree/v1.0", "v1.0"), ("/tree/refs%2Fpr%2F2/", "refs/pr/2")]
            {
                let name = format!("{before}/models/b.C-1{after}");
                match place(&name, "main", false) {
                    Ok(Place::Hub(r)) => assert_eq!((r.id.as_str(), r.revision.as_str()), ("models/b.C-1", revision), "{name}"),
                    other => panic!("{name}: {other:?}"),
                }
            }
        }
        let asked = |name, revision| place(name, revision, false);
        assert!(matches!(asked("hf.co/a/b", "v1"), Ok(Place::Hub(r)) if r.revision == "v1"));
        assert!(matches!(asked("hf.co/a/b/tree/v1", "v1"), Ok(Place::Hub(r)) if r.revision == "v1"));
        assert!(matches!(asked("hf.co/a/b/tree/v1", "v2"), Err(Error::Setting { setting: Setting::Revision, .. })));
        for name in ["https://huggingface.co/", "https://huggingface.co/a", "hf.co/datasets/a", "hf.co/datasets/a/b", "hf.co/a/b/tree/main/c"] {
            assert!(matches!(asked(name, "main"), Err(Error::File { .. })), "{name}");
        }
        for name in [
            "https://huggingface.co.evil.org/a/b",
            "https://evil.org/a/b",
            "file:///a/b",
            "https://",
            "s3://a/b",
            "hf.co/a/..%2f..",
            "hf.co/a/b/blob/main/c",
        ] {
            assert!(matches!(asked(name, "main"), Err(Error::File { .. })), "{name}");
        }
    }
}
