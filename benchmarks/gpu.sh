#!/bin/sh
# All that only a GPU can show of speed: the CUDA tests, then each method's steps by mode beside the published style.
# RD='python -m robustdistill' names the program where it is not installed as a command.
#   sh benchmarks/gpu.sh [OUT] [SECONDS]
# Needs the package with its tests' needs (pip install -e '.[dev]') and one CUDA device; images and weights are random.
# Prints tables and writes one JSON object a line into OUT/speed.jsonl. About 25 minutes on one H100 (an estimate).
set -eu
out=${1:-runs/speed} seconds=${2:-3}
here=$(dirname "$0")
mkdir -p "$out"
python -m pytest -q "$here/../tests/test_cuda.py" || echo "CUDA tests failed: read on with care"
for pair in rslad:rn-18 sat:rn-18 mmard:rn-18 rslad:mn-v2 sat:mn-v2 mmard:mn-v2; do
    method=${pair%:*} student=${pair#*:}
    rows=eager:fp32,eager:bf16,graph:fp32,graph:bf16
    ${RD:-robustdistill} bench --method "$method" --student "$student" --teacher wrn-34-10 --data cifar10 \
        --batch-size 128 --device cuda --rows "$rows" --baseline "$here/published.py" --seconds "$seconds" \
        --json >"$out/$method-$student.json"
    cat "$out/$method-$student.json" >>"$out/speed.jsonl"
    python "$here/show.py" "$out/$method-$student.json"
done
