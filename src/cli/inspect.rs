//! `ram-run inspect`: what a checkpoint is, from its configuration and headers alone.
use super::{
    args::{Args, InspectArgs},
    open, print,
};
use crate::cli::Error;
use ram_run::{description, size};
use serde_json::json;
use std::collections::BTreeMap;

/// Tensors of one kind.
#[derive(Default)]
struct Group {
    count: usize,
    numbers: u64,
    bytes: u64,
    shapes: Vec<String>,
    dtypes: Vec<String>,
}

/// Looks and tells.
pub fn run(args: &Args, a: &InspectArgs) -> Result<(), Error> {
    let checkpoint = open::checkpoint(args)?;
    let tokenizer = open::tokenizer(&checkpoint)?;
    let description = checkpoint.description();
    let mut order: Vec<String> = Vec::new();
    let mut groups: BTreeMap<String, Group> = BTreeMap::new();
    let mut active = 0.0;
    for spec in checkpoint.specs() {
        let (kind, numbers) = (spec.kind.to_string(), spec.shape.iter().product::<usize>() as u64);
        if !order.contains(&kind) {
            order.push(kind.clone());
        }
        let (dtype, bytes) = checkpoint.stored(spec);
        let g = groups.entry(kind).or_default();
        g.count += 1;
        g.numbers += numbers;
        g.bytes += bytes;
        let shape = spec.shape.iter().map(ToString::to_string).collect::<Vec<_>>().join(" x ");
        for (list, value) in [(&mut g.shapes, shape), (&mut g.dtypes, dtype)] {
            if !list.contains(&value) {
                list.push(value);
            }
        }
        active += numbers as f64 * description.active(spec);
    }
    let parameters: u64 = groups.values().map(|g| g.numbers).sum();
    let bytes: u64 = groups.values().map(|g| g.bytes).sum();
    let template = tokenizer.chat_template.as_ref().map(String::len);
    let list = |v: &[String]| v.join(", ");
    if a.json {
        let tensors = order.iter().map(|kind| {
            let g = &groups[kind];
            json!({"kind": kind, "count": g.count, "parameters": g.numbers, "bytes": g.bytes, "shapes": g.shapes, "dtypes": g.dtypes})
        });
        let tensors: Vec<_> = tensors.collect();
        let config: serde_json::Value = serde_json::from_str(checkpoint.config()).map_err(|e| Error::Failed(e.to_string()))?;
        let text = json!({
            "folder": checkpoint.folder(), "fingerprint": checkpoint.fingerprint(), "config": config, "parameters": parameters,
            "active_parameters": active as u64, "bytes": bytes, "tensors": tensors, "vocabulary": tokenizer.vocabulary(), "bos": tokenizer.bos_text,
            "not_read": checkpoint.left_out().values().sum::<usize>(), "eos": tokenizer.eos, "chat_template_bytes": template,
        });
        return print(&format!("{text:#}\n"));
    }
    let mut out = format!("{}\n", checkpoint.folder().display());
    out += &format!(
        "{:.2} million parameters, {:.2} million of them active per token, {}\n\n",
        parameters as f64 / 1e6,
        active / 1e6,
        size::show(bytes)
    );
    let left: Vec<String> = checkpoint.left_out().iter().map(|(what, count)| format!("{count} tensors of {what}")).collect();
    let facts = [
        ("layers", description.layers.len().to_string()),
        ("hidden size", description.hidden_size.to_string()),
        ("attention", several(description.layers.iter().map(|l| mixer(&l.mixer)))),
        ("MLP", several(description.layers.iter().map(|l| mlp(&l.mlp)))),
        ("context", description.max_position_embeddings.to_string()),
        ("tied embeddings", if description.tie_word_embeddings { "yes".into() } else { "no".into() }),
        ("vocabulary", format!("{} of {} numbers used", tokenizer.vocabulary(), description.vocab_size)),
        (
            "special tokens",
            format!("begin '{}'{}, end {:?}", tokenizer.bos_text, if tokenizer.bos.is_some() { " (put in front)" } else { "" }, tokenizer.eos),
        ),
        ("not read", if left.is_empty() { "nothing".into() } else { left.join("; ") }),
        ("chat template", template.map_or("none".into(), |n| format!("{n} bytes"))),
    ];
    for (what, value) in facts {
        out += &format!("{what:<16} {value}\n");
    }
    out += &format!("\n{:<14} {:>7} {:>14} {:>10}  {:<8} shapes\n", "kind", "tensors", "parameters", "size", "type");
    for kind in &order {
        let g = &groups[kind];
        out += &format!("{kind:<14} {:>7} {:>14} {:>10}  {:<8} {}\n", g.count, g.numbers, size::show(g.bytes), list(&g.dtypes), list(&g.shapes));
    }
    print(&out)
}

/// What the layers have, each once, with the number of those that have it where there are several.
fn several(each: impl Iterator<Item = String>) -> String {
    let mut counts: Vec<(String, usize)> = Vec::new();
    for fact in each {
        match counts.iter_mut().find(|(known, _)| *known == fact) {
            Some((_, count)) => *count += 1,
            None => counts.push((fact, 1)),
        }
    }
    match counts.as_slice() {
        [(only, _)] => only.clone(),
        _ => {
            counts.iter().map(|(fact, count)| format!("{fact} in {count} layer{}", if *count == 1 { "" } else { "s" })).collect::<Vec<_>>().join("; ")
        }
    }
}

fn mixer(mixer: &description::Mixer) -> String {
    match mixer {
        description::Mixer::Attention(a) => {
            let turned = match a.rope.dim {
                0 => ", no positions".into(),
                all if all == a.head_dim => String::new(),
                some => format!(" of which {some} turn"),
            };
            let gated = if a.gated { ", gated" } else { "" };
            let window = a.window.map_or(String::new(), |tokens| format!(", window of {tokens}"));
            let pieces = a.chunk.map_or(String::new(), |tokens| format!(", pieces of {tokens}"));
            let heads = format!("{} heads, {} key-value heads, head_dim {}", a.num_attention_heads, a.num_key_value_heads, a.head_dim);
            format!("{heads}{turned}{gated}{window}{pieces}")
        }
        description::Mixer::Latent(l) => {
            let [heads, rank, turned, value] = [l.num_attention_heads, l.kv_lora_rank, l.qk_rope_head_dim, l.v_head_dim];
            format!("{heads} heads over latents of {rank}, head_dim {} of which {turned} turn, values of {value}", l.query())
        }
        description::Mixer::DeltaNet(net) => {
            let s = net.shape;
            format!("gated delta net, {} value heads of {}, {} key heads of {}", s.value_heads, s.value_dim, s.key_heads, s.key_dim)
        }
    }
}

fn mlp(mlp: &description::Mlp) -> String {
    match mlp {
        description::Mlp::Dense(mlp) => format!("dense, width {}", mlp.width),
        description::Mlp::Sparse(m) => {
            let shared = m.shared.as_ref().map_or(String::new(), |s| format!(", and a shared one of width {}", s.width));
            let description::Groups { count, kept, .. } = m.router.groups;
            let groups = if kept < count { format!(" in {kept} of {count} groups") } else { String::new() };
            format!("{} of {} experts per token{groups}, width {}{shared}", m.router.num_experts_per_tok, m.num_experts, m.expert.width)
        }
    }
}
