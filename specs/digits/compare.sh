#!/bin/sh
# Eight methods, three seeds each, one table. KLs at their textbook scale: the digits' runs are short.
set -eu
out=${1:-runs/digits}
for method in nature sat trades ard iad mtard@textbook rslad@textbook mmard@literal; do
    clean=""
    test "$method" = mtard@textbook && clean="--teacher clean=digits-clean"
    # shellcheck disable=SC2086
    robustdistill train -c specs/digits/compare.toml --method "$method" $clean --seeds 0,1,2 --out "$out/$method"
done
for run in "$out"/*/s?; do
    robustdistill eval "$run" --attacks fgsm,pgd,pgd-trades,cw --checks 0
done
robustdistill compare "$out"/* --format markdown
