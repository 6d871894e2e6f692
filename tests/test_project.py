"""The project around the code: its commands, its wheel, and what its files must not say."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import hive
from tests.conftest import ROOT, missing_part

# Patterns that do not match themselves, so that this file may stay in the search.
UNWANTED = re.compile(rb"/[w]ork/|/[r]oot/|pypi[.]org|pythonhosted[.]org|registry[.]npmjs|deb[.]debian[.]org")


def tracked() -> list[Path]:
    """Return the files that are or would be committed."""
    if not (ROOT / ".git").exists():
        missing_part("a git checkout, to know which files belong to the project")
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    paths = [ROOT / name for name in listing.stdout.decode().split("\0") if name]
    return [path for path in paths if path.is_file()]


def test_the_readme_starts_with_two_commands() -> None:
    """The first block is what a newcomer pastes: see it work, run its tests."""
    block = re.search(r"```sh\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    assert block is not None
    assert [line.split("#")[0].strip() for line in block[1].splitlines()] == ["scripts/hive demo", "scripts/test"]


@pytest.mark.parametrize("name", ["scripts/hive", "scripts/test", "scripts/check", "scripts/bench", ".ci/run"])
def test_every_command_the_documents_name_can_be_run(name: str) -> None:
    """Executable, and without the shell's complaint about its grammar."""
    assert os.access(ROOT / name, os.X_OK)
    shell = (ROOT / name).read_text("utf-8").splitlines()[0].split("/")[-1].split()[-1]
    subprocess.run([shell, "-n", ROOT / name], check=True)


def test_scripts_named_in_documents_exist() -> None:
    """No page sends people to a script that is gone."""
    pages = [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "CHANGELOG.md",
        *sorted((ROOT / "docs").rglob("*.md")),
    ]
    named = {name for page in pages for name in re.findall(r"\bscripts/[\w.-]*\w", page.read_text("utf-8"))}
    assert sorted(name for name in named if not (ROOT / name).is_file()) == []


def test_pages_link_to_files_that_exist() -> None:
    """Relative links of every page lead somewhere."""
    dead = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in tracked()
        if page.suffix == ".md" and "prompts" not in page.parts
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text("utf-8"))
        if not (page.parent / target).exists()
    ]
    assert dead == []


def test_no_file_knows_a_machine_or_a_registry() -> None:
    """Everything works from a clone on anybody's machine, through whatever registry that one uses."""
    found = [
        f"{path.relative_to(ROOT)}: {match[0].decode()}"
        for path in tracked()
        for match in UNWANTED.finditer(path.read_bytes())
    ]
    assert found == []


def test_every_lint_exception_has_its_reason() -> None:
    """In the settings each ignore has a comment; in code each noqa and type: ignore names its rule."""
    settings = (ROOT / "pyproject.toml").read_text("utf-8")
    block = settings.split("\nignore = [\n", 1)[1].split("\n]\n", 1)[0]
    assert [line for line in block.splitlines() if not re.search(r"#\s*\w", line)] == []
    bare = re.compile(r"#\s*(?:noqa(?!:\s*[A-Z])|type:\s*ignore(?!\[))")
    sources = [path for path in tracked() if path.suffix == ".py"]
    assert [str(p.relative_to(ROOT)) for p in sources if bare.search(p.read_text("utf-8"))] == []


def test_every_dependency_is_explained_and_pinned() -> None:
    """Each library of pyproject.toml stands in docs/design/dependencies.md and in constraints.txt."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = project["dependencies"] + [one for extra in project["optional-dependencies"].values() for one in extra]
    names = {re.split(r"[<>=;\s]", one, maxsplit=1)[0].lower() for one in wanted}
    page = (ROOT / "docs" / "design" / "dependencies.md").read_text("utf-8").lower()
    pinned = set(re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text("utf-8"), re.MULTILINE))
    assert sorted(name for name in names if not re.search(rf"[| ,]{re.escape(name)}[ ,]", page)) == []
    assert sorted(names - pinned) == []


def test_the_wheel_holds_code_statements_prompts_and_types(tmp_path: Path) -> None:
    """What pip installs is all that Hive needs: no file is read from the checkout."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=50,
    )
    [wheel] = tmp_path.glob("*.whl")
    assert wheel.name == f"hive-{hive.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    ours = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "hive").rglob("*")
        if path.is_file() and path.suffix in {".py", ".sql", ".md", ".typed"}
    }
    assert {"hive/py.typed", "hive/store/sqlite/migrations/0001_initial.sql", "hive/prompts/apply.md"} <= ours <= inside
    assert f"hive-{hive.__version__}.dist-info/licenses/LICENSE" in inside
    assert not [name for name in inside if name.startswith(("tests/", "benchmarks/", "scripts/"))]


# --- the bootstrap ------------------------------------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a small checkout whose .venv stands as a finished installation, with a program that shows its call."""
    root = tmp_path.resolve() / "a checkout"
    shutil.copytree(ROOT / "scripts", root / "scripts")
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, root / name)
    (root / ".venv" / "bin").mkdir(parents=True)
    (root / ".venv" / "bin" / "python").symlink_to(sys.executable)
    program = root / ".venv" / "bin" / "hive"
    program.write_text('#!/bin/sh\npwd\nprintf "<%s>\\n" "$@"\nexit 7\n')
    program.chmod(0o755)
    stamp = f"{root}\n{(root / 'pyproject.toml').read_text()}{(root / 'constraints.txt').read_text()}"
    (root / ".venv" / "hive-run.installed").write_text(stamp)
    return root


def run(program: Path, *args: str, cwd: Path, path: str = "/usr/bin:/bin") -> subprocess.CompletedProcess[str]:
    """Run a program with next to nothing in its environment."""
    environ = {"PATH": path, "HOME": str(cwd)}
    return subprocess.run(
        [program, *args], cwd=cwd, env=environ, capture_output=True, text=True, check=False, timeout=50
    )


def test_hive_runs_from_anywhere_and_hands_everything_through(checkout: Path, tmp_path: Path) -> None:
    """Through two symbolic links, from another directory: the caller's directory, arguments and exit code stay."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "one").symlink_to("../a checkout/scripts/hive")
    (tmp_path / "two").symlink_to(tmp_path / "bin" / "one")
    done = run(tmp_path / "two", "run", "a b", "", cwd=tmp_path)
    assert (done.stdout, done.stderr, done.returncode) == (f"{tmp_path}\n<run>\n<a b>\n<>\n", "", 7)


def test_hive_installs_again_when_a_requirement_changed(checkout: Path, tmp_path: Path) -> None:
    """One changed byte is enough; progress goes to stderr, and the installer's failure is told with what to do."""
    with (checkout / "constraints.txt").open("a") as file:
        file.write("# changed\n")
    program = checkout / ".venv" / "bin" / "python"
    program.unlink()
    program.write_text("#!/bin/sh\necho installer was called >&2\nexit 9\n")
    program.chmod(0o755)
    (checkout / ".venv" / "lib" / "python3" / "site-packages" / "pip").mkdir(parents=True)
    done = run(checkout / "scripts" / "hive", "x", cwd=tmp_path, path=f"{Path(sys.executable).parent}:/usr/bin:/bin")
    assert (done.stdout, done.returncode) == ("", 5)
    assert "installer was called" in done.stderr
    assert "run the same command again" in done.stderr
    assert not (checkout / ".venv" / "hive-run.installed").exists()


def test_hive_says_what_is_missing_without_a_python(checkout: Path, tmp_path: Path) -> None:
    """A code, the cause and the next step; nothing on stdout."""
    shutil.rmtree(checkout / ".venv")
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sh", "dirname", "readlink", "cat", "cmp"):
        found = shutil.which(name)
        assert found is not None
        (tools / name).symlink_to(found)
    done = run(checkout / "scripts" / "hive", "x", cwd=tmp_path, path=str(tools))
    assert (done.stdout, done.returncode) == ("", 5)
    assert done.stderr.startswith("error[H501]: no Python 3.11 or newer")
    assert "\nfix: " in done.stderr
