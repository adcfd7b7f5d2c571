"""What a step would take on several machines."""

from dataclasses import replace

import pytest
from click.testing import CliRunner

from femtogpt import network
from femtogpt.cli import main
from femtogpt.config import GPTConfig
from femtogpt.errors import FemtoError
from femtogpt.estimate import StepTime
from femtogpt.shards import micro_batch_size
from femtogpt.tensors import count_parameters

CONFIG = GPTConfig(256, num_tokens=80, embedding_degree=64, num_layers=4, num_heads=4)
SIZE = 4 * count_parameters(CONFIG)
STEP = StepTime(seconds=1.0, update=0.25, whole=True, share=1.0)


def predict(ranks, bandwidth=1e9, latency=0.0, batch_size=32, accumulate=1, step=STEP,
            optimizer="adamw"):
    return network.predict(CONFIG, optimizer, batch_size, accumulate, step, 1, ranks, bandwidth,
                           latency)


def test_each_sends_the_others_their_parts_of_sums_and_its_own_parameters():
    spans = 4 * 4 + 2  # matrices of 4 layers, the head, and the rest
    assert network.traffic(CONFIG, 32, 1, 1) == (network.Traffic(0, 0), network.Traffic(0, 0))
    sums, parameters = network.traffic(CONFIG, 32, 1, 2)
    assert sums == network.Traffic(spans + 1, SIZE / 2)
    assert parameters == network.Traffic(1, SIZE / 2)
    for each in network.traffic(CONFIG, 32, 1, 4):
        assert each.bytes == pytest.approx(3 / 4 * SIZE, abs=4)
    # Of 8 shards three ranks have 2, 3 and 3: shards 2 and 3 are a sum, 4 goes with 5 of another.
    sums, parameters = network.traffic(CONFIG, 32, 1, 3)
    assert sums.messages == 2 * (spans + 2) and parameters.messages == 2
    assert sums.bytes == pytest.approx(2 * 2 / 3 * SIZE, abs=8)


def test_too_many_ranks_are_told_what_to_accumulate():
    with pytest.raises(FemtoError, match="--accumulate 3"):
        network.traffic(CONFIG, 32, 1, 20)
    network.traffic(CONFIG, 32, 3, 20)


def test_without_a_network_each_has_its_part():
    assert predict(4, float("inf")).seconds == pytest.approx(0.25)
    # 16 matrices, none of which is cut.
    there = predict(48, float("inf"), accumulate=6, optimizer="muon")
    assert there.seconds == pytest.approx(0.75 / 48 + 0.25 / 16)


def test_sending_is_latency_and_bytes():
    there = predict(2, bandwidth=SIZE / 2 / 100, latency=0.5)  # beside which a pass is nothing
    assert there.sending == pytest.approx(100 + 100 + 0.5 * (4 * 4 + 2 + 1) + 0.5, rel=0.001)
    assert there.computing == pytest.approx(0.5)


def test_sums_of_upper_layers_are_sent_while_lower_ones_are_computed():
    # Two sequences of 80 are worked on at once: a sixteenth of 0.75 s, of which two thirds.
    assert micro_batch_size(CONFIG, [(0, 4)]) == 2
    backward = 0.75 * 2 / 3 / 16
    assert predict(2, SIZE / 2 / 100).sending == pytest.approx(200 - 3 / 4 * backward)
    assert predict(2, SIZE / 2 / 0.01).sending == pytest.approx(0.01 / 4 + 0.01)


@pytest.mark.parametrize(("ranks", "bandwidth"), [(2, SIZE / 0.01), (4, SIZE / 0.2), (8, SIZE)])
def test_the_batch_of_which_sending_is_a_tenth(ranks, bandwidth):
    enough = predict(ranks, bandwidth).batch_size

    def share(batch_size):
        step = replace(STEP, seconds=0.75 * batch_size / 32 + STEP.update)
        there = predict(ranks, bandwidth, step=step, batch_size=batch_size)
        return there.sending / there.seconds

    assert share(enough) <= 0.1
    assert enough == ranks or share(enough - 1) > 0.1


def test_the_command():
    def asked(*arguments, exit_code=0):
        result = CliRunner().invoke(main, ["estimate", *shape, *arguments])
        assert result.exit_code == exit_code, result.output
        return result

    shape = ["--embedding-degree=16", "--num-layers=1", "--num-tokens=16"]
    said = asked("--ranks=2", "--bandwidth=10").stdout
    assert "on 2 machines like this one, at 10 Gb/s, it would be" in said and "prediction" in said
    assert "machines" not in asked().stdout
    assert "--ranks" in asked("--bandwidth=1", exit_code=2).stderr
    assert "--accumulate" in asked("--ranks=4096", exit_code=1).stderr
