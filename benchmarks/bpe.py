"""Our BPE beside tokenizers (Hugging Face), tiktoken and rustbpe: learning, encoding, decoding.

    pip install tokenizers tiktoken rustbpe
    python benchmarks/bpe.py
    python benchmarks/bpe.py --sizes 1,10,100 --text big.txt

Each on one thread, but ours cuts text on a second while it learns; and our encoding on all
processors too; the GPT-2 split, 32768 tokens.
The contestants take turns, `--repeats` times, and the medians of the turns' times are
told. Then our encoding of texts that are hard for one program or another. A peer that is
not installed is left out, and said so. Merges, ids and bytes are compared as well.
"""

import json
import os
import random
import statistics
import sys
import sysconfig
import time
from pathlib import Path

os.environ["RAYON_NUM_THREADS"] = "1"  # before the peers are imported
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import click
import numpy as np

from femtogpt.tokenizer import load_tokenizer, save_tokenizer, train_bpe
from femtogpt.tokenizer.split import PATTERNS
from femtogpt.tokenizer.stream import between_chunks, encode_blocks

VOCAB = 32768
SPLIT = "gpt2"
BLOCK = 1 << 18  # bytes; twice as many, `encode` itself would share among threads
# The same as GPT-2's own pattern, which is how tiktoken spells it so that it is quick.
TIKTOKEN_PATTERN = (r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)"
                    r"|\s")


def installed(name):
    try:
        return __import__(name)
    except ImportError:
        print(f"{name} is not installed: left out (pip install {name})", file=sys.stderr)


def seconds(contestants, repeats):
    """{name: median seconds} and {name: result} of {name: function}, in turns."""
    times, results = {name: [] for name in contestants}, {}
    for _ in range(repeats):
        for name, function in contestants.items():
            results[name] = None
            start = time.perf_counter()
            results[name] = function()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(some) for name, some in times.items()}, results


def learning(data, text, peers):
    """name -> function that learns VOCAB tokens."""

    def huggingface():
        lib = peers["tokenizers"]
        tokenizer = lib.Tokenizer(lib.models.BPE())
        tokenizer.pre_tokenizer = lib.pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.train_from_iterator([text], lib.trainers.BpeTrainer(
            vocab_size=VOCAB, min_frequency=2, show_progress=False,
            initial_alphabet=lib.pre_tokenizers.ByteLevel.alphabet()))
        return tokenizer

    def rustbpe():
        tokenizer = peers["rustbpe"].Tokenizer()
        tokenizer.train_from_iterator([text], VOCAB, pattern=PATTERNS[SPLIT])
        return tokenizer

    contestants = {"femtogpt": lambda: train_bpe([data], VOCAB, split=SPLIT)}
    if peers["tokenizers"]:
        contestants["tokenizers"] = huggingface
    if peers["rustbpe"]:
        contestants["rustbpe"] = rustbpe
    return contestants


def merges_agree(results):
    """How many merges, from the first on, ours and each peer's have in common, of how many."""
    ours = results["femtogpt"]
    pieces = [ours.piece(id) for id in range(256, ours.vocab_size)]
    agree = {}
    if "rustbpe" in results:
        ranks = results["rustbpe"].get_mergeable_ranks()
        theirs = [bytes(piece) for piece, id in sorted(ranks, key=lambda rank: rank[1]) if id > 255]
        agree["rustbpe"] = common(pieces, theirs)
    if "tokenizers" in results:
        path = Path("their-tokenizer.json")
        results["tokenizers"].save(str(path))
        theirs = load_tokenizer(path)
        path.unlink()
        theirs = [theirs.piece(id) for id in range(256, theirs.vocab_size)]
        agree["tokenizers"] = common(pieces, theirs)
    return agree


def common(ours, theirs):
    first = next((i for i, pair in enumerate(zip(ours, theirs, strict=False))
                  if pair[0] != pair[1]), min(len(ours), len(theirs)))
    return {"first": first, "of": len(ours), "anywhere": len({*ours} & {*theirs})}


def encoding(tokenizer, data, text, peers):
    """name -> function that encodes; what they give must be the same."""
    blocks = [data[i : i + BLOCK] for i in range(0, len(data), BLOCK)]

    def ours(threads):
        # Ours remembers what it has met, so it begins anew each time.
        encode = fresh(tokenizer).encode
        return np.concatenate(list(encode_blocks(blocks, between_chunks(SPLIT), encode, threads)))

    contestants = {"femtogpt": lambda: ours(1), "all threads": lambda: ours(os.cpu_count())}
    if peers["tiktoken"]:
        theirs = peers["tiktoken"].Encoding(
            "ours", pat_str=TIKTOKEN_PATTERN, special_tokens={},
            mergeable_ranks={tokenizer.piece(id): id for id in range(tokenizer.vocab_size)})
        contestants["tiktoken"] = lambda: theirs.encode_ordinary(text)
    if peers["tokenizers"]:
        path = Path("our-tokenizer.json")
        save_tokenizer(tokenizer, path)
        hf = peers["tokenizers"].Tokenizer.from_file(str(path))
        path.unlink()
        contestants["tokenizers"] = lambda: hf.encode(text).ids
    ids = contestants["femtogpt"]()
    decoders = {"femtogpt": lambda: tokenizer.decode(ids)}
    listed = ids.tolist()
    if peers["tiktoken"]:
        decoders["tiktoken"] = lambda: theirs.decode_bytes(listed)
    if peers["tokenizers"]:
        decoders["tokenizers"] = lambda: hf.decode(listed, skip_special_tokens=False)
    return contestants, decoders


def hard_texts(size):
    """What is hard for one program or another: name -> bytes, some `size` of each."""
    rng = random.Random(1)
    emoji = "".join(rng.choices("🙂👩‍👩‍👧‍👦🏳️‍🌈👍🏽", k=size // 4))
    marks = "".join(rng.choices("e\u0301\u0302\u0323\u0331", k=size // 2))
    return {
        "one letter": b"a" * size,
        "a word without spaces": bytes(rng.choices(b"etaoinshrdlu", k=size)),
        "random bytes": rng.randbytes(size),
        "spaces": b" " * size,
        "newlines": b"\n" * size,
        "digits": bytes(rng.choices(b"0123456789", k=size)),
        "emoji": emoji.encode()[:size],
        "combining marks": marks.encode()[:size],
    }


def sample(path, size):
    """The file's first `size` bytes, cut at a line; None where it has fewer."""
    with open(path, "rb") as file:
        data = file.read(size)
    if len(data) < 0.95 * size:
        return None
    return data[: data.rfind(b"\n") + 1].decode("utf-8", "ignore").encode()


def python_sources(size):
    """Python's own library, one file after the other: some `size` bytes of it."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py"))
    files = [file for file in files if "site-packages" not in file.parts]
    data = b""
    for file in files:
        data += file.read_bytes()
        if len(data) >= size:
            return data[:size].decode("utf-8", "ignore").encode()
    return None


def line(cells):
    print("| " + " | ".join(f"{cell:>14}" for cell in cells) + " |", flush=True)


@click.command()
@click.option("--text", "files", multiple=True, type=click.Path(exists=True),
              help="A text file more; may be given several times.")
@click.option("--sizes", default="1,10", show_default=True, help="Megabytes of each text.")
@click.option("--repeats", default=3, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(files, sizes, repeats, as_json):
    peers = {name: installed(name) for name in ("tokenizers", "tiktoken", "rustbpe")}
    shakespeare = Path(__file__).parent.parent / "texts" / "shakespeare.txt"
    texts = {"Python": python_sources, "Shakespeare": lambda size: sample(shakespeare, size)}
    for file in files:
        texts[Path(file).stem] = lambda size, file=file: sample(file, size)
    train_bpe([b"so that all is compiled"], 300).encode(b"a" * 100)
    rows, hard = [], []
    for megabytes in map(float, sizes.split(",")):
        for name, text_of in texts.items():
            data = text_of(int(1e6 * megabytes))
            if data is None:
                print(f"{name} has not {megabytes:g} MB: left out", file=sys.stderr)
                continue
            rows.append(measure(name, data, peers, repeats, not as_json))
    tokenizer, data = rows[-1].pop("tokenizer"), rows[-1].pop("data")
    for row in rows:
        row.pop("tokenizer", None), row.pop("data", None)
    ordinary = data[:1_000_000]
    encoder = {"": ordinary, **hard_texts(1_000_000)}
    times, _ = seconds({name: lambda t=text: fresh(tokenizer).encode(t)
                        for name, text in encoder.items()}, repeats)
    for name in hard_texts(1):
        hard.append({"text": name, "times_ordinary": times[name] / times[""]})
    if as_json:
        print(json.dumps({"speeds": rows, "hard": hard}))
        return
    print("\n1 MB of it takes, in times of ordinary text, each encoded for the first time:\n")
    for row in hard:
        print(f"| {row['text']:<24} | {row['times_ordinary']:5.1f} |")


def fresh(tokenizer):
    """The same tokenizer, which has seen no text yet."""
    return type(tokenizer)(tokenizer.data)


def measure(name, data, peers, repeats, show):
    text = data.decode()
    learnt, results = seconds(learning(data, text, peers), repeats)
    tokenizer = results["femtogpt"]
    encoders, decoders = encoding(tokenizer, data, text, peers)
    encoded, ids = seconds(encoders, repeats)
    seconds(decoders, 1)  # whoever comes first pays for the memory that encoding left
    decoded, texts = seconds(decoders, repeats)
    same = all(np.array_equal(ids["femtogpt"], other) for other in ids.values())
    same &= texts["femtogpt"] == data
    row = {"text": name, "megabytes": len(data) / 1e6, "agree": merges_agree(results),
           "same_ids": bool(same), "tokenizer": tokenizer, "data": data}
    for what, times in (("learn", learnt), ("encode", encoded), ("decode", decoded)):
        row[what] = {peer: {"seconds": t, "ratio": t / times["femtogpt"]}
                     for peer, t in times.items()}
    if show:
        print(f"\n{name}, {len(data) / 1e6:.1f} MB; ids and bytes are "
              f"{'the same' if same else 'NOT THE SAME'}; merges in common: "
              + ", ".join(f"{peer} first {a['first']}, in all {a['anywhere']} of {a['of']}"
                          for peer, a in row["agree"].items()) + "\n")
        line(["", "MB/s", "seconds", "ours is faster"])
        line(["---:"] * 4)
        for what in ("learn", "encode", "decode"):
            for peer, value in row[what].items():
                line([f"{what}: {peer}", f"{len(data) / 1e6 / value['seconds']:.1f}",
                      f"{value['seconds']:.3f}",
                      "" if peer == "femtogpt" else f"{value['ratio']:.2f}x"])
    return row


if __name__ == "__main__":
    main()
