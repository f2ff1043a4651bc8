"""What llama.cpp's own tables say of recipes: arguments are a checkpoint's folder, its recipe, and the bytes that `ram-run` said, of each.

Every tensor has one line that fits its name and no other, its type's blocks divide its rows, those without a line are those that
llama-quantize leaves alone, and the bytes come to what was said."""

import json
import re
import sys
from pathlib import Path

import gguf
from safetensors import safe_open

ARCH = {
    "mixtral": "LLAMA", "llama": "LLAMA", "mistral": "LLAMA", "qwen2": "QWEN2", "qwen3": "QWEN3", "qwen2_moe": "QWEN2MOE", "qwen3_moe": "QWEN3MOE",
    "olmoe": "OLMOE", "phimoe": "PHIMOE", "glm4_moe": "GLM4_MOE", "ernie4_5_moe": "ERNIE4_5_MOE", "hunyuan_v1_moe": "HUNYUAN_MOE",
    "granitemoe": "GRANITE_MOE", "minimax_m2": "MINIMAXM2",
}  # fmt: skip
for folder, recipe, said in zip(*[iter(sys.argv[1:])] * 3):
    config = json.loads(Path(folder, "config.json").read_text())
    tied, layers = config.get("tie_word_embeddings"), config["num_hidden_layers"]
    table = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, ARCH[config["model_type"]]), layers)
    shapes = {}
    for path in Path(folder).glob("model*.safetensors"):
        with safe_open(path, "np") as file:
            for name in file.keys():
                shapes[name] = file.get_slice(name).get_shape()
    there = {}
    for name, shape in shapes.items():
        name = name.replace("language_model.", "")
        if name == "lm_head.weight" and tied:
            continue
        # Layers that guess more tokens are not run, and not counted.
        if "inv_freq" in name or (m := re.search(r"layers\.(\d+)\.", name)) and int(m[1]) >= layers:
            continue
        # As its converter has it: experts of a layer are one tensor, gate and up two.
        merged = re.sub(r"\.experts\.\d+\.", ".experts.", name)
        halves = [merged]
        if m := re.match(r"(.*)\.experts\.(gate_up_proj|down_proj)$", merged):
            halves = [f"{m[1]}.experts.{part}.weight" for part in (["gate_proj", "up_proj"] if m[2] == "gate_up_proj" else ["down_proj"])]
        elif m := re.match(r"(.*)\.block_sparse_moe\.(input|output)_linear\.weight$", merged):
            # GraniteMoE's, which its converter names itself.
            halves = [f"@{m[1].split('.')[2]}.{part}" for part in (["ffn_gate_exps", "ffn_up_exps"] if m[2] == "input" else ["ffn_down_exps"])]
        for half in halves:
            half = half.replace("e_score_correction_bias", "e_score_correction.bias")
            mapped = f"blk.{half[1:]}.weight" if half.startswith("@") else table.get_name(half, (".weight", ".bias"))
            assert mapped, (folder, name, half)
            mapped = mapped if mapped.endswith((".weight", ".bias")) else f"{mapped}.weight"
            numbers = 1
            for n in shape:
                numbers *= n
            cols = shape[-1]
            numbers //= len(halves)
            total, _ = there.get(mapped, (0, cols))
            there[mapped] = (total + numbers, cols)
    types = {t.name.lower(): t for t in gguf.GGMLQuantizationType}
    lines = [line.rsplit("=", 1) for line in Path(recipe).read_text().splitlines()]
    bytes_ = 0
    for name, (numbers, cols) in there.items():
        fitting = [kind for pattern, kind in lines if re.search(pattern, name)]
        stays = not name.endswith(".weight") or "_norm" in name or "ffn_gate_inp" in name or "exp_probs" in name
        assert len(fitting) == (0 if stays else 1), (folder, name, fitting)
        kind = types[fitting[0].lower()] if fitting else gguf.GGMLQuantizationType.F32
        block, size = gguf.GGML_QUANT_SIZES[kind]
        assert stays or cols % block == 0, (folder, name, kind)
        bytes_ += numbers // block * size
    assert all(any(re.search(pattern, name) for name in there) for pattern, _ in lines), (folder, "a line fits nothing")
    assert bytes_ == int(said), (folder, bytes_, said)
print(f"{len(sys.argv) // 3} recipes")
