"""What holds for the repository as a whole: its pins, its layering, what its code never does, what its README says."""

import ast
import hashlib
import importlib.metadata
import os
import re
import subprocess
import tomllib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from genrec_core.cli.main import main
from genrec_core.settings import PRESETS, Preset
from genrec_dagster.definitions import defs
from tests.settings_page import FORMS, page

REPOSITORY = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
PINS = [
    Requirement(line)
    for lines in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
    for line in lines
]
MODULES = sorted(path for package in ("genrec_core", "genrec_dagster") for path in (REPOSITORY / package).rglob("*.py"))
TOP_LEVEL = {
    *("genrec_dagster", "genrec_core", "tests", "docker", "dagster_cloud.yaml", "workspace.yaml", "pyproject.toml"),
    *("README.md", "Makefile", "LICENSE"),
}
GUIDES = [
    REPOSITORY / name
    for name in (
        *("README.md", "genrec_core/README.md", "genrec_core/settings/README.md", "genrec_dagster/README.md"),
        *("docker/README.md", "tests/README.md", "tests/benchmarks/RESULTS.md"),
        *(".github/SECURITY.md", ".github/CHANGELOG.md"),
    )
]
NOT_FOR_INFERENCE = {"polars", "torch", "transformers", "sentence-transformers", "dagster", "mlflow", "matplotlib"}


# --- dependencies ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pin", PINS, ids=str)
def test_a_dependency_is_a_range_that_holds_the_version_that_is_installed(pin: Requirement) -> None:
    assert sorted(specifier.operator for specifier in pin.specifier) == ["<", ">="]
    if pin in map(Requirement, PROJECT["optional-dependencies"]["ray"]) and find_spec("ray") is None:
        pytest.skip("the extra ray is not installed")
    if pin.marker is None or pin.marker.evaluate():
        assert pin.specifier.contains(importlib.metadata.version(pin.name))


def test_predictions_need_no_training_library_and_no_dagster() -> None:
    assert not _all_that(PROJECT["dependencies"]) & NOT_FOR_INFERENCE


def test_every_package_that_is_imported_is_a_dependency_by_name() -> None:
    distributions = importlib.metadata.packages_distributions()
    named = {_normal(pin.name) for pin in PINS}
    for module in MODULES:
        for name in _imported(module) - {"genrec_core", "genrec_dagster"}:
            providers = {_normal(distribution) for distribution in distributions.get(name, [])}
            assert not providers or providers & named, f"{module}: {name} comes from {providers}"


def _all_that(requirements: list[str]) -> set[str]:
    """The normal names of ``requirements`` and of all that they require in turn."""
    found: set[str] = set()
    waiting = [Requirement(line) for line in requirements]
    while waiting:
        requirement = waiting.pop()
        name = _normal(requirement.name)
        if name in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        found.add(name)
        waiting += map(Requirement, importlib.metadata.requires(name) or [])
    return found


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


# --- code -----------------------------------------------------------------------------------------------------------


def test_the_library_knows_nothing_of_the_graph() -> None:
    guilty = [str(path) for path in MODULES if "genrec_core" in path.parts and "genrec_dagster" in _imported(path)]
    assert not guilty


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_a_module_keeps_the_rules_of_the_house(module: Path) -> None:
    tree = ast.parse(module.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree) or not tree.body, "no first line that says what the module is for"
    assert not {"pickle", "dill", "joblib", "cloudpickle", "shelve", "marshal"} & _imported(module)
    assert not list(_forbidden(tree))


def _imported(module: Path) -> set[str]:
    """Top-level names of all that ``module`` imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


_FORBIDDEN_CALLS = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load"),
    *("torch.load", "torch.save", "tempfile.mktemp"),
}


def _forbidden(tree: ast.Module) -> Iterator[str]:
    """Calls that run data as code, and handlers that swallow an exception."""
    for node in ast.walk(tree):
        name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
        if name in _FORBIDDEN_CALLS or name.endswith((".extractall", ".extract")):
            yield f"line {node.lineno}: {name}"
        elif isinstance(node, ast.keyword) and node.arg in {"shell", "trust_remote_code"}:
            yield f"line {node.value.lineno}: {node.arg}"
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False":
            yield f"line {node.value.lineno}: allow_pickle"
        elif isinstance(node, ast.ExceptHandler) and (node.type is None or _does_nothing(node.body)):
            yield f"line {node.lineno}: an exception is swallowed"


def _does_nothing(body: list[ast.stmt]) -> bool:
    return all(isinstance(line, ast.Pass) or ast.unparse(line) == "..." for line in body)


def test_an_ignored_finding_says_why() -> None:
    for path in [*MODULES, *(REPOSITORY / "tests").rglob("*.py")]:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            ignored = re.search(
                r"#\s*(type: ignore|noqa)(?P<codes>\[[\w, -]+\]|: [A-Z]+\d+(, ?[A-Z]+\d+)*)?(?P<why>.*)", line
            )
            if ignored and "re.search" not in line:
                assert ignored["codes"], f"{path}:{number} ignores everything"
                assert len(ignored["why"].strip(" #-")) > 8, f"{path}:{number} gives no reason"


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    """The files that git tracks."""
    if not (REPOSITORY / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout
    return [REPOSITORY / name for name in listed.split("\0") if name and (REPOSITORY / name).is_file()]


def test_the_top_level_holds_what_was_agreed_and_dot_files(tracked: list[Path]) -> None:
    names = {path.relative_to(REPOSITORY).parts[0] for path in tracked}
    assert {name for name in names if not name.startswith(".")} <= TOP_LEVEL


def test_no_file_names_a_place_on_somebodys_machine(tracked: list[Path]) -> None:
    places = re.compile(r"(?<![\w.$}])/(work|root|farm|home/\w+|Users/\w+)/")
    for path in tracked:
        if path.suffix not in {".png", ".npy", ".gz"} and path != Path(__file__):
            assert not places.search(path.read_text(encoding="utf-8")), path


def test_no_large_file_is_tracked(tracked: list[Path]) -> None:
    assert not [path for path in tracked if path.stat().st_size > 400_000]


def test_scripts_can_be_run() -> None:
    assert all(os.access(REPOSITORY / ".ci" / name, os.X_OK) for name in ("run", "setup", "pythons"))


def test_the_licence_is_the_canonical_text() -> None:
    digest = hashlib.sha256((REPOSITORY / "LICENSE").read_bytes()).hexdigest()
    assert digest == "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
    assert PROJECT["license"] == "Apache-2.0"


def test_ci_runs_the_same_script_everywhere() -> None:
    assert "run: .ci/run" in (REPOSITORY / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    script = (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8")
    assert re.search(r"^make lint$", script, re.MULTILINE)
    assert re.search(r"^make test$", script, re.MULTILINE)


# --- what the README says -------------------------------------------------------------------------------------------


def test_make_help_lists_every_command_and_is_what_make_alone_does() -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    commands = set(re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[0].split())
    shown = subprocess.run(["make", "-C", str(REPOSITORY)], capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"^  make ([\w-]+)", shown, re.MULTILINE)) == commands


def test_the_readme_names_every_asset_and_preset() -> None:
    assets = {key.to_python_identifier() for key in defs.resolve_asset_graph().get_all_asset_keys()}
    assert {name for name in assets if f"| `{name}` |" in README} == assets
    assert all(preset in README for preset in PRESETS)


def test_the_readme_is_short_enough_to_be_read_whole() -> None:
    assert len(README.splitlines()) <= 200


def test_the_page_of_all_settings_is_current() -> None:
    shown = (REPOSITORY / "genrec_core" / "settings" / "README.md").read_text(encoding="utf-8")
    assert shown == page() + "\n", "run: python -m tests.settings_page > genrec_core/settings/README.md"
    assert set(FORMS) == set(Preset.model_fields)


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_a_guide_links_to_what_is_there(guide: Path) -> None:
    text = guide.read_text(encoding="utf-8")
    for address in re.findall(r"\]\(([^)#\s]+)", text):
        assert address.startswith("http") or (guide.parent / address).exists(), address
    headings = [re.sub(r"[^a-z0-9 -]", "", line.lower()) for line in re.findall(r"^#+ (.*)$", text, re.MULTILINE)]
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= {heading.replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("guide", GUIDES[:-1], ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_a_guide_names_commands_that_exist(guide: Path, capsys: pytest.CaptureFixture[str]) -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[0].split())
    code = " ".join(_code(guide.read_text(encoding="utf-8")))
    assert set(re.findall(r"(?<![\w-])make ([a-z-]+)", code)) <= targets
    with pytest.raises(SystemExit):
        main(["--help"])
    commands = set(re.findall(r"^    ([a-z-]+)", capsys.readouterr().out, re.MULTILINE))
    assert set(re.findall(r"(?<![\w/.-])genrec ([a-z][a-z-]+)", code)) <= commands


def _code(markdown: str) -> list[str]:
    """The indented blocks and inline pieces of code."""
    return re.findall(r"^    .*$|`[^`\n]+`", markdown, re.MULTILINE)
