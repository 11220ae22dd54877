"""The notebook shows what its cells give today."""

import json
import re

import pytest

from tests.notebook import NOTEBOOK, executed, outputs_of


@pytest.mark.slow
def test_the_cells_of_the_notebook_give_its_outputs() -> None:
    stored = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    again = executed(stored)
    for cell, ran in zip(stored["cells"], again["cells"], strict=True):
        assert shown(ran) == shown(cell), "".join(cell["source"])


def shown(cell: dict[str, object]) -> list[str]:
    """The outputs of a cell as text; fractions and widths, which follow a processor's rounding, are left out."""
    outputs = cell.get("outputs", [])
    assert isinstance(outputs, list)
    texts = ["".join(output.get("text") or output["data"]["text/plain"]) for output in outputs]
    return [re.sub(r"[\s─═]+", " ", re.sub(r"-?\d+\.\d+", "#", text)) for text in texts]


def test_the_notebook_is_small_and_was_executed() -> None:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert NOTEBOOK.stat().st_size < 60_000


def test_a_cell_gives_what_it_prints_and_its_last_value() -> None:
    printed, value = outputs_of("print('a')\n1 + 1", {})
    assert (printed["text"], value["data"]) == (["a\n"], {"text/plain": ["2"]})
    assert outputs_of("b = 1", {}) == []
