"""What exports are worth in the engines that they are made for, as a Markdown table.

    python benches/exchange.py target/release/ram-run MODEL... --text wiki.test.raw [--to mlx] [--window 256] [--windows 8] [--plain]

For every checkpoint and engine: what the engine's own quantizer makes of it (mlx-lm's `convert`, 4 bits, groups of 64; the rounding of
compressed-tensors, symmetric, 4 bits, groups of 128, embedding and head dense), then this project's plan for that engine with as many bytes, plain
and refined. `there`: KL divergence from the dense model and perplexity as mlx-lm computes them in f32, or, for compressed-tensors, as
transformers does with what its library decodes: transformers itself takes one scheme for the experts of all layers. `here`: of the same files,
by ram-run. Windows follow each other; tokens are all of a window's but its first. Needs mlx-lm, or compressed-tensors with transformers."""

import argparse
import contextlib
import json
import math
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer


def windows(folder, text, window, count):
    """Token ids (count, window) of a text's beginning."""
    ids = Tokenizer.from_file(str(Path(folder) / "tokenizer.json")).encode(text, add_special_tokens=False).ids
    return np.array(ids[: window * count]).reshape(count, window)


def mlx_logits(folder):
    """Gives log-probabilities of a window in f32."""
    import mlx.core as mx
    from mlx_lm.utils import load_model

    model, _ = load_model(Path(folder))
    model.set_dtype(mx.float32)

    def run(ids):
        logits = model(mx.array(ids)[None])[0].astype(mx.float32)
        return np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))

    return run


def transformers_logits(folder):
    """The same."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def run(ids):
        with torch.no_grad():
            return torch.log_softmax(model(torch.tensor(ids)[None]).logits[0].float(), -1).numpy()

    return run


def compressed_logits(folder):
    """The same of weights that the library of compressed-tensors decodes, by the targets of config.json."""
    import torch
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationConfig
    from safetensors import safe_open
    from safetensors.torch import save_file

    config = json.loads((Path(folder) / "config.json").read_text())
    said = config.pop("quantization_config", None)
    if said is None:
        return transformers_logits(folder)
    groups = QuantizationConfig.model_validate(said).config_groups.values()
    compressor = BaseCompressor.get_value_from_registry(said["format"])
    found, packed = {}, {}
    for path in sorted(Path(folder).glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():
                module, _, part = name.rpartition(".")
                if part in ("weight_packed", "weight_scale", "weight_shape"):
                    packed.setdefault(module, {})[part] = file.get_tensor(name)
                else:
                    found[name] = file.get_tensor(name)

    def is_of(module, target):
        return re.match(target[3:], module) if target.startswith("re:") else target == module

    for module, parts in packed.items():
        schemes = [group for group in groups if any(is_of(module, target) for target in group.targets)]
        assert len(schemes) == 1 and not any(is_of(module, target) for target in said["ignore"]), module
        # In the type of the scales: in f32 nothing is rounded.
        parts["weight_scale"] = parts["weight_scale"].float()
        found[f"{module}.weight"] = compressor.decompress(parts, schemes[0])["weight"]
    with tempfile.TemporaryDirectory() as to:
        save_file({name: tensor.contiguous() for name, tensor in found.items()}, Path(to) / "model.safetensors", {"format": "pt"})
        (Path(to) / "config.json").write_text(json.dumps(config))
        return transformers_logits(to)


def mlx_own(folder, to):
    """mlx-lm's own."""
    from mlx_lm import convert

    with contextlib.redirect_stdout(sys.stderr):
        convert(str(folder), str(to), quantize=True, q_bits=4, q_group_size=64)
    return weight_bytes(to), mlx_logits(to)


def compressed_own(folder, to):
    """Rounded by the library of compressed-tensors, from the least to the largest weight of a group; as bytes and what computes."""
    import torch
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.lifecycle.forward import fake_quantize
    from compressed_tensors.quantization.utils import calculate_qparams
    from safetensors.torch import load_file, save_file

    args = QuantizationArgs(num_bits=4, type="int", symmetric=True, strategy="group", group_size=128)
    tensors, bits = {}, 0
    for path in sorted(Path(folder).glob("*.safetensors")):
        tensors.update(load_file(path))
    for name, w in tensors.items():
        router = name.endswith((".gate.weight", "shared_expert_gate.weight"))
        if w.dim() != 2 or router or "embed_tokens" in name or "lm_head" in name:
            bits += 16 * w.numel()
            continue
        # Rows that are no whole groups have groups of half, or a quarter.
        group = next(g for g in (128, 64, 32) if w.shape[1] % g == 0)
        own = args.model_copy(update={"group_size": group})
        parts = w.float().unflatten(-1, (-1, group))
        scale, zero = calculate_qparams(parts.amin(-1), parts.amax(-1), own)
        tensors[name] = fake_quantize(w.float(), scale.to(torch.bfloat16).float(), zero, own).to(w.dtype)
        bits += 4 * w.numel() + 16 * scale.numel()
    Path(to).mkdir()
    save_file(tensors, Path(to) / "model.safetensors", {"format": "pt"})
    (Path(to) / "config.json").write_text((Path(folder) / "config.json").read_text())
    return bits // 8, transformers_logits(to)


def weight_bytes(folder):
    """Bytes of all tensors, headers apart."""
    total = 0
    for path in Path(folder).glob("*.safetensors"):
        with open(path, "rb") as file:
            total += path.stat().st_size - 8 - int.from_bytes(file.read(8), "little")
    return total


ENGINES = {"mlx": (mlx_logits, mlx_own, mlx_logits), "vllm": (transformers_logits, compressed_own, compressed_logits)}


def score(run, ids, reference):
    """KL divergence and perplexity."""
    kl, nats = [], []
    for w, before in zip(ids, reference):
        after = run(w)
        nats.append(-after[np.arange(len(w) - 1), w[1:]].mean())
        kl.append((np.exp(before[:-1]) * (before[:-1] - after[:-1])).sum(-1).mean())
    return float(np.mean(kl)), math.exp(np.mean(nats))


def main():
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("program")
    ask.add_argument("models", nargs="+")
    ask.add_argument("--text", required=True)
    ask.add_argument("--to", choices=list(ENGINES), action="append")
    ask.add_argument("--window", type=int, default=256)
    ask.add_argument("--windows", type=int, default=8)
    ask.add_argument("--plain", action="store_true", help="without --refine, which takes minutes")
    a = ask.parse_args()
    print("| model | engine | | bytes | bits per weight | KL there | KL here | perplexity there |\n|---|---|---|---|---|---|---|---|", flush=True)
    for model in map(Path, a.models):
        ids = windows(model, Path(a.text).read_text(), a.window, a.windows)
        for engine in a.to or ENGINES:
            dense, own, written = ENGINES[engine]

            def row(what, size, bits, run, here):
                kl, perplexity = score(run, ids, reference)
                print(f"| {model.name} | {engine} | {what} | {size} | {bits} | {kl:.4f} | {here} | {perplexity:.2f} |", flush=True)

            with tempfile.TemporaryDirectory() as to:
                whole = Path(to) / "dense"
                # The same weights, with a config.json that every engine reads.
                subprocess.run([a.program, "--model", model, "--weights", "1TB", "--no-survey", "export", "--to", engine, whole], check=True, capture_output=True)
                run = dense(whole)
                reference = [run(w) for w in ids]
                size, run = own(whole, Path(to) / "own")
                row("its own", size, "", run, "")
                # A plan counts norms in 32 bits.
                asked = ["--model", model, "--weights", str(size * 101 // 100)]
                for refine in [[]] if a.plain else [[], ["--refine"]]:
                    out = Path(to) / f"out{len(refine)}"
                    said = subprocess.run([a.program, *asked, *refine, "export", "--to", engine, out, "--json"], check=True, capture_output=True)
                    said = json.loads(said.stdout)
                    text = ["--text", a.text, "--window", str(a.window), "--max-windows", str(a.windows)]
                    here = subprocess.run([a.program, "--model", out, "eval-ppl", "--json", "--kl-against", model, *text], check=True, capture_output=True)
                    what = "ram-run, refined" if refine else "ram-run"
                    kl = json.loads(here.stdout)["kl"]
                    row(what, said["weight_bytes"], f"{said['bits_per_weight']:.2f}", written(out), f"{kl:.4f}")


if __name__ == "__main__":
    main()
