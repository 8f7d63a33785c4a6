"""The hostile inputs on every CPython of the machine: their email modules differ by patch release, mails must not."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import airflow_smtp_interface

pytestmark = pytest.mark.pythons

_NEEDED = ("pytest", "trustme", "tenacity", "idna", "markdownify")
_MINORS = range(11, 17)
_ASK = """
import sys, venv, ensurepip
if sys.implementation.name == "cpython" and sys.version_info >= (3, 11):
    print(sys.version.split()[0])
"""


def _folders() -> Iterator[Path]:
    yield from map(Path, os.get_exec_path())
    versions = [Path(sys.base_prefix).parent]
    if pyenv := shutil.which("pyenv"):
        root = subprocess.run([pyenv, "root"], capture_output=True, text=True, check=False).stdout.strip()
        versions.append(Path(root) / "versions")
    for folder in versions:
        yield from sorted(folder.glob("*/bin"))


def _interpreters() -> dict[str, Path]:
    """Find one interpreter of each version; the running one's own is always among them."""
    found = {sys.version.split()[0]: Path(sys.executable)}
    for path in dict.fromkeys(folder / f"python3.{minor}" for folder in _folders() for minor in _MINORS):
        # A script is a shim, such as pyenv's, of an interpreter that is found elsewhere.
        if not os.access(path, os.X_OK) or path.read_bytes()[:2] == b"#!":
            continue
        answer = subprocess.run([path, "-I", "-c", _ASK], capture_output=True, text=True, check=False)
        if version := answer.stdout.strip():
            found.setdefault(version, path)
    return dict(sorted(found.items()))


def _run(*command: str | Path, **options: object) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, f"{command}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.mark.parametrize(
    ("version", "interpreter"), [pytest.param(*each, id=each[0]) for each in _interpreters().items()]
)
def test_the_inputs_end_alike(version: str, interpreter: Path, tmp_path: Path) -> None:
    checkout = next(each for each in Path(__file__).parents if (each / "pyproject.toml").exists())
    constraints = next(
        each / "constraints.txt" for each in Path(__file__).parents if (each / "constraints.txt").exists()
    )
    alone = tmp_path / "alone"  # the package without its neighbours, one of which may be Airflow
    alone.mkdir()
    (alone / "airflow_smtp_interface").symlink_to(Path(airflow_smtp_interface.__file__).parent)
    python = tmp_path / "venv" / "bin" / "python"
    _run(interpreter, "-m", "venv", tmp_path / "venv")
    _run(python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-c", constraints, *_NEEDED)
    environment = {**os.environ, "PYTHONPATH": str(alone), "PYTHONDONTWRITEBYTECODE": "1"}
    # What pytest was told for this run is not meant for that one.
    for name in [name for name in environment if name.startswith(("PYTEST_", "COV_"))]:
        del environment[name]
    probe = "import sys, importlib.util as u; print(sys.version.split()[0], u.find_spec('airflow'))"
    assert _run(python, "-c", probe, env=environment, cwd=tmp_path).split() == [version, "None"]
    test = Path("tests", "hostile", "test_mail.py")
    said = _run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", test, env=environment, cwd=checkout)
    passed = re.search(r"^(\d+) passed", said, re.MULTILINE)
    print(f"CPython {version}: {said.splitlines()[-1]}")
    assert passed
    assert int(passed[1]) > 75
    shutil.rmtree(tmp_path / "venv")  # pytest keeps the folders of several runs
