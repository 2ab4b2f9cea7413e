#!/bin/sh
# What only a GPU shows of evaluation: AutoAttack's speed beside pyautoattack's, and two CIFAR-10 teachers' table.
#   sh benchmarks/evaluation.sh DATA_DIR RN18_FILE [WRN_FILE] [OUT]
# N (1000) images, DEVICE (cuda) and ATTACKS are read from the environment; RD='python -m robustdistill' names the program
# where it is not a command. RN-18: two AutoAttacks on 1,000 images of which some 450 stand, about 2 x 5 PFLOP each.
set -eu
data=${1:?the folder with CIFAR-10} small=${2:?the weights of an RN-18} large=${3:-} out=${4:-runs/evaluation}
here=$(dirname "$0") n=${N:-1000} device=${DEVICE:-cuda} attacks=${ATTACKS:-fgsm,pgd,pgd-trades,cw,aa}
mkdir -p "$out"
python "$here/autoattack.py" "rn-18@$small" --data cifar10 --data-dir "$data" -n "$n" --device "$device" \
    --physical 1000 | tee "$out/autoattack.txt"
for teacher in "rn-18@$small" ${large:+"wrn-34-10@$large"}; do
    ${RD:-robustdistill} eval "$teacher" --data cifar10 --data-dir "$data" --attacks "$attacks" --n "$n" \
        --device "$device" | tee "$out/${teacher%@*}.txt"
done
