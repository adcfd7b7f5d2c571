"""Is a grown model better than one begun again, or left as it was? At equal cost, seed by seed.

    python benchmarks/growing.py --texts texts --texts rust --other german.txt    ten minutes
    python benchmarks/growing.py insert-layer                                     four

insert-layer: ten actions (C80, L 2 and 4, and two layers more after 150 steps), against going on
without them, and against all layers from the start, by as many steps as take the same arithmetic.
init-with: a byte model of Shakespeare turned BPE (1054 tokens), or moved to Rust (to --other:
another language), against a fresh model of the same shape, tokenizer, text and number of steps.
The child has its parent's steps too; that is the point, but no saving where there is no parent.
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
from femtogpt.search.candidates import arithmetic
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


def inserted(seed, folder, layers):
    """{name: (held-back bits a byte, worst action, processors' seconds)} of ten actions: two
    layers more in the middle and at the end of so many."""
    text, _ = make_text("simple_dummy2", seed)
    path = Path(folder) / "actions.txt"
    path.write_bytes(text)

    def told(model, seconds):
        shares = score(model.state, "actions", text.decode(), seed)
        return held_back(model, path), shares["worst"].share, seconds

    model = femtogpt.new(seed=seed, num_layers=layers)
    trained(femtogpt.new(seed=seed), path, 1, seed)  # what compiles does not count
    spent = trained(model, path, BEFORE, seed)
    found = {f"{layers} layers, {BEFORE} steps": told(model, spent)}
    grown = femtogpt.GPT(insert_layers(model.state, [layers // 2, layers], seed))
    fresh = femtogpt.new(seed=seed, num_layers=layers + 2)
    larger = arithmetic(grown.config) / arithmetic(model.config)
    for name, one, steps, before in (
        ("with two layers more, {} further", grown, AFTER, spent),
        ("as they were, {} further", model, round(AFTER * larger), spent),
        (f"{layers + 2} layers from the start, {{}}", fresh, round(BEFORE / larger) + AFTER, 0.0),
    ):
        cost = trained(one, path, steps, seed + 1)
        found[name.format(steps)] = told(one, before + cost)
    return found


def moved(seed, parent, path, tokenizer=None):
    """{name: held-back bits a byte} of a child of parent on a text and of a fresh model."""
    child = femtogpt.GPT(init_with(parent.state, tokenizer, seed=seed)[0])
    fresh = femtogpt.new(tokenizer, seed=seed, embedding_degree=128)
    found = {"child at its start": held_back(child, path)}
    for name, model in (("child", child), ("fresh", fresh)):
        trained(model, path, CHILD, seed + 1)
        found[f"{name} after {CHILD} steps"] = held_back(model, path)
    return found


def children(seed, folder, folders, other):
    """{what: what moved tells} of one parent's children."""
    path, rust = Path(folder) / "shakespeare.txt", Path(folder) / "rust.txt"
    path.write_bytes(make_text("shakespeare", seed, folders)[0])
    rust.write_bytes(make_text(CRATES, seed, folders)[0])
    parent = femtogpt.new(seed=seed, embedding_degree=128)
    trained(parent, path, PARENT, seed)
    text = path.read_bytes()  # the tokenizer must not see what is held back
    bpe = femtogpt.tokenizer.train_bpe([text[: -len(text) // 10]], 1054)
    found = {"bytes to BPE, Shakespeare": moved(seed, parent, path, bpe),
             "Shakespeare to Rust, bytes": moved(seed, parent, rust)}
    if other:
        found["Shakespeare to another language, bytes"] = moved(seed, parent, other)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", default=["insert-layer", "init-with"])
    parser.add_argument("--texts", action="append")
    parser.add_argument("--other", help="A text in another language.")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    folders = options.texts or ["texts"]
    results = []
    for seed in range(1, options.seeds + 1):
        with TemporaryDirectory() as folder:
            found = {}
            if "insert-layer" in options.parts:
                for layers in (2, 4):
                    found[f"insert-layer, {layers} layers"] = inserted(seed, folder, layers)
            if "init-with" in options.parts:
                found |= children(seed, folder, folders, options.other)
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
