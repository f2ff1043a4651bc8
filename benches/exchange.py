"""What an export is worth in the engine that it was made for: perplexity, and KL divergence from the dense model there.

    python benches/exchange.py mlx DENSE EXPORT... --text wiki.test.raw [--window 512] [--windows 8] [--own BITSxGROUP]

Engines: `mlx` (mlx-lm) and `transformers` (which decodes compressed-tensors with that package's library). Windows follow each other, tokens
are all of a window's but its first. `--own 4x64` adds what the engine's own quantizer makes of the dense model. One line of JSON each."""

import argparse
import json
import math
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
    ask.add_argument("engine", choices=["mlx", "transformers"])
    ask.add_argument("dense")
    ask.add_argument("exports", nargs="*")
    ask.add_argument("--text", required=True)
    ask.add_argument("--window", type=int, default=512)
    ask.add_argument("--windows", type=int, default=8)
    ask.add_argument("--own", action="append", default=[], metavar="BITSxGROUP")
    a = ask.parse_args()
    logits = {"mlx": mlx_logits, "transformers": transformers_logits}[a.engine]
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
