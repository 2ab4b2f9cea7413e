#!/bin/sh
# The jpeg profile of every study that has one, on one or more GPUs, and their rows as files once all runs of a study are done.
# Stopped or killed, it goes on where it was; an hour of an H100 a study, so it takes several sittings.
#   sh specs/paper/jpeg.sh DATA_DIR RN18_FILE WRN_FILE [WORKERS] [RESULTS]
# DATA_DIR holds CIFAR-10-JPEG as parquet, the files robust teachers trained on it, as safetensors.
set -eu
data=$1 rn18=$2 wrn=$3 workers=${4:-2} results=${5:-results}
here=$(dirname "$0")
mkdir -p data teachers/cifar10-jpeg
test -e data/cifar10-jpeg || ln -s "$(realpath "$data")" data/cifar10-jpeg
test -e teachers/cifar10-jpeg/rn-18.safetensors || ln -s "$(realpath "$rn18")" teachers/cifar10-jpeg/rn-18.safetensors
test -e teachers/cifar10-jpeg/wrn-34-10.safetensors || ln -s "$(realpath "$wrn")" teachers/cifar10-jpeg/wrn-34-10.safetensors
for study in clean-teachers table3 table6 table7 table5 table2; do
    robustdistill study "$here/$study.toml" --profile jpeg --workers "$workers" || exit $?
    robustdistill study report "$here/$study.toml" --profile jpeg --publish "$results"
done
