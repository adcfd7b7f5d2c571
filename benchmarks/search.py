"""Is a search worth its time? Searches beside one seed alone, on text that nobody was chosen by.

    python benchmarks/search.py                       three seeds, some nine minutes
    python benchmarks/search.py --seeds 1 --steps 2 --candidates 2

A byte model (T 64, C 64, L 4, NH 4, batch 32) of Shakespeare, seed by seed:

    seeds    femtogpt search, candidates that differ in their seed alone
    rates    femtogpt search --vary learning-rate
    as long  seed alone for as many steps as all candidates of `seeds` took together
    as far   seed alone for as many steps as the best of them took

Whether a search was worth its time, `as long` tells; what choosing gave, `as far`. Losses are
nats a byte; differences have the interval (95%) that the text leaves; the last lines have
the means over the seeds. Seconds are of all training. In --folder all goes on after a stop.
"""

import argparse
import json
import math
from pathlib import Path

from femtogpt import checkpoint
from femtogpt.config import GPTConfig
from femtogpt.data import find_texts
from femtogpt.durable import lock
from femtogpt.scoring import difference
from femtogpt.search.halving import Search
from femtogpt.search.outcome import conclude
from femtogpt.tokenizer import ByteTokenizer

SHAPE = GPTConfig(256, num_tokens=64, embedding_degree=64, num_layers=4, num_heads=4)
APART = 1000  # one seed's candidates are not another's
COLUMNS = ("seed", "what", "loss", "steps", "seconds", "less as long", "less as far", "rate",
           "its place after rounds", "deviation in them")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--candidates", type=int, default=8)
    parser.add_argument("--steps", type=int, default=80, help="of round 1")
    parser.add_argument("--dataset", default="texts/shakespeare.txt")
    parser.add_argument("--folder", default="search-benchmark")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    texts, differences = find_texts([options.dataset]), {}
    if not options.json:
        print("| " + " | ".join(COLUMNS) + " |\n|" + " --- |" * len(COLUMNS))
    for number in range(options.seeds):
        seed = 1 + APART * number

        def searched(name, seed=seed, **values):
            return through(texts, Path(options.folder) / f"{name}-{seed}", seed=seed,
                           threads=options.threads, **values)

        several = {"candidates": options.candidates, "steps": options.steps}
        seeds, told = searched("seeds", **several)
        found = {"seeds": (seeds, told), "rates": searched("rates", vary=("learning-rate",),
                                                           **several)}
        found["as long"] = searched("as-long", candidates=1, steps=seeds.rival_steps())
        found["as far"] = searched("as-far", candidates=1, rounds=seeds.rounds,
                                   steps=options.steps)
        for name, (search, result) in found.items():
            line = {"seed": seed, "what": name, "loss": result["loss"], "steps": result["steps"],
                    "seconds": result["seconds"], "best": search.winner.to_json(),
                    "rounds": result["rounds"]}
            for other in ("as long", "as far"):
                if name in ("seeds", "rates"):
                    line[other] = apart(search, found[other][0])
                    differences.setdefault((name, other), []).append(line[other][0])
            tell(line, options.json)
    for (name, other), values in differences.items():
        mean = sum(values) / len(values)
        error = math.sqrt(sum((x - mean) ** 2 for x in values) / max(1, len(values) - 1)
                          / len(values))
        if options.json:
            print(json.dumps({"what": name, "less": other, "mean": mean, "error": error,
                              "differences": values}))
        else:
            print(f"{name} - {other}: {mean:+.4f}, standard error {error:.4f} "
                  f"({', '.join(f'{x:+.4f}' for x in values)})")


def through(texts, folder, **options):
    """(the Search, what it came to), from wherever it is."""
    folder.mkdir(parents=True, exist_ok=True)
    with lock(folder / "search.json", "worked on", "--folder"):
        search = Search(texts, ByteTokenizer(), SHAPE, folder, **options)
        for _ in search.train():
            pass
        return search, conclude(search, folder / "best.safetensors")


def apart(search, other):
    """The loss of a search's best less that of another's: mean, low, high."""
    models = [checkpoint.load(one.path_of(one.winner)) for one in (search, other)]
    return list(difference(*models, search.telling, search.threads))


def tell(line, as_json):
    if as_json:
        print(json.dumps(line), flush=True)
        return
    cells = [line["seed"], line["what"], f"{line['loss']:.4f}", line["steps"],
             f"{line['seconds']:.0f}"]
    for other in ("as long", "as far"):
        mean, low, high = line.get(other, (0, 0, 0))
        cells.append(f"{mean:+.4f} ({low:+.4f} to {high:+.4f})" if other in line else "")
    several = [told for told in line["rounds"] if told["candidates"] > 1]
    cells += [f"{line['best']['learning_rate']:g}", ", ".join(str(told["winner"])
                                                             for told in several),
              ", ".join(f"{told['deviation']:.4f}" for told in several)]
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


if __name__ == "__main__":
    main()
