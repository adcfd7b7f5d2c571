"""The wheel and the sdist hold what they should, and nothing else."""

import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest
from small import ROOT

SOURCES = ("femtogpt", "dummy_data")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with a wheel and an sdist, built of what git has of the checkout."""
    folder = tmp_path_factory.mktemp("built")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / "copy" / name)
    for kind in ("wheel", "sdist"):
        done = subprocess.run(
            [sys.executable, "-c", "from setuptools import build_meta as b; import sys; "
             f"b.build_{kind}(sys.argv[1])", folder], cwd=folder / "copy", capture_output=True,
            text=True)
        assert done.returncode == 0, done.stderr
        assert "Deprecat" not in done.stderr
    return folder


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_wheel_has_the_package_alone(built):
    [wheel] = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = {name for name in files(built / "copy")
                if name.startswith(tuple(f"{part}/" for part in SOURCES))}
    assert names == expected
    assert {name.rpartition(".")[2] for name in names} <= {"py", "typed", "txt", "json", "html",
                                                           "css", "js"}


def test_the_sdist_has_all_that_git_has(built):
    [sdist] = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    tracked = {name for name in files(built / "copy") if not name.startswith(("build/", ".git"))
               and ".egg-info/" not in name}
    assert tracked <= names
    made = {name for name in names if ".egg-info/" in name} | {"PKG-INFO", "setup.cfg"}
    assert names - tracked <= made


def test_the_version_is_in_the_changes():
    from importlib.metadata import version

    import femtogpt

    assert version("femtogpt") == femtogpt.__version__
    assert f"\n## {femtogpt.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
