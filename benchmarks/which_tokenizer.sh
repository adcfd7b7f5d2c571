#!/usr/bin/env bash
# Do fewer tokens make a better model? Each way to make 566 tokens, the same shape and number of
# steps: bytes a token of the text they were learnt from, and on the held-out last tenth of
# Shakespeare bytes a token and the model's bits a byte. About a minute each on two cores.
#   bash benchmarks/which_tokenizer.sh [steps [seed]]
set -euo pipefail
text=$(cd "$(dirname "$0")/.." && pwd)/texts/shakespeare.txt
steps=${1:-500} seed=${2:-1}
cd "$(mktemp -d)"
lines=$(wc -l < "$text")
head -n $((lines * 9 / 10)) "$text" > train.txt
tail -n +$((lines * 9 / 10 + 1)) "$text" > held.txt
number() { python3 -c 'import json, sys; print(format(json.load(sys.stdin)[sys.argv[1]], ".3f"))' "$1"; }
echo "| | bytes a token, learnt from | held out | bits a byte, held out |"
echo "| --- | ---: | ---: | ---: |"
for way in "bpe gpt2" "bpe gpt4" "bpe super" "bpe none" "pathpiece super" "pathpiece none"; do
  read -r kind split <<< "$way"
  learnt=$(femtogpt train-bpe --kind "$kind" --split "$split" --base seen --vocab-size 566 \
    --dataset train.txt --json 2> train-bpe.err | number bytes_per_token)
  femtogpt init --tokenizer bpe --embedding-degree 128 --force --seed "$seed" > init.out
  femtogpt train --dataset train.txt --steps "$steps" --seed "$seed" --sample-every 0 \
    --val-fraction 0 2> train.err
  femtogpt eval --dataset held.txt --json > eval.json
  held=$(python3 -c 'import sys; print(format(int(sys.argv[1]) / float(sys.argv[2]), ".3f"))' \
    "$(wc -c < held.txt)" "$(number tokens < eval.json)")
  echo "| $way | $learnt | $held | $(number bits_per_byte < eval.json) |"
done
