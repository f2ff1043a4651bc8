#!/usr/bin/env python3
"""All tables of docs/speed.md: real layer shapes, synthetic weights, this machine; beside llama.cpp where it is given.

    cargo build --release
    benches/speed.py                          # ram-run alone, half an hour after the checkpoints are made
    benches/speed.py --llama FOLDER           # FOLDER as ../shared/tools/llama_cpp.sh makes it; 30 minutes more for its files
    benches/speed.py --only decode,prefill    # some of the tables

Python with numpy and ml_dtypes makes the checkpoints (24 GB in target/speed, kept, and as much in the cache of packed weights).
Each figure is the median of rounds in which all programs take turns, so that what else the machine does falls on all of them.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TOOLS = os.path.join(HERE, "..", "shared", "tools")
SHAPES = {"mixtral": ("mixtral-8x7b", 2), "qwen3": ("qwen3-30b-a3b", 4), "qwen2": ("qwen1.5-moe-a2.7b", 4)}
# Qwen3's layers with other numbers of experts.
EXPERTS = {n: f"experts-{n}" for n in (32, 128, 256)}
MADE = SHAPES | {name: ("qwen3-30b-a3b", 2, "--set", f"experts={n}") for n, name in EXPERTS.items()}
NAMES = {"mixtral": "Mixtral-8x7B, 2 layers", "qwen3": "Qwen3-30B-A3B, 4 layers", "qwen2": "Qwen1.5-MoE-A2.7B, 4 layers"}


def run(*command):
    done = subprocess.run([str(c) for c in command], text=True, capture_output=True)
    if done.returncode != 0:
        sys.exit(f"{done.stderr}{' '.join(done.args)}: exit code {done.returncode}")
    return done.stdout


class Bench:
    def __init__(self, a):
        self.a = a
        self.ram = a.ram_run
        os.makedirs(a.folder, exist_ok=True)

    def checkpoint(self, name):
        folder = os.path.join(self.a.folder, name)
        if not os.path.exists(os.path.join(folder, "tokenizer.json")):
            arch, layers, *more = MADE[name]
            print(f"making {folder}", file=sys.stderr)
            run(sys.executable, os.path.join(TOOLS, "make_synth_moe.py"), "--arch", arch, "--layers", layers, "--out", folder, *more)
        return folder

    def gguf(self, name, kind):
        path = os.path.join(self.a.folder, f"{name}-{kind}.gguf")
        if not os.path.exists(path):
            print(f"making {path}", file=sys.stderr)
            wide = os.path.join(self.a.folder, f"{name}-bf16.gguf")
            if not os.path.exists(wide):
                run(f"{self.a.llama}/env/bin/python", os.path.join(TOOLS, "synth_moe_to_gguf.py"), self.checkpoint(name), wide)
            run(f"{self.a.llama}/build/bin/llama-quantize", wide, path, kind, os.cpu_count())
        return path

    def ours(self, name, form, prompt=(), generate=(), depth=(0,), threads=None, repeat=3):
        command = [self.ram, "--model", self.checkpoint(name), "--uniform", form, "--cache", "always"]
        command += ["--threads", threads] if threads else []
        command += ["bench", "--json", "--repeat", repeat]
        command += [x for n in prompt for x in ("--prompt", n)] + [x for n in generate for x in ("--generate", n)]
        command += [x for n in depth for x in ("--depth", n)]
        found = json.loads(run(*command))
        return found, {t["test"]: t for t in found["tests"]}

    def peer(self, name, kind, prompt=0, generate=0):
        command = [f"{self.a.llama}/build/bin/llama-bench", "-m", self.gguf(name, kind), "-t", os.cpu_count(), "-p", prompt, "-n", generate, "-r", 3]
        found = json.loads(run(*command, "-o", "json"))
        return {("pp" if t["n_prompt"] else "tg"): t["avg_ts"] for t in found}

    def decode(self):
        print("\n| checkpoint | format | weight bytes per token | tokens/s | GB/s | of read bandwidth |\n|---|---|---|---|---|---|")
        for name in SHAPES:
            for form in ["t2g64", "t3g64", "t4g64", "t5g64", "t6g64", "t8g64"]:
                rounds = [self.ours(name, form, generate=[64])[1]["tg64"] for _ in range(self.a.rounds)]
                mid = lambda key: statistics.median(r[key] for r in rounds)
                print(f"| {NAMES[name]} | {form} | {mid('bytes') / 1e6:.0f} MB | {mid('tokens_per_second'):.1f} | {mid('gigabytes_per_second'):.1f} | {100 * mid('share_of_bandwidth'):.0f} % |", flush=True)

    def prefill(self):
        print("\n| checkpoint | 16 tokens | 512 | 2,048 | decode | 512: integer operations per second |\n|---|---|---|---|---|---|")
        for name in SHAPES:
            rounds = [self.ours(name, "t4g64", prompt=[16, 512, 2048], generate=[64])[1] for _ in range(self.a.rounds)]
            mid = lambda test: statistics.median(r[test]["tokens_per_second"] for r in rounds)
            operations = statistics.median(r["pp512"]["gigaoperations_per_second"] for r in rounds)
            print(f"| {NAMES[name]} | {mid('pp16'):.0f} | {mid('pp512'):.0f} | {mid('pp2048'):.0f} | {mid('tg64'):.1f} | {operations:.0f} G |", flush=True)

    def context(self):
        print("\n| checkpoint | tokens/s after 128 | after 4,096 | KV cache read per token | time more | of which reading at bandwidth |\n|---|---|---|---|---|---|")
        kv = {"mixtral": 2 * 8, "qwen3": 4 * 4, "qwen2": 4 * 16}
        for name in SHAPES:
            rounds = [self.ours(name, "t4g64", generate=[32], depth=[128, 4096]) for _ in range(self.a.rounds)]
            mid = lambda test: statistics.median(r[1][test]["tokens_per_second"] for r in rounds)
            near, far = mid("tg32 @ 128"), mid("tg32 @ 4096")
            read = kv[name] * 128 * 2 * 2 * (4096 - 128)
            bandwidth = statistics.median(r[0]["read_bandwidth"] for r in rounds)
            print(f"| {NAMES[name]} | {near:.1f} | {far:.1f} | {read / 1e6:.0f} MB | {1e3 / far - 1e3 / near:.2f} ms | {1e3 * read / bandwidth:.2f} ms |", flush=True)

    def threads(self):
        print("\n| checkpoint | decode, 1 thread | 2 | prefill 512, 1 thread | 2 |\n|---|---|---|---|---|")
        for name in SHAPES:
            rates = []
            for threads in [1, 2]:
                rounds = [self.ours(name, "t4g64", prompt=[512], generate=[64], threads=threads)[1] for _ in range(self.a.rounds)]
                rates.append([statistics.median(r[test]["tokens_per_second"] for r in rounds) for test in ["tg64", "pp512"]])
            print(f"| {NAMES[name]} | {rates[0][0]:.1f} | {rates[1][0]:.1f} | {rates[0][1]:.0f} | {rates[1][1]:.0f} |", flush=True)

    def load(self):
        print("\n| checkpoint | from bf16, page cache warm: seconds | GB/s read | million weights/s | from the packed cache: seconds | GB/s |\n|---|---|---|---|---|---|")
        for name in SHAPES:
            folder = self.checkpoint(name)
            size = sum(os.path.getsize(os.path.join(folder, f)) for f in os.listdir(folder) if f.endswith(".safetensors"))
            for f in os.listdir(folder):
                with open(os.path.join(folder, f), "rb") as file:
                    while file.read(1 << 24):
                        pass
            fresh, kept = [], []
            for _ in range(self.a.rounds):
                command = [self.ram, "--model", folder, "--uniform", "t4g64", "bench", "--json", "--repeat", 1, "--prompt", 0, "--generate", 1]
                fresh.append(json.loads(run(*command, "--cache", "off")))
                kept.append(json.loads(run(*command, "--cache", "always")))
            seconds = statistics.median(f["load_seconds"] for f in fresh)
            again = statistics.median(k["load_seconds"] for k in kept)
            packed = kept[0]["weight_bytes"]
            print(f"| {NAMES[name]} | {seconds:.1f} | {size / seconds / 1e9:.2f} | {size / 2 / seconds / 1e6:.0f} | {again:.2f} | {packed / again / 1e9:.2f} |", flush=True)

    def planning(self):
        print("\n| checkpoint | weights | matrices | plan: seconds | weights/s | 47e9 | 400e9 |\n|---|---|---|---|---|---|---|")
        for name in SHAPES:
            runs = [self.plan(name) for _ in range(self.a.rounds)]
            times, plan = [r[0] for r in runs], runs[0][1]
            rate = plan["parameters"] / statistics.median(times)
            matrices = sum(len(t["shape"]) == 2 for t in plan["entries"])
            print(f"| {NAMES[name]} | {plan['parameters'] / 1e9:.2f}e9 | {matrices} | {statistics.median(times):.1f} | {rate / 1e9:.2f}e9 | {47e9 / rate:.0f} s | {400e9 / rate / 60:.1f} min |", flush=True)

    def growth(self):
        print("\n| experts, 8 per token | weights | weight bytes per token | decode: tokens/s | plan: seconds | ns per weight |\n|---|---|---|---|---|---|")
        rounds = {n: [] for n in EXPERTS}
        for _ in range(self.a.rounds):
            for n, name in EXPERTS.items():
                rounds[n].append(self.ours(name, "t4g64", generate=[64]) + (self.plan(name),))
        for n, runs in rounds.items():
            rate, size = (statistics.median(r[1]["tg64"][key] for r in runs) for key in ["tokens_per_second", "bytes"])
            seconds, weights = statistics.median(r[2][0] for r in runs), runs[0][2][1]["parameters"]
            print(f"| {n} | {weights / 1e9:.2f}e9 | {size / 1e6:.0f} MB | {rate:.0f} | {seconds:.2f} | {1e9 * seconds / weights:.2f} |", flush=True)

    def plan(self, name):
        start = time.monotonic()
        plan = json.loads(run(self.ram, "--model", self.checkpoint(name), "--weights", "1.6GB", "plan", "--json"))
        return time.monotonic() - start, plan

    def evaluate(self):
        if not os.path.exists(self.a.text):
            print(f"{self.a.text} is not there: no perplexities", file=sys.stderr)
            return
        print("\n| checkpoint | windows | tokens | seconds | tokens/s | perplexity |\n|---|---|---|---|---|---|")
        trained = [(os.path.join(HERE, "..", "shared", "models", m), m, 256, 10**6) for m in ["tiny-mixtral", "tiny-qwen2-moe", "tiny-qwen3-moe"]]
        for folder, name, window, most in trained + [(self.checkpoint(m), NAMES[m], 512, 17) for m in SHAPES]:
            command = [self.ram, "--model", folder, "--uniform", "t4g64", "--cache", "always", "eval-ppl", "wikitext2", "--text", self.a.text]
            runs = [json.loads(run(*command, "--window", window, "--max-windows", most, "--json")) for _ in range(self.a.rounds)]
            seconds, r = statistics.median(r["seconds"] for r in runs), runs[0]
            tokens = r["windows"] * window
            found = f"{r['perplexity']:.3f} +/- {r['perplexity_error']:.3f}" if most > 17 else "(random weights)"
            print(f"| {name} | {r['windows']} of {window} | {tokens} | {seconds:.1f} | {tokens / seconds:.0f} | {found} |", flush=True)

    def against(self):
        if not self.a.llama:
            return
        print("\n| checkpoint | program | weights | tg64 | pp512 |\n|---|---|---|---|---|")
        for name in SHAPES:
            found = {}
            for _ in range(self.a.rounds):
                for form in ["t4g64", "t3g64"]:
                    all, tests = self.ours(name, form, prompt=[512], generate=[64])
                    found.setdefault(("ram-run", form, all["weight_bytes"]), []).append([tests[t]["tokens_per_second"] for t in ["tg64", "pp512"]])
                for kind in ["Q4_K_M", "Q4_0", "IQ4_XS", "Q3_K_M"]:
                    rates = self.peer(name, kind, 512, 64)
                    found.setdefault(("llama.cpp", kind, os.path.getsize(self.gguf(name, kind))), []).append([rates["tg"], rates["pp"]])
            for (program, kind, size), rates in found.items():
                tg, pp = (statistics.median(r[i] for r in rates) for i in range(2))
                print(f"| {NAMES[name]} | {program} | {kind}, {size / 1e9:.2f} GB | {tg:.1f} | {pp:.0f} |", flush=True)
            wide = os.path.join(self.a.folder, f"{name}-bf16.gguf")
            if os.path.exists(wide):
                os.remove(wide)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--llama", help="folder that ../shared/tools/llama_cpp.sh built in")
    p.add_argument("--folder", default=os.path.join(HERE, "target", "speed"), help="where checkpoints are")
    p.add_argument("--ram-run", default=os.path.join(HERE, "target", "release", "ram-run"))
    p.add_argument("--text", default=os.path.join(HERE, "..", "shared", "data", "wikitext-2-raw", "wiki.test.raw"), help="WikiText-2's test split")
    p.add_argument("--rounds", type=int, default=3)
    tables = ["decode", "prefill", "context", "evaluate", "threads", "load", "planning", "growth", "against"]
    p.add_argument("--only", default=",".join(tables), help=",".join(tables))
    a = p.parse_args()
    bench = Bench(a)
    for table in a.only.split(","):
        getattr(bench, table)()


if __name__ == "__main__":
    main()
