"""What the test metrics mean to a reader: a sentence, examples by title, and the departments with the worst lists."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from genrec_core.data.split import HeldOut
from genrec_core.evaluation.meaning import Share
from genrec_core.evaluation.metrics import recall_hits
from genrec_core.evaluation.pages.catalog import departments, interactions_by_item

FIRST = 10  # items of a list that someone looks at
OTHER_WAY = ("history_removed", "history_kept")  # what is measured beside the headline, by ``exclude_seen``
_KNOWN_BY = {"title": "title", "brand": "brand", "categories": "category", "price": "price"}
_EXAMPLES, _SHOWN_HISTORY = 10, 3
_WORST, _LEAST_USERS = 5, 30  # departments, and users of a department whose recall says something


def verdict(metrics: Mapping[str, Any]) -> str:
    """One sentence about ``beauty_metrics.json``."""
    ranking, recall = metrics["ranking"], metrics[metrics["ranking"]].get(f"recall@{FIRST}")
    if recall is None:
        return f"The catalogue is too small for lists of {FIRST} items."
    users = _counted_users(recall)
    popular = metrics["popularity"][f"recall@{FIRST}"]
    return (
        f"The {ranking} ranking finds the next item among its first {FIRST} for {recall * users:.0f} of {users:,} "
        f"users; popularity for {popular * users:.0f}."
    )


def training_verdict(history: Mapping[str, Any]) -> str:
    """One sentence about ``training_history.json``."""
    recall, epochs = history["best_recall@10"], len(history["epochs"])
    users = _counted_users(recall)
    return (
        f"After epoch {history['best_epoch']:.0f} of {epochs}, which is kept, the model finds the next item among its "
        f"first {FIRST} for {recall * users:.0f} of {users:,} validation users."
    )


def release_verdict(recalls: Mapping[str, float | None], ranking: str) -> str:
    """One sentence about a release: Recall@10 of "this" release's ``ranking`` and of the "served" one, if any."""
    this, served = recalls["this"], recalls["served"]
    found = f"This release has a test Recall@{FIRST} of {this:.4f} ({ranking})" if this is not None else "A release"
    if served is None or this is None:
        return f"{found}; no other release is served to compare it with."
    if this == served:
        return f"{found}, as the served release has."
    return f"{found}, {abs(this - served):.4f} {'more' if this > served else 'less'} than the served release."


def catalog_verdict(catalog: pl.DataFrame) -> str:
    """One sentence about ``item_catalog``: how many items have what makes them known."""
    items = max(catalog.height, 1)
    shares = {what: (catalog.height - catalog[name].null_count()) / items for name, what in _KNOWN_BY.items()}
    known = [f"{_share(share)} a {what}" for what, share in shares.items() if share]
    lacking = [f"a {what}" for what, share in shares.items() if not share]
    says = [f"{known[0].replace('%', '% have')}{''.join(f', {more}' for more in known[1:])}"] if known else []
    says += [f"none has {' or '.join(lacking)}"] if lacking else []
    return f"{catalog.height:,} items; {'; '.join(says)}."


def histories_verdict(histories: pl.DataFrame) -> str:
    """One sentence about ``user_histories``: how long they are, and how unevenly items are bought."""
    bought = np.sort(interactions_by_item(histories))[::-1]
    share = bought[: max(1, round(len(bought) / 10))].sum() / max(bought.sum(), 1)
    median = float(np.median(histories["item_ids"].list.len().to_numpy())) if histories.height else 0.0
    return (
        f"{histories.height:,} users have {median:g} items each (median), of {len(bought):,} different ones; the most "
        f"bought tenth of these items makes {_share(float(share))} of all interactions."
    )


def embeddings_verdict(stats: Mapping[str, Any], alike: Share | None) -> str:
    """One sentence about the item vectors; ``stats`` is ``embedding_stats.json``."""
    if alike is None:
        return (
            f"{stats['items']:,} items have a vector; the catalogue's categories tell no items apart, so look at the "
            "nearest items and the map."
        )
    says = "tell what an item is" if alike.gain >= 0.2 else "tell a little" if alike.gain >= 0.05 else "tell hardly"
    return (
        f"The vectors {says}: of the five nearest items by text, {_share(alike.measured)} are of the item's own "
        f"department; of random items, {_share(alike.chance)}."
    )


def _share(share: float) -> str:
    return f"{share:.0%}".replace("%", " %")


def _counted_users(recall: float) -> int:
    return 100 if recall >= 0.1 else 1000


def other_way(metrics: Mapping[str, Any]) -> str:
    """The end of the names in ``beauty_metrics.json`` of the figures that are not the headline's."""
    return OTHER_WAY[metrics.get("seen_items", {}).get("lists") != "keep"]


def seen_choice(seen: Mapping[str, Any]) -> str:
    """Whether lists may hold items that the user already has, and why.

    Args:
        seen: ``seen_items`` of ``training_history.json`` or of ``beauty_metrics.json``; without figures where the
            training measured none.
    """
    kept = seen["lists"] == "keep"
    choice = f"Lists {'may hold' if kept else 'leave out'} items that the user already has"
    if "keep" not in seen:
        return f"{choice}."
    this, other = (seen["keep"], seen["exclude"]) if kept else (seen["exclude"], seen["keep"])
    users = _counted_users(max(this, other))
    why = "" if seen["setting"] == "auto" else ", as the setting `seen` says"
    chance = ", which may be chance" if seen["setting"] == "auto" and other > this else ""
    return (
        f"{choice}{why}: on validation this finds {this * users:.0f} of {users:,} next items, "
        f"the other way {other * users:.0f}{chance}."
    )


def examples(ranks: np.ndarray, held_out: HeldOut, names: Sequence[str], seed: int) -> dict[str, list[dict[str, Any]]]:
    """Random ``hits`` and ``misses`` of the first ten places, each with the newest items of the history.

    Args:
        ranks: 0-based rank of each target, int [n]; -1 if it is not in the list.
        names: what to call each item, by catalogue row.
    """
    order, found = np.random.default_rng(seed).permutation(len(ranks)), recall_hits(ranks, FIRST) > 0

    def described(number: int) -> dict[str, Any]:
        newest = held_out.histories.of(number)[-_SHOWN_HISTORY:]
        return {
            "user": held_out.histories.user_ids[number],
            "history": [names[row] for row in newest.tolist()],
            "target": names[int(held_out.targets[number])],
            "rank": int(ranks[number]) + 1 if ranks[number] >= 0 else None,
        }

    chosen = {"hits": order[found[order]], "misses": order[~found[order]]}
    return {kind: [described(number) for number in numbers[:_EXAMPLES].tolist()] for kind, numbers in chosen.items()}


def worst_departments(ranks: np.ndarray, held_out: HeldOut, categories: pl.Series) -> list[dict[str, Any]]:
    """The departments whose items are found least often, of those with enough users; ``categories`` is by row."""
    found, department = recall_hits(ranks, FIRST), departments(categories).gather(held_out.targets)
    frame = pl.DataFrame({"department": department, "user": held_out.users, "found": found})
    by_user = frame.group_by("department", "user").agg(pl.col("found").mean())
    by_department = by_user.group_by("department").agg(
        pl.len().alias("users"), pl.col("found").mean().alias(f"recall@{FIRST}")
    )
    enough = by_department.filter(pl.col("users") >= _LEAST_USERS)
    return enough.sort(f"recall@{FIRST}", "department").head(_WORST).to_dicts()


def item_names(catalog: pl.DataFrame) -> list[str]:
    """The title of each item, or its id where it has none."""
    titles = pl.col("title").cast(pl.String).str.strip_chars().replace("", None)
    return catalog.select(titles.fill_null("item " + pl.col("item_id").cast(pl.String))).to_series().to_list()
