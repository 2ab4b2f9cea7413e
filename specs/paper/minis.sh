#!/bin/sh
# The mini profile of every study, and its rows as files. Stopped or killed, it goes on where it was.
#   sh specs/paper/minis.sh [WORKERS] [RESULTS]
set -eu
workers=${1:-2} results=${2:-results}
here=$(dirname "$0")
for study in table2 table3 table5-teachers table5 table6 table7 figure4; do
    robustdistill study "$here/$study.toml" --profile mini --workers "$workers"
    robustdistill study report "$here/$study.toml" --profile mini --publish "$results"
done
