#!/bin/sh
# The same trainings of three seeds in every mode and number format that the machine has: do they end alike?
#   sh specs/digits/modes.sh [OUT] [EPOCHS]
# On a GPU add its modes: MODES="eager:fp32 eager:bf16 graph:fp32 graph:bf16" DEVICE=cuda sh specs/digits/modes.sh
set -eu
out=${1:-runs/modes} epochs=${2:-20}
for setting in ${MODES:-eager:fp32 eager:bf16 compile:fp32}; do
    mode=${setting%:*} precision=${setting#*:}
    echo "$mode $precision"
    robustdistill train -c specs/digits/compare.toml --method mmard --epochs "$epochs" --seeds 0,1,2 \
        --device "${DEVICE:-cpu}" --mode "$mode" --set precision="$precision" --out "$out/$mode-$precision"
done
