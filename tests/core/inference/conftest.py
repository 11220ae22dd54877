"""The tiny model with titles, brands, categories and prices, so that it takes rules."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest

from genrec_core.artifacts import write_manifest
from genrec_core.export.items import item_table
from genrec_core.inference.recommender import Recommender

if TYPE_CHECKING:
    from conftest import TinyModel

CatalogOf = Callable[[np.ndarray], pl.DataFrame]


@pytest.fixture(scope="session")
def catalog_of() -> CatalogOf:
    """A catalogue of some ids: brands Even and Odd by row, a category for ten rows, the row as price but for row 0."""

    def of(item_ids: np.ndarray) -> pl.DataFrame:
        rows = range(len(item_ids))
        return pl.DataFrame(
            {
                "item_id": item_ids,
                "title": [f"Item {row}" for row in rows],
                "brand": ["Odd" if row % 2 else "Even" for row in rows],
                "categories": [f"All > Tens {row // 10}" for row in rows],
                "price": [float(row) if row else None for row in rows],
                "description": ["not carried along"] * len(item_ids),
            }
        )

    return of


@pytest.fixture(scope="session")
def ruled_dir(tiny_model: "TinyModel", catalog_of: CatalogOf, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the model."""
    folder = shutil.copytree(tiny_model.model_dir, tmp_path_factory.mktemp("ruled") / "model")
    ids = np.load(folder / "item_ids.npy")
    item_table(catalog_of(ids), ids).save(folder)
    write_manifest(folder)
    return folder


@pytest.fixture(scope="session")
def ruled(ruled_dir: Path) -> Recommender:
    """The model, opened."""
    return Recommender.from_folder(ruled_dir, threads=1)
