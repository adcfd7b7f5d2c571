"""A long run: does memory, the number of open files or the model file grow?

    python benchmarks/soak.py                         20,000 steps of A, 2,880 saves
    python benchmarks/soak.py --steps 2000 --json

A is V 256, T 64, C 64, L 4, NH 4, batch 32 (--batch-size 4 is over sooner, and what may grow
grows by the step). 2,880 saves are what 24 hours of one every 30
seconds make. Memory is the process's own resident set (Linux), sampled every 100 steps after
the first tenth of the run; its slope is fitted by least squares. The history itself is 8
bytes a loss in the list and 32 with the number it points to.
"""

import argparse
import gc
import json
import os
import tempfile
from pathlib import Path

import numpy as np

SAVES_A_DAY = 2880


def resident_kb():
    """Kilobytes of this process that are not shared with files, or None."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    from femtogpt import checkpoint
    from femtogpt.config import GPTConfig
    from femtogpt.model import initial_parameters
    from femtogpt.run import Run
    from femtogpt.tokenizer import ByteTokenizer
    from femtogpt.trainer import Trainer

    config = GPTConfig(256, 64, 64, 4, 4)
    model = checkpoint.Model(config, ByteTokenizer(), initial_parameters(config, 1))
    tokens = np.random.default_rng(1).integers(97, 123, 200_000).astype(np.uint8)
    run = Run(0, options.steps, "soak", batch_size=options.batch_size, val_fraction=0.1,
              val_begin=180_000, val_end=200_000)
    every = max(1, options.steps // SAVES_A_DAY)
    at, memory, files, sizes = [], [], [], {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        trainer = Trainer(model, run, tokens[:180_000], tokens[180_000:], path, save_every=every)
        for record in trainer:
            if record.step % 100 == 0 and record.step >= options.steps // 10:
                gc.collect()
                at.append(record.step)
                memory.append(resident_kb())
                files.append(len(os.listdir("/proc/self/fd")) if memory[-1] else None)
            if record.step % every == 0:
                sizes[record.step] = path.stat().st_size
        trainer.save()
        beside = sorted(file.name for file in Path(folder).iterdir())
    steps = np.array(list(sizes))
    growth = np.diff(list(sizes.values())) / np.diff(steps)
    result = {
        "steps": options.steps, "batch_size": options.batch_size, "saves": len(sizes),
        "memory_kb_first_last": [memory[0], memory[-1]],
        "memory_slope_bytes_a_step": memory[0] and round(1024 * np.polyfit(at, memory, 1)[0], 1),
        "open_files_first_last_most": [files[0], files[-1], max(files)] if memory[0] else None,
        "file_bytes_first_last": [sizes[steps[0]], sizes[steps[-1]]],
        "file_bytes_a_step": round(float(np.mean(growth)), 2),
        # The median: a run's first looks (looks.py) come on top, some KB in all.
        "history_bytes_of_100000_steps": round(100_000 * float(np.median(growth))),
        "files": beside,
    }
    if options.json:
        print(json.dumps(result, default=int))
    else:
        for name, value in result.items():
            print(f"{name.replace('_', ' ')}: {value}")


if __name__ == "__main__":
    main()
