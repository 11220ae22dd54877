"""Gates of the trained, the measured and the exported model."""

from dataclasses import asdict
from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl

from genrec_core.errors import GenrecError
from genrec_core.evaluation.evaluate import METRICS_FILE
from genrec_core.releases.pointer import CHECKPOINT, served_in
from genrec_core.storage.artifacts import FRAME, read_json
from genrec_dagster.assets.model import HISTORY_FILE, onnx_encoder, recall_metrics, tiger_checkpoint
from genrec_dagster.checks.check import check_result, gate
from genrec_dagster.config import Gates, ServingBoundsForm
from genrec_dagster.metadata import Row, table

_SCORE_TOLERANCE = 1e-4
_QUANTILES = (50, 90, 95, 99, 100)


@gate(tiger_checkpoint)
def loss_is_finite(tiger_checkpoint: Path) -> dg.AssetCheckResult:
    """The loss of every epoch is a finite number."""
    losses = np.array([epoch["loss"] for epoch in read_json(tiger_checkpoint / HISTORY_FILE)["epochs"]])
    finite = int(np.isfinite(losses).sum())
    passed = len(losses) > 0 and finite == len(losses)
    return check_result(passed, f"{finite} finite losses", f"{max(len(losses), 1)} finite losses")


@gate(tiger_checkpoint)
def loss_falls(tiger_checkpoint: Path) -> dg.AssetCheckResult:
    """The last epoch's loss is below the first epoch's. With one epoch, it is below the loss of a uniform guess."""
    history = read_json(tiger_checkpoint / HISTORY_FILE)
    losses = [epoch["loss"] for epoch in history["epochs"]]
    if len(losses) > 1:
        bound, what = losses[0], "the first epoch's"
    else:
        if "uniform_loss" not in history:
            raise GenrecError(f"{tiger_checkpoint}: an earlier version of genrec trained it; train it again")
        bound, what = history["uniform_loss"], "a uniform guess's"
    return check_result(losses[-1] < bound, float(losses[-1]), f"less than {what} {bound:.4g}")


@gate(tiger_checkpoint, "semantic_ids", "item_embeddings", "user_histories")
def checkpoint_reloads(
    tiger_checkpoint: Path, semantic_ids: Path, item_embeddings: Path, user_histories: Path
) -> dg.AssetCheckResult:
    """Loaded from storage, the model gives the same scores as at the end of its training."""
    from genrec_core.tiger.training import TrainingData, probe_difference

    data = TrainingData.load(user_histories / FRAME, semantic_ids, item_embeddings)
    difference = probe_difference(tiger_checkpoint, data)
    return check_result(difference <= _SCORE_TOLERANCE, difference, f"scores that differ by at most {_SCORE_TOLERANCE}")


@gate(recall_metrics)
def recall_at_10(recall_metrics: Path, gates: Gates) -> dg.AssetCheckResult:
    """Recall@10 on the test items reaches `gates.recall_at_10`."""
    return _recall_gate(recall_metrics, 10, gates.recall_at_10)


@gate(recall_metrics)
def recall_at_100(recall_metrics: Path, gates: Gates) -> dg.AssetCheckResult:
    """Recall@100 on the test items reaches `gates.recall_at_100`."""
    return _recall_gate(recall_metrics, 100, gates.recall_at_100)


@gate(recall_metrics)
def recall_at_1000(recall_metrics: Path, gates: Gates) -> dg.AssetCheckResult:
    """Recall@1000 on the test items reaches `gates.recall_at_1000`."""
    return _recall_gate(recall_metrics, 1000, gates.recall_at_1000)


def _recall_gate(recall_metrics: Path, k: int, least: float) -> dg.AssetCheckResult:
    """The generative ranking must reach ``least``. If another ranking is served, that one must reach it too."""
    metrics = read_json(recall_metrics / METRICS_FILE)
    recalls = {mode: metrics[mode].get(f"recall@{k}") for mode in ("generative", metrics["ranking"])}
    wanted = f"Recall@{k} of at least {least:g}"
    if None in recalls.values():
        detail = f"{metrics['beams']} beams do not reach {k} items; set recall_metrics.beams to {k} or more"
        return check_result(False, f"no Recall@{k}", wanted, detail=detail)
    mode = min(recalls, key=lambda name: recalls[name])
    return check_result(recalls[mode] >= least, recalls[mode], wanted, detail=f"{mode} ranking")


@gate(recall_metrics)
def beats_popularity(recall_metrics: Path, gates: Gates) -> dg.AssetCheckResult:
    """Recall@10 of the served ranking is at least `gates.over_popularity` times that of the most popular items."""
    metrics = read_json(recall_metrics / METRICS_FILE)
    served, popular = (metrics[name]["recall@10"] for name in (metrics["ranking"], "popularity"))
    least = gates.over_popularity * popular
    wanted = f"Recall@10 of at least {gates.over_popularity:g} times popularity's {popular:.4g}, {least:.4g}"
    return check_result(served >= least, served, wanted, detail=f"{metrics['ranking']} ranking")


@gate(recall_metrics)
def generation_misses(recall_metrics: Path, gates: Gates) -> dg.AssetCheckResult:
    """Without the trie, the model almost always generates the code of an item. A miss is a code of no item."""
    share = read_json(recall_metrics / METRICS_FILE)["generative"]["miss_share"]
    return check_result(share < gates.max_miss_share, share, f"a miss share below {gates.max_miss_share:g}")


@gate(onnx_encoder, "tiger_checkpoint", "semantic_ids", "item_embeddings", "user_histories")
def onnx_ranks_like_torch(
    onnx_encoder: Path,
    tiger_checkpoint: Path,
    semantic_ids: Path,
    item_embeddings: Path,
    user_histories: pl.DataFrame,
    config: ServingBoundsForm,
) -> dg.AssetCheckResult:
    """The exported model recommends the same items as the trained one, and no unknown or repeated item.

    Nor a seen item, unless validation showed that lists are better with them.

    If a refitted model is served, that one is compared.
    With int8 weights, most items are the same. The export itself checks that recall does not fall.
    """
    from genrec_core.bundle.model_folder import ModelFolder
    from genrec_core.evaluation.release_comparison import compare_with_trained

    histories = user_histories["item_ids"].head(config.users).to_list()
    exported, refitted = served_in(onnx_encoder), onnx_encoder / CHECKPOINT
    result = compare_with_trained(
        exported,
        refitted if refitted.is_dir() else tiger_checkpoint,
        semantic_ids,
        item_embeddings,
        histories,
        top_k=config.top_k,
        beams=config.beams,
        tolerance=config.tolerance,
    )
    measured = (
        f"{result.alike} of {result.users} users with the same top {config.top_k} ({result.identical} in every place), "
        f"{result.invalid} invalid items"
    )
    same, wanted = result.alike == result.users, f"{result.users} of {result.users} users and 0 invalid items"
    if ModelFolder(exported).settings.int8:
        measured = f"{result.shared:.1%} of the items shared in int8; {measured}"
        same = result.shared >= config.least_shared
        wanted = f"{config.least_shared:.0%} of the items and 0 invalid items"
    metadata = {"agreement": table([asdict(result)])}
    return check_result(same and result.invalid == 0, measured, wanted, metadata=metadata)


@gate(onnx_encoder, "user_histories")
def onnx_latency(onnx_encoder: Path, user_histories: pl.DataFrame, config: ServingBoundsForm) -> dg.AssetCheckResult:
    """The 95th percentile of the time to serve a single user is low enough."""
    from genrec_core.evaluation.release_comparison import single_user_milliseconds

    histories = user_histories["item_ids"].head(config.timed_users).to_list()
    times = single_user_milliseconds(served_in(onnx_encoder), histories, config.top_k, config.beams)
    p95 = float(np.quantile(times, 0.95))
    quantiles: list[Row] = [
        {"users": f"{q} %", "served within ms": float(np.quantile(times, q / 100))} for q in _QUANTILES
    ]
    wanted = f"a 95th percentile of at most {config.p95_milliseconds:g} ms"
    return check_result(p95 <= config.p95_milliseconds, p95, wanted, metadata={"latency": table(quantiles)})
