"""The texts that experiments train on: made, found, or said where to get."""

import hashlib
import importlib
import random
from pathlib import Path

from ..errors import FemtoError

# SHA-256 over each crate's src/**/*.rs, sorted by path, one after the other: as in Debian 12's
# librust-*-dev packages, which hold the crates of crates.io.
CRATES = {
    "cargo-0.66.0": "1a13a57330172a7dfe5e93adb77a9830c19fa2876bf4d82fa6cc86116b6f3636",
    "clap-4.0.32": "100fe29aad1804b33691f6c922f8ddd8712edf0cb86fa0c0d445d56c1108b870",
    "hyper-0.14.19": "e57308184f99a8185205708e79ec849cab639e5ec633461beafa24cb23132e5f",
    "ignore-0.4.18": "80159edcb1352e3db28c367965f7e19113f9388d86e057e57558cf86c355f1ac",
    "num-bigint-0.4.3": "779bd49452662d2a3cb173428bafa04beafe2901f1fafab6b82ceeec0124f1fc",
    "rustls-0.20.8": "04b38a58805171f7d5294f22827fb97b6f3b6753d5aef30ab77c4598b7d7cb05",
    "tera-1.17.1": "1dd77ee5e63600eb5f765d00bf5e516a1842d570d6a822b2b366b395ef4a3bf0",
    "tokio-1.24.2": "7f161f0d59fab5de06492d1f6b2e3a80da1378ff42557924227221d0159ace07",
}
SHAKESPEARE = "434c0554a8c4c53dc17e56a0abb0f30b88f83cbceb0289cb897db68c25e89eba"


def make_text(data, seed, folders=("texts",), rust=None):
    """(the text as bytes, a sentence on what it is not, or None).

    data: an Entry's. seed: of a generator. folders: where files are looked for. rust: a
    folder whose *.rs take the place of the crates. Raises FemtoError where a text is not
    to be found, with the way to get it.
    """
    if isinstance(data, dict):
        return _own_rust(rust) if rust else _crates(data["crates"], folders)
    if data == "shakespeare":
        path = _find("shakespeare.txt", folders)
        if path is None:
            raise FemtoError(f"shakespeare.txt is not in {_listed(folders)}: name the folder it is "
                             "in, texts of a checkout for instance, with --texts")
        text = path.read_bytes()
        return text, _unless(hashlib.sha256(text).hexdigest() == SHAKESPEARE, path)
    generator = importlib.import_module(f"dummy_data.{data}")
    return "".join(generator.generate(random.Random(seed))).encode(), None


def _own_rust(folder):
    texts = [path.read_bytes() for path in sorted(Path(folder).rglob("*.rs")) if path.is_file()]
    if not texts:
        raise FemtoError(f"there is no .rs file in {folder}: name another folder with --rust")
    return b"".join(texts), f"the Rust sources are {folder}'s, not the pinned crates"


def _crates(names, folders):
    found = {name: _find(name, folders) for name in names}
    lacking = [name for name, path in found.items() if path is None]
    if lacking:
        debian, crate = zip(*(name.rsplit("-", 1) for name in lacking), strict=True)
        packages = " ".join(f"librust-{name}-dev" for name in debian)
        raise FemtoError(
            f"this needs the sources of {', '.join(lacking)}, which are not in {_listed(folders)}. "
            f"On Debian 12: `apt-get download {packages}` and `dpkg-deb -x FILE.deb rust` for "
            f"each; elsewhere unpack https://static.crates.io/crates/{debian[0]}/"
            f"{debian[0]}-{crate[0]}.crate and so on (tar xzf) in a folder rust. Then add "
            "--texts rust; or use other sources with --rust FOLDER")
    text, other = b"", None
    for name, folder in found.items():
        paths = sorted((folder / "src").rglob("*.rs"), key=lambda path: path.as_posix())
        crate = b"".join(path.read_bytes() for path in paths)
        other = other or _unless(hashlib.sha256(crate).hexdigest() == CRATES[name], folder)
        text += crate
    return text, other


def _find(name, folders):
    """The file or folder of that name, anywhere in the folders; None where there is none."""
    for folder in map(Path, folders):
        if (folder / name).exists():
            return folder / name
        found = sorted(folder.rglob(name))
        if found:
            return found[0]
    return None


def _listed(folders):
    return ", ".join(map(str, folders))


def _unless(same, path):
    return None if same else f"{path} is not, to the byte, what the figures in the table are from"
