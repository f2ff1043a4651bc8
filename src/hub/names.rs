//! What `--model` may say: a folder, a repository at the hub, or the short name of one.
use super::Repository;
use std::path::{Path, PathBuf};

/// Where a model is.
#[derive(Debug)]
pub enum Place {
    /// In a folder.
    Folder(PathBuf),
    /// At the hub.
    Hub(Repository),
}

/// Names whose repository depends on what is asked of the model: (name, to chat, otherwise).
const KNOWN: [(&str, &str, &str); 5] = [
    ("mistralai/Mixtral-8x7B", "mistralai/Mixtral-8x7B-Instruct-v0.1", "mistralai/Mixtral-8x7B-v0.1"),
    ("Qwen/Qwen1.5-MoE-A2.7B", "Qwen/Qwen1.5-MoE-A2.7B-Chat", "Qwen/Qwen1.5-MoE-A2.7B"),
    ("Qwen/Qwen2-57B-A14B", "Qwen/Qwen2-57B-A14B-Instruct", "Qwen/Qwen2-57B-A14B"),
    ("Qwen/Qwen3-30B-A3B", "Qwen/Qwen3-30B-A3B", "Qwen/Qwen3-30B-A3B"),
    ("Qwen/Qwen3-235B-A22B", "Qwen/Qwen3-235B-A22B", "Qwen/Qwen3-235B-A22B"),
];

/// What a name means; a folder that is there goes before a repository of that name.
pub fn place(name: &str, revision: &str, chat: bool) -> Place {
    if name.starts_with(['.', '/']) || Path::new(name).is_dir() || !is_id(name) {
        return Place::Folder(name.into());
    }
    let known = KNOWN.iter().find(|(short, ..)| *short == name).map(|&(_, talks, plain)| if chat { talks } else { plain });
    Place::Hub(Repository { id: known.unwrap_or(name).into(), revision: revision.into(), dataset: false })
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
            Place::Hub(r) => Some(r.id),
            Place::Folder(_) => None,
        }
    }

    #[test]
    fn short_names_mean_what_is_asked_for() {
        for (short, talks, plain) in KNOWN {
            assert_eq!((id(short, true).as_deref(), id(short, false).as_deref()), (Some(talks), Some(plain)));
        }
        assert_eq!(id("a/b.C-1_2", true).as_deref(), Some("a/b.C-1_2"));
    }

    #[test]
    fn folders_and_what_is_no_name() {
        for name in ["./a/b", "/a/b", "a", "a/b/c", "../x", "a/..", "a/b?c", "a/", "/", "models/src", "a--b/c"] {
            assert_eq!(id(name, false), None, "{name}");
        }
    }
}
