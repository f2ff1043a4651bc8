"""What an export is worth in the engine that it was made for: perplexity, and KL divergence from the dense model there.

    python benches/exchange.py mlx DENSE EXPORT... --text wiki.test.raw [--window 512] [--windows 8] [--own BITSxGROUP]

Engines: `mlx` (mlx-lm), `transformers`, and `compressed-tensors`, whose library finds each module's scheme and decodes it, and transformers
computes with what comes out: transformers itself takes one scheme for the experts of all layers. Windows follow each other, tokens are all of a
window's but its first. `--own 4x64` adds what MLX's own quantizer makes of the dense model. One line of JSON each."""

import argparse
import json
import math
import re
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


def mlx_own(folder, bits, group, to):
    from mlx_lm import convert

    convert(str(folder), str(to), quantize=True, q_bits=bits, q_group_size=group)


def weight_bytes(folder):
    """Bytes of all tensors, headers apart."""
    total = 0
    for path in Path(folder).glob("*.safetensors"):
        with open(path, "rb") as file:
            total += path.stat().st_size - 8 - int.from_bytes(file.read(8), "little")
    return total


def main():
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("engine", choices=["mlx", "transformers", "compressed-tensors"])
    ask.add_argument("dense")
    ask.add_argument("exports", nargs="*")
    ask.add_argument("--text", required=True)
    ask.add_argument("--window", type=int, default=512)
    ask.add_argument("--windows", type=int, default=8)
    ask.add_argument("--own", action="append", default=[], metavar="BITSxGROUP")
    a = ask.parse_args()
    logits = {"mlx": mlx_logits, "transformers": transformers_logits, "compressed-tensors": compressed_logits}[a.engine]
    ids = windows(a.dense, Path(a.text).read_text(), a.window, a.windows)
    dense = logits(a.dense)
    reference = [dense(w) for w in ids]
    del dense

    def score(name, folder):
        run, kl, nats = logits(folder), [], []
        for w, before in zip(ids, reference):
            after = run(w)
            nats.append(-after[np.arange(len(w) - 1), w[1:]].mean())
            kl.append((np.exp(before[:-1]) * (before[:-1] - after[:-1])).sum(-1).mean())
        said = {"engine": a.engine, "of": name, "weight_bytes": weight_bytes(folder), "perplexity": math.exp(np.mean(nats)), "kl": float(np.mean(kl))}
        print(json.dumps(said), flush=True)

    score("dense", a.dense)
    for folder in a.exports:
        score(folder, folder)
    for own in a.own:
        bits, group = map(int, own.split("x"))
        with tempfile.TemporaryDirectory() as to:
            mlx_own(a.dense, bits, group, Path(to) / "own")
            score(f"{a.engine}'s own {bits} bits, groups of {group}", Path(to) / "own")


if __name__ == "__main__":
    main()
