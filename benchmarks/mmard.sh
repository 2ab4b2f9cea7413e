#!/bin/sh
# MMARD's open points on CIFAR-10, for one GPU: every reading with a small teacher, then some with a large one.
#   sh benchmarks/mmard.sh DATA_DIR RN18_FILE [WRN_FILE] [OUT]
# EPOCHS, SEEDS, JOBS (runs that share the GPU), CELLS (parts of names, separated by |), DEVICE, N (test images) and MORE
# (flags of `train`) are read from the environment; stopped, the same command goes on. 51 runs of 15 epochs with the RN-18
# are about 1,900 PFLOP, some two hours of one H100 if it is kept busy (an estimate); CELLS='no TRD|1e-12|prob mean' is
# a third of it, and with EPOCHS=5 SEEDS=0 and no WRN_FILE a first look in some ten minutes (an estimate too).
# Prints two tables and where x' goes; say "CIFAR-10-JPEG" beside the numbers if the images are a JPEG re-encoding.
set -eu
data=${1:?the folder with CIFAR-10} small=${2:?the weights of an RN-18 teacher} large=${3:-} out=${4:-runs/mmard-cifar10}
here=$(dirname "$0")
ablate() {
    teacher=$1 folder=$2 cells=$3
    # shellcheck disable=SC2086
    python "$here/ablation.py" "$folder" --jobs "${JOBS:-4}" --seeds "${SEEDS:-0,1,2}" --cells "$cells" \
        --data cifar10 --data-dir "$data" --student rn-18 --teacher "$teacher" --epochs "${EPOCHS:-15}" \
        --device "${DEVICE:-cuda}" --set schedule.name=cosine --set select.every=5 ${N:+--n "$N"} ${MORE:-}
}
ablate "rn-18@$small" "$out/rn-18" "${CELLS:-}"
run="$out/rn-18/batchmean_prob-mean/s0"
test ! -d "$run" || python "$here/inner.py" "$run" --data-dir "$data" --n "${N:-1000}" --device "${DEVICE:-cuda}"
test -z "$large" || ablate "wrn-34-10@$large" "$out/wrn-34-10" "${LARGE_CELLS:-no TRD|rslad, prob mean|rslad, logit mean}"
