"""A real Ray cluster of two nodes, each in a network namespace: equal results, also where one dies half-way."""

from collections.abc import Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from genrec_core.embedding.item_embeddings import RAW
from genrec_core.errors import GenrecError
from genrec_core.storage.artifacts import write_json
from tests.benchmarks.cluster import by_part, figures_of, started_on
from tests.benchmarks.cluster_work import PARTS, Work
from tests.benchmarks.two_nodes import RayNodes, two_ray_nodes

if TYPE_CHECKING:
    from tests.core.tiny_model import TinyModel

pytestmark = pytest.mark.slow


@pytest.fixture
def nodes() -> Iterator[RayNodes]:
    if find_spec("ray") is None:
        pytest.skip("the extra ray is not installed")
    with ExitStack() as stack:
        try:
            started = stack.enter_context(two_ray_nodes())
        except GenrecError as error:
            if "network namespaces" not in str(error):
                raise
            pytest.skip(str(error))
        yield started


@pytest.fixture
def work(tmp_path: Path, tiny_model: "TinyModel") -> Path:
    """The folder of some work on the tiny catalogue."""
    texts = [f"Title: {'nail lacquer ' * (number % 19)}{number};" for number in range(640)]
    write_json(tmp_path / "texts.json", texts)
    known = np.load(tiny_model.model_dir / "item_ids.npy")
    lines = [f"{user} {' '.join(map(str, known[user % 50 : user % 50 + 7]))}\n" for user in range(3000)]
    (tmp_path / "requests.txt").write_text("".join(lines))
    given = Work(
        texts=tmp_path / "texts.json", n_texts=640, semantic_ids=tiny_model.semantic_ids,
        vectors=tiny_model.embeddings / RAW, copies=400, model_dir=tiny_model.model_dir,
        requests=tmp_path / "requests.txt", top_k=10,
    )  # fmt: skip
    (tmp_path / "work.json").write_text(given.model_dump_json())
    return tmp_path


def here(work: Path, part: str) -> str:
    """The digest of what this process makes of a part."""
    folder = work / "here"
    folder.mkdir(exist_ok=True)
    digest: str = PARTS[part](Work.model_validate_json((work / "work.json").read_text()), None, folder)["sha256"]
    return digest


def test_two_nodes_give_what_one_process_gives_and_nothing_is_left_of_them(nodes: RayNodes, work: Path) -> None:
    parts = ("embeddings", "assignment", "predictions")
    found = figures_of(nodes, work, "ray", parts)
    assert {part: found[part]["sha256"] for part in parts} == {part: here(work, part) for part in parts}
    assert len(nodes.running(0)) > 3
    nodes.stop()
    assert nodes.running(0) == nodes.running(1) == []


@pytest.mark.parametrize("name", ["ray::", ""], ids=["worker", "node"])
def test_a_death_half_way_changes_nothing(nodes: RayNodes, work: Path, name: str) -> None:
    process = started_on(nodes, work, "ray", ("embeddings",))
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("192 of"):
            assert nodes.kill(1, name)
            break
    said, complained = process.communicate()
    found = by_part(process.returncode, said, complained)
    assert found["embeddings"]["sha256"] == here(work, "embeddings")
