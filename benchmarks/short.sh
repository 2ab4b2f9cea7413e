#!/bin/sh
# The first ten minutes on a GPU: whether it works and how fast, each part cut off where it takes too long.
#   sh benchmarks/short.sh DATA_DIR RN18_FILE [OUT]
# gpu.sh, evaluation.sh and mmard.sh then take longer. What each part prints is also in OUT. Read from the environment:
# DEVICE (cuda), LIMIT (of a part, 150 s), DATA, TEACHER and STUDENT in place of CIFAR-10 and RN-18s, further flags of the
# parts (ATTACK, BENCH, TRAIN), PYTHON (python), and RD='python -m robustdistill' where the program is not a command.
set -eu
data=${DATA:---data cifar10 --data-dir ${1:?the folder with CIFAR-10}}
teacher=${TEACHER:-rn-18@${2:?the weights of an RN-18}} student=${STUDENT:-rn-18} out=${3:-runs/short}
here=$(dirname "$0") python=${PYTHON:-python} rd=${RD:-robustdistill} device="--device ${DEVICE:-cuda}"
mkdir -p "$out"

part() {
    name=$1 began=$(date +%s) code=0
    shift
    timeout -s INT -k 15 "${LIMIT:-150}" "$@" >"$out/$name.txt" 2>&1 || code=$?
    echo "== $name: exit $code, $(($(date +%s) - began)) s: $*"
    tail -n 25 "$out/$name.txt"
}

# shellcheck disable=SC2086
{
    part doctor $rd doctor $device
    part attack "$python" "$here/autoattack.py" "$teacher" $data $device -n 500 --physical 500 \
        --steps 40 --queries 1000 ${ATTACK:-}
    part attack-tests "$python" -m pytest -q --maxfail 8 "$here/../tests/test_cuda.py" -k "attack or tf32"
    part tests "$python" -m pytest -q --maxfail 8 "$here/../tests/test_cuda.py" -k "not attack and not tf32"
    for method in mmard rslad; do
        part "speed-$method" $rd bench --method $method --student "$student" --teacher "$teacher" $data $device \
            --seconds 1 --baseline "$here/published.py" ${BENCH:-}
    done
    part train $rd train --method mmard --student "$student" --teacher "$teacher" $data $device --epochs 2 \
        --set select.n=500 --out "$out/run" ${TRAIN:-}
}
