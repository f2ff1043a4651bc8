"""The calibrated baseline: a checkpoint quantized by GPTQ (Frantar et al., 2022, arXiv 2210.17323), in the layout that AutoGPTQ gave it.

    make_gptq.py FOLDER TEXT OUT BITS GROUP [--act-order]         (numpy, tokenizers)

Reads a Mixtral, Qwen2-MoE or Qwen3-MoE checkpoint, calibrates on 128 windows of 256 tokens of TEXT that begin after its first 64 such windows (which
stay for evaluation), and writes OUT. This is GPTQ in its strongest usual form: text of the very kind that is tested, damping of 1 % of the mean
diagonal, every projection calibrated on what the quantized ones before it compute, symmetric codes; embedding, head and routers stay dense. The
forward is this file's own, in float32, and its perplexity of the first windows is printed beside that of the quantized layers.
"""
import argparse
import json
import pathlib
import shutil
import struct

import numpy as np
from tokenizers import Tokenizer

WINDOW, SKIP, SAMPLES = 256, 64, 128


def read(folder):
    """Every tensor in float32, by name."""
    tensors = {}
    for path in sorted(folder.glob("model*.safetensors")):
        data = path.read_bytes()
        n = struct.unpack("<Q", data[:8])[0]
        for name, info in json.loads(data[8 : 8 + n]).items():
            if name != "__metadata__":
                assert info["dtype"] == "BF16", (name, info["dtype"])
                begin, end = (8 + n + o for o in info["data_offsets"])
                tensors[name] = (np.frombuffer(data[begin:end], np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(info["shape"])
    return tensors


def save(path, tensors):
    """`tensors` is name: (dtype, shape, bytes)."""
    header, at = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = dict(dtype=dtype, shape=shape, data_offsets=[at, at + len(data)])
        at += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data for _, _, data in tensors.values()))


def hessian_factor(x, damp=0.01):
    """Upper Cholesky factor of the inverse of X^T X, with damping; and which inputs never come."""
    h = (x.T @ x).astype(np.float64)
    dead = np.diag(h) == 0
    h[dead, dead] = 1
    h[np.diag_indices_from(h)] += damp * np.diag(h).mean()
    return np.linalg.cholesky(np.linalg.inv(h)).T.astype(np.float32), dead


def gptq(w, x, bits, group, act_order):
    """Codes (n, k), scales (n, groups) and the group of every input of a matrix (n, k) with inputs (tokens, k)."""
    w, k = w.copy(), w.shape[1]
    order = np.argsort(-np.einsum("tk,tk->k", x, x), kind="stable") if act_order else np.arange(k)
    w = w[:, order]
    factor, dead = hessian_factor(x[:, order])
    w[:, dead] = 0
    most, zero = 2**bits - 1, 2 ** (bits - 1)
    codes, scales = np.zeros(w.shape, np.int64), np.zeros((w.shape[0], k // group), np.float32)
    for start in range(0, k, group):
        end = start + group
        scale = 2 * np.abs(w[:, start:end]).max(1) / most
        scale = np.maximum(scale, 1e-6).astype(np.float16).astype(np.float32)
        scales[:, start // group] = scale
        errors = np.zeros((w.shape[0], group), np.float32)
        for i in range(start, end):
            codes[:, i] = np.clip(np.rint(w[:, i] / scale) + zero, 0, most)
            errors[:, i - start] = (w[:, i] - scale * (codes[:, i] - zero)) / factor[i, i]
            w[:, i:end] -= np.outer(errors[:, i - start], factor[i, i:end])
        w[:, end:] -= errors @ factor[start:end, end:]
    place = np.argsort(order)
    return codes[:, place], scales, (np.arange(k) // group)[place]


def packed(stream, bits):
    """Rows of codes as rows of little-endian words."""
    planes = ((stream[:, :, None] >> np.arange(bits)) & 1).astype(np.uint8)
    return np.ascontiguousarray(np.packbits(planes.reshape(len(stream), -1), axis=1, bitorder="little")).view(np.uint32)


class Quantizer:
    """Quantizes matrices as the forward comes to them, and remembers them in the layout of the files."""

    def __init__(self, bits, group, act_order):
        self.how, self.out = (bits, group, act_order), {}

    def __call__(self, name, w, x):
        bits, group, _ = self.how
        codes, scales, of = gptq(w, x, *self.how)
        module, zero = name.removesuffix(".weight"), 2 ** (bits - 1)
        words = packed(codes, bits).T
        # Zeros are stored less one.
        zeros = packed(np.full((scales.shape[1], len(codes)), zero - 1), bits)
        self.out |= {
            f"{module}.qweight": ("I32", list(words.shape), np.ascontiguousarray(words).tobytes()),
            f"{module}.qzeros": ("I32", list(zeros.shape), zeros.tobytes()),
            f"{module}.scales": ("F16", list(scales.T.shape), np.ascontiguousarray(scales.T).astype(np.float16).tobytes()),
            f"{module}.g_idx": ("I32", [len(of)], of.astype(np.int32).tobytes()),
        }
        return (codes - zero).astype(np.float32) * scales[:, of]


def norm(x, w, eps):
    return x / np.sqrt(np.mean(x * x, -1, keepdims=True) + eps) * w


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def silu(x):
    return x / (1 + np.exp(-x))


class Model:
    """The forward of whole windows, layer by layer; `quantize(name, w, x)` gives the weights to go on with."""

    def __init__(self, folder):
        self.config = c = json.loads((folder / "config.json").read_text())
        self.tensors = read(folder)
        self.mixtral = c["model_type"] == "mixtral"
        self.eps, self.heads, self.kv = c["rms_norm_eps"], c["num_attention_heads"], c["num_key_value_heads"]
        self.dim = c.get("head_dim") or c["hidden_size"] // self.heads
        self.top, self.scaled = c["num_experts_per_tok"], self.mixtral or c["norm_topk_prob"]
        self.theta = c.get("rope_theta") or c["rope_parameters"]["rope_theta"]

    def attention(self, p, x, quantize):
        t = self.tensors
        tokens, h = len(x), norm(x, t[f"{p}input_layernorm.weight"], self.eps)
        q, k, v = (
            (h @ quantize(f"{p}self_attn.{n}_proj.weight", t[f"{p}self_attn.{n}_proj.weight"], h).T + t.get(f"{p}self_attn.{n}_proj.bias", 0)).reshape(-1, WINDOW, heads, self.dim)
            for n, heads in (("q", self.heads), ("k", self.kv), ("v", self.kv))
        )  # fmt: skip
        if f"{p}self_attn.q_norm.weight" in t:
            q, k = norm(q, t[f"{p}self_attn.q_norm.weight"], self.eps), norm(k, t[f"{p}self_attn.k_norm.weight"], self.eps)
        half = self.dim // 2
        angle = np.outer(np.arange(WINDOW), self.theta ** (-np.arange(half) / half)).astype(np.float32)[None, :, None]
        cos, sin = np.cos(angle), np.sin(angle)
        q, k = (np.concatenate([a[..., :half] * cos - a[..., half:] * sin, a[..., half:] * cos + a[..., :half] * sin], -1) for a in (q, k))
        mask, out = np.triu(np.full((WINDOW, WINDOW), -np.inf, np.float32), 1), np.empty_like(q)
        for head in range(self.heads):
            of = head * self.kv // self.heads
            scores = q[:, :, head] @ k[:, :, of].swapaxes(1, 2) / np.sqrt(np.float32(self.dim)) + mask
            out[:, :, head] = softmax(scores) @ v[:, :, of]
        out = out.reshape(tokens, -1)
        return x + out @ quantize(f"{p}self_attn.o_proj.weight", t[f"{p}self_attn.o_proj.weight"], out).T

    def expert(self, p, names, x, quantize):
        gate, up, down = (f"{p}.{n}.weight" for n in names)
        x1, x2 = x @ quantize(gate, self.tensors[gate], x).T, x @ quantize(up, self.tensors[up], x).T
        middle = silu(x1) * x2
        return middle @ quantize(down, self.tensors[down], middle).T

    def mlp(self, p, x, quantize):
        t, moe = self.tensors, "block_sparse_moe" if self.mixtral else "mlp"
        names = ("w1", "w3", "w2") if self.mixtral else ("gate_proj", "up_proj", "down_proj")
        h = norm(x, t[f"{p}post_attention_layernorm.weight"], self.eps)
        share = softmax(h @ t[f"{p}{moe}.gate.weight"].T)
        chosen = np.argsort(-share, 1, kind="stable")[:, : self.top]
        weight = np.take_along_axis(share, chosen, 1)
        weight = weight / weight.sum(1, keepdims=True) if self.scaled else weight
        x = x.copy()
        for e in range(share.shape[1]):
            token, at = np.nonzero(chosen == e)
            x[token] += weight[token, at][:, None] * self.expert(f"{p}{moe}.experts.{e}", names, h[token], quantize)
        if f"{p}mlp.shared_expert_gate.weight" in t:
            gate = 1 / (1 + np.exp(-h @ t[f"{p}mlp.shared_expert_gate.weight"].T))
            x += gate * self.expert(f"{p}mlp.shared_expert", names, h, quantize)
        return x

    def forward(self, ids, quantize):
        x = self.tensors["model.embed_tokens.weight"][ids.ravel()]
        for layer in range(self.config["num_hidden_layers"]):
            x = self.attention(f"model.layers.{layer}.", x, quantize)
            x = self.mlp(f"model.layers.{layer}.", x, quantize)
        return x

    def perplexity(self, ids, quantize):
        x = norm(self.forward(ids, quantize), self.tensors["model.norm.weight"], self.eps).reshape(*ids.shape, -1)
        p = softmax((x[:, :-1] @ self.tensors["lm_head.weight"].T).astype(np.float64))
        return float(np.exp(-np.log(np.take_along_axis(p, ids[:, 1:, None], 2)).mean()))


def main():
    a = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    a.add_argument("folder", type=pathlib.Path)
    a.add_argument("text", type=pathlib.Path)
    a.add_argument("out", type=pathlib.Path)
    a.add_argument("bits", type=int, choices=(2, 3, 4, 8))
    a.add_argument("group", type=int)
    a.add_argument("--act-order", action="store_true")
    a = a.parse_args()
    model, tokenizer = Model(a.folder), Tokenizer.from_file(str(a.folder / "tokenizer.json"))
    ids = tokenizer.encode(a.text.read_bytes().decode("utf-8"), add_special_tokens=False).ids[: (SKIP + SAMPLES) * WINDOW]
    ids = np.array(ids).reshape(-1, WINDOW)
    quantizer, kept = Quantizer(a.bits, a.group, a.act_order), {}

    def quantize(name, w, x):
        kept[name] = quantizer(name, w, x)
        return kept[name]

    model.forward(ids[SKIP:], quantize)
    own, dense = (model.perplexity(ids[:8], q) for q in (lambda name, w, x: kept[name], lambda name, w, x: w))
    print(f"{a.out}: perplexity of the first 8 windows {own:.3f}, dense {dense:.3f}")
    tensors = dict(quantizer.out)
    for name, w in model.tensors.items():
        if name not in kept:
            tensors[name] = ("BF16", list(w.shape), np.ascontiguousarray(w.view(np.uint32) >> 16).astype(np.uint16).tobytes())
    # Under another name until it is whole.
    part = a.out.with_name(a.out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    save(part / "model.safetensors", tensors)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(a.folder / name, part / name)
    how = dict(quant_method="gptq", checkpoint_format="gptq", bits=a.bits, group_size=a.group, sym=True, desc_act=a.act_order, damp_percent=0.01, true_sequential=True)
    (part / "config.json").write_text(json.dumps(model.config | dict(quantization_config=how), indent=2))
    shutil.rmtree(a.out, ignore_errors=True)
    part.rename(a.out)


main()
