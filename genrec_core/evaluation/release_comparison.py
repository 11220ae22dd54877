"""Compares an exported model with the trained one, and a new one (challenger) with the served one (champion).

Releases are compared by validation items, never test items.
"""

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl

from genrec_core.bundle.model_folder import ModelFolder
from genrec_core.cores import available_cores
from genrec_core.data.histories import Histories, items_of
from genrec_core.data.ids import AnyId, are_text, id_array
from genrec_core.data.split import validation_part
from genrec_core.embedding.item_embeddings import ItemEmbeddings
from genrec_core.errors import GenrecError
from genrec_core.evaluation.metrics import JUDGED, deepest_cutoff, mean_metrics, ndcg_gains, paired_differences
from genrec_core.quantization.semantic_ids import SemanticIds
from genrec_core.recommend.recommender import Ranking, Recommender
from genrec_core.search.held_out import target_ranks
from genrec_core.settings import ReleaseSettings

Outcome = Literal["better", "not worse", "cannot tell", "worse"]
_DECISIVE_FIRST: tuple[Outcome, ...] = ("worse", "cannot tell", "better", "not worse")
_WARM_UP_USERS = 3
_SEARCH_USERS = 2000  # they choose the best earlier release; all users then compare it


@dataclass(frozen=True)
class Comparison:
    """How a challenger compares with one other model, here the champion."""

    users: int
    champion: dict[str, float]  # mean of each metric
    challenger: dict[str, float]
    differences: dict[str, dict[str, float]]  # challenger less champion, as paired_differences gives them

    def outcome(self, margin: float) -> Outcome:
        """The outcome of the judged metrics together: ``worse`` or ``cannot tell`` if it is that of one metric.

        Args:
            margin: the loss that still counts as not worse, as a share of the champion's figure.

        Source: the margin and the interval's lower bound are those of a non-inferiority test (ICH E9, 3.3.2).
        """
        outcomes = [self._outcome_of(name, margin) for name in JUDGED]
        return next(outcome for outcome in _DECISIVE_FIRST if outcome in outcomes)

    def _outcome_of(self, name: str, margin: float) -> Outcome:
        low, high = self.differences[name]["low"], self.differences[name]["high"]
        if low > 0:
            return "better"
        if low >= -margin * self.champion[name]:
            return "not worse"
        return "worse" if high < 0 else "cannot tell"


@dataclass(frozen=True)
class Judgement:
    """How a challenger compares with the champion, and with the best earlier model if that ranks better."""

    compared: dict[str, Comparison]  # by the name of the other model, the champion first
    not_opened: dict[str, str]  # for each earlier model that cannot be opened, the reason

    def held_back_by(self, settings: ReleaseSettings) -> list[str]:
        """The reasons why the champion stays; none if the challenger may serve."""
        champion = next(iter(self.compared))
        reasons = []
        for name, comparison in self.compared.items():
            outcome = comparison.outcome(settings.margin)
            if outcome == "worse":
                reasons.append(f"worse than {name}")
            elif outcome == "cannot tell" and not settings.accept_undecided:
                reasons.append(
                    f"cannot tell whether the loss to {name} is within {settings.margin:.1%}, as the interval is too "
                    "wide; to serve it all the same, run this check with release.accept_undecided: true"
                )
            elif settings.rule == "better" and name == champion and outcome != "better":
                reasons.append(f"not better than {name}")
        return reasons


def judge(
    challenger: Path,
    served: Mapping[str, Path],
    histories: pl.DataFrame,
    settings: ReleaseSettings,
    withdrawn_from: Path | None = None,
) -> Judgement:
    """Compare a challenger with the champion and with the best earlier model, by the same users' validation items.

    Each loss within the margin is small, but losses of several releases add up. The best earlier model shows their
    sum. It is chosen by the users of today, because figures of different data cannot be compared.

    Args:
        served: exported models by name: first the champion, then models that were served before it.
        histories: ``user_id`` and ``item_ids``, oldest first, of today. A model cannot find a target that its
            catalogue lacks.
        withdrawn_from: the exported model from which items are withdrawn, if it is not the champion's measured one.
    """
    (champion, folder), *earlier = served.items()
    users = ValidationUsers.drawn(withdrawn_from or folder, histories, settings)
    challenger_ranks = users.ranks(challenger)
    try:
        champion_ranks = users.ranks(folder)
    except GenrecError as error:
        raise GenrecError(f"{error}; to replace it without a comparison, set release.rule to always") from error
    compared = {champion: users.compare(champion_ranks, challenger_ranks)}
    best, not_opened = _best_earlier(users, champion_ranks, dict(earlier))
    if best is not None:
        compared[best] = users.compare(users.ranks(served[best]), challenger_ranks)
    return Judgement(compared, not_opened)


@dataclass(frozen=True)
class ValidationUsers:
    """The validation items by which models are compared."""

    past: list[list[AnyId]]  # the user's items before each validation item, oldest first
    targets: np.ndarray  # validation items, int64 or text [n]
    users: np.ndarray  # whose target each is, int64 [n]
    withdrawn: np.ndarray  # items that no model may recommend, int64 or text [m]
    n_items: int  # different items in all histories
    settings: ReleaseSettings

    @classmethod
    def drawn(cls, withdrawn_from: Path, histories: pl.DataFrame, settings: ReleaseSettings) -> "ValidationUsers":
        """Draw ``settings.users`` users; no model recommends what that model must not."""
        item_ids = items_of(histories)
        held_out = validation_part(Histories.from_frame(histories, item_ids), settings.users, settings.seed)
        if not len(held_out.targets):
            raise GenrecError("no user has a validation item and one before it; set release.rule to always")
        past = [item_ids[held_out.histories.of(number)].tolist() for number in range(len(held_out.targets))]
        withdrawn = id_array(ModelFolder(withdrawn_from).withdrawn())
        return cls(past, item_ids[held_out.targets], held_out.users, withdrawn, len(item_ids), settings)

    def ranks(self, folder: Path) -> np.ndarray:
        """0-based rank of each target in the lists that the model gives, int32 [n]; -1 beyond ``top_k``."""
        model, top_k = Recommender.open(folder), self.settings.top_k
        if model.text_ids != are_text(self.targets):
            raise GenrecError(
                f"{folder}: item ids of the model and of the histories are of two kinds, text and integers"
            )
        allowed = model.allowed(deny=self.withdrawn) if len(self.withdrawn) else None
        with ThreadPoolExecutor(available_cores()) as pool:
            ranking = model.rank(self.past, top_k, beams=max(self.settings.beams, top_k), allowed=allowed, pool=pool)
        listed = np.arange(top_k) < ranking.counts[:, None]
        others = np.where(listed, ranking.items != self.targets[:, None], -1)  # 0 where the target is
        return target_ranks(others, np.zeros(len(others), np.int64), top_k)

    def compare(self, champion: np.ndarray, challenger: np.ndarray) -> Comparison:
        """Compare two models by their :meth:`ranks`."""
        settings, deepest = self.settings, deepest_cutoff(self.settings.top_k, self.n_items)
        differences = paired_differences(challenger, champion, self.users, deepest, settings.samples, settings.seed)
        means = mean_metrics(champion, self.users, deepest), mean_metrics(challenger, self.users, deepest)
        return Comparison(len(np.unique(self.users)), *means, differences)


def _best_earlier(
    users: ValidationUsers, champion_ranks: np.ndarray, earlier: Mapping[str, Path]
) -> tuple[str | None, dict[str, str]]:
    """The earlier model with the highest NDCG@10, None if the champion's is as high; and why others did not open."""
    step = -(-len(users.targets) // _SEARCH_USERS)
    sample = replace(users, past=users.past[::step], targets=users.targets[::step], users=users.users[::step])
    best, highest = None, ndcg_gains(champion_ranks[::step], 10).mean()
    not_opened = {}
    for name, folder in earlier.items():
        try:
            gain = ndcg_gains(sample.ranks(folder), 10).mean()
        except GenrecError as error:
            not_opened[name] = str(error)
            continue
        if gain > highest:
            best, highest = name, gain
    return best, not_opened


@dataclass(frozen=True)
class Agreement:
    """How alike the lists of the trained and the exported model are."""

    users: int
    identical: int  # users with the same items in the same places
    alike: int  # those, and users whose lists differ only where scores tie within the tolerance
    invalid: int  # entries of the exported model's lists: unknown, repeated, or seen although the lists exclude these
    shared: float  # mean share of a user's items that both lists hold


def compare_with_trained(
    model: Path,
    checkpoint: Path,
    semantic_ids: Path,
    embeddings: Path,
    histories: list[list[AnyId]],
    *,
    top_k: int,
    beams: int,
    tolerance: float,
) -> Agreement:
    """Rank for users with the trained model and with its export, with or without seen items as the training chose.

    Args:
        model, checkpoint, semantic_ids, embeddings: the folders of the exported model and of what it was made from.
        histories: item ids of each user.
        tolerance: items whose scores differ by at most this may change places.
    """
    from genrec_core.tiger.scorer import TorchScorer, ranking_weights

    ids, exported = SemanticIds.load(semantic_ids), Recommender.open(model)
    scorer = TorchScorer.from_folder(checkpoint, ids.codes, ItemEmbeddings.load(embeddings).l2norm)
    popularity, weights = np.zeros(len(ids.item_ids), dtype=np.int64), ranking_weights(scorer.model.config)
    trained = Recommender(scorer, ids.item_ids, ids.codes, ids.level_sizes, popularity, exported.max_history, weights)
    first, second = (recommender.rank(histories, top_k, beams=beams) for recommender in (trained, exported))
    excluded = histories if exported.weights.exclude_seen else [[] for _ in histories]
    return _agreement(first, second, excluded, exported.item_ids, tolerance)


def single_user_milliseconds(model: Path, histories: list[list[AnyId]], top_k: int, beams: int) -> np.ndarray:
    """Time of each user served alone, after a few to warm up, float64 [users]."""
    recommender, milliseconds = Recommender.open(model), []
    for history in [*histories[:_WARM_UP_USERS], *histories]:
        began = time.perf_counter()
        recommender.recommend([history], top_k, beams)
        milliseconds.append(1000 * (time.perf_counter() - began))
    return np.array(milliseconds[-len(histories) :])


def _agreement(
    first: Ranking, second: Ranking, excluded: list[list[AnyId]], catalog: np.ndarray, tolerance: float
) -> Agreement:
    """Compare place by place: where scores are equal at every place, only ties can have changed places."""
    lists = [(first.of(user), second.of(user)) for user in range(len(excluded))]
    identical = np.array([np.array_equal(a, b) for a, b in lists])
    close = np.isclose(first.scores, second.scores, rtol=0.0, atol=tolerance, equal_nan=True).all(axis=1)
    invalid = 0
    for (_, items), seen in zip(lists, excluded, strict=True):
        invalid += (~np.isin(items, catalog)).sum() + len(items) - len(np.unique(items)) + np.isin(items, seen).sum()
    shared = np.mean([np.isin(a, b).mean() if len(a) else 1.0 for a, b in lists])
    return Agreement(len(lists), int(identical.sum()), int((identical | close).sum()), int(invalid), float(shared))
