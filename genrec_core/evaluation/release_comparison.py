"""Champion and challenger: exported models on the same users' validation items, never the test items."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl

from genrec_core.bundle.model_folder import ModelFolder
from genrec_core.data.histories import Histories
from genrec_core.data.split import HeldOut, validation_part
from genrec_core.errors import GenrecError
from genrec_core.evaluation.metrics import Cutoffs, ndcg_gains, paired_differences, user_metrics
from genrec_core.graphs import default_threads
from genrec_core.recommend.recommender import Recommender
from genrec_core.search.held_out import target_ranks
from genrec_core.settings import ReleaseSettings

JUDGED = ("recall@10", "ndcg@10")
Outcome = Literal["better", "not worse", "cannot tell", "worse"]
_DECISIVE_FIRST: tuple[Outcome, ...] = ("worse", "cannot tell", "better", "not worse")
_SEARCH_USERS = 2000  # by whom the best earlier release is found; it is then compared by all


@dataclass(frozen=True)
class Challenge:
    """How a challenger compares with another model, the champion.

    Args:
        users: users that both ranked items for.
        champion: mean of each metric, by its name.
        challenger: the same of the new model.
        differences: challenger less champion by metric, with the 95 % interval ``low`` to ``high`` of a paired
            bootstrap over users.
    """

    users: int
    champion: dict[str, float]
    challenger: dict[str, float]
    differences: dict[str, dict[str, float]]

    def outcome(self, margin: float) -> Outcome:
        """What the intervals say of all judged metrics: `worse` or `cannot tell` where one says so.

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
    """How a challenger compares with the champion, and with the best model that was served before.

    Args:
        compared: the comparisons by name of the other model: the champion's first, then that of an earlier model, where
            one ranks these users' items better than the champion.
        not_opened: why an earlier model could not take part, by name.
    """

    compared: dict[str, Challenge]
    not_opened: dict[str, str]

    def held_back_by(self, settings: ReleaseSettings) -> list[str]:
        """Why the champion stays, a phrase for each comparison that keeps it; none where the challenger may serve."""
        champion = next(iter(self.compared))
        reasons = []
        for name, found in self.compared.items():
            outcome = found.outcome(settings.margin)
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
    challenger: Path, served: Mapping[str, Path], histories: pl.DataFrame, settings: ReleaseSettings
) -> Judgement:
    """Compare a challenger with the champion and with the best model served before, on the same users.

    What is ranked is each user's validation item. A target that a model's catalogue lacks is one that it cannot find.
    What is withdrawn from the champion is left out of all. Training chose its epoch by validation items too, each model
    at its time.

    Small losses add up, where each model is a little worse than the one before; the best earlier one shows their sum.
    It is looked for among users of today, because figures of different data cannot be compared.

    Args:
        challenger: the exported model that may take the champion's place.
        served: exported models by name: the champion first, which is served, then those that were served before.
        histories: ``user_id`` and ``item_ids``, oldest first, of today.
        settings: users, beams, resamples.

    Raises:
        GenrecError: no history has three items, or the champion or challenger cannot be opened. An earlier model that
            cannot be opened is named in the result instead.
    """
    (champion, folder), *earlier = served.items()
    users = ValidationUsers.drawn(folder, histories, settings)
    theirs, ours = users.ranks(folder), users.ranks(challenger)
    compared = {champion: users.compare(theirs, ours)}
    best, not_opened = _best_earlier(users, theirs, dict(earlier))
    if best is not None:
        compared[best] = users.compare(users.ranks(served[best]), ours)
    return Judgement(compared, not_opened)


@dataclass(frozen=True)
class ValidationUsers:
    """The users by whom models are compared.

    Args:
        past: each user's items before the validation item, oldest first.
        targets: their validation items, int64 [n].
        gone: items that no model may recommend, int64 [m].
        n_items: different items of all histories.
        settings: beams, resamples.
    """

    past: list[list[int]]
    targets: np.ndarray
    gone: np.ndarray
    n_items: int
    settings: ReleaseSettings

    @classmethod
    def drawn(cls, champion: Path, histories: pl.DataFrame, settings: ReleaseSettings) -> "ValidationUsers":
        """As many users as the settings say; what is withdrawn from ``champion`` is recommended by no model.

        Raises:
            GenrecError: no history has three items, or the model cannot be opened.
        """
        item_ids = np.unique(histories["item_ids"].explode(empty_as_null=False).to_numpy())
        held_out = _drawn(validation_part(Histories.from_frame(histories, item_ids)), settings)
        past = [item_ids[held_out.histories.of(user)].tolist() for user in range(len(held_out.targets))]
        gone = np.array(ModelFolder(champion).withdrawn(), dtype=np.int64)
        return cls(past, item_ids[held_out.targets], gone, len(item_ids), settings)

    def some(self, step: int) -> "ValidationUsers":
        """Every ``step``-th user."""
        return ValidationUsers(self.past[::step], self.targets[::step], self.gone, self.n_items, self.settings)

    def ranks(self, folder: Path) -> np.ndarray:
        """0-based rank of each target among the items that the user has not seen, int32 [n]; -1 beyond ``top_k``.

        Raises:
            GenrecError: ``folder`` holds no exported model, or a damaged one.
        """
        model, settings = Recommender.from_folder(folder, threads=1), self.settings
        beams = max(settings.beams, settings.top_k)
        allowed = model.allowed(deny=self.gone) if len(self.gone) else None
        with ThreadPoolExecutor(default_threads()) as pool:
            ranking = model.rank(self.past, settings.top_k, beams=beams, allowed=allowed, pool=pool)
        listed = np.arange(settings.top_k) < ranking.counts[:, None]
        return target_ranks(np.where(listed, ranking.items, -1), self.targets, settings.top_k)

    def compare(self, theirs: np.ndarray, ours: np.ndarray) -> Challenge:
        """The comparison of two models by their :meth:`ranks`, int32 [n] each."""
        cutoffs = Cutoffs(self.settings.top_k, self.n_items)
        means = [
            {name: float(values.mean()) for name, values in user_metrics(ranks, cutoffs).items()}
            for ranks in (theirs, ours)
        ]
        differences = paired_differences(ours, theirs, cutoffs, self.settings.samples, self.settings.seed)
        return Challenge(len(self.targets), means[0], means[1], differences)


def _best_earlier(
    users: ValidationUsers, champion_ranks: np.ndarray, earlier: Mapping[str, Path]
) -> tuple[str | None, dict[str, str]]:
    """The earlier model of the highest NDCG@10, None where the champion's is as high; and which could not be opened."""
    step = -(-len(users.targets) // _SEARCH_USERS)
    best, highest = None, float(ndcg_gains(champion_ranks[::step], 10).mean())
    not_opened = {}
    for name, folder in earlier.items():
        try:
            gain = float(ndcg_gains(users.some(step).ranks(folder), 10).mean())
        except GenrecError as error:
            not_opened[name] = str(error)
            continue
        if gain > highest:
            best, highest = name, gain
    return best, not_opened


def _drawn(held_out: HeldOut, settings: ReleaseSettings) -> HeldOut:
    users = len(held_out.targets)
    if users == 0:
        raise GenrecError("no history has three items, so two releases cannot be compared; set release.rule to always")
    random = np.random.default_rng(settings.seed)
    return held_out.take(np.sort(random.permutation(users)[: settings.users]))
