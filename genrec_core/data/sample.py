"""The embedded sample: a synthetic shop in the raw form of P5, the same bytes for the same arguments.

A product is one step of a routine (cleanser, toner, serum ...) made by a brand's line. A user has two favourite lines
and walks: often to the routine's next step of the same line, often to that step of a favourite line, else to a product
drawn by Zipf popularity. Nobody buys a product twice. So the next item follows from the last one and the user's taste,
and both show in title, brand and category; popularity alone explains little.
"""

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from genrec_core.storage.artifacts import write_json

_ROUTINES = {
    ("Skin Care", "Face"): ("Cleanser", "Toner", "Serum", "Moisturizer", "Sunscreen", "Night Cream"),
    ("Skin Care", "Body"): ("Body Wash", "Body Scrub", "Body Lotion", "Body Butter", "Hand Cream", "Foot Balm"),
    ("Hair Care", "Wash"): ("Shampoo", "Conditioner", "Hair Mask", "Leave-In Spray", "Hair Oil", "Scalp Tonic"),
    ("Hair Care", "Styling"): ("Heat Protectant", "Mousse", "Curl Cream", "Gel", "Hair Spray", "Texture Powder"),
    ("Makeup", "Face"): ("Primer", "Foundation", "Concealer", "Powder", "Blush", "Setting Spray"),
    ("Makeup", "Eyes"): ("Eye Primer", "Eyeshadow Palette", "Eyeliner", "Mascara", "Brow Pencil", "Makeup Remover"),
    ("Makeup", "Nails"): ("Polish Remover", "Base Coat", "Nail Polish", "Nail Glitter", "Top Coat", "Cuticle Oil"),
    ("Fragrance", "Gifts"):
        ("Eau de Toilette", "Eau de Parfum", "Body Mist", "Deodorant", "Scented Candle", "Room Spray"),
}  # fmt: skip
_BRANDS = (
    "Alder", "Bellaria", "Celandine", "Dorvane", "Elmswood", "Fiora", "Greyline", "Halcyon", "Isolde", "Juniper",
    "Kestrel", "Lumiere", "Marrow", "Nocturne", "Orchard", "Peony", "Quill", "Rosalind", "Saffron", "Thistle", "Umber",
)  # fmt: skip
_LINES = ("Pure Botanicals", "Clinical Repair", "Daily Ritual", "Velvet Edition")
_TYPES = [(path, name) for path, names in _ROUTINES.items() for name in names]
_STEPS = 6

_NEXT_SAME_LINE, _NEXT_OTHER_LINE = 0.40, 0.25  # probabilities of a walk's two kinds of step
_ZIPF = 0.8  # exponent of the popularity of the products that are reached otherwise
_SHORTEST, _MEAN_EXTRA, _LONGEST = 5, 4.0, 40  # items a history


def write_sample(folder: Path, users: int = 5000, items: int = 2000, seed: int = 7) -> None:
    """Write the three raw files of a synthetic shop of at least 20 items to ``folder``.

    A history has 5 to 40 items (9 on average), but never more than half of ``items``.
    """
    random = np.random.default_rng(seed)
    histories = _histories(users, items, random)
    write_raw(folder, histories, [_product(item, f"S{item + 1:06d}", random) for item in range(items)])


def write_raw(folder: Path, histories: Sequence[Sequence[int]], products: Sequence[Mapping[str, object]]) -> None:
    """Write the three raw files of P5: 1-based items of each user, and what ``meta.json.gz`` says of each item."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = (f"{user} {' '.join(map(str, history))}\n" for user, history in enumerate(histories, 1))
    (folder / "sequential_data.txt").write_text("".join(lines), encoding="utf-8")
    ids = {product["asin"]: str(item) for item, product in enumerate(products, 1)}
    write_json(folder / "datamaps.json", {"item2id": ids})
    meta = "".join(json.dumps(product) + "\n" for product in products)
    (folder / "meta.json.gz").write_bytes(gzip.compress(meta.encode(), mtime=0))


def _product(item: int, asin: str, random: np.random.Generator) -> dict[str, object]:
    path, name = _TYPES[item % len(_TYPES)]
    maker = item // len(_TYPES)
    brand = _BRANDS[maker % len(_BRANDS)] + ("" if maker < len(_BRANDS) * len(_LINES) else f" {maker}")
    line = _LINES[(maker // len(_BRANDS) + maker) % len(_LINES)]
    size = int(random.choice([15, 30, 50, 100, 200, 250]))
    product: dict[str, object] = {
        "asin": asin,
        "title": f"{brand} {line} {name}, {size} ml",
        "categories": [["Beauty", *path, name]],
        "price": round(float(random.gamma(4, 4) + 2), 2),
    }
    if random.random() < 0.9:  # as in real catalogues, some products name no brand
        product["brand"] = brand
    return product


def _histories(users: int, items: int, random: np.random.Generator) -> list[list[int]]:
    """The 1-based items of every user."""
    weights = 1 / np.arange(1, items + 1) ** _ZIPF
    by_rank = random.permutation(items)
    steps = np.cumsum(weights / weights.sum())
    makers = (items - 1) // len(_TYPES) + 1
    longest = max(_SHORTEST, min(_LONGEST, items // 2))
    lengths = np.minimum(_SHORTEST + random.geometric(1 / (1 + _MEAN_EXTRA), users) - 1, longest)
    tries = 8 * longest
    histories = []
    for length in lengths.tolist():
        favourites = random.integers(0, makers, 2).tolist()
        popular = by_rank[np.searchsorted(steps, random.random(tries)).clip(max=items - 1)]
        histories.append(_walk(length, items, favourites, random.random(tries).tolist(), popular.tolist()))
    return histories


def _walk(length: int, items: int, favourites: list[int], kinds: list[float], popular: list[int]) -> list[int]:
    """One user's ``length`` distinct items, 1-based.

    Args:
        kinds: a number in 0..1 for each step, which chooses its kind.
        popular: the product that each step reaches if it is drawn by popularity.
    """
    current = popular[0]
    history = {current: None}
    for kind, reached in zip(kinds, popular[1:], strict=False):
        if len(history) == length:
            break
        following = current - current % _STEPS + (current % _STEPS + 1) % _STEPS  # types come in routines of six
        if kind >= _NEXT_SAME_LINE + _NEXT_OTHER_LINE:
            following = reached
        elif kind >= _NEXT_SAME_LINE:
            following = favourites[len(history) % 2] * len(_TYPES) + following % len(_TYPES)
        if following < items and following not in history:
            history[following] = None
            current = following
        elif reached not in history:
            history[reached] = None
            current = reached
    return [item + 1 for item in history]
