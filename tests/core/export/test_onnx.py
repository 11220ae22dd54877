"""The exported graphs say what the torch model says, and a folder is written whole or not at all."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest

from genrec_core.bundle.item_additions import add_items
from genrec_core.bundle.model_folder import NEW_ITEMS, PREFIXES, TOKENS, ModelFolder
from genrec_core.bundle.new_items import NewItems
from genrec_core.data.histories import HistoryBatch, padded
from genrec_core.embedding.item_embeddings import ItemEmbeddings, write_item_embeddings
from genrec_core.errors import GenrecError
from genrec_core.evaluation.release_comparison import compare_with_trained, judge
from genrec_core.export import onnx
from genrec_core.export.onnx import export_recommender
from genrec_core.quantization.semantic_ids import SemanticIds
from genrec_core.quantization.update import assign_ids
from genrec_core.recommend.recommender import Recommender
from genrec_core.settings import ReleaseSettings
from genrec_core.storage.artifacts import read_json, verify_manifest, write_json
from genrec_core.tiger.model import TigerConfig, TigerModel

if TYPE_CHECKING:
    from tests.core.tiny_model import TinyModel


def random_histories(item_ids: np.ndarray, users: int) -> list[list[int]]:
    random = np.random.default_rng(11)
    return [random.choice(item_ids, random.integers(1, 20)).tolist() for _ in range(users)]


@pytest.mark.parametrize("exclude_seen", [True, False])
def test_the_export_ranks_like_torch(
    tiny_model: "TinyModel", tiny_recommender: Recommender, exclude_seen: bool
) -> None:
    histories = random_histories(tiny_recommender.item_ids, 40)
    expected = tiny_model.torch_recommender().rank(histories, 20, exclude_seen=exclude_seen)
    found = tiny_recommender.rank(histories, 20, exclude_seen=exclude_seen)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
    np.testing.assert_array_equal(found.items, expected.items)


@pytest.fixture
def copied_graphs(tiny_model: "TinyModel", monkeypatch: pytest.MonkeyPatch) -> None:
    """An export of the tiny model's weights copies its graphs, which depend on nothing else and take half a minute."""
    source = tiny_model.model_dir

    def copy_graphs(model: TigerModel, folder: Path) -> None:
        (folder / NEW_ITEMS).mkdir()
        for name in (TOKENS, PREFIXES, *(path.relative_to(source) for path in source.rglob("*.onnx"))):
            shutil.copy(source / name, folder / name)
        settings = ModelFolder(source).settings
        ModelFolder(folder).save_settings(replace(settings, exclude_seen=model.config.exclude_seen))

    monkeypatch.setattr(onnx, "export_graphs", copy_graphs)


def test_the_export_keeps_seen_items_in_lists_if_the_training_chose_so(
    tiny_model: "TinyModel", copied_graphs: None, tmp_path: Path
) -> None:
    checkpoint, model = shutil.copytree(tiny_model.checkpoint, tmp_path / "checkpoint"), tmp_path / "model"
    write_json(checkpoint / "config.json", {**read_json(checkpoint / "config.json"), "exclude_seen": False})
    folders = checkpoint, tiny_model.semantic_ids, tiny_model.embeddings
    export_recommender(*folders, tiny_model.popularity, model)
    recommender = Recommender.open(model)
    history = recommender.item_ids[:3].tolist()
    assert set(history) < set(recommender.recommend([history], 90)[0].tolist())
    same = compare_with_trained(model, *folders, [history], top_k=90, beams=90, tolerance=1e-3)
    assert (same.alike, same.invalid) == (1, 0)
    users = pl.DataFrame({"user_id": ["1", "2"], "item_ids": [[*history, history[2], item] for item in history[:2]]})
    settings = ReleaseSettings(users=2, samples=100, top_k=90, beams=90)
    (comparison,) = judge(model, {"served": tiny_model.model_dir}, users, settings).compared.values()
    assert (comparison.champion["recall@100"], comparison.challenger["recall@100"]) == (0, 1)  # each in its own way


def test_every_file_is_in_the_manifest(tiny_model: "TinyModel") -> None:
    verify_manifest(tiny_model.model_dir)
    names = {path.name for path in tiny_model.model_dir.iterdir()}
    assert names == {
        "recommender.json", "history_encoder.onnx", "item_logits.onnx", "item_ids.npy", "codes_with_suffix.npy",
        "item_vectors.npy", "neighbors.npy", "neighbor_bonus.npy", "item_keys.npy", "popularity.npy",
        "token_vectors.npy", "prefix_vectors.npy", "new_items", "self_test.npz", "manifest.json",
        *(f"decoder_step_{level}.onnx" for level in range(1, len(tiny_model.level_sizes))),
    }  # fmt: skip


@pytest.mark.parametrize(("batch", "width"), [(1, 1), (1, 4), (3, 1), (2, 5)])
def test_graphs_take_any_batch_time_and_beams(
    tiny_model: "TinyModel", tiny_recommender: Recommender, batch: int, width: int
) -> None:
    scorers, random = (tiny_recommender.scorer, tiny_model.torch_recommender().scorer), np.random.default_rng(batch)
    rows = [random.integers(0, 90, random.integers(1, 12)).astype(np.int32) for _ in range(batch)]
    sessions = [scorer.start(padded(rows, 12)) for scorer in scorers]
    np.testing.assert_allclose(*(session.item_logits() for session in sessions), atol=1e-4)
    np.testing.assert_allclose(*(session.first() for session in sessions), atol=1e-4)
    before = np.arange(batch)  # whose each beam was
    for size in tiny_model.level_sizes[:-1]:
        tokens = random.integers(0, size, batch * width)
        parents = np.sort(random.integers(0, len(before), batch * width))
        before = before[parents]
        np.testing.assert_allclose(*(each.advance(tokens, parents, before) for each in sessions), atol=1e-4)


def test_how_wide_a_batch_is_changes_nothing_that_the_model_says(tiny_recommender: Recommender) -> None:
    scorer, random, said = tiny_recommender.scorer, np.random.default_rng(1), []
    batch = padded([random.integers(0, 90, length).astype(np.int32) for length in (3, 8, 1, 7)], 12)
    assert batch.rows.shape == (4, 8)
    wider = np.pad(batch.rows, ((0, 0), (0, 4)), constant_values=-1)
    tokens, users = random.integers(0, 4, 20), np.repeat(np.arange(4), 5)
    for rows in (batch.rows, wider):
        session = scorer.start(HistoryBatch(rows, batch.lengths))
        said.append((session.item_logits(), session.first(), session.advance(tokens, users, users)))
    for narrow, wide in zip(*said, strict=True):
        np.testing.assert_array_equal(narrow, wide)


def test_an_export_that_fails_leaves_the_older_one(tiny_model: "TinyModel", tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "older").write_text("still here")
    with pytest.raises(GenrecError, match="popularity has shape"):
        export_recommender(
            tiny_model.checkpoint, tiny_model.semantic_ids, tiny_model.embeddings, np.zeros(3, np.int64), target
        )
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (target / "older").read_text() == "still here"


def test_a_model_of_other_semantic_ids_is_refused(tiny_model: "TinyModel", tmp_path: Path) -> None:
    TigerModel(TigerConfig(level_sizes=(4, 4, 4), d_model=16, heads=2, d_ff=16)).save_pretrained(tmp_path / "other")
    inputs = (tmp_path / "other", tiny_model.semantic_ids, tiny_model.embeddings, tiny_model.popularity)
    with pytest.raises(GenrecError, match=r"was trained on level sizes \[4, 4, 4\]"):
        export_recommender(*inputs, tmp_path / "model")


def test_an_item_assigned_later_is_served_without_training(
    tiny_model: "TinyModel", copied_graphs: None, tmp_path: Path
) -> None:
    known = ItemEmbeddings.load(tiny_model.embeddings)
    new_id, vector = 1, known.raw[:1] * 0.9
    assign_ids(tiny_model.semantic_ids, [new_id], vector, tmp_path / "semantic_ids")
    ids, raw = np.array([new_id, *known.item_ids.tolist()]), np.concatenate([vector, known.raw])
    write_item_embeddings(tmp_path / "embeddings", ids, ["new"] * len(ids), raw, "none", 1.0)
    popularity = np.append(tiny_model.popularity, 0)
    export_recommender(
        tiny_model.checkpoint, tmp_path / "semantic_ids", tmp_path / "embeddings", popularity, tmp_path / "model"
    )
    recommender = Recommender.open(tmp_path / "model")
    (every,) = recommender.recommend([[new_id, int(known.item_ids[5])]], len(ids), exclude_seen=False)
    assert sorted(every.tolist()) == sorted(ids.tolist())
    with pytest.raises(GenrecError, match="no vector of item 1"):
        export_recommender(
            tiny_model.checkpoint, tmp_path / "semantic_ids", tiny_model.embeddings, popularity, tmp_path / "model"
        )


def test_a_large_catalogue_is_exported_in_half_precision_and_ranks_alike(
    tiny_model: "TinyModel", tiny_recommender: Recommender, copied_graphs: None, tmp_path: Path
) -> None:
    checkpoint, model = shutil.copytree(tiny_model.checkpoint, tmp_path / "checkpoint"), tmp_path / "model"
    write_json(checkpoint / "config.json", {**read_json(checkpoint / "config.json"), "exact_items": 10})
    folders = checkpoint, tiny_model.semantic_ids, tiny_model.embeddings
    export_recommender(*folders, tiny_model.popularity, model)
    items, whole = ModelFolder(model).items(), ModelFolder(tiny_model.model_dir).items()
    assert (items.vectors.dtype, items.keys.dtype) == (np.float16, np.int16)
    assert (whole.vectors.dtype, whole.keys.dtype, whole.scales) == (np.float32, np.float32, None)
    recommender, histories = Recommender.open(model), random_histories(tiny_recommender.item_ids, 40)
    for ranking in ("hybrid", "dense", "generative"):
        found, expected = (of.rank(histories, 10, ranking=ranking) for of in (recommender, tiny_recommender))
        shared = [len(np.intersect1d(*lists)) / 10 for lists in zip(found.items, expected.items, strict=True)]
        assert np.mean(shared) > 0.98
    same = compare_with_trained(model, *folders, histories, top_k=10, beams=90, tolerance=1e-2)
    assert (same.alike, same.invalid) == (40, 0)
    dim = ItemEmbeddings.load(tiny_model.embeddings).raw.shape[1]
    add_items(model, NewItems(np.array([10**9]), ["a soap"], [{}]), np.ones((1, dim), np.float32), tmp_path / "more")
    more = ModelFolder(tmp_path / "more").items()
    assert (len(more.keys), len(more.scales), more.vectors.dtype) == (len(items.keys) + 1,) * 2 + (np.float16,)
    Recommender.open(tmp_path / "more").recommend(histories, 10)


@pytest.mark.slow
def test_a_model_that_learned_of_codes_is_exported_and_takes_new_items(tiny_model: "TinyModel", tmp_path: Path) -> None:
    known = ItemEmbeddings.load(tiny_model.embeddings)
    level_sizes = SemanticIds.load(tiny_model.semantic_ids).level_sizes
    width, sizes = 32, {"d_model": 32, "heads": 4, "encoder_layers": 1, "d_ff": 48, "max_history": 12}
    config = TigerConfig(
        level_sizes=level_sizes, item_vector_dim=known.raw.shape[1], code_rows=64, id_views=1, exact_items=10, **sizes
    )
    TigerModel(config).save_pretrained(tmp_path / "checkpoint")
    model, folders = tmp_path / "model", (tmp_path / "checkpoint", tiny_model.semantic_ids, tiny_model.embeddings)
    export_recommender(*folders, tiny_model.popularity, model)
    histories = random_histories(known.item_ids, 20)
    same = compare_with_trained(model, *folders, histories, top_k=10, beams=90, tolerance=1e-2)
    assert (same.alike, same.invalid) == (20, 0)
    add_items(model, NewItems(np.array([10**9]), ["a soap"], [{}]), known.raw[5:6], tmp_path / "more")
    vectors = ModelFolder(tmp_path / "more").items().vectors
    np.testing.assert_allclose(vectors[-1, width:], vectors[5, width:], atol=1e-3)  # of one code but for the suffix
    Recommender.open(tmp_path / "more").recommend([[10**9]], 10)
