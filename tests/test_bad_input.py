"""What a user may get wrong: one line that names the file or option, the right exit code, and
nothing overwritten."""

import hashlib
import os

import pytest
from click.testing import CliRunner
from small import SIZES, fresh_model, run, text

from femtogpt import checkpoint
from femtogpt.cli import COMMANDS, main


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with good and bad files of every kind."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dataset.txt").write_text(text(500))
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "short.txt").write_text("abcabcab")  # num_tokens is 8
    (tmp_path / "binary").write_bytes(bytes(range(256)) * 9)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(b"\x89PNG\0\0\0")
    (tmp_path / "hollow").mkdir()
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "numbers.json").write_text("[1, 2]")
    (tmp_path / "nothing.json").write_text("[]")
    checkpoint.save(fresh_model(), "model.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "FORMAT_VERSION", 2)
        checkpoint.save(fresh_model(), "newer.safetensors")
    data = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(data[: len(data) // 2])
    flipped = bytearray(data)
    flipped[-9] ^= 4
    (tmp_path / "flipped.safetensors").write_bytes(flipped)
    return tmp_path


def state(folder):
    """Every file below a folder -> the hash of its bytes."""
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".lock"}


MODEL_READERS = ["train", "generate", "eval", "info", "loss", "tokenize", "dump-tokenizer",
                 "reset-optimizer", "cluster-tokens", "chunks", "export --format femto out"]
NO_MODEL = ["missing.safetensors", "newer.safetensors", "dataset.txt", "empty.txt", "binary",
            "cut.safetensors", "flipped.safetensors", "hollow", "nowhere/model.safetensors",
            "dataset.txt/model.safetensors"]
NO_DATASET = ["missing.txt", "empty.txt", "pictures", "hollow", "dataset.txt/below"]

# (what is wrong, the command line, what the message must name, the exit code)
CASES = [
    *((f"{command} with --model {model}", f"{command} --model {model}", model.split("/")[0], 1)
      for command in MODEL_READERS for model in NO_MODEL),
    *((f"{command} with --dataset {dataset}", f"{command} --dataset {dataset}",
       dataset.split("/")[0], 1)
      for command in ("train", "eval", "tokenize", "train-bpe", "chunks")
      for dataset in NO_DATASET),
    *((f"char of {dataset}", f"init --force --tokenizer char --tokenizer-data {dataset}",
       dataset.split("/")[0], 1) for dataset in NO_DATASET),
    ("a dataset shorter than a window: train", "train --dataset short.txt",
     "num_tokens + 1 = 9", 1),
    ("a dataset shorter than a window: eval", "eval --dataset short.txt", "num_tokens + 1 = 9", 1),
    ("one good dataset and a missing one", "train --dataset dataset.txt --dataset missing.txt",
     "missing.txt", 1),
    ("binary with char: init", "init --force --tokenizer char --tokenizer-data binary",
     "--tokenizer byte", 1),
    ("binary with char: train", "train --dataset binary", "char tokenizer", 1),
    ("binary with char: eval", "eval --dataset binary", "char tokenizer", 1),
    ("an unknown character in a prompt", "generate --prompt abc!", "'!'", 1),
    ("heads that do not divide the width",
     "init --force --embedding-degree 80 --num-heads 3", "--num-heads 3", 2),
    ("an odd head width with rope",
     "init --force --embedding-degree 20 --num-heads 4", "--embedding-degree 20", 2),
    ("a small vocabulary", "train-bpe --vocab-size 255", "--vocab-size", 2),
    ("a negative vocabulary", "train-bpe --vocab-size -1", "--vocab-size", 2),
    ("an unwritable folder: init", "init --model dataset.txt/model", "dataset.txt", 1),
    ("a missing folder: init", "init --model nowhere/model", "nowhere", 1),
    ("an unwritable folder: train-bpe", "train-bpe --tokenizer-data dataset.txt/t", "dataset.txt/t",
     1),
    ("an unwritable folder: dump-tokenizer", "dump-tokenizer --tokenizer-data nowhere/t",
     "nowhere/t", 1),
    ("an unwritable folder: tokenize", "tokenize --output nowhere/ids", "--output nowhere/ids", 1),
    ("an unwritable log", "train --steps 5 --log nowhere/log", "--log nowhere/log", 1),
    ("no steps", "train --steps 0", "--steps", 2),
    ("negative steps", "train --steps -1", "--steps", 2),
    ("half a step", "train --steps 1.5", "--steps", 2),
    ("two ends", "train --steps 5 --until-step 7", "--until-step", 2),
    ("no batch", "train --batch-size 0", "--batch-size", 2),
    ("all dropped", "train --dropout 1", "--dropout", 2),
    ("a negative rate", "train --learning-rate -1", "--learning-rate", 2),
    ("no rate", "train --learning-rate 0", "--learning-rate", 2),
    ("an unknown optimizer", "train --optimizer sgd", "--optimizer", 2),
    ("no time", "train --for 0", "--for", 2),
    ("no time as we know it", "train --for soon", "--for", 2),
    ("too much held back", "train --val-fraction 0.9", "--val-fraction", 2),
    ("no threads", "train --threads 0", "--threads", 2),
    ("an empty prompt", "generate --prompt=", "--prompt", 2),
    ("an empty positional prompt", "generate ''", "--prompt", 2),
    ("two prompts", "generate abc --prompt abc", "prompt", 2),
    ("a prompt longer than the window", "generate --prompt abcabcabc", "9 tokens", 1),
    ("nothing to generate", "generate --count 0", "--count", 2),
    ("a negative temperature", "generate --temperature -0.1", "--temperature", 2),
    ("no top k", "generate --top-k 0", "--top-k", 2),
    ("no top p", "generate --top-p 0", "--top-p", 2),
    ("an empty stop", "generate --stop=", "--stop", 2),
    ("init over a model", "init", "model.safetensors", 1),
    ("init over any file", "init --model dataset.txt", "dataset.txt", 1),
    ("init over a folder", "init --model hollow --force", "hollow", 1),
    ("no context", "init --force --num-tokens 0", "--num-tokens", 2),
    ("no width", "init --force --embedding-degree 0", "--embedding-degree", 2),
    ("no layers", "init --force --num-layers 0", "--num-layers", 2),
    ("an unknown tokenizer", "init --force --tokenizer words", "--tokenizer", 2),
    ("an unknown recipe", "init --force --recipe soup", "--recipe", 2),
    ("a width beyond reason", "init --force --embedding-degree 100000000", "embedding_degree", 2),
    ("no tokenizer file", "init --force --tokenizer bpe", "tokenizer.json", 1),
    ("a tokenizer file that is none", "init --force --tokenizer bpe --tokenizer-data broken.json",
     "broken.json", 1),
    ("a text as a tokenizer", "init --force --tokenizer bpe --tokenizer-data dataset.txt",
     "dataset.txt", 1),
    ("numbers as a vocabulary", "init --force --tokenizer bpe --tokenizer-data numbers.json",
     "numbers.json", 1),
    ("an empty vocabulary", "init --force --tokenizer bpe --tokenizer-data nothing.json",
     "nothing.json", 1),
    ("tokenize by no tokenizer", "tokenize --tokenizer-data missing.json", "missing.json", 1),
    ("dump over a file", "dump-tokenizer --tokenizer-data dataset.txt", "dataset.txt", 1),
    *((f"{command} from {model}", f"{command} {model}", model.split("/")[0], 1)
      for command in ("insert-layer --output new --insert-at 0 --input", "init-with --parent")
      for model in NO_MODEL),
    ("insert-layer over a model", "insert-layer --output model.safetensors --insert-at 0",
     "--force", 1),
    ("insert-layer to no file", "insert-layer --insert-at 0", "--output", 2),
    ("insert-layer at no place", "insert-layer --output new", "--insert-at", 2),
    ("insert-layer before the first", "insert-layer --output new --insert-at -1", "--insert-at", 2),
    ("insert-layer behind the last", "insert-layer --output new --insert-at 3", "--insert-at 3", 1),
    ("insert-layer into nowhere", "insert-layer --output nowhere/new --insert-at 0", "nowhere", 1),
    ("insert-layer by a missing text", "insert-layer --output new --insert-at 0 --dataset missing",
     "missing", 1),
    ("insert-layer by a short text", "insert-layer --output new --insert-at 0 --dataset short.txt",
     "num_tokens + 1 = 9", 1),
    ("init-with over a model", "init-with --child model.safetensors --num-layers 3", "--force", 1),
    ("init-with of a smaller width", "init-with --embedding-degree 8", "--embedding-degree 8", 1),
    ("init-with of no tokenizer", "init-with --tokenizer bpe", "tokenizer.json", 1),
    ("init-with into nowhere", "init-with --child nowhere/new --num-layers 3", "nowhere", 1),
    *((f"compare with {model}", f"compare model.safetensors {model}", model.split("/")[0], 1)
      for model in NO_MODEL),
    ("compare with nothing", "compare model.safetensors", "B", 2),
    ("clusters of a missing text", "cluster-tokens --dataset missing", "missing", 1),
    ("the rules of nothing", "eval --task chess", "--task", 2),
    ("no losses", "loss --limit 0", "--limit", 2),
    ("a picture that is not SVG", "loss --plot curve.png", "SVG", 2),
    ("a drawing as JSON", "loss --plot curve.svg --json", "--plot", 2),
    ("a drawing of nothing", "loss --plot curve.svg", "no step was trained", 1),
    ("chunks of nothing", "chunks --chunk-size 0", "--chunk-size", 2),
    ("chunks of a short text", "chunks --dataset short.txt", "num_tokens + 1 = 9", 1),
    ("chunks over a file", "chunks --output dataset.txt", "--force", 1),
    ("chunks into nowhere", "chunks --output nowhere/hard", "--output nowhere/hard", 1),
    ("an unknown command", "fly", "fly", 2),
    *((f"an unknown option of {command}", f"{command} --wings", "--wings", 2)
      for command in COMMANDS),
    *((f"an argument too many for {command}", f"{command} one two", "one", 2)
      for command in COMMANDS
      if command not in ("generate", "infer", "compare", "import", "export", "quickstart")),
    ("an argument too many for compare", "compare one two three", "three", 2),
    ("no format", "export out", "--format", 2),
    ("an unknown format", "import --format docx dataset.txt", "--format", 2),
    ("a file too many", "import --format femto dataset.txt two", "two", 2),
    ("a text as a femtoGPT file", "import --format femto dataset.txt --force", "dataset.txt", 1),
    ("import over a model", "import --format femto dataset.txt", "model.safetensors", 1),
    ("export over a file", "export --format femto dataset.txt", "dataset.txt", 1),
    ("a standard model to femtoGPT", "export --format femto out", "recipe standard", 1),
    *((f"{option} without its value", f"{command} {option}", option, 2)
      for command, option in (("train", "--steps"), ("init", "--model"), ("generate", "--prompt"))),
]


@pytest.mark.parametrize(("line", "named", "code"), [case[1:] for case in CASES],
                         ids=[case[0] for case in CASES])
def test_one_line_the_right_code_and_nothing_overwritten(folder, line, named, code):
    before = state(folder)
    arguments = [argument.strip("'") for argument in line.split(" ")]
    result = CliRunner().invoke(main, arguments)
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code in ((1, 2) if code is None else (code,)), result.output
    assert result.stdout == ""
    assert result.stderr.endswith("\n")
    *before_it, message = result.stderr.splitlines()
    # `train` may have told where it stands, and any command that it compiles.
    assert all(said.startswith(("model.safetensors: step 0", "compiling "))
               for said in before_it), result.stderr
    assert message.startswith("femtogpt") or message.startswith("main"), message
    assert named in message and "Traceback" not in message
    assert state(folder) == before


def test_bad_input_to_a_real_process(folder):
    before = state(folder)
    for arguments, code in ((["train", "--steps=0"], 2), (["info", "--model=dataset.txt"], 1),
                            (["init"], 1), (["train", "--dataset=missing"], 1)):
        done = run(*arguments, cwd=folder)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1)
        assert done.stderr.startswith("femtogpt")
    assert state(folder) == before


def test_a_binary_dataset_is_no_trouble_for_bytes(folder):
    runner = CliRunner()
    assert runner.invoke(main, ["init", "--model=bytes", *SIZES]).exit_code == 0
    trained = runner.invoke(main, ["train", "--model=bytes", "--dataset=binary", "--steps=1"])
    assert trained.exit_code == 0
    assert os.path.exists("bytes")


def test_a_window_and_one_more_is_enough(folder):
    (folder / "short.txt").write_text("abcabcabc")
    result = CliRunner().invoke(main, ["train", "--dataset=short.txt", "--steps=1"])
    assert result.exit_code == 0, result.output
    result = CliRunner().invoke(main, ["eval", "--dataset=short.txt"])
    assert result.exit_code == 0 and "over 8 tokens" in result.stdout


def test_a_prompt_as_long_as_the_window_is_not_too_long(folder):
    result = CliRunner().invoke(main, ["generate", "--prompt=abcabcab", "--count=2"])
    assert result.exit_code == 0 and result.stdout.startswith("abcabcab")


def test_nothing_is_written_where_a_model_is_missing(folder):
    for command in MODEL_READERS:
        CliRunner().invoke(main, [*command.split(), "--model=hollow/model"])
    assert os.listdir("hollow") == []
