"""What recipes for llama.cpp are worth, as a Markdown table.

    python benches/gguf.py target/release/ram-run LLAMA_CPP MODEL... --text wiki.test.raw [--types Q3_K_M,Q4_K_M] [--chunks 16]

LLAMA_CPP is a folder of its sources, with llama-quantize and llama-perplexity in build/bin. Each checkpoint is converted to bf16 by its
own script; then for every type that its quantizer mixes by itself there is a row of what that makes, and one of what it makes by a recipe
with as many bytes, which its dry run is asked about first. KL divergence from the bf16 file is its own measurement."""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

# It knows tokenizers by a hash of what they make of a text; those that were trained for a test are none of them.
CONVERT = """
import sys
sys.path.insert(0, sys.argv[1])
from conversion import base
known = base.TextModel.get_vocab_base_pre
def named(self, tokenizer):
    try:
        return known(self, tokenizer)
    except NotImplementedError:
        return "qwen2"
base.TextModel.get_vocab_base_pre = named
import convert_hf_to_gguf
sys.argv = ["convert", sys.argv[2], "--outtype", "bf16", "--outfile", sys.argv[3]]
convert_hf_to_gguf.main()
"""


def said(*command):
    """All that a command prints."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{command}: {done.stderr[-2000:]}")
    return done.stdout + done.stderr


def found(pattern, text):
    """The groups of a pattern in a program's words."""
    match = re.search(pattern, text)
    if match is None:
        sys.exit(f"{pattern} is not in: {text[-3000:]}")
    return match


def main():
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("program")
    ask.add_argument("llama_cpp", type=Path)
    ask.add_argument("models", nargs="+", type=Path)
    ask.add_argument("--text", required=True)
    ask.add_argument("--types", default="Q2_K,Q3_K_M,Q4_K_M,Q5_K_M")
    ask.add_argument("--chunks", type=int, default=16)
    a = ask.parse_args()
    quantize, perplexity = (a.llama_cpp / "build/bin" / name for name in ["llama-quantize", "llama-perplexity"])
    print("| model | | bytes | bits per weight | KL there | expected |\n|---|---|---|---|---|---|", flush=True)
    for model in a.models:
        with tempfile.TemporaryDirectory() as folder:
            whole, base, out, recipe = (Path(folder) / name for name in ["whole.gguf", "base", "out.gguf", "recipe"])
            said(sys.executable, "-c", CONVERT, a.llama_cpp, model, whole)
            run = [perplexity, "-f", a.text, "-c", 512, "--chunks", a.chunks, "--kl-divergence-base", base, "-m"]
            said(*run, whole)

            def size(*how):
                size = found(r"quant size *= *([\d.]+) MiB \(([\d.]+) BPW\)", said(quantize, *how))
                return float(size[1]) * 2**20, size[2]

            def row(what, size, bits, expected):
                kl = found(r"Mean +KLD: *(.*)", said(*run, out, "--kl-divergence"))[1]
                print(f"| {model.name} | {what} | {size:.0f} | {bits} | {kl} | {expected} |", flush=True)

            for kind in a.types.split(","):
                bytes_, bits = size(whole, out, kind)
                row(kind, bytes_, bits, "")
                asked = ["--model", model, "--weights", int(bytes_), "export", "--to", "gguf-recipe", recipe, "--json"]
                told = json.loads(subprocess.run([a.program, *map(str, asked)], capture_output=True, check=True, text=True).stdout)
                by = ["--tensor-type-file", recipe]
                dry, bits = size("--dry-run", *by, whole, out, "Q8_0")
                # It says hundredths of a MiB.
                assert abs(dry - told["weight_bytes"]) < 11_000, (dry, told["weight_bytes"])
                size(*by, whole, out, "Q8_0")
                row("by recipe", told["weight_bytes"], bits, f"{told['expected_kl']:.4f}")


if __name__ == "__main__":
    main()
