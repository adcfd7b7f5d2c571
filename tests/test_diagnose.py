"""diagnose: every sickness planted and named, and none named in the healthy; what train tells."""

import copy
import json
import random
import re
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from small import TOKENIZER, fresh_model, some_run

from dummy_data import simple_dummy
from femtogpt import checkpoint, curve, trainer
from femtogpt.checkpoint import History, Model
from femtogpt.cli import main
from femtogpt.config import GPTConfig
from femtogpt.curve import STUCK_STEPS, Curve
from femtogpt.diagnosis import diagnose, learning
from femtogpt.diagnosis.blocks import head_entropies
from femtogpt.diagnosis.learning import learning_findings
from femtogpt.diagnosis.text import look_at_text, ngram_losses, repeated_share, text_findings
from femtogpt.errors import FemtoError
from femtogpt.model import initial_parameters
from femtogpt.run import Run, defaults
from femtogpt.tensors import views
from femtogpt.tokenizer import ByteTokenizer, ReservedTokenizer, train_bpe, train_char
from femtogpt.trainer import Trainer

WORDS = "".join(simple_dummy.generate(random.Random(1), 4000))
LETTERS = train_char(WORDS)
TOKENS = LETTERS.encode(WORDS)
STEPS = 150


def untrained(tokenizer=LETTERS, **changes):
    shape = {"num_tokens": 24, "embedding_degree": 24, "num_layers": 2, "num_heads": 2} | changes
    config = GPTConfig(tokenizer.vocab_size, **shape)
    return Model(config, tokenizer, initial_parameters(config, 1))


def train(model, tokens=TOKENS, held_back=TOKENS[:0], **options):
    values = defaults(model.config.recipe) | {"eval_every": 20} | options
    run = Run(model.step, model.step + values.pop("steps", STEPS), "d", **values)
    for _ in Trainer(model, run, tokens, held_back):
        pass
    return model


@pytest.fixture(scope="module")
def trained():
    return train(untrained())


@pytest.fixture
def healthy(trained):
    """A copy of a model that learnt the words, to be made sick."""
    return copy.deepcopy(trained)


def named(model, tokens=TOKENS):
    return {finding.name for finding in diagnose(model, tokens)[1]}


def parameters(model):
    return views(model.parameters, model.config)


# ---- the healthy


def test_a_healthy_run_gets_no_finding_nor_is_the_model_changed(healthy):
    before = copy.deepcopy(healthy)
    numbers, findings = diagnose(healthy, TOKENS)
    assert findings == []
    assert np.array_equal(healthy.parameters, before.parameters)
    assert np.array_equal(healthy.optimizer.m, before.optimizer.m)
    assert healthy.history == before.history
    assert numbers["context"]["loss"] < numbers["text"]["trigram"] < numbers["text"]["bigram"]


@pytest.mark.parametrize("encoding", ["rope", "learned", "none"])
def test_an_untrained_model_is_not_sick_for_being_untrained(encoding):
    numbers, findings = diagnose(untrained(positional_encoding=encoding), TOKENS)
    assert findings == [] and not numbers["trained"]


def test_one_in_the_middle_of_its_run_gets_no_finding():
    model = untrained()
    assert named(train(model, steps=110, decay_steps=1)) == set()


# ---- context


def test_a_model_that_guesses_by_frequency_is_named(healthy):
    p = parameters(healthy)
    p.head_weight[...] = 0
    p.head_bias[...] = np.log(np.bincount(TOKENS, minlength=p.head_bias.size) / TOKENS.size + 1e-9)
    numbers, findings = diagnose(healthy, TOKENS)
    assert findings[0].name == "context-unused"
    assert f"{numbers['text']['unigram']:.3f}" in findings[0].says
    assert abs(numbers["context"]["loss"] - numbers["text"]["unigram"]) < 0.01


def second_order(n=20000, letters=8, seed=1):
    """Tokens of which each follows from the two before it, but for one in ten."""
    rng, tokens = np.random.default_rng(seed), [0, 1]
    while len(tokens) < n:
        noise = rng.random() < 0.1
        tokens.append(int(rng.integers(letters)) if noise else (3 * tokens[-1] + tokens[-2] // 4
                                                                + 1) % letters)
    return np.array(tokens, np.uint8)


def guessing_by_the_last_token(tokens, letters=8):
    """A model whose blocks do nothing, and whose head knows how often what follows what."""
    model = untrained(train_char("abcdefgh"), embedding_degree=16)
    model.step = 1000
    p = parameters(model)
    p.token_embedding[...] = np.eye(letters, 16)
    pairs = np.zeros((letters, letters))
    np.add.at(pairs, (tokens[:-1], tokens[1:]), 1)
    log = np.log((pairs + 0.1) / (pairs + 0.1).sum(1, keepdims=True))
    hot, cold = 15**0.5, -(15**-0.5)  # what a norm makes of one 1 among 16
    p.head_weight[...] = 0
    p.head_weight[:letters] = log / (hot - cold)
    p.head_bias[...] = -cold / (hot - cold) * log.sum(0)
    return model


def test_a_model_that_looks_at_the_last_token_alone_is_named():
    tokens = second_order()
    numbers, findings = diagnose(guessing_by_the_last_token(tokens), tokens)
    assert abs(numbers["context"]["loss"] - numbers["text"]["bigram"]) < 0.05
    assert "only-last-token-used" in {finding.name for finding in findings}


def test_where_the_last_token_tells_all_there_is_its_use_alone_is_no_sickness():
    rng, tokens = np.random.default_rng(1), [0]
    while len(tokens) < 20000:
        tokens.append(int(rng.integers(8)) if rng.random() < 0.3 else (3 * tokens[-1] + 1) % 8)
    tokens = np.array(tokens, np.uint8)
    assert "only-last-token-used" not in named(guessing_by_the_last_token(tokens), tokens)


# ---- blocks


def test_the_recipe_of_the_log_is_named_by_all_that_ails_it():
    assert named(untrained(recipe="femto", embedding_degree=64)) >= {
        "positions-drown-tokens", "norm-gains-near-zero", "activation-dying"}


def scaled(model, field, layer, factor):
    getattr(parameters(model), field)[layer] *= factor
    return model


def queries(model):
    return parameters(model).query_key_value_weight.reshape(2, 24, 3, 24)


def test_each_sickness_of_a_layer_is_named(healthy):
    plant = {
        "activation-exploding": [("down_weight", 1, 1000)],
        "layer-idle": [("projection_weight", 0, 0), ("projection_bias", 0, 0)],
        "gradient-exploding": [("up_weight", 0, 1e-3), ("down_weight", 0, 1e3)],
        "gradient-dying": [("up_weight", 1, 1e-3), ("down_weight", 1, 1e3)],
        "norm-gains-near-zero": [("mlp_norm_gain", 1, 0.01)],
    }
    for name, changes in plant.items():
        model = copy.deepcopy(healthy)
        for change in changes:
            scaled(model, *change)
        found = [finding for finding in diagnose(model, TOKENS)[1] if finding.name == name]
        assert found, name
        assert any(digit in found[0].says for digit in "0123456789") and found[0].helps


def test_heads_that_look_at_one_token_or_at_all_alike_or_say_nothing_are_named(healthy):
    for name, part, factor in (("attention-saturated", slice(0, 2), 30),
                               ("attention-dead", slice(0, 1), 0),
                               ("attention-dead", slice(2, 3), 0)):
        model = copy.deepcopy(healthy)
        queries(model)[:, :, part] *= factor
        assert name in named(model), (name, part)


def test_entropies_of_heads_are_those_of_their_attention():
    qkv = np.zeros((5, 24), np.float32)
    assert head_entropies(qkv, 2) == pytest.approx([1, 1])
    qkv[:, [0, 8]] = 100, 100  # equal keys: alike, however large
    assert head_entropies(qkv, 2) == pytest.approx([1, 1])
    qkv[:, 8] = np.arange(5) * 100  # the newest key by far
    assert head_entropies(qkv, 2) == pytest.approx([0, 1], abs=1e-6)


# ---- learning


def test_a_rate_too_high_is_named_with_one_that_is_better(healthy):
    healthy.run["learning_rate"] = 0.6
    found = {finding.name: finding for finding in diagnose(healthy, TOKENS)[1]}
    assert "--learning-rate 0.0" in found["learning-rate-too-high"].helps


def test_a_rate_too_low_is_named():
    found = named(train(untrained(), steps=110, learning_rate=3e-5))
    assert "learning-rate-too-low" in found and "learning-rate-too-high" not in found


RATES = {"rates": [{"rate": 0.001 * f, "loss": 1.0} for f in learning.FACTORS], "before": 1.0,
         "update_to_weight": 0.01, "noise_scale": 100.0, "batch_size": 32}
PAST = {"spikes": 0, "loss": 1.0, "validation": None, "best": None}


def test_a_text_whose_end_is_of_another_kind_is_not_learnt_by_heart():
    falling = {"validation": 2.0, "best": (20, 1.99)}
    assert list(learning_findings(PAST | falling, RATES, 3.0, True)) == []


@pytest.mark.parametrize(("name", "past", "rates"), [
    ("learning-rate-too-high", {"spikes": 3}, {}),
    ("learning-rate-too-high", {}, {"update_to_weight": 0.5}),
    ("batch-too-noisy", {}, {"batch_size": 1, "noise_scale": 1000.0}),
    ("memorising", {"validation": 2.0, "best": (20, 1.5)}, {}),
])
def test_numbers_of_the_sick_and_of_the_healthy(name, past, rates):
    assert list(learning_findings(PAST, RATES, 3.0, True)) == []
    (finding,) = learning_findings(PAST | past, RATES | rates, 3.0, True)
    assert finding.name == name


def test_a_rate_of_which_nothing_finite_comes_is_too_high():
    rates = RATES | {"rates": [entry | {"loss": 1.0 if entry["rate"] < 0.001 else None}
                               for entry in RATES["rates"]]}
    (finding,) = learning_findings(PAST, rates, 3.0, True)
    assert finding.name == "learning-rate-too-high"


def test_spikes_are_counted_from_the_history(healthy):
    losses = (2 + 0.1 * np.random.default_rng(1).standard_normal(1000)).tolist()
    losses[500] = losses[600] = losses[700] = 9.0
    healthy.history.losses = losses
    assert "learning-rate-too-high" in named(healthy)


def test_a_text_learnt_by_heart_is_named():
    tokens = np.random.default_rng(1).integers(0, 15, 1500).astype(np.uint8)
    model = train(untrained(), tokens[:1000], tokens[1000:])
    found = named(model, tokens)
    assert {"memorising", "text-too-short"} <= found


def test_the_noise_scale_is_that_of_known_noise():
    class Noisy:
        """Gradients of mean 1 each, and a variance of 9 each over the batch."""

        rng = np.random.default_rng(1)

        def loss_and_gradient(self, parameters, windows, rate, keys):
            noise = 3 / len(windows) ** 0.5 * self.rng.standard_normal(parameters.size)
            gradient = 1 + noise
            return 2.0, gradient, np.square(gradient)

    model, run = untrained(), Run(0, 1, "d")
    before, noise = learning._noise_scale(Noisy(), model, run, TOKENS, 4, lambda: None)
    assert before == 2 and noise == pytest.approx(9, rel=0.02)


def test_a_batch_of_one_late_in_a_run_is_noisy(healthy, monkeypatch):
    monkeypatch.setattr(learning, "MOST_NOISE", 50)  # so small a model is soon done
    assert "batch-too-noisy" not in named(healthy)
    healthy.run["batch_size"] = 1
    assert "batch-too-noisy" in named(healthy)


# ---- the text


def ailing(tokenizer, text, read=0, **shape):
    """The names of what ails a text, as a tokenizer cuts it, for a model of that shape."""
    tokens = tokenizer.encode(text) if isinstance(text, str) else text
    config = GPTConfig(tokenizer.vocab_size, **shape)
    return {f.name for f in text_findings(look_at_text(tokenizer, tokens, config), config, read)}


def sentences(alphabet, seed=1, words=400, count=12000):
    """Text of made-up words with the frequencies of a language's (Zipf's law)."""
    rng = random.Random(seed)
    lexicon = ["".join(rng.choice(alphabet) for _ in range(rng.randint(2, 6)))
               for _ in range(words)]
    return " ".join(rng.choices(lexicon, [1 / (i + 1) for i in range(words)], k=count))


LATIN, KANA = sentences("abcdefghijklmnoprstuvw"), sentences("かきくけこさしすせそたちつてとなに")


def test_a_text_that_fits_gets_no_finding():
    assert ailing(ByteTokenizer(), LATIN) == set()
    assert ailing(train_bpe([LATIN.encode()], 512), LATIN) == set()
    assert ailing(train_bpe([KANA.encode()], 512), KANA) == set()
    assert ailing(ReservedTokenizer(train_char(LATIN), 230), LATIN) == set()


def test_a_vocabulary_too_large_for_the_text_is_named():
    assert "vocabulary-too-large" in ailing(train_bpe([LATIN.encode()], 2048), LATIN[:10000])


def test_a_tokenizer_of_another_language_is_named():
    latin, kana = (train_bpe([text.encode()], 512) for text in (LATIN, KANA))
    for tokenizer, text in ((latin, KANA), (kana, LATIN), (ByteTokenizer(), KANA)):
        assert ailing(tokenizer, text) == {"tokenizer-misfit"}


def test_a_text_given_ten_times_is_named():
    assert ailing(LETTERS, np.tile(TOKENS, 10)) == {"text-duplicated"}
    assert ailing(LETTERS, np.tile(TOKENS, 2)) == {"text-duplicated"}
    assert ailing(LETTERS, TOKENS) == set()


def test_repeats_are_counted_whatever_the_length(monkeypatch):
    tokens = np.random.default_rng(1).integers(0, 50, 5000).astype(np.uint16)
    assert repeated_share(tokens) == 0 and repeated_share(tokens[:30]) == 0
    assert repeated_share(np.tile(tokens, 4)) == pytest.approx(0.75, abs=0.01)
    whole = repeated_share(np.concatenate([tokens, tokens[:1000]]))
    assert whole == pytest.approx(1000 / 6000, abs=0.01)
    monkeypatch.setattr("femtogpt.data.BLOCK", 1000)  # across blocks
    assert repeated_share(np.concatenate([tokens, tokens[:1000]])) == whole
    monkeypatch.setattr("femtogpt.diagnosis.text.LOOK", 2000)  # by a sample
    assert repeated_share(np.tile(tokens[:4999], 4)) == pytest.approx(0.75, abs=0.05)


def test_a_text_too_short_for_even_a_short_run_or_read_too_often_is_named():
    assert "text-too-short" in ailing(LETTERS, TOKENS[:3000])
    assert ailing(LETTERS, TOKENS, read=41 * len(TOKENS)) == {"text-too-short"}
    assert ailing(LETTERS, TOKENS, read=39 * len(TOKENS)) == set()


def test_a_model_too_large_or_too_small_for_the_text_is_named():
    assert "model-too-large" in ailing(LETTERS, TOKENS, embedding_degree=512, num_layers=6)
    tiny = {"embedding_degree": 2, "num_layers": 1, "num_heads": 1}
    random_ = np.random.default_rng(1).integers(0, 15, 300_000).astype(np.uint8)
    assert ailing(LETTERS, random_, **tiny) == {"model-too-small"}


def test_guessing_by_counts_is_as_good_as_the_text_allows():
    tokens = second_order()
    unigram, bigram, trigram = ngram_losses(tokens, 8)
    share = 0.9 + 0.1 / 8
    best = -share * np.log(share) - 7 * 0.1 / 8 * np.log(0.1 / 8)
    assert trigram == pytest.approx(best, abs=0.05)
    assert np.log(8) + 0.01 > unigram > bigram > trigram
    even = np.random.default_rng(1).integers(0, 500, 5000)  # pairs that never come again
    assert min(ngram_losses(even, 500)) > np.log(500) - 0.01


# ---- train tells


def sticking(losses, guessing=2.0, history=(), first_step=0):
    """The sentences that a Curve tells of losses after a history, by step."""
    line = Curve(History(list(history)), first_step, 0, lambda: guessing)
    told = {len(history) + i + 1: line.add(loss) for i, loss in enumerate(losses)}
    return {step: said for step, said in told.items() if said}


def noisy(loss, n):
    return (loss + 0.02 * np.random.default_rng(1).standard_normal(n)).tolist()


def test_a_run_that_sticks_at_guessing_is_told_once():
    told = sticking([*np.linspace(5, 2, 60), *noisy(2.0, 600)])
    (step, said), = told.items()
    assert STUCK_STEPS < step < STUCK_STEPS + 160
    assert said.startswith("the loss has been stuck at ") and "`femtogpt diagnose`" in said


def test_a_run_that_sticks_far_above_guessing_is_told_too():
    assert sticking(noisy(5.0, 400))


def test_a_second_plateau_or_a_slow_fall_is_not_told():
    assert not sticking([*np.linspace(5, 1.2, 60), *noisy(1.2, 1000)])
    assert not sticking(np.geomspace(5, 2, 2000))
    assert not sticking(noisy(2.0, STUCK_STEPS))


def test_a_resumed_run_tells_the_same_and_a_new_one_counts_anew():
    losses = noisy(2.0, 600)
    (step,) = sticking(losses)
    for cut in (1, step - 1):
        assert list(sticking(losses[cut:], history=losses[:cut])) == [step]
    assert not sticking(losses[step:], history=losses[:step])
    (anew,) = sticking(losses[300:], history=losses[:300], first_step=300)
    assert anew == 300 + STUCK_STEPS + 1


def test_train_tells_it_as_a_note_and_learns_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr(curve, "STUCK_STEPS", 40)
    tokens = np.random.default_rng(1).integers(0, 13, 4000).astype(np.uint8)  # nothing to learn
    chosen = some_run(last_step=120, learning_rate=1e-4)

    def run(upto):
        session = Trainer(model, replace(chosen), tokens, [])
        return [(record.step, note) for record, _ in zip(session, range(upto), strict=False)
                for note in record.notes]

    model = fresh_model()
    (told,) = run(120)
    whole = model.parameters
    assert told[1].startswith("the loss has been stuck at 2.")
    model = fresh_model()
    assert run(told[0] - 20) + run(120) == [told]
    monkeypatch.setattr(trainer, "Curve", lambda *args: Curve(*args[:3]))
    model = fresh_model()
    assert run(120) == [] and np.array_equal(model.parameters, whole)


# ---- the command


def diagnosed(*arguments):
    result = CliRunner().invoke(main, ["diagnose", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_command_shows_numbers_and_findings_and_leaves_the_file(tmp_path, monkeypatch, healthy):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dataset.txt").write_text(WORDS)
    checkpoint.save(healthy, "model.safetensors")
    before = (tmp_path / "model.safetensors").read_bytes()
    shown = diagnosed()
    assert "nothing wrong found" in shown and "attention entropy" in shown
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset.txt", "model.safetensors"]
    values = json.loads(diagnosed("--json", "--threads=1"))
    assert values["findings"] == [] and len(values["blocks"]["layers"]) == 2
    healthy.run["learning_rate"] = 1e15
    checkpoint.save(healthy, "model.safetensors")
    shown = diagnosed()
    assert "learning-rate-too-high: " in shown
    assert "what helps: femtogpt train --steps N --learning-rate" in shown
    assert not {"NaN", "Infinity"} & set(re.findall(r"\w+", diagnosed("--json")))  # no JSON


def test_of_an_untrained_model_the_command_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dataset.txt").write_text(WORDS)
    checkpoint.save(untrained(), "model.safetensors")
    assert "(step 0: not trained yet" in diagnosed()


def test_a_text_shorter_than_a_window_is_refused():
    with pytest.raises(FemtoError, match="use more text"):
        diagnose(untrained(), TOKENS[:20])
    assert TOKENIZER.vocab_size  # the smallest text there may be:
    diagnose(untrained(), TOKENS[:26])
    with pytest.raises(FemtoError, match="no context"):
        diagnose(untrained(num_tokens=1), TOKENS)


def test_a_model_whose_loss_is_not_finite_is_refused_with_the_place(healthy):
    parameters(healthy).down_weight[1] = 3e38
    with pytest.raises(FemtoError, match=r"first in the output of layers\.1\.mlp"):
        diagnose(healthy, TOKENS)
