"""How well a model of a text is after the same time: quickstart's, the presets', the defaults'.

    python benchmarks/quickstart.py TEXT... --for 5m

The last tenth of each text is put aside and never trained on; what is shown is bits a byte
there, by the model that each way calls its best. `defaults` is `init` and `train` with no option
but --for and a part to hold back, which the others have too. They run one after the other, each
with the machine to itself.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import contest

from femtogpt.quickstart import PRESETS
from femtogpt.trainer import best_path

WAYS = ("quickstart", *PRESETS, "defaults")


def femtogpt(*arguments):
    return subprocess.run([*contest.FEMTOGPT, *map(str, arguments)], check=True,
                          stdout=subprocess.PIPE, text=True).stdout


def begin(way, text, model, seconds, seed):
    """Has a model made of a text."""
    if way == "defaults":
        femtogpt("init", f"--model={model}", seed)
        femtogpt("train", f"--model={model}", f"--dataset={text}", f"--for={seconds}s",
                 "--val-fraction=0.1", seed)
    else:
        preset = [] if way == "quickstart" else [f"--preset={way}"]
        femtogpt("quickstart", text, f"--model={model}", f"--for={seconds}s", seed, *preset)


def told(model, text):
    """(parameters, steps, bits a byte of text) of the best of a model."""
    best = best_path(model)
    model = best if best.exists() else model
    info = json.loads(femtogpt("info", f"--model={model}", "--json"))
    scores = json.loads(femtogpt("eval", f"--model={model}", f"--dataset={text}", "--json"))
    return info["parameters"], info["step"], scores["bits_per_byte"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("texts", nargs="+", type=Path)
    parser.add_argument("--for", dest="minutes", default="5m", help="of each, e.g. 5m")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    seconds = round(60 * float(options.minutes.removesuffix("m")))
    print(f"{contest.machine()}, {seconds} s each, seed {options.seed}", "", sep="\n")
    contest.print_heading("", "way", "parameters", "steps", "bits a byte")
    for text in options.texts:
        whole = text.read_bytes()
        for way in options.ways:
            with tempfile.TemporaryDirectory() as folder:
                seen, unseen = Path(folder, "seen.txt"), Path(folder, "unseen.txt")
                seen.write_bytes(whole[: len(whole) * 9 // 10])
                unseen.write_bytes(whole[len(whole) * 9 // 10 :])
                model = Path(folder, "model.safetensors")
                begin(way, seen, model, seconds, f"--seed={options.seed}")
                parameters, steps, bits = told(model, unseen)
            print(contest.row(text.stem, way, f"{parameters:,}", f"{steps:,}", f"{bits:.3f}"),
                  flush=True)


if __name__ == "__main__":
    main()
