"""Training of a TIGER model: one process or many under torchrun, resumable after every epoch."""

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel

from genrec_core.data.histories import Histories, padded
from genrec_core.data.pairs import order_strength
from genrec_core.data.split import HeldOut, mean_of_each_user, training_part, validation_part
from genrec_core.embedding.item_embeddings import ItemEmbeddings
from genrec_core.errors import GenrecError
from genrec_core.quantization.semantic_ids import SemanticIds
from genrec_core.search.beams import CodeScorer
from genrec_core.search.held_out import ranks_in_ten
from genrec_core.search.neighbors import Neighbors, Related
from genrec_core.search.trie import CodeTrie
from genrec_core.settings import TrainingSettings
from genrec_core.storage.artifacts import atomic_folder, recovered, write_json
from genrec_core.tiger.checkpoint import claim_folder, load_state, save_state
from genrec_core.tiger.distributed import World
from genrec_core.tiger.item_rows import RowwiseAdamW, clip_gradients
from genrec_core.tiger.losses import NextItemLoss
from genrec_core.tiger.model import LearnedCodes, LearnedItems, TigerConfig, TigerModel
from genrec_core.tiger.scorer import TorchScorer

PROBE = "probe.npz"
_PROBE_USERS = 32
_REPORT_EVERY_SECONDS = 5.0
_LENGTH_NOISE = 0.15  # share by which lengths are blurred before sorting, so that batches differ between epochs
_VALIDATION_BATCH_USERS = 128
_STRICT_ORDER = 10.0  # of order_strength: Beauty has 4, MovieLens 2, shops made with a fixed order 90 and more
_FUTURE_SHARE = 0.3  # where the order is not strict
# Tried beside an even one; content always keeps a part, by which new items are found.
_IDENTITY_SHARES = (0.2, 0.35, 0.65, 0.8)
_WEIGHING_USERS = 10_000  # 4,000 users chose other weights by chance for one seed of three
_CLEARLY_BETTER = 1.02  # validation NDCG@10 of the hybrid over the dense head's
_INTERVAL = 1.96  # standard errors to each side of the mean of a 95 % interval
_CODE_ROWS = 1 << 18  # of the learned vectors that items of a large catalogue share
_USUAL_PERCENTILE = 95  # of the lengths of histories
_EVEN_MIX = 0.5  # weight of the dense head by which epochs are compared; the final weight is chosen at the end
_SIZES = {  # settings that are fields of the model's configuration
    "d_model", "heads", "encoder_layers", "decoder_layers", "d_ff", "dropout", "max_history",
    "content_views", "id_views", "id_dropout",
}  # fmt: skip


@dataclass(frozen=True)
class TrainingEvent:
    """Something worth showing while a training runs: ``kind`` is ``start``, ``step``, ``epoch`` or ``end``."""

    kind: str
    epoch: int
    values: dict[str, float]
    note: str = ""


OnEvent = Callable[[TrainingEvent], None]


@dataclass(frozen=True)
class TrainingData:
    """Everything a training reads."""

    histories: Histories  # whole ones; the training leaves out what validation and test need
    codes: np.ndarray  # semantic IDs with suffix by catalogue row, int32 [n_items, L]
    level_sizes: tuple[int, ...]
    vectors: np.ndarray  # L2-normalised item text vectors, float32 [n_items, dim]

    @classmethod
    def load(cls, histories: Path, semantic_ids: Path, embeddings: Path) -> "TrainingData":
        """Read the parquet file of ``user_histories`` and the folders of ``semantic_ids`` and ``item_embeddings``."""
        ids, vectors = SemanticIds.load(semantic_ids), ItemEmbeddings.load(embeddings)
        if not np.array_equal(ids.item_ids, vectors.item_ids):
            raise GenrecError(f"{semantic_ids} and {embeddings} hold different items; rebuild semantic_ids")
        sequences = Histories.from_frame(pl.read_parquet(histories), ids.item_ids)
        return cls(sequences, ids.codes, ids.level_sizes, vectors.l2norm)

    def identity(self, settings: TrainingSettings) -> str:
        """A hash of settings and data: two trainings with the same hash give the same model."""
        digest = hashlib.sha256(settings.model_dump_json().encode())
        split = [] if self.histories.windows is None else [self.histories.windows]
        for array in (self.histories.rows, self.histories.offsets, self.codes, self.vectors, *split):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Sequences:
    """Pieces of histories, each at most ``max_history + 1`` items, so that each target is trained exactly once."""

    rows: np.ndarray  # of the catalogue, of all histories, int32 [n]
    starts: np.ndarray  # first index of each piece in ``rows``, int64 [n_pieces]
    lengths: np.ndarray  # items a piece, at least two, int64 [n_pieces]

    @classmethod
    def cut(cls, histories: Histories, max_history: int) -> "Sequences":
        """Cut histories into pieces that overlap by one item."""
        pieces = -(-(histories.lengths - 1).clip(min=0) // max_history)  # of each user
        user = np.repeat(np.arange(len(histories)), pieces)
        begin = (np.arange(len(user)) - (np.cumsum(pieces) - pieces)[user]) * max_history
        lengths = np.minimum(max_history + 1, histories.lengths[user] - begin)
        return cls(histories.rows, histories.offsets[user] + begin, lengths)

    @property
    def targets(self) -> int:
        """Next-item targets in all pieces."""
        return int((self.lengths - 1).sum())

    def padded(self, pieces: np.ndarray) -> np.ndarray:
        """Rows int64 [n_pieces, longest], -1 on the right."""
        steps = np.arange(self.lengths[pieces].max())
        inside = steps < self.lengths[pieces][:, None]
        index = np.where(inside, self.starts[pieces][:, None] + steps, 0)
        return np.where(inside, self.rows[index], -1).astype(np.int64)


def train(
    data: TrainingData,
    settings: TrainingSettings,
    folder: Path,
    world: World,
    on_event: OnEvent | None = None,
    trainer: "type[Trainer] | None" = None,
) -> Path:
    """Train to the end, or go on where an earlier attempt in ``folder`` stopped; each process of ``world`` calls this.

    ``folder/state`` keeps the last finished epoch. ``folder/best``, the result, keeps the best model by validation
    Recall@10 in Hugging Face form, with ``training_history.json``. Another ``trainer`` trains another model.
    """
    if world.rank == 0:
        claim_folder(folder, data.identity(settings) + (f"-{trainer.__name__}" if trainer else ""))
    world.require_shared(folder)
    (trainer or Trainer)(data, settings, folder, world, on_event or (lambda event: None)).run()
    return folder / "best"


class _Asked(NamedTuple):
    """Validation users."""

    own: HeldOut  # the targets of this process's share of them
    users: int  # of all processes; at least 1


class Trainer:
    """One training of TIGER in one process; a subclass trains another model."""

    model: PreTrainedModel

    def __init__(
        self, data: TrainingData, settings: TrainingSettings, folder: Path, world: World, on_event: OnEvent
    ) -> None:
        self.folder, self.world, self.on_event, self.histories = folder, world, on_event, data.histories
        self.recipe = data.identity(settings.model_copy(update={"seed": 0}))  # the same for trainings of other seeds
        self.trained = training_part(data.histories)
        longest = settings.history_of(float(np.percentile(self.trained.lengths, _USUAL_PERCENTILE)))
        self.settings = settings.model_copy(update={"max_history": longest})
        self.sequences = Sequences.cut(self.trained, longest)
        self.counts = np.bincount(self.trained.rows, minlength=len(data.codes))
        if self.sequences.targets == 0:
            raise GenrecError("no history has two items before those held out, so there is nothing to train on")
        self.validation = self._asked(data.histories, settings.validation_users)
        self.ways = self._ways_with_seen_items()
        self.seen_items = dict[str, float | str]()  # what `_choose_seen` measured
        self.trie = CodeTrie.build(data.codes, data.level_sizes)
        self.codes, self.vectors = data.codes, data.vectors if settings.use_item_vectors else None
        self.large = len(data.codes) > settings.dense_full_items  # then no step touches all items
        self.neighbors = self._neighbors(*self._bonus_weights())
        torch.manual_seed(settings.seed)
        self.model = self._build_model(data)
        nn.Module.to(self.model, world.device)
        self.objective = self._build_objective(data)
        on_cuda = world.device.type == "cuda"
        if world.size > 1:
            devices = [world.device.index] if on_cuda else None
            self.objective = DistributedDataParallel(self.objective, device_ids=devices)
        self.optimizer = _adamw(self.model, settings)
        self.mixed = on_cuda and settings.amp != "fp32"  # precision
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=self.mixed and settings.amp == "fp16")
        self.progress = load_state(folder / "state", self.model, self.optimizer)
        if self.mixed:  # cuDNN's attention plans anew for each shape: on an H100 a step took 138 instead of 52 ms
            torch.backends.cuda.enable_cudnn_sdp(False)
        self.future_share = self._future_share()
        self.epochs = self.last_epoch = settings.epochs_of(self.sequences.targets)
        self.batch_targets = settings.batch_of(self.sequences.targets)
        self.steps = self.epochs * len(epoch_batches(self.sequences, self.batch_targets, settings.seed, 0))

    def _asked(self, histories: Histories, most: int) -> "_Asked":
        """At most ``most`` users of the validation part; each process ranks the targets of its share of them."""
        part = validation_part(histories, most, self.settings.seed)
        own = part.take(np.flatnonzero(part.users % self.world.size == self.world.rank))
        return _Asked(own, max(part.n_users, 1))

    def _future_share(self) -> float:
        if self.settings.future_share is not None:
            return self.settings.future_share
        return 0.0 if order_strength(self.trained, len(self.counts)) > _STRICT_ORDER else _FUTURE_SHARE

    def _ways_with_seen_items(self) -> tuple[bool, ...]:
        """The values of ``exclude_seen`` by which epochs are compared; two where ``auto`` has something to gain."""
        if self.settings.seen == "auto":
            return (True, False) if self.world.sum(self.validation.own.repeated_targets()) else (True,)
        return (self.settings.seen == "exclude",)

    def run(self) -> None:
        """Train epoch after epoch until the last, or until ``patience`` validations brought no better model."""
        settings, progress = self.settings, self.progress
        size: dict[str, float] = {
            "targets": self.sequences.targets,
            "parameters": self.model.num_parameters(),
            "epochs": self.epochs,
            "batch_targets": self.batch_targets,
            "future_share": self.future_share,
        }
        best, note = recovered(self.folder / "best"), ""
        if not progress.epoch and best.is_dir():
            note = f"from epoch 0, although {best} is there: {self.folder / 'state'} is missing"
        self._emit("start", size, note)
        while progress.epoch < self.last_epoch and progress.stale < settings.patience:
            began = time.monotonic()
            entry = {"epoch": progress.epoch + 1, "loss": self._train_epoch()}
            progress.epoch += 1
            rate = self.sequences.targets / (time.monotonic() - began)
            if progress.epoch % settings.validate_every == 0 or progress.epoch == self.epochs:
                entry |= self._validate()
            seconds = time.monotonic() - began
            progress.history.append(entry)
            progress.seconds += seconds
            self._save(self.model if self._best is entry else None)
            self._emit("epoch", {**entry, "targets_per_second": rate, "seconds": seconds})
        end = {"best_epoch": self._best["epoch"], "seconds": progress.seconds}
        self._emit("end", end | self._conclude())

    def _train_epoch(self) -> float:
        """One pass over all targets; the mean loss a target."""
        settings, epoch = self.settings, self.progress.epoch
        torch.manual_seed((settings.seed * 1_000_003 + epoch) * self.world.size + self.world.rank)
        random = np.random.default_rng([settings.seed, epoch, 1 + self.world.rank])  # without the 1 as in epoch_batches
        self.model.train()
        batches = epoch_batches(self.sequences, self.batch_targets, settings.seed, epoch)
        total = torch.zeros((), dtype=torch.float64, device=self.world.device)  # not read before the end: a GPU runs on
        reported = time.monotonic()
        for number, batch in enumerate(batches, start=1):
            share = batch[self.world.rank :: self.world.size]  # of a small batch possibly nothing
            total += self._step(share, int((self.sequences.lengths[batch] - 1).sum()), random)
            if time.monotonic() - reported > _REPORT_EVERY_SECONDS:
                reported = time.monotonic()
                self._emit("step", {"epoch_share": number / len(batches)})
        mean = self.world.sum(float(total)) / self.sequences.targets
        if not math.isfinite(mean):
            raise GenrecError(f"the loss of epoch {epoch + 1} is {mean}; lower learning_rate or clip_norm")
        return mean

    def _step(self, pieces: np.ndarray, batch_targets: int, random: np.random.Generator) -> Tensor:
        """One optimiser step over this process's share of a batch; the summed loss of the share."""
        settings, device = self.settings, self.world.device
        for group in self.optimizer.param_groups:
            group["lr"] = settings.learning_rate * schedule(self.progress.step, self.steps, settings.warmup_share)
        rows = self.sequences.padded(pieces) if len(pieces) else np.full((1, 2), -1)  # [pieces, T + 1]
        history = torch.from_numpy(rows[:, :-1].clip(min=0)).to(device)
        following = torch.from_numpy(rows[:, 1:]).to(device)
        target = torch.from_numpy(drawn_targets(rows, self.future_share, settings.future_window, random)).to(device)
        precision = torch.bfloat16 if settings.amp == "bf16" else torch.float16
        with _tensor_float(self.mixed):
            with torch.autocast(device.type, precision, enabled=self.mixed):
                loss = self._loss(history, target, following)
            # DDP averages gradients over processes, so scale the sum to a mean over the whole batch.
            self.scaler.scale(loss * (self.world.size / batch_targets)).backward()
        self.scaler.unscale_(self.optimizer)
        clip_gradients(self.model.parameters(), settings.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.progress.step += 1
        return loss.detach().double()

    def _validation_recall(self, scorer: CodeScorer, dense_weight: float, exclude_seen: bool) -> float:
        """Validation Recall@10, by which epochs are compared."""
        ranks = self._ranks(scorer, self.validation, dense_weight, exclude_seen)
        return self._mean(ranks >= 0, self.validation)

    def _validation_ndcg(self, scorer: CodeScorer, asked: "_Asked", dense_weight: float, exclude_seen: bool) -> float:
        """Validation NDCG@10, by which weights are chosen: chance moves it less than the recall."""
        return self._mean(self._discounted_gains(scorer, asked, dense_weight, exclude_seen), asked)

    def _discounted_gains(
        self, scorer: CodeScorer, asked: "_Asked", dense_weight: float, exclude_seen: bool
    ) -> np.ndarray:
        """The NDCG@10 of each target of this process's share, float64."""
        ranks = self._ranks(scorer, asked, dense_weight, exclude_seen)
        return np.where(ranks >= 0, 1 / np.log2(ranks.clip(min=0) + 2), 0.0)

    def _mean(self, values: np.ndarray, asked: "_Asked", power: int = 1) -> float:
        """The mean over all users, of all processes, of a power of the mean over each user's targets."""
        of_users = mean_of_each_user(values, asked.own.users)
        return self.world.sum(float((of_users**power).sum())) / asked.users

    def _ranks(self, scorer: CodeScorer, asked: "_Asked", dense_weight: float, exclude_seen: bool) -> np.ndarray:
        """Ranks of this process's share of the targets, as :func:`ranks_in_ten` gives them."""
        beams, max_history = self.settings.validation_beams, self.model.config.max_history
        return ranks_in_ten(
            scorer, self.trie, asked.own, beams, _VALIDATION_BATCH_USERS, max_history, dense_weight, exclude_seen
        )

    def _validate(self) -> dict[str, float]:
        """The validation Recall@10 of each ranking, with or without seen items: what finds more."""
        scorer = self._scorer(self.model)  # it encodes all items, so it is made once
        return max((self._validated(scorer, way) for way in self.ways), key=lambda recalls: sum(recalls.values()))

    def _choose_seen(self, model: PreTrainedModel, scorer: CodeScorer, dense_weight: float) -> None:
        """Let the model's lists hold seen items if the settings say so, or if validation surely finds more with them.

        Surely: the paired 95 % interval of the difference in Recall@10 is above 0. The history keeps both figures.
        """
        asked = self.validation
        removed, kept = (self._ranks(scorer, asked, dense_weight, way) >= 0 for way in (True, False))
        exclude, keep = self._mean(removed, asked), self._mean(kept, asked)
        square = self._mean(kept.astype(float) - removed, asked, power=2)
        low, high = paired_interval(keep - exclude, square, asked.users)
        setting, surely = self.settings.seen, "keep" if low > 0 else "exclude"
        lists = surely if setting == "auto" else setting
        model.config.exclude_seen = lists == "exclude"
        figures = {"exclude": exclude, "keep": keep, "low": low, "high": high}
        self.seen_items = {"lists": lists, "setting": setting, **figures}

    def _save(self, best: PreTrainedModel | None) -> None:
        self._save_best(best)
        if self.world.rank == 0:
            save_state(self.folder / "state", self.model, self.optimizer, self.progress)
        self.world.wait()

    def _save_best(self, best: PreTrainedModel | None) -> None:
        if self.world.rank == 0:
            if best is not None:
                with atomic_folder(self.folder / "best") as part:
                    best.save_pretrained(part)
                    if self.neighbors is not None:
                        self.neighbors.save(part)
            if self._best and recovered(self.folder / "best").is_dir():
                write_json(self.folder / "best" / "training_history.json", self._history())
        self.world.wait()

    def _history(self) -> dict[str, Any]:
        return {
            "best_epoch": self._best["epoch"],
            "best_recall@10": self._best.get("validation_recall@10"),
            "seconds": self.progress.seconds,
            "epochs": self.progress.history,
            "uniform_loss": self._uniform_loss(),
            "seen_items": self.seen_items,
            "recipe": self.recipe,
            "seed": self.settings.seed,
            "settings": self.settings.model_dump(mode="json"),
            "plan": {
                "epochs": self.epochs,
                "batch_targets": self.batch_targets,
                "future_share": self.future_share,
            },
        }

    def _emit(self, kind: str, values: dict[str, float], note: str = "") -> None:
        if self.world.rank == 0:
            self.on_event(TrainingEvent(kind, self.progress.epoch, values, note))

    # --- what a subclass overrides ----------------------------------------------------------------------------------

    @property
    def _best(self) -> dict[str, float]:
        """The entry of the epoch whose model is kept; empty before there is one."""
        return self.progress.best

    def _build_model(self, data: TrainingData) -> PreTrainedModel:
        settings = self.settings
        shared = len(data.codes) > settings.exact_items  # by items whose codes begin alike
        learns = settings.learn_item_vectors
        config = TigerConfig(
            **settings.model_dump(include=_SIZES),
            level_sizes=data.level_sizes,
            exact_items=settings.exact_items,
            item_vector_dim=0 if self.vectors is None else self.vectors.shape[1],
            known_items=len(data.codes) if learns and not shared else 0,
            untrained_items=[] if shared else np.flatnonzero(self.counts == 0).tolist(),
            code_rows=_CODE_ROWS if learns and shared else 0,
            dense=settings.dense_weight > 0,
            neighbor_weight=self._bonus_weights()[0],
            follower_weight=self._bonus_weights()[1],
        )
        model = TigerModel(config)
        for module in model.modules():
            if isinstance(module, LearnedItems | LearnedCodes):
                module.sparse = self.large and self.world.sums_sparse
        return model

    def _build_objective(self, data: TrainingData) -> nn.Module:
        assert isinstance(self.model, TigerModel)
        codes = torch.from_numpy(data.codes.astype(np.int64))
        read = np.zeros((len(data.codes), 0), np.float32) if self.vectors is None else self.vectors
        vectors = torch.from_numpy(np.require(read, np.float32, "W"))  # what is mapped stays on disk
        frequency = torch.from_numpy((self.counts / self.counts.sum()).astype(np.float32))
        codes, vectors, frequency = (table.to(self.world.device) for table in (codes, vectors, frequency))
        return NextItemLoss(self.model, codes, vectors, frequency, self.trie, self.settings)

    def _loss(self, history: Tensor, target: Tensor, following: Tensor) -> Tensor:
        """The loss summed over targets; shapes as in :class:`~genrec_core.tiger.losses.NextItemLoss`."""
        settings = self.settings
        distills = self.progress.step >= settings.distillation_start * self.steps  # once the dense head knows something
        loss: Tensor = self.objective(history, target, following, settings.distillation if distills else 0.0)
        return loss

    def _uniform_loss(self) -> float:
        """The loss a target of a model to which all tokens of a level, and all items, are equally likely."""
        assert isinstance(self.model, TigerModel)
        codes = sum(math.log(size) for size in self.model.config.level_sizes)
        return codes + self.settings.dense_weight * self.model.config.views * math.log(len(self.codes))

    def _scorer(self, model: PreTrainedModel) -> CodeScorer:
        assert isinstance(model, TigerModel)
        return TorchScorer(model, self.codes, self.vectors, self.neighbors)

    def _bonus_weights(self) -> tuple[float, float]:
        """The settings' bonuses of similar texts and of followers; 0 where the model cannot have them."""
        settings = self.settings
        if not settings.neighbors:
            return 0.0, 0.0
        return settings.neighbor_weight if self.vectors is not None else 0.0, settings.follower_weight

    @cached_property
    def _related(self) -> Related:
        texts = np.zeros((len(self.codes), 0), np.float32) if self.vectors is None else self.vectors
        return Related(texts, self.settings.neighbors, self.trained, self.settings.dense_full_items)

    def _neighbors(self, text_weight: float, follower_weight: float) -> Neighbors | None:
        return self._related.neighbors(text_weight, follower_weight) if text_weight or follower_weight else None

    def _validated(self, scorer: CodeScorer, exclude_seen: bool) -> dict[str, float]:
        """Validation Recall@10 of generating and, with a dense head, of an even mix; their mean compares epochs."""
        generative = self._validation_recall(scorer, 0.0, exclude_seen)
        if not self.settings.dense_weight:
            return {"validation_recall@10": generative}
        hybrid = self._validation_recall(scorer, _EVEN_MIX, exclude_seen)
        return {"validation_recall@10": hybrid, "validation_generative_recall@10": generative}

    def _conclude(self) -> dict[str, float]:
        """Choose by validation, and save in the best model, the weights of views, neighbours and hybrid ranking.

        Before that, whether lists may hold seen items is chosen in the same way; see :meth:`_choose_seen`. Then the
        identity views get a share in the dense head, see :meth:`_choose_identity_share`. Similar texts and followers
        each get the weight of the settings, or twice as much or none: of all pairs that by which the dense ranking (the
        generative one of a model without a dense head) is best. Ranking by the dense head costs little, so more users
        than in a validation are asked. Of equal hybrid weights the one nearest to even is taken. The ranking is the
        dense head's unless the hybrid is clearly better. A large catalogue tries fewer weights, because each try costs
        minutes: even views, none doubled, and every second hybrid weight.
        """
        best = TigerModel.from_pretrained(self.folder / "best")
        nn.Module.to(best, self.world.device)
        config, ranking = best.config, float(best.config.dense)
        config.identity_share = None  # as all of this, also where it runs again
        config.neighbor_weight, config.follower_weight = weights = self._bonus_weights()
        scorer = TorchScorer(best, self.codes, self.vectors, self.neighbors)
        self._choose_seen(best, scorer, ranking)
        more = self.validation if self.large or not ranking else self._asked(self.histories, _WEIGHING_USERS)
        if ranking and config.id_views and not self.large:
            scorer = self._choose_identity_share(best)
        ndcg = partial(self._validation_ndcg, scorer, exclude_seen=config.exclude_seen)
        tried = ([weight * factor for factor in ((1, 0) if self.large else (1, 2, 0))] for weight in weights)
        by_weights = dict[tuple[float, ...], float]()
        for pair in dict.fromkeys(product(*tried)):
            config.neighbor_weight, config.follower_weight = pair
            scorer.neighbors = self._neighbors(*pair)
            by_weights[pair] = ndcg(more, ranking)
        config.neighbor_weight, config.follower_weight = pair = max(by_weights, key=by_weights.__getitem__)
        scorer.neighbors = self.neighbors = self._neighbors(*pair)
        if config.dense:
            tenths = range(2, 11, 2) if self.large else range(1, 11)
            by_weight = {tenth / 10: ndcg(self.validation, tenth / 10) for tenth in tenths}
            dense = by_weight.pop(1.0)
            config.hybrid_weight = max(by_weight, key=lambda weight: (by_weight[weight], -abs(weight - _EVEN_MIX)))
            better = by_weight[config.hybrid_weight] > _CLEARLY_BETTER * dense
            config.ranking = "hybrid" if better else "dense"
        self._save_best(best)
        chosen = ("identity_share", "hybrid_weight", "neighbor_weight", "follower_weight", "exclude_seen")
        return {name: float(value) for name in chosen if (value := getattr(config, name)) is not None}

    def _choose_identity_share(self, best: TigerModel) -> TorchScorer:
        """Set the share of the identity views in the dense head; its scorer.

        All views have the same, unless NDCG@10 is surely higher by another: the paired 95 % interval of the difference
        is above 0. Identity views learn what follows what item, and at which distance. Where people buy the same
        things in turn, they know nearly all there is to know; where texts tell more, the content views do.
        """
        config, asked, even = best.config, self.validation, best.config.id_views / best.config.views
        gains = dict[float, np.ndarray]()
        for share in dict.fromkeys((even, *_IDENTITY_SHARES)):
            config.identity_share = share
            scorer = TorchScorer(best, self.codes, self.vectors, self.neighbors)  # its keys have the share in them
            gains[share] = self._discounted_gains(scorer, asked, 1.0, config.exclude_seen)
        surely = {even: 0.0}
        for share in _IDENTITY_SHARES:
            gain, square = (self._mean(gains[share] - gains[even], asked, power) for power in (1, 2))
            if paired_interval(gain, square, asked.users)[0] > 0:
                surely[share] = gain
        config.identity_share = max(surely, key=surely.__getitem__)
        return TorchScorer(best, self.codes, self.vectors, self.neighbors)


def paired_interval(gain: float, square: float, users: int) -> tuple[float, float]:
    """The 95 % interval of a share's gain over ``users``, from the means of their gains and of the squares of these.

    Each of the four outcomes of a pair counts half a user more, so that a few users who agree by chance are not sure.

    Source: Agresti and Min 2005, "Simple improved confidence intervals for comparing matched proportions".
    """
    more = users + 2
    mean = gain * users / more
    error = math.sqrt(max((square * users + 1) / more - mean**2, 0.0) / more)
    return mean - _INTERVAL * error, mean + _INTERVAL * error


def drawn_targets(rows: np.ndarray, share: float, window: int, random: np.random.Generator) -> np.ndarray:
    """The item to predict at each position: the next one or, for a ``share`` of targets, one soon after it.

    Purchases of one day have no order to learn, and a later purchase says what the user wants too. A drawn target is up
    to ``window`` items behind the next one; all distances are equally likely. A distance that leads beyond the piece
    gives the piece's last item.

    Source: the dense all-action loss of Pancha et al. 2022, "PinnerFormer".

    Args:
        rows: pieces of histories int64 [n_pieces, T + 1], -1 on the right.

    Returns:
        int64 [n_pieces, T], -1 where ``rows[:, 1:]`` is.
    """
    following = rows[:, 1:]
    skipped = random.integers(1, window, following.shape, endpoint=True) * (random.random(following.shape) < share)
    newest = (following >= 0).sum(axis=1, keepdims=True) - 1
    position = np.arange(following.shape[1])
    drawn = np.take_along_axis(following, np.minimum(position + skipped, newest.clip(min=0)), axis=1)
    return np.where(following >= 0, drawn, -1)


def epoch_batches(sequences: Sequences, batch_targets: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Piece numbers of each batch of an epoch, in training order; the same for the same seed and epoch."""
    random = np.random.default_rng([seed, epoch])
    blurred = sequences.lengths * random.uniform(1 - _LENGTH_NOISE, 1 + _LENGTH_NOISE, len(sequences.lengths))
    order = np.argsort(blurred, kind="stable")
    bounds = np.cumsum(sequences.lengths[order] - 1) // batch_targets
    batches = np.split(order, np.flatnonzero(np.diff(bounds)) + 1)
    return [batches[number] for number in random.permutation(len(batches))]


def schedule(step: int, steps: int, warmup_share: float) -> float:
    """Share of the peak learning rate: linear warm-up, then half a cosine to zero."""
    warmup = max(1, round(steps * warmup_share))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))


@contextmanager
def _tensor_float(wanted: bool) -> Iterator[None]:
    """If wanted, TF32 for what autocast leaves in float32: the catalogue's loss. k-means needs whole float32 later."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if wanted else before)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _adamw(model: nn.Module, settings: TrainingSettings) -> RowwiseAdamW:
    """AdamW that decays matrices only."""
    matrices = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return RowwiseAdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98), fused=True)


def write_probe(checkpoint: Path, data: TrainingData) -> None:
    """Store in ``checkpoint`` the first decoding step's scores of a few users: a reload must give them again."""
    np.savez(checkpoint / PROBE, scores=_probe_scores(checkpoint, data))


def probe_difference(checkpoint: Path, data: TrainingData) -> float:
    """Largest absolute difference between the stored scores and those of the reloaded checkpoint."""
    with np.load(checkpoint / PROBE, allow_pickle=False) as stored:
        return float(np.abs(stored["scores"] - _probe_scores(checkpoint, data)).max())


def _probe_scores(checkpoint: Path, data: TrainingData) -> np.ndarray:
    """Log-probabilities of the first level, float32 [users, level size]."""
    scorer = TorchScorer.from_folder(checkpoint, data.codes, data.vectors)
    users = np.flatnonzero(data.histories.lengths)[:_PROBE_USERS].tolist()
    histories = padded([data.histories.of(user) for user in users], scorer.model.config.max_history)
    return scorer.start(histories).first()
