#!/bin/sh
# All that only a GPU can show of speed: the CUDA tests, then each method's steps by mode beside the published style.
#   sh benchmarks/gpu.sh [OUT] [SECONDS]
# Needs the package with its tests' needs (pip install -e '.[dev]') and one CUDA device; images and weights are random.
# Prints tables and writes one JSON object a line into OUT/speed.jsonl. About 15 minutes on one H100 (an estimate).
set -eu
out=${1:-runs/speed} seconds=${2:-3}
here=$(dirname "$0")
mkdir -p "$out"
python -m pytest -q "$here/../tests/test_cuda.py" || echo "CUDA tests failed: read on with care"
for method in rslad sat mmard; do
    rows=eager:fp32,eager:bf16,graph:fp32,graph:bf16
    robustdistill bench --method "$method" --student rn-18 --teacher wrn-34-10 --data cifar10 --batch-size 128 \
        --device cuda --rows "$rows" --baseline "$here/published.py" --seconds "$seconds" --json >"$out/$method.json"
    cat "$out/$method.json" >>"$out/speed.jsonl"
    python "$here/show.py" "$out/$method.json"
done
