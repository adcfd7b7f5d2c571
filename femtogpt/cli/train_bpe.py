"""femtogpt train-bpe"""

import click

from .options import (
    FILE,
    case_option,
    dataset_option,
    json_option,
    long_reading,
    print_json,
    printable,
    reserve_option,
    say,
    say_if_compiling,
)

SPLITS = ("gpt2", "gpt4", "super", "none", "auto")
SAMPLE = 4_000_000  # bytes of text that --split auto looks at
RARE = 20  # occurrences below which there is little to learn a token from
SHOWN = 8  # of the last merges


@click.command()
@dataset_option
@click.option("--tokenizer-data", type=FILE, default="tokenizer.json", show_default=True,
              help="The file to write (Hugging Face's tokenizer.json).")
@click.option("--vocab-size", type=click.IntRange(1), default=768, show_default=True,
              help="Tokens to learn, the single bytes among them.")
@click.option("--kind", type=click.Choice(["bpe", "pathpiece"]), default="bpe", show_default=True,
              help="How tokens spell a text: by merges, or by the fewest that can (pathpiece: "
              "shorter, but models learn worse from it); --split then says how to look for them.")
@click.option("--split", type=click.Choice(SPLITS), show_default="gpt2; pathpiece none",
              help="How text is cut before: as for GPT-2, for GPT-4 (cl100k), for half of the "
              "merges (as SuperBPE), or not; auto tries all and takes the fewest tokens.")
@click.option("--base", type=click.Choice(["all", "seen"]), default="all", show_default=True,
              help="Which single bytes are tokens: all 256, or those the text has; then no other "
              "can be encoded.")
@click.option("--special-token", "special_tokens", multiple=True,
              help="A token such as <|endoftext|>, which no text yields; may be given several "
              "times.")
@reserve_option
@case_option
@click.option("--epoch", type=int, help="For femtoGPT's sake: merges are exact, one pass does.")
@json_option
def command(datasets, tokenizer_data, vocab_size, kind, epoch, as_json, **options):
    """Learn a byte-level BPE tokenizer from text.

    \b
    Example:
      femtogpt train-bpe --vocab-size=1024
      femtogpt init --tokenizer=bpe
    """
    if options["base"] == "all" and vocab_size < 256:
        raise click.UsageError("--vocab-size must be at least 256, the single bytes, unless with "
                               "--base seen")
    from tqdm import tqdm

    from ..data import count_bytes, count_tokens, encode_texts, find_texts
    from ..durable import require_writable
    from ..tokenizer import BPETokenizer, save_tokenizer, train_bpe, train_pathpiece

    train = train_bpe if kind == "bpe" else train_pathpiece
    options["split"] = options["split"] or ("gpt2" if kind == "bpe" else "none")
    if epoch is not None:
        say("--epoch is not needed: the merges are exact after one pass")
    texts = find_texts(datasets)
    require_writable(tokenizer_data)
    say_if_compiling(BPETokenizer)
    if options["split"] == "auto":
        options["split"] = _choose_split(texts, vocab_size, options)
    with long_reading("reading") as reading, tqdm(desc="merges", disable=None, leave=False,
                                                  delay=1) as bar:
        def merged(done, wanted):
            bar.total = wanted
            bar.update(done - bar.n)

        tokenizer = train(_watched(texts, reading), vocab_size, progress=merged, **options)
    for note in save_tokenizer(tokenizer, tokenizer_data):
        say(f"note: {note}")
    with long_reading("tokenizing") as progress:
        counts = count_tokens(encode_texts(tokenizer, texts, progress=progress, warn=say),
                              tokenizer.vocab_size)
    report = _report(tokenizer, counts, count_bytes(tokenizer, counts))
    if as_json:
        print_json(report)
    else:
        _tell(report, tokenizer_data, vocab_size)


def _choose_split(texts, vocab_size, options):
    """What --split auto stands for, with its reasons."""
    from ..tokenizer import choose_split

    sample, left = [], SAMPLE
    for text in texts:
        for block in text.blocks():
            sample.append(block[:left])
            left -= len(sample[-1])
            if not left:
                break
    options = {name: options[name] for name in ("base", "case_sensitive")}
    split, found = choose_split([b"".join(sample)], vocab_size, **options)
    values = ", ".join(f"{name} {value:.2f}" for name, value in found.items())
    say(f"--split auto: {split}; bytes a token in the first {(SAMPLE - left) / 1e6:.1f} MB: "
        f"{values} (within 1% the first counts: it encodes faster, and more programs can do it; "
        "fewer tokens alone do not make a better model)")
    return split


def _watched(texts, progress):
    """Each text's blocks; progress(bytes read, all)."""
    done, total = 0, sum(text.size for text in texts)

    def blocks(text):
        nonlocal done
        for block in text.blocks():
            yield block
            done += len(block)
            progress(done, total)

    return map(blocks, texts)


def _report(tokenizer, counts, bytes_read):
    """What was learnt: --json's values."""
    data, tokens = tokenizer.data, int(counts.sum())
    # What a merge made, or is a piece of more than a byte: the same where both are.
    ids = [id for id, piece in enumerate(data.pieces[: tokenizer.num_learnt]) if len(piece) > 1]
    learnt = counts[ids]
    rarest = int(learnt.argmin()) if len(learnt) else None
    return {
        "vocab_size": tokenizer.vocab_size, "learnt": tokenizer.num_learnt,
        "kind": tokenizer.name, "split": data.split, "merges": len(ids), "tokens": tokens,
        "bytes": bytes_read, "bytes_per_token": bytes_read / tokens,
        "rare": int((learnt < RARE).sum()),
        "rarest": None if rarest is None else {
            "piece": printable(data.pieces[ids[rarest]]), "count": int(learnt[rarest])},
        "pieces": [printable(piece) for piece in data.pieces],
        "pairs": [[printable(data.pieces[left]), printable(data.pieces[right])]
                  for left, right, _ in data.merges],
    }


def _tell(report, path, wanted):
    """The same for a reader."""
    merges, bpe = report["merges"], report["kind"] == "bpe"
    word = "merge" if bpe else "piece"
    click.echo(f"{path}: {report['vocab_size']} tokens, of them {merges} {word}s; "
               f"{report['bytes']} bytes of text are {report['tokens']} tokens, "
               f"{report['bytes_per_token']:.2f} bytes a token")
    if merges and bpe:
        last = ", ".join(f"|{left}|{right}|" for left, right in report["pairs"][-SHOWN:])
        click.echo(f"the last merges: {last}")
    if merges:
        click.echo(f"the rarest {word}: |{report['rarest']['piece']}| occurs "
                   f"{report['rarest']['count']} times in the text as it is encoded")
    if report["learnt"] < wanted:
        click.echo(f"the text held no pair twice any more after {report['learnt']} tokens")
    if report["rare"] > merges / 10:
        click.echo(f"{report['rare']} of {merges} {word}s occur fewer than {RARE} times, too "
                   "seldom to learn much from: a smaller --vocab-size, or more text, is better")
