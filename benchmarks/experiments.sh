#!/usr/bin/env bash
# The figures of experiments.md: run from a checkout, with femtogpt installed and on the PATH.
set -euo pipefail
repo=$(cd "$(dirname "$0")/.." && pwd)
cd "$(mktemp -d)"
for seed in ${SEEDS:-1 2 3}; do
  echo "== simple words, seed $seed"
  python3 "$repo/dummy_data/simple_dummy.py" --seed "$seed" > dataset.txt
  femtogpt init --seed "$seed" --force
  # So small a text is trained on whole by default, and then memorised: see experiments.md.
  femtogpt train --steps 400 --val-fraction 0.05 --seed "$seed" 2>&1 | tail -1
  femtogpt eval --task simple
  echo "== addition, seed $seed"
  python3 "$repo/dummy_data/addition_dummy.py" --seed "$seed" > dataset.txt
  femtogpt init --embedding-degree=64 --seed "$seed" --force
  femtogpt train --steps 700 --seed "$seed" 2>&1 | tail -1
  femtogpt eval --task addition
  femtogpt generate --prompt "13 + 29 = " --count 4 --temperature 0 2> /dev/null
  echo "== ten actions, seed $seed"
  python3 "$repo/dummy_data/simple_dummy2.py" --seed "$seed" > dataset.txt
  femtogpt init --embedding-degree=64 --seed "$seed" --force
  femtogpt train --dropout=0.1 --steps 600 --seed "$seed" 2>&1 | tail -1
  femtogpt eval --task actions | tail -1
  echo "== Shakespeare, seed $seed"
  head -c 1003851 "$repo/texts/shakespeare.txt" > train.txt
  tail -c +1003852 "$repo/texts/shakespeare.txt" > test.txt
  femtogpt init --embedding-degree=128 --num-layers=6 --num-heads=8 --seed "$seed" --force
  femtogpt train --dataset train.txt --steps 400 --val-fraction 0 --seed "$seed" 2>&1 | tail -1
  femtogpt eval --dataset test.txt
done
