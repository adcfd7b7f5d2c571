"""README.md of an exported model: its shape, what it was trained on, its loss, how to use it."""

from ...drawing import line_chart, thinned
from ...run import earlier_runs
from ...scoring import evaluate
from ...tokenizer.protocol import newline_id
from .layout import architecture, is_widened

MEASURED = 65536  # tokens of a text, at most, that the loss is measured on


def curve(model):
    """The losses of a model's training as the text of an SVG file, or None before any."""
    history = model.history
    first = model.step - len(history.losses) + 1
    lines = [("training", thinned(list(enumerate(history.losses, first)))),
             ("held back", history.validation)]
    lines = [line for line in lines if line[1]]
    return line_chart(lines, width=640, height=360) + "\n" if lines else None


def measured(model, tokens, data):
    """(what the loss is of, what `evaluate` says) on a text, or None where there is none.

    tokens: the text's, or None. data: its fingerprint. The part that training held back, if it is
    the text of the newest run and some was; at most MEASURED tokens.
    """
    if tokens is None:
        return None
    runs, T = earlier_runs(model), model.config.num_tokens
    what = "of a text it was not trained on last"
    if runs and runs[-1].data == data:
        begin, end = runs[-1].val_begin, runs[-1].val_end
        what = "of the text it was trained on"
        if begin is not None and end - begin > T and end <= len(tokens):
            tokens, what = tokens[begin:end], "of the part held back of its text"
    tokens = tokens[: max(MEASURED, T) + 1]
    return what, evaluate(model, tokens)


def card(model, folder_name, result):
    """The content of README.md. result: what `measured` gave."""
    config = model.config
    return "\n".join([
        "---", "library_name: transformers", "pipeline_tag: text-generation", "tags:",
        "- femtogpt", "---", "", f"# {folder_name}", "",
        f"A small GPT of {model.parameters.size:,} parameters, trained by femtogpt for "
        f"{model.step:,} steps.", "", *_shape(config, model.tokenizer), "", *_data(model), "",
        *_evaluation(model, result), "", *_use(model), "",
    ])


def _shape(config, tokenizer):
    rows = [("recipe", config.recipe), ("tokenizer", f"{tokenizer.name}, {config.vocab_size} "
                                                     "tokens"),
            ("context", f"{config.num_tokens} tokens"), ("width", config.embedding_degree),
            ("layers", config.num_layers), ("heads", config.num_heads),
            ("positions", config.positional_encoding)]
    if config.positional_encoding == "rope":
        rows.append(("rotary base", config.rotary_base))
    name, lines = architecture(config), []
    if is_widened(config):
        lines = ["", f"As {name} it is {config.num_heads} channels wider than that, one a head: "
                 "they hold the mean of the others, which lets that architecture compute what "
                 "femtogpt's does, the head's bias too, up to float32's rounding."]
    return ["## Shape", "", "| | |", "| --- | --- |",
            *(f"| {what} | {value} |" for what, value in rows),
            f"| architecture here | {name} |", *lines]


def _data(model):
    runs = earlier_runs(model)
    if not runs:
        return ["## Data", "", "None: it was not trained, or its file does not tell."]
    return ["## Data", "", "Texts are known by a SHA-256 of their bytes and lengths.", "",
            "| steps | text | batch | dropout | optimizer | learning rate | held back |",
            "| --- | --- | ---: | ---: | --- | ---: | ---: |",
            *(f"| {run.first_step + 1} to {min(run.last_step, model.step)} | `{run.data[:16]}` | "
              f"{run.total_batch_size} | {run.dropout:g} | {run.optimizer} | "
              f"{run.learning_rate:g} | {run.val_fraction:.0%} |" for run in runs)]


def _evaluation(model, result):
    history, lines = model.history, ["## Loss", ""]
    if history.losses or history.validation:
        lines += ["![loss by step](loss.svg)", ""]
    if history.losses:
        lines.append(f"The training loss was {history.losses[0]:.4f} nats a token at first and "
                     f"{history.losses[-1]:.4f} at last.")
    if history.validation:
        step, loss = min(history.validation, key=lambda at: at[1])
        lines.append(f"On text held back it was {history.validation[-1][1]:.4f} at last, and best "
                     f"{loss:.4f} at step {step}.")
    if result:
        what, values = result
        low, high = values["interval"]
        lines.append(f"Measured at export on {values['tokens']:,} tokens {what}: "
                     f"{values['loss']:.4f} ({low:.4f} to {high:.4f}), perplexity "
                     f"{values['perplexity']:.2f}, {values['bits_per_byte']:.3f} bits a byte.")
    if len(lines) == 2:
        lines.append("Nothing was measured.")
    return lines


def _use(model):
    prompt, imports = 'tokenizer("your prompt", return_tensors="pt").input_ids', []
    why = []
    if newline_id(model.tokenizer) is not None:
        why = ["The start of a line stands before the prompt, as in `femtogpt generate`: a bare "
               "prompt could as well be in mid-line."]
        prompt = r'tokenizer("\n" + "your prompt", return_tensors="pt").input_ids'
        if model.tokenizer.name not in ("byte", "ascii", "char"):
            # Together they might be cut otherwise.
            prompt = r'torch.tensor([sum(tokenizer(["\n", "your prompt"]).input_ids, [])])'
            imports = ["import torch"]
    return [
        "## How to use", "", "```python", *imports,
        "from transformers import AutoModelForCausalLM, AutoTokenizer", "",
        'folder = "."  # this one', "tokenizer = AutoTokenizer.from_pretrained(folder)",
        "model = AutoModelForCausalLM.from_pretrained(folder)", f"prompt = {prompt}",
        "out = model.generate(prompt, do_sample=True, temperature=0.5, top_k=0)",
        "print(tokenizer.decode(out[0]))", "```", "", *why,
        f"It ends at the context's end, {model.config.num_tokens} tokens. {_past(model.config)}",
        "", "Nothing in this folder is code. `femtogpt import --format hf` makes a model file of "
        "it again, to the bit.",
    ]


def _past(config):
    if config.positional_encoding == "rope":
        return ("With `max_new_tokens` it goes on, the window sliding as femtogpt's does (tried in "
                "transformers 4.57 and 5.24, whose cache takes `sliding_window` from config.json).")
    return "There are no positions beyond it."
