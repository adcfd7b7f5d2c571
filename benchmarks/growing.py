"""Is a grown model better than one begun again, or left as it was? At equal cost, seed by seed.

    python benchmarks/growing.py --texts texts --texts rust [--other german.txt] [--seeds 3]

insert-layer: ten actions (C80 L4, and two layers more after 150 steps), against going on without
them for as many milliseconds of the processors. init-with: a byte model of Shakespeare turned BPE
(1054 tokens) or moved to Rust (to --other: another language) against a fresh model of the same
shape, tokenizer, text and number of steps. The child has its parent's steps too; that is the
point, but no saving where there is no parent.
"""

import argparse
import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import femtogpt
from femtogpt.experiment.entries import find
from femtogpt.experiment.sources import make_text
from femtogpt.scoring import evaluate, score
from femtogpt.surgery.child import init_with
from femtogpt.surgery.depth import insert_layers

BEFORE, AFTER = 150, 150  # steps; ten actions take 400 to 600 to be learned
PARENT, CHILD = 300, 100
CRATES = find([4])[0].data


def trained(model, path, steps, seed, seconds=None):
    """Trains in place; the processors' seconds that took, of all threads."""
    before = time.process_time()
    for _ in femtogpt.train(model, path, steps=steps, seed=seed, keep_best=False, val_fraction=0.1,
                            seconds=seconds):
        pass
    return time.process_time() - before


def held_back(model, path):
    """Bits a byte on the last 9% of a text, which was not trained on: 10% were held back."""
    text = Path(path).read_bytes()
    tokens = model.tokenizer.encode(text[-(9 * len(text) // 100):])
    return evaluate(model.state, tokens)["bits_per_byte"]


def inserted(seed, folder):
    """{name: (held-back bits a byte, worst action, seconds)} of ten actions, twice."""
    text, _ = make_text("simple_dummy2", seed)
    path = Path(folder) / "actions.txt"
    path.write_bytes(text)

    def told(model, seconds):
        shares = score(model.state, "actions", text.decode(), seed)
        return held_back(model, path), shares["worst"].share, seconds

    before = femtogpt.new(seed=seed)
    spent = trained(before, path, BEFORE, seed)
    found = {"before": told(before, spent)}
    grown = femtogpt.GPT(insert_layers(before.state, [2, 4], seed))
    grown.state.run = None
    cost = trained(grown, path, AFTER, seed + 1)
    found["two layers more"] = told(grown, spent + cost)
    # As it is, for as long: so many steps that it takes the processors what the larger one took.
    steps = round(AFTER * cost / (spent / BEFORE * AFTER))
    cost = trained(before, path, steps, seed + 1)
    found[f"as it was, {steps} steps"] = told(before, spent + cost)
    fresh = femtogpt.new(seed=seed, num_layers=6)
    steps = round(BEFORE * 2 / 3) + AFTER
    cost = trained(fresh, path, steps, seed)
    found[f"six layers from the start, {steps} steps"] = told(fresh, cost)
    return found


def moved(seed, folder, parent, path, tokenizer=None):
    """{name: held-back bits a byte} of a child of parent on a text and of a fresh model."""
    child = femtogpt.GPT(init_with(parent.state, tokenizer, seed=seed)[0])
    fresh = femtogpt.new(tokenizer, seed=seed, embedding_degree=128)
    found = {"child at its start": held_back(child, path)}
    for name, model in (("child", child), ("fresh", fresh)):
        trained(model, path, CHILD, seed + 1)
        found[f"{name} after {CHILD} steps"] = held_back(model, path)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--texts", action="append")
    parser.add_argument("--other", help="A text in another language.")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    folders = options.texts or ["texts"]
    results = []
    for seed in range(1, options.seeds + 1):
        with TemporaryDirectory() as folder:
            found = {"insert-layer, ten actions": inserted(seed, folder)}
            shakespeare = Path(folder) / "shakespeare.txt"
            shakespeare.write_bytes(make_text("shakespeare", seed, folders)[0])
            parent = femtogpt.new(seed=seed, embedding_degree=128)
            trained(parent, shakespeare, PARENT, seed)
            # Its tokenizer must not have seen what is held back.
            kept = shakespeare.read_bytes()
            bpe = femtogpt.tokenizer.train_bpe([kept[: -len(kept) // 10]], 1054)
            found["bytes to BPE, Shakespeare"] = moved(seed, folder, parent, shakespeare, bpe)
            rust = Path(folder) / "rust.txt"
            rust.write_bytes(make_text(CRATES, seed, folders)[0])
            found["Shakespeare to Rust, bytes"] = moved(seed, folder, parent, rust)
            if options.other:
                found["Shakespeare to another language, bytes"] = moved(seed, folder, parent,
                                                                        options.other)
        results.append(found)
        if not options.json:
            for what, rows in found.items():
                for name, value in rows.items():
                    told = (f"{value[0]:.3f} bits a byte, worst action {value[1]:.1%}, "
                            f"{value[2]:.0f} s of the processors" if isinstance(value, tuple)
                            else f"{value:.3f} bits a byte")
                    print(f"seed {seed}, {what}: {name}: {told}", flush=True)
    if options.json:
        print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
