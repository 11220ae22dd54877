"""Champion and challenger: two exported models on the same users' validation items, never the test items."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from genrec_core.data.histories import Histories
from genrec_core.data.split import HeldOut, validation_part
from genrec_core.errors import GenrecError
from genrec_core.evaluation.metrics import Cutoffs, paired_differences, user_metrics
from genrec_core.evaluation.ranks import target_ranks
from genrec_core.inference.onnx_scorer import default_threads
from genrec_core.inference.recommender import Recommender
from genrec_core.inference.withdrawn import read_withdrawn
from genrec_core.settings import ReleaseSettings

JUDGED = ("recall@10", "ndcg@10")


@dataclass(frozen=True)
class Challenge:
    """How a challenger compares with the champion.

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

    def held_back_by(self, rule: str) -> list[str]:
        """The metrics for which ``rule`` of :class:`~genrec_core.settings.ReleaseSettings` keeps the champion.

        ``not_worse``: those whose whole interval is below 0. ``better``: all, unless one interval is above 0 and none
        is below.
        """
        worse = [name for name in JUDGED if self.differences[name]["high"] < 0]
        if rule == "better" and not worse and not any(self.differences[name]["low"] > 0 for name in JUDGED):
            return list(JUDGED)
        return worse if rule != "always" else []


def challenge(champion: Path, challenger: Path, histories: pl.DataFrame, settings: ReleaseSettings) -> Challenge:
    """Rank the validation item of the same users by both models, and compare user by user.

    A target that a model's catalogue lacks is one that it cannot find. What is withdrawn from the champion is left out
    of both. Training chose its epoch by validation items too, each model at its time.

    Args:
        champion: the exported model that is served.
        challenger: the exported model that may take its place.
        histories: ``user_id`` and ``item_ids``, oldest first, of today.
        settings: users, beams, resamples.

    Raises:
        GenrecError: no history has three items, or a model cannot be opened.
    """
    item_ids = np.unique(histories["item_ids"].explode(empty_as_null=False).to_numpy())
    held_out = _drawn(validation_part(Histories.from_frame(histories, item_ids)), settings)
    past = [item_ids[held_out.histories.of(user)].tolist() for user in range(len(held_out.targets))]
    targets = item_ids[held_out.targets]
    models = [Recommender.from_folder(folder, threads=1) for folder in (champion, challenger)]
    gone = read_withdrawn(champion, models[0].item_ids)
    first, second = (_ranks(model, past, targets, gone, settings) for model in models)
    cutoffs = Cutoffs(settings.top_k, len(item_ids))
    means = [
        {name: float(values.mean()) for name, values in user_metrics(of, cutoffs).items()} for of in (first, second)
    ]
    differences = paired_differences(second, first, cutoffs, settings.samples, settings.seed)
    return Challenge(len(targets), means[0], means[1], differences)


def _drawn(held_out: HeldOut, settings: ReleaseSettings) -> HeldOut:
    users = len(held_out.targets)
    if users == 0:
        raise GenrecError("no history has three items, so two releases cannot be compared; set release.rule to always")
    random = np.random.default_rng(settings.seed)
    return held_out.take(np.sort(random.permutation(users)[: settings.users]))


def _ranks(
    model: Recommender, past: list[list[int]], targets: np.ndarray, gone: np.ndarray, settings: ReleaseSettings
) -> np.ndarray:
    """0-based rank of each target among the items that the user has not seen, int32 [n]; -1 beyond ``top_k``."""
    beams = max(settings.beams, settings.top_k)
    allowed = model.allowed(deny=gone) if len(gone) else None
    with ThreadPoolExecutor(default_threads()) as pool:
        ranking = model.rank(past, settings.top_k, beams=beams, allowed=allowed, pool=pool)
    listed = np.arange(settings.top_k) < ranking.counts[:, None]
    return target_ranks(np.where(listed, ranking.items, -1), targets, settings.top_k)
