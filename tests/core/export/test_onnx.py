"""The exported graphs say what the torch model says, and a folder is written whole or not at all."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from genrec_core.artifacts import verify_manifest
from genrec_core.embedding.item_embeddings import ItemEmbeddings, write_item_embeddings
from genrec_core.errors import GenrecError
from genrec_core.export import onnx
from genrec_core.export.onnx import export_recommender
from genrec_core.inference.onnx_scorer import DECODER, ENCODER, SETTINGS, open_graph
from genrec_core.inference.recommender import Recommender
from genrec_core.quantization.semantic_ids import assign_ids
from genrec_core.tiger.config import TigerConfig
from genrec_core.tiger.model import TigerModel, next_prefix

if TYPE_CHECKING:
    from conftest import TinyModel


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


def test_every_file_is_in_the_manifest(tiny_model: "TinyModel") -> None:
    verify_manifest(tiny_model.model_dir)
    names = {path.name for path in tiny_model.model_dir.iterdir()}
    assert names == {
        "recommender.json", "history_encoder.onnx", "decoder_step.onnx", "item_ids.npy", "codes_with_suffix.npy",
        "item_vectors.npy", "item_keys.npy", "popularity.npy", "manifest.json",
    }  # fmt: skip


def test_graphs_take_any_batch_time_and_width(tiny_model: "TinyModel") -> None:
    model = TigerModel.from_pretrained(tiny_model.checkpoint).eval()
    encoder, decoder = (open_graph(tiny_model.model_dir / name, 1) for name in (ENCODER, DECODER))
    for batch, length, width in [(1, 1, 1), (1, 12, 4), (3, 2, 1), (2, 5, 3)]:
        items = torch.randn(batch, length, model.config.d_model * model.config.views)
        lengths = torch.randint(1, length + 1, (batch,))
        with torch.inference_mode():
            *encoded, query = model.encode_history(items, lengths)
        names = ("history", "bias", "context")
        asked = encoder.run(["query"], {"items": items.numpy(), "lengths": lengths.numpy()})[0]
        np.testing.assert_allclose(asked, query.numpy(), atol=1e-4)
        graph = encoder.run(list(names), {"items": items.numpy(), "lengths": lengths.numpy()})
        for ours, theirs in zip(graph, encoded, strict=True):
            np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-4)
        cache, tokens = model.empty_cache(batch), torch.zeros(batch, 1).long()
        parents = prefix = tokens
        for level, size in enumerate(model.config.level_sizes):
            feeds = {"tokens": tokens, "level": torch.tensor(level), "parents": parents, "cache": cache}
            with torch.inference_mode():
                scores, next_cache = model.decode_step(*feeds.values(), *encoded, prefix)
            fed = {name: value.numpy() for name, value in {**feeds, "prefix": prefix}.items()}
            fed |= dict(zip(names, graph, strict=True))
            ours, kept = decoder.run(["scores", "next_cache"], fed)
            np.testing.assert_allclose(ours, scores.numpy(), atol=1e-4)
            np.testing.assert_allclose(kept, next_cache.numpy(), atol=1e-4)
            parents = torch.randint(0, tokens.shape[1], (batch, width))
            tokens = model.token_offset[level] + torch.randint(0, size, (batch, width))
            prefix = next_prefix(prefix.gather(1, parents), tokens, model.config.prefix_buckets)
            cache = next_cache.clone()


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
    tiny_model: "TinyModel", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copy_graphs(model: TigerModel, folder: Path) -> None:  # the graphs do not depend on the items
        for name in (SETTINGS, ENCODER, DECODER):
            shutil.copy(tiny_model.model_dir / name, folder)

    monkeypatch.setattr(onnx, "export_graphs", copy_graphs)
    known = ItemEmbeddings.load(tiny_model.embeddings)
    new_id, vector = 1, known.raw[:1] * 0.9
    assign_ids(tiny_model.semantic_ids, [new_id], vector, tmp_path / "semantic_ids")
    ids, raw = np.array([new_id, *known.item_ids.tolist()]), np.concatenate([vector, known.raw])
    write_item_embeddings(tmp_path / "embeddings", ids, ["new"] * len(ids), raw, "none", 1.0)
    popularity = np.append(tiny_model.popularity, 0)
    export_recommender(
        tiny_model.checkpoint, tmp_path / "semantic_ids", tmp_path / "embeddings", popularity, tmp_path / "model"
    )
    recommender = Recommender.from_folder(tmp_path / "model", threads=1)
    (every,) = recommender.recommend([[new_id, int(known.item_ids[5])]], top_k=len(ids), exclude_seen=False)
    assert sorted(every.tolist()) == sorted(ids.tolist())
    with pytest.raises(GenrecError, match="no vector of item 1"):
        export_recommender(
            tiny_model.checkpoint, tmp_path / "semantic_ids", tiny_model.embeddings, popularity, tmp_path / "model"
        )
