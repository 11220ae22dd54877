"""Is the model worth serving, and is the exported one the same: nothing past a failed gate is built."""

from dataclasses import asdict
from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl

from genrec_core.errors import GenrecError
from genrec_core.evaluation.evaluate import METRICS_FILE
from genrec_core.storage.artifacts import read_json
from genrec_dagster.assets.model import onnx_encoder, recall_metrics, tiger_checkpoint
from genrec_dagster.checks.verdict import verdict
from genrec_dagster.config import Gates, ServingBoundsForm
from genrec_dagster.failures import reasons_in_results
from genrec_dagster.io_manager import FRAME
from genrec_dagster.metadata import Row, picture, table
from genrec_dagster.pages.model import HISTORY_FILE

_SCORE_TOLERANCE = 1e-4
_QUANTILES = (50, 90, 95, 99, 100)
_CODES = {"semantic_ids": dg.AssetIn("semantic_ids"), "item_embeddings": dg.AssetIn("item_embeddings")}
_HISTORIES = {"user_histories": dg.AssetIn("user_histories")}
_CHECKPOINT = {"tiger_checkpoint": dg.AssetIn("tiger_checkpoint")}


@dg.asset_check(asset=tiger_checkpoint, blocking=True)
@reasons_in_results
def loss_is_finite(tiger_checkpoint: Path) -> dg.AssetCheckResult:
    """No epoch ended with a loss that is no number."""
    losses = np.array([entry["loss"] for entry in read_json(tiger_checkpoint / HISTORY_FILE)["epochs"]])
    broken = int((~np.isfinite(losses)).sum())
    return verdict(len(losses) > 0 and not broken, f"{len(losses) - broken} finite losses", f"{max(len(losses), 1)}")


@dg.asset_check(asset=tiger_checkpoint, blocking=True)
@reasons_in_results
def loss_falls(tiger_checkpoint: Path) -> dg.AssetCheckResult:
    """The last epoch's loss is below the first one's, or, of a single epoch, below that of a uniform guess."""
    history = read_json(tiger_checkpoint / HISTORY_FILE)
    losses = [entry["loss"] for entry in history["epochs"]]
    if len(losses) > 1:
        bound, what = losses[0], "the first epoch's"
    else:
        if "uniform_loss" not in history:
            raise GenrecError(f"{tiger_checkpoint}: an earlier version of genrec trained it; train it again")
        bound, what = history["uniform_loss"], "a uniform guess's"
    return verdict(losses[-1] < bound, float(losses[-1]), f"less than {what} {bound:.4g}")


@dg.asset_check(asset=tiger_checkpoint, blocking=True, additional_ins={**_CODES, **_HISTORIES})
@reasons_in_results
def checkpoint_reloads(
    tiger_checkpoint: Path, semantic_ids: Path, item_embeddings: Path, user_histories: Path
) -> dg.AssetCheckResult:
    """Loaded from storage, the model gives the scores that it gave when it was trained."""
    from genrec_core.tiger.training import TrainingData
    from genrec_dagster.checkpoint_probe import probe_difference

    data = TrainingData.load(user_histories / FRAME, semantic_ids, item_embeddings)
    difference = probe_difference(tiger_checkpoint, data)
    return verdict(difference <= _SCORE_TOLERANCE, difference, f"scores that differ by at most {_SCORE_TOLERANCE}")


@dg.asset_check(asset=recall_metrics, blocking=True)
@reasons_in_results
def recall_at_10(recall_metrics: Path, gates: Gates) -> dg.AssetCheckResult:
    """Test Recall@10 is high enough to serve."""
    return _recall_gate(recall_metrics, 10, gates.recall_at_10)


@dg.asset_check(asset=recall_metrics, blocking=True)
@reasons_in_results
def recall_at_100(recall_metrics: Path, gates: Gates) -> dg.AssetCheckResult:
    """Test Recall@100 is high enough to serve."""
    return _recall_gate(recall_metrics, 100, gates.recall_at_100)


@dg.asset_check(asset=recall_metrics, blocking=True)
@reasons_in_results
def recall_at_1000(recall_metrics: Path, gates: Gates) -> dg.AssetCheckResult:
    """Test Recall@1000 is high enough to serve."""
    return _recall_gate(recall_metrics, 1000, gates.recall_at_1000)


@dg.asset_check(asset=recall_metrics, blocking=True)
@reasons_in_results
def generation_misses(recall_metrics: Path, gates: Gates) -> dg.AssetCheckResult:
    """Left to itself, the model almost always generates the code of an item."""
    share = read_json(recall_metrics / METRICS_FILE)["generative"]["miss_share"]
    return verdict(share < gates.max_miss_share, share, f"a miss share below {gates.max_miss_share:g}")


@dg.asset_check(asset=onnx_encoder, blocking=True, additional_ins={**_CHECKPOINT, **_CODES, **_HISTORIES})
@reasons_in_results
def onnx_ranks_like_torch(
    onnx_encoder: Path,
    tiger_checkpoint: Path,
    semantic_ids: Path,
    item_embeddings: Path,
    user_histories: pl.DataFrame,
    config: ServingBoundsForm,
) -> dg.AssetCheckResult:
    """The exported model gives users the same items as the trained one, and none that is unknown, repeated or seen.

    With int8 weights, most of the same: the export itself makes sure that recall does not fall.
    """
    from genrec_core.bundle.model_folder import ModelFolder
    from genrec_dagster.checks.rankings import compare_with_torch

    users = user_histories["item_ids"]
    found = compare_with_torch(onnx_encoder, tiger_checkpoint, semantic_ids, item_embeddings, users, config)
    measured = (
        f"{found.alike} of {found.users} users with the same top {config.top_k} ({found.identical} in every place), "
        f"{found.invalid} invalid items"
    )
    same, wanted = found.alike == found.users, f"{found.users} of {found.users} users and 0 invalid items"
    if ModelFolder(onnx_encoder).settings.int8:
        measured = f"{found.shared:.1%} of the items shared in int8; {measured}"
        same = found.shared >= config.least_shared
        wanted = f"{config.least_shared:.0%} of the items and 0 invalid items"
    result = verdict(same and found.invalid == 0, measured, wanted)
    return result._replace(metadata={**result.metadata, "agreement": table([asdict(found)])})


@dg.asset_check(asset=onnx_encoder, blocking=True, additional_ins=_HISTORIES)
@reasons_in_results
def onnx_latency(onnx_encoder: Path, user_histories: pl.DataFrame, config: ServingBoundsForm) -> dg.AssetCheckResult:
    """A single user is served fast."""
    from genrec_core.evaluation.pages.metrics import latency_picture
    from genrec_dagster.checks.rankings import single_user_milliseconds

    times = single_user_milliseconds(onnx_encoder, user_histories["item_ids"], config)
    p95 = float(np.quantile(times, 0.95))
    wanted = f"a 95th percentile of at most {config.p95_milliseconds:g} ms"
    result = verdict(p95 <= config.p95_milliseconds, p95, wanted)
    quantiles: list[Row] = [
        {"users": f"{q} %", "served within ms": float(np.quantile(times, q / 100))} for q in _QUANTILES
    ]
    shown = {"latency": table(quantiles), "plot": picture(latency_picture(times, p95), "latency of single users")}
    return result._replace(metadata={**result.metadata, **shown})


def _recall_gate(recall_metrics: Path, k: int, least: float) -> dg.AssetCheckResult:
    """The generative ranking must reach ``least``, and so must the one that is served, where it is another."""
    metrics = read_json(recall_metrics / METRICS_FILE)
    found = {mode: metrics[mode].get(f"recall@{k}") for mode in dict.fromkeys(("generative", metrics["ranking"]))}
    wanted = f"Recall@{k} of at least {least:g}"
    if None in found.values():
        detail = f"{metrics['beams']} beams do not reach {k} items; set recall_metrics.beams to {k} or more"
        return verdict(False, f"no Recall@{k}", wanted, detail=detail)
    mode = min(found, key=lambda name: found[name])
    return verdict(found[mode] >= least, found[mode], wanted, detail=f"{mode} ranking")


CHECKS = [
    loss_is_finite,
    loss_falls,
    checkpoint_reloads,
    recall_at_10,
    recall_at_100,
    recall_at_1000,
    generation_misses,
    onnx_ranks_like_torch,
    onnx_latency,
]
