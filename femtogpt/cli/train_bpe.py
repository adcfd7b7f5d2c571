"""femtogpt train-bpe"""

import click

from .options import case_option, dataset_option, json_option, print_json, reserve_option, say


@click.command()
@dataset_option
@click.option("--tokenizer-data", default="tokenizer.json", show_default=True,
              help="The file to write (Hugging Face's tokenizer.json).")
@click.option("--vocab-size", type=click.IntRange(256), default=768, show_default=True,
              help="Tokens to learn, the 256 bytes among them.")
@reserve_option
@case_option
@click.option("--epoch", type=int, help="For femtoGPT's sake: merges are exact, one pass does.")
@json_option
def command(datasets, tokenizer_data, vocab_size, reserve_tokens, case_sensitive, epoch, as_json):
    """Learn a byte-level BPE tokenizer from text.

    \b
    Example:
      femtogpt train-bpe --vocab-size=1024
      femtogpt init --tokenizer=bpe
    """
    from tqdm import tqdm

    from ..data import read_texts
    from ..tokenizer import save_tokenizer, train_bpe

    if epoch is not None:
        say("--epoch is not needed: the merges are exact after one pass")
    texts = read_texts(datasets)
    with tqdm(total=max(vocab_size - 256, 0), desc="merges", disable=None, leave=False) as bar:
        tokenizer = train_bpe(texts, vocab_size, reserve_tokens=reserve_tokens,
                              case_sensitive=case_sensitive,
                              progress=lambda done, wanted: bar.update(done - bar.n))
    save_tokenizer(tokenizer, tokenizer_data)
    bytes_read = sum(map(len, texts))
    tokens = sum(len(tokenizer.encode(text)) for text in texts)
    if as_json:
        print_json({"vocab_size": tokenizer.vocab_size, "learnt": tokenizer.num_learnt,
                    "tokens": tokens, "bytes": bytes_read, "bytes_per_token": bytes_read / tokens})
        return
    click.echo(f"{tokenizer_data}: {tokenizer.vocab_size} tokens; {bytes_read} bytes of text are "
               f"{tokens} tokens, {bytes_read / tokens:.2f} bytes a token")
    if tokenizer.num_learnt < vocab_size:
        click.echo(f"the text held no pair twice any more after {tokenizer.num_learnt} tokens")
