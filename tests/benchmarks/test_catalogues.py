"""The generated shops have the structure that they are described by, and the same seed gives the same shop."""

import numpy as np
import pytest

from genrec_core.errors import GenrecError
from tests.benchmarks import catalogues


@pytest.mark.parametrize("kind", catalogues.SHOPS)
def test_a_shop_names_items_that_it_has(kind: str) -> None:
    histories, products = catalogues.SHOPS[kind](np.random.default_rng(1))
    again, _ = catalogues.SHOPS[kind](np.random.default_rng(1))
    bought = np.concatenate([np.array(history) for history in histories])
    assert histories == again
    assert 1 <= bought.min() <= bought.max() <= len(products)
    assert len({product["asin"] for product in products}) == len(products)
    distinct = np.mean([len(set(history)) / len(history) for history in histories])
    assert distinct < 0.7 if kind == "repeats" else distinct == 1


def test_an_unknown_shop_is_refused() -> None:
    with pytest.raises(GenrecError, match="toys: no such shop; choose some of keywords, no_text, repeats"):
        catalogues.run(kinds=("toys",))
