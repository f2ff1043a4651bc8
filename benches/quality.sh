#!/usr/bin/env bash
# Every table and picture of docs/quality.md, into target/quality: at equal bytes against RAM's method, uniform affine and calibrated
# GPTQ, expected KL divergence beside what is found, and sensitivities from the weights beside measured ones.
#
#     benches/quality.sh [SHARED] [WINDOWS]          SHARED has models/ and data/ [default: ../shared]; about half an hour on two cores
#
# GPTQ takes a python3 with venv, and fetches numpy and tokenizers.
set -euo pipefail
cd "$(dirname "$0")/.."
shared=${1:-../shared} windows=${2:-64}
text=$shared/data/wikitext-2-raw/wiki.test.raw out=target/quality
[ -f "$text" ] || { echo "benches/quality.sh: $shared has no data/wikitext-2-raw/wiki.test.raw: name the folder that has" >&2; exit 1; }
mkdir -p "$out"
cargo build --release --bins --example sensitivity
if [ -z "${RAM_RUN_PYTHON:-}" ]; then
    python3 -m venv target/python
    target/python/bin/pip install -q numpy tokenizers
    RAM_RUN_PYTHON=target/python/bin/python
fi
for model in "$shared"/models/*/; do
    name=$(basename "$model")
    against=()
    for how in "4 128" "4 64" "3 128"; do
        read -r bits group <<<"$how"
        for order in "" --act-order; do
            made=target/gptq/$name-${bits}bit-${group}g${order:+-act}
            # shellcheck disable=SC2086
            [ -d "$made" ] || "$RAM_RUN_PYTHON" tests/gptq/make_gptq.py "$model" "$text" "$made" "$bits" "$group" $order
            against+=(--against "$made")
        done
    done
    target/release/ram-run --model "$model" compare --text "$text" --window 256 --max-windows "$windows" \
        --at a3g64,a3g32,a4g64,a4g32 "${against[@]}" --markdown "$out/$name.md" --svg "$out/$name.svg"
    target/release/examples/sensitivity "$model" "$text" 16 | tee "$out/$name-sensitivity.txt"
done
# A real model, where RAM_RUN_REAL names a folder with one (../shared/tools/real_model.py).
if [ -d "${RAM_RUN_REAL:-}/llama" ]; then
    target/release/ram-run --model "$RAM_RUN_REAL/llama" compare --text "$text" --window 512 --max-windows 8 --at a3g64,a4g64 --refine \
        --markdown "$out/smollm2.md" --svg "$out/smollm2.svg"
fi
