#!/bin/sh
# Some epochs of MMARD and RSLAD on CIFAR-10 with a large teacher, and their accuracy. For one GPU.
#   sh benchmarks/cifar10.sh DATA_DIR TEACHER_FILE [EPOCHS] [OUT]
# DATA_DIR holds CIFAR-10 as parquet files or torchvision batches, TEACHER_FILE weights of a CIFAR-10 teacher.
# Prints one table; say "CIFAR-10-JPEG" beside its numbers if the images are a JPEG re-encoding.
set -eu
data=${1:?the folder with CIFAR-10} teacher=${2:?the weights of a teacher} epochs=${3:-15} out=${4:-runs/cifar10}
for method in mmard rslad; do
    robustdistill train --method "$method" --student rn-18 --teacher "$teacher" --data cifar10 --data-dir "$data" \
        --epochs "$epochs" --device cuda --set schedule.name=cosine --set select.every=5 --out "$out/$method"
    robustdistill eval "$out/$method" --attacks fgsm,pgd,pgd-trades,cw --device cuda
done
robustdistill compare "$out/mmard" "$out/rslad" --format markdown
