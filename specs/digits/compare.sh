#!/bin/sh
# Four methods, three seeds each, one table. KLs at their textbook scale: the digits' runs are short.
set -eu
out=${1:-runs/digits}
for method in nature sat rslad@textbook mmard@literal; do
    robustdistill train -c specs/digits/compare.toml --method "$method" --seeds 0,1,2 --out "$out/$method"
done
for run in "$out"/*/s?; do
    robustdistill eval "$run" --attacks fgsm,pgd,pgd-trades,cw
done
robustdistill compare "$out"/* --format markdown
