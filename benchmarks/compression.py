"""Bytes a token: each way of ours to make tokens, beside femtoGPT's own.

    python benchmarks/compression.py --text rust.txt

On a text's own tokenizer, learnt from all of it. femtoGPT's scheme, as the source of its
fork has it: an epoch matches the longest pieces greedily and learns ten merges, without
pre-split; every fourth one drops the rarest of all pieces, single characters too, which
are lost then as <unk>. It keeps case or, as an option, lower-cases (also lost). Ours lose
nothing. With --held-out the tokenizer is learnt from the first nine tenths of the text and
measured on the last; a byte that only the last tenth has makes the base all 256.
"""

import json
from pathlib import Path

import click
import numba
import numpy as np
from bpe import python_sources

from femtogpt.tokenizer import BASES, TRAINED_SPLITS, train_bpe, train_pathpiece
from femtogpt.tokenizer.learning import learn_merges
from femtogpt.tokenizer.tokens import END, lay_out_tokens

EPOCHS = {566: 60, 1054: 200}  # of femtoGPT's; for others what makes so many tokens
UNKNOWN = -1


def trie(pieces):
    """(children (nodes, 256), id of the piece that ends at a node or UNKNOWN (nodes,))."""
    rows, ids = [{}], [UNKNOWN]
    for id, piece in enumerate(pieces):
        node = 0
        for byte in piece:
            if byte not in rows[node]:
                rows[node][byte] = len(rows)
                rows.append({})
                ids.append(UNKNOWN)
            node = rows[node][byte]
        ids[node] = id
    children = np.zeros((len(rows), 256), np.int32)
    for node, row in enumerate(rows):
        children[node, list(row)] = list(row.values())
    return children, np.array(ids, np.int32)


@numba.njit(cache=True)
def longest_matches(data, children, ids):
    """The longest piece at each place, from the left; UNKNOWN for a byte that none spells."""
    out, count, i = np.empty(len(data), np.int32), 0, 0
    while i < len(data):
        node, found, end, j = 0, UNKNOWN, i + 1, i
        while j < len(data):
            node = children[node, data[j]]
            if node == 0:
                break
            j += 1
            if ids[node] >= 0:
                found, end = ids[node], j
        out[count] = found
        count, i = count + 1, end
    return out[:count]


def femtogpts_own(text, vocab_size, lowered):
    """(bytes a token, how many <unk> there are) of femtoGPT's scheme, base: the bytes there are."""
    size = len(text)
    if lowered:
        text = text.decode("utf-8", "ignore").lower().encode()
    data = np.frombuffer(text, np.uint8)
    pieces = [bytes([byte]) for byte in sorted(set(text))]
    for epoch in range(EPOCHS.get(vocab_size, vocab_size // 8)):
        lengths = np.array([len(piece) for piece in pieces])
        ids = longest_matches(data, *trie(pieces))
        # What it does not know cuts the text.
        pad = np.append(lengths, 1)
        token = np.full(int(pad[ids].sum()) + 2, END, np.int32)
        lay_out_tokens(ids, pad, token[1:-1])
        for left, right in learn_merges(token, np.ones(1, np.int32), lengths, 10).tolist():
            pieces.append(pieces[left] + pieces[right])
        pieces = list(dict.fromkeys(pieces))
        if epoch % 4 == 0:
            pieces = commonest(data, pieces, vocab_size - 31)
    pieces = commonest(data, pieces, vocab_size - 1)
    ids = longest_matches(data, *trie(pieces))
    return size / len(ids), int((ids == UNKNOWN).sum())


def commonest(data, pieces, room):
    """Those of the pieces that longest_matches takes most often, in their order."""
    ids = longest_matches(data, *trie(pieces))
    counts = np.bincount(ids[ids >= 0], minlength=len(pieces))
    return [pieces[id] for id in np.sort(np.argsort(-counts, kind="stable")[:room])]


def ours(text, vocab_size, held_out):
    """{(kind, split, base): bytes a token}."""
    learnt, measured = text, text
    if held_out:
        cut = text.rfind(b"\n", 0, len(text) * 9 // 10) + 1
        learnt, measured = text[:cut], text[cut:]
    found = {}
    for base in BASES:
        if base == "seen" and set(measured) - set(learnt):
            continue
        for split in TRAINED_SPLITS:
            found["bpe", split, base] = train_bpe([learnt], vocab_size, split=split, base=base)
        for split in ("none", "super"):
            found["pathpiece", split, base] = train_pathpiece([learnt], vocab_size, split=split,
                                                              base=base)
    return {key: len(measured) / len(tokenizer.encode(measured))
            for key, tokenizer in found.items()}


@click.command()
@click.option("--text", "files", multiple=True, type=click.Path(exists=True),
              help="A text file more, of which 2 MB are taken; may be given several times.")
@click.option("--sizes", default="566,1054,4096", show_default=True, help="Vocabularies.")
@click.option("--held-out", is_flag=True, help="Measure on what was not learnt from.")
@click.option("--json", "as_json", is_flag=True)
def main(files, sizes, held_out, as_json):
    shakespeare = Path(__file__).parent.parent / "texts" / "shakespeare.txt"
    texts = {"Shakespeare": shakespeare.read_bytes(), "Python": python_sources(2_000_000),
             **{Path(file).stem: Path(file).read_bytes()[:2_000_000] for file in files}}
    rows = []
    for name, text in texts.items():
        for vocab_size in map(int, sizes.split(",")):
            row = {"text": name, "vocab_size": vocab_size, "ours": [
                {"kind": kind, "split": split, "base": base, "bytes_per_token": value}
                for (kind, split, base), value in ours(text, vocab_size, held_out).items()]}
            if not held_out:
                for key, lowered in (("femtogpt", False), ("femtogpt_lowered", True)):
                    value, unknown = femtogpts_own(text, vocab_size, lowered)
                    row[key] = {"bytes_per_token": value, "unknown": unknown}
            rows.append(row)
            if not as_json:
                show(row, head=len(rows) == 1)
    if as_json:
        print(json.dumps(rows))


def show(row, head):
    cells = {f"{o['kind']} {o['split']}": {} for o in row["ours"]}
    for o in row["ours"]:
        cells[f"{o['kind']} {o['split']}"][o["base"]] = f"{o['bytes_per_token']:.3f}"
    titles = ["", "tokens", *cells, *(("femtoGPT", "lowered") if "femtogpt" in row else ())]
    if head:
        print("| " + " | ".join(titles) + " |\n" + "| --- " * len(titles) + "|")
    values = [f"{c.get('seen', '-')} ({c['all']})" for c in cells.values()]
    theirs = [f"{row[key]['bytes_per_token']:.3f}, {row[key]['unknown']} lost"
              for key in ("femtogpt", "femtogpt_lowered") if key in row]
    print("| " + " | ".join([row["text"], str(row["vocab_size"]), *values, *theirs]) + " |",
          flush=True)


if __name__ == "__main__":
    main()
