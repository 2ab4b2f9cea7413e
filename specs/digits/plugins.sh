#!/bin/sh
# The methods of the packages in plugins/ beside MMARD, three seeds each, one table; all of one seed before the next seed.
# Stopped, it goes on where it was: finished runs are left alone.
#   pip install plugins/robustdistill-*
#   sh specs/digits/plugins.sh [OUT] [SEED ...]
set -eu
out=${1:-runs/plugins}
test $# -eq 0 || shift
test $# -gt 0 || set -- 0 1 2

run() { # NAME SEED FLAGS...
    folder="$out/$1/s$2" seed=$2
    shift 2
    if test -f "$folder/result.json"; then
        echo "$folder is finished"
    elif test -d "$folder"; then
        robustdistill train --resume "$folder"
    else
        robustdistill train -c specs/digits/compare.toml --set optim.weight_decay=2e-4 --seed "$seed" --out "$folder" "$@"
    fi
    test -f "$folder/evaluation.json" || robustdistill eval "$folder" --attacks fgsm,pgd,pgd-trades,cw --checks 0
}

for seed; do
    run fair-mmard "$seed" --method mmard@literal --with fair
    run mmard@literal "$seed" --method mmard@literal
    run fair-rslad "$seed" --method rslad@textbook --with fair
    run awp-mmard "$seed" --method mmard@literal --with awp-official
    run saad "$seed" --method saad
    run absld@textbook "$seed" --method absld@textbook
    run mart "$seed" --method mart
    run adaad "$seed" --method adaad
    run igdm-adaad "$seed" --method adaad --with igdm
    run adaiad "$seed" --method adaiad
done
robustdistill compare "$out"/* --format markdown
