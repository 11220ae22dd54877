"""Tables and plots of semantic IDs: how evenly the codebooks are used, and which items share a prefix."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrec_core.evaluation.pages.embeddings import spread
from genrec_core.evaluation.pages.plotting import GRID, INK, MAIN, PALETTE, as_png, labelled, new_figure
from genrec_core.quantization.semantic_ids import SemanticIds


def codebook_picture(summary: Mapping[str, Any], codes: NDArray[np.int32]) -> bytes:
    """Used centroids of each level, items of each centroid, and how many items share all levels but the suffix.

    Args:
        summary: the content of ``summary.json``, with ``codebook_use`` (share by level) and ``level_sizes``.
        codes: int32 [n, levels + 1], the suffix last.
    """
    figure, (use, evenness, sharing) = new_figure(3, (10.4, 3.4))
    shares = np.array(summary["codebook_use"])
    sizes = np.array(summary["level_sizes"][: len(shares)])
    levels = np.arange(1, len(sizes) + 1)
    use.bar(levels, sizes, color=GRID, width=0.6)
    bars = use.bar(levels, shares * sizes, color=MAIN, width=0.6)
    use.bar_label(bars, [f"{share:.0%}" for share in shares], padding=2, color=INK)
    use.set_xticks(levels)
    use.margins(y=0.15)
    labelled(use, "Codebook in use", "level", "centroids")
    for level, size, color in zip(levels, sizes, PALETTE, strict=False):
        items = np.sort(np.bincount(codes[:, level - 1], minlength=size))[::-1]
        evenness.plot(np.arange(1, size + 1), items, color=color, linewidth=1.8, label=f"level {level}")
    evenness.set_yscale("symlog", linthresh=1)
    evenness.set_ylim(bottom=0)
    evenness.legend(frameon=False, fontsize=8)
    labelled(evenness, "Items a centroid", "centroids, the fullest first", "items")
    sharing.bar(*np.unique(sharers(codes), return_counts=True), color=MAIN, width=0.8)
    sharing.set_yscale("log")
    labelled(sharing, "Items that share all levels", "items told apart by the suffix", "codes")
    return as_png(figure)


def sharers(codes: NDArray[np.int32]) -> NDArray[np.int64]:
    """How many items have each distinct code without its suffix, int64 [distinct codes]."""
    return np.unique(codes[:, :-1], axis=0, return_counts=True)[1].astype(np.int64)


def shared_prefixes(ids: SemanticIds, names: Sequence[str], shown: int, members: int) -> list[dict[str, str | int]]:
    """Groups of items with the same prefix: ``shown`` prefixes of each length that at least ``members`` items have.

    Args:
        ids: the codes.
        names: a name for each item, in the order of ``ids``.
        shown: prefixes of each length, spread evenly.
        members: items to show of each prefix, at least 2.

    Returns:
        One row for each item: ``prefix``, ``items`` that have it, ``semantic ID``, ``item``.
    """
    rows: list[dict[str, str | int]] = []
    for length in range(1, ids.codes.shape[1]):
        prefixes, group, counts = np.unique(ids.codes[:, :length], axis=0, return_inverse=True, return_counts=True)
        shared = np.flatnonzero(counts >= members)
        for number in shared[spread(len(shared), shown)]:
            items = np.flatnonzero(group.ravel() == number)
            for row in items[spread(len(items), members)].tolist():
                prefix, code = _dashed(prefixes[number]), _dashed(ids.codes[row])
                rows.append({"prefix": prefix, "items": int(counts[number]), "semantic ID": code, "item": names[row]})
    return rows


def _dashed(code: NDArray[np.int32]) -> str:
    return "-".join(map(str, code.tolist()))
