"""What a small model looks at when it adds: trains one, draws its loss and its attention.

    python examples/attention.py

The cells (# %%) run one by one in editors that know them (VS Code, Spyder, Jupyter with jupytext).
Takes about half a minute; writes additions.txt, loss.svg and attention.svg into the current folder.
"""

# %% Additions, one a line
import os
import random
import sys
from pathlib import Path

import femtogpt
from dummy_data import addition_dummy
from femtogpt.drawing import heat_maps, line_chart

STEPS = int(os.environ.get("STEPS", 700))
rng = random.Random(1)
dataset = "".join(addition_dummy.generate(rng))
Path("additions.txt").write_text(dataset)

# %% A model, trained: Ctrl-C (the stop button) ends it after the step, and it goes on from there
model = femtogpt.new(embedding_degree=64, num_layers=3)
validation = []
for record in femtogpt.train(model, "additions.txt", steps=STEPS, dropout=0.1):
    if record.val_loss is not None:
        validation.append((record.step, record.val_loss))
        print(f"step {record.step}: loss {record.loss:.3f}, held back {record.val_loss:.3f}",
              file=sys.stderr)

# %% The loss
training = list(enumerate(model.losses, 1))
Path("loss.svg").write_text(line_chart([("training", training), ("held back", validation)]))

# %% Can it add? Sums that were not in the text
for a, b in addition_dummy.held_out_pairs(dataset, rng, 5):
    answer = model.generate(f"{a} + {b} = ", temperature=0, stop=";")
    print(f"{a} + {b} = {answer}{'' if answer == str(a + b) else f' (no: {a + b})'}")

# %% How sure was it of each digit?
for piece, p in model.probabilities("\n13 + 29 = 42;"):
    print(f"{piece.decode()!r:5} {p:7.2%}")

# %% Where each head looks: a row for each character, what it takes from those before it
text = "\n13 + 29 = 42;"
weights = model.attention(text)  # (layers, heads, n, n)
maps = [(f"layer {l}, head {h}", weights[l, h])
        for l in range(weights.shape[0]) for h in range(weights.shape[1])]
names = ["\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}" if c == "\n" else c for c in text]
Path("attention.svg").write_text(heat_maps(maps, names, weights.shape[1]), encoding="utf-8")
