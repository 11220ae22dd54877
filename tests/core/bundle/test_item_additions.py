"""Items added to an exported model: as if exported with them, recommended at once, the others as before."""

import shutil
import threading
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest

from genrec_core.bundle.item_additions import AdditionSettings, add_items, texts_of
from genrec_core.bundle.item_table import ItemTable
from genrec_core.bundle.model_folder import (
    ADDITION_SETTINGS,
    NEW_ITEMS,
    PREFIXES,
    SETTINGS,
    TEXT_VECTORS,
    TOKENS,
    ModelFolder,
)
from genrec_core.bundle.new_items import NewItems, read_new_items
from genrec_core.bundle.onnx_scorer import OnnxScorer
from genrec_core.cli import items
from genrec_core.cli.main import main
from genrec_core.data.item_text import ItemFields
from genrec_core.embedding.item_embeddings import ItemEmbeddings, write_item_embeddings
from genrec_core.errors import GenrecError
from genrec_core.export import onnx
from genrec_core.export.onnx import export_recommender
from genrec_core.monitoring.drift import read_profile, write_profile
from genrec_core.quantization.semantic_ids import SemanticIds
from genrec_core.quantization.update import assign_ids
from genrec_core.recommend.recommender import Recommender
from genrec_core.releases.pointer import (
    RELEASES,
    SERVED,
    ServedMeanwhileError,
    add_to_served,
    first_pointer,
    require_pointer,
    serve,
    served_pointer,
    served_release,
)
from genrec_core.releases.transfer import compared_models
from genrec_core.storage.artifacts import read_json, verify_manifest, write_json, write_manifest
from genrec_core.storage.folders import latest, set_latest, storage_root
from genrec_core.tiger.scorer import TorchScorer, ranking_weights

if TYPE_CHECKING:
    from tests.core.tiny_model import TinyModel

CatalogOf = Callable[[np.ndarray], pl.DataFrame]
NEW_IDS = [5, 2000, 7]
LIKE = 3  # the row that the first new item is like
MODES = ("generative", "hybrid", "dense")


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> NewItems:
    path = tmp_path_factory.mktemp("new") / "new.csv"
    path.write_text("item_id,title,brand,price\n" + "".join(f"{item},Soap {item},Fresh,1.5\n" for item in NEW_IDS))
    return read_new_items(path, ItemFields())


@pytest.fixture(scope="module")
def vectors(tiny_model: "TinyModel") -> np.ndarray:
    """As the embedding model would give them, not normalised."""
    raw = ItemEmbeddings.load(tiny_model.embeddings).raw
    others = np.random.default_rng(9).normal(size=(len(NEW_IDS) - 1, raw.shape[1]))
    return np.concatenate([raw[LIKE : LIKE + 1] * 0.9 + 0.01, others]).astype(np.float32)


@pytest.fixture(scope="module")
def added_dir(ruled_dir: Path, new: NewItems, vectors: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("added") / "model"
    add_items(ruled_dir, new, vectors, folder)
    return folder


@pytest.fixture(scope="module")
def added(added_dir: Path) -> Recommender:
    return Recommender.open(added_dir)


@pytest.fixture(scope="module")
def larger(tiny_model: "TinyModel", vectors: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> "TinyModel":
    """The same model exported with the new items; its graphs, which do not depend on the items, are copies."""
    root, known = tmp_path_factory.mktemp("larger"), ItemEmbeddings.load(tiny_model.embeddings)
    assign_ids(tiny_model.semantic_ids, NEW_IDS, vectors, root / "semantic_ids")
    ids, raw = np.concatenate([known.item_ids, NEW_IDS]), np.concatenate([known.raw, vectors])
    order = ids.argsort()
    made = (root / "embeddings", ids[order], ["text"] * len(ids), raw[order], "none", 1.0)
    write_item_embeddings(*made, fields=ItemFields(text_template="{title};"))
    popularity = np.append(tiny_model.popularity, [0] * len(NEW_IDS))
    np.save(root / "popularity.npy", popularity)
    (root / "checkpoint").symlink_to(tiny_model.checkpoint)

    def copy_graphs(model: object, folder: Path) -> None:
        copy_graphs_of(tiny_model.model_dir, folder)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx, "export_graphs", copy_graphs)
        paths = (tiny_model.checkpoint, root / "semantic_ids", root / "embeddings")
        export_recommender(*paths, popularity, root / "model")
    return type(tiny_model)(root)


def copy_graphs_of(model_dir: Path, folder: Path) -> None:
    (folder / NEW_ITEMS).mkdir()
    for name in (SETTINGS, TOKENS, PREFIXES, *(path.relative_to(model_dir) for path in model_dir.rglob("*.onnx"))):
        shutil.copy(model_dir / name, folder / name)


def test_a_model_holds_what_an_export_with_the_items_gives(added_dir: Path, larger: "TinyModel") -> None:
    verify_manifest(added_dir)
    for name in ("item_ids", "codes_with_suffix", "popularity"):
        np.testing.assert_array_equal(*(np.load(at / f"{name}.npy") for at in (added_dir, larger.model_dir)), name)
    for name in ("item_vectors", "item_keys", f"{NEW_ITEMS}/text_vectors"):
        ours, theirs = (np.load(at / f"{name}.npy") for at in (added_dir, larger.model_dir))
        np.testing.assert_allclose(ours, theirs, atol=1e-5, err_msg=name)
    assert AdditionSettings.load(larger.model_dir).item_fields.text_template == "{title};"


@pytest.mark.parametrize("ranking", MODES)
def test_torch_ranks_the_larger_catalogue_alike(added: Recommender, larger: "TinyModel", ranking: Any) -> None:
    ids, texts = SemanticIds.load(larger.semantic_ids), ItemEmbeddings.load(larger.embeddings)
    rows = np.searchsorted(texts.item_ids, ids.item_ids)
    assert isinstance(added.scorer, OnnxScorer)
    model = TorchScorer.from_folder(larger.checkpoint, ids.codes, texts.l2norm[rows]).model
    scorer = TorchScorer(model, ids.codes, texts.l2norm[rows], added.scorer.neighbors)
    by_torch = Recommender(
        scorer, ids.item_ids, ids.codes, ids.level_sizes, larger.popularity, 12, ranking_weights(model.config)
    )
    histories = [[NEW_IDS[0], int(ids.item_ids[40])], ids.item_ids[[3, 50, 7]].tolist(), [NEW_IDS[1]]]
    ours, theirs = (found.rank(histories, 93, ranking=ranking) for found in (added, by_torch))
    np.testing.assert_array_equal(ours.items, theirs.items)
    np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-3)


@pytest.mark.parametrize("ranking", MODES)
def test_new_items_are_in_histories_and_are_recommended(added: Recommender, ranking: Any) -> None:
    history = [int(added.item_ids[LIKE]), NEW_IDS[1]]
    found = added.rank([history], 3, ranking=ranking, allowed=added.allowed(allow=NEW_IDS))
    assert found.unknown.tolist() == [0]
    assert set(found.of(0).tolist()) == {5, 7}
    (every,) = added.recommend([history], 93, ranking=ranking, exclude_seen=False)
    assert set(NEW_IDS) < set(every.tolist())
    (ruled,) = added.recommend([history], 10, ranking=ranking, rule="brand = fresh and price < 2")
    assert set(ruled.tolist()) == {5, 7}


def test_a_new_item_ranks_beside_the_one_it_is_like(added: Recommender, ruled: Recommender) -> None:
    histories = [[int(item)] for item in added.item_ids[60:80]]
    like = int(added.item_ids[LIKE])
    places = [
        [items.tolist().index(item) for item in (like, NEW_IDS[0])]
        for items in added.recommend(histories, 93, ranking="dense", exclude_seen=False)
    ]
    assert np.mean([abs(one - other) for one, other in places]) < 8  # of 93; 31 by chance


def test_the_others_are_ranked_by_the_dense_head_as_before(added: Recommender, ruled: Recommender) -> None:
    histories = [ruled.item_ids[[row, row + 7]].tolist() for row in range(0, 80, 7)]
    before = ruled.rank(histories, 40, ranking="dense")
    after = added.rank(histories, 40, ranking="dense", allowed=added.allowed(deny=NEW_IDS))
    np.testing.assert_array_equal(after.items, before.items)
    difference = after.scores - before.scores  # the new items' share of the probability
    np.testing.assert_allclose(difference, np.broadcast_to(difference[:, :1], difference.shape), atol=1e-4)


def test_a_code_without_a_new_sibling_has_the_probability_it_had(
    added: Recommender, added_dir: Path, ruled: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    for model in (added, ruled):
        monkeypatch.setattr(model.scorer, "neighbors", None)  # a new item that the history lifts takes from the others
    codes = np.load(added_dir / "codes_with_suffix.npy")
    old, siblings = codes[:90], [children(codes[:90]), children(codes)]
    same = [all(siblings[0][prefix(code, d)] == siblings[1][prefix(code, d)] for d in range(3)) for code in old]
    assert sum(same) > 30
    history = [ruled.item_ids[[3, 50]].tolist()]
    before, after = (
        dict(zip(found.items[0].tolist(), found.scores[0].tolist(), strict=True))
        for found in (
            model.rank(history, len(model.item_ids), ranking="generative", exclude_seen=False)
            for model in (ruled, added)
        )
    )
    for item, kept in zip(ruled.item_ids.tolist(), same, strict=True):
        assert not kept or after[item] == pytest.approx(before[item], abs=1e-4)


def prefix(code: np.ndarray, depth: int) -> tuple[int, ...]:
    return tuple(code[:depth].tolist())


def children(codes: np.ndarray) -> dict[tuple[int, ...], set[int]]:
    found: dict[tuple[int, ...], set[int]] = defaultdict(set)
    for code in codes:
        for depth in range(len(code)):
            found[prefix(code, depth)].add(int(code[depth]))
    return found


def test_one_after_the_other_is_as_good_as_together(
    ruled_dir: Path, added_dir: Path, new: NewItems, vectors: np.ndarray, tmp_path: Path
) -> None:
    folder = shutil.copytree(ruled_dir, tmp_path / "model")
    for at in range(len(NEW_IDS)):
        some = slice(at, at + 1)
        add_items(folder, NewItems(new.item_ids[some], new.texts[some], new.fields[some]), vectors[some])
    verify_manifest(folder)
    for name in ("item_ids", "codes_with_suffix", "popularity", "item_vectors", "item_keys"):
        np.testing.assert_allclose(*(np.load(at / f"{name}.npy") for at in (folder, added_dir)), atol=1e-5)
    ids = np.load(folder / "item_ids.npy")
    assert list(ItemTable.load(folder, ids).rows()) == list(ItemTable.load(added_dir, ids).rows())


def test_withdrawn_items_stay_withdrawn(ruled_dir: Path, new: NewItems, vectors: np.ndarray, tmp_path: Path) -> None:
    folder = shutil.copytree(ruled_dir, tmp_path / "model")
    gone = np.load(folder / "item_ids.npy")[:2]
    ModelFolder(folder).withdraw(gone)
    add_items(folder, new, vectors)
    ModelFolder(folder).withdraw(np.array(NEW_IDS[:1]))
    left = Recommender.open(folder).recommend([[NEW_IDS[1]]], 93, exclude_seen=False)[0]
    assert len(left) == 90
    assert not {*gone.tolist(), NEW_IDS[0]} & set(left.tolist())


def one(item: int) -> NewItems:
    return NewItems(np.array([item]), ["text"], [dict.fromkeys(("title", "brand", "categories", "price"))])


def test_what_cannot_be_added_changes_nothing(ruled_dir: Path, vectors: np.ndarray, tmp_path: Path) -> None:
    folder = shutil.copytree(ruled_dir, tmp_path / "model")
    there, vector = int(np.load(folder / "item_ids.npy")[0]), vectors[:1]
    many = NewItems(
        np.arange(5000, 5100), ["text"] * 100, [dict.fromkeys(("title", "brand", "categories", "price"))] * 100
    )
    twice = NewItems(np.array([5, 5]), ["a", "b"], [{}, {}])
    for new, given, said in (
        (one(there), vector, f"item {there} has a semantic ID already"),
        (twice, vectors[:2], "appears twice"),
        (one(5), vector[:, :3], "do not fit|embed the items"),
        (one(5), vector * np.nan, "not finite"),
        (many, np.repeat(vector, 100, axis=0), "suffix vocabulary holds"),
    ):
        with pytest.raises(GenrecError, match=said):
            add_items(folder, new, given)
    with pytest.raises(GenrecError, match="is there already; name a new folder"):
        add_items(folder, one(5), vector, tmp_path)
    assert (folder / "manifest.json").read_bytes() == (ruled_dir / "manifest.json").read_bytes()
    verify_manifest(folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "model"]
    shutil.rmtree(folder / NEW_ITEMS)
    write_manifest(folder)
    with pytest.raises(GenrecError, match="so nothing can be added; export the model again"):
        add_items(folder, one(5), vector)


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def embedded(vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts become the tiny model's vectors."""
    monkeypatch.setattr(items, "_text_vectors", lambda texts, *_: vectors[: len(texts)])


@pytest.fixture
def items_file(tmp_path: Path) -> Path:
    path = tmp_path / "new.csv"
    path.write_text("item_id,title\n5,Soap\n2000,Brush\n")
    return path


@pytest.mark.usefixtures("embedded")
def test_the_command_writes_beside_or_in_place(
    ruled_dir: Path, items_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(ruled_dir, tmp_path / "model")
    arguments = ["add-items", "--model_dir", str(folder), "--items", str(items_file)]
    assert main([*arguments, "--output", str(tmp_path / "beside")]) == 0
    shown = capsys.readouterr()
    assert [line.split()[0] for line in shown.out.splitlines()] == ["5", "2000"]
    assert f"2 items added: {tmp_path / 'beside'}" in shown.err
    assert len(np.load(folder / "item_ids.npy")) == 90
    assert main(arguments) == 0
    assert len(np.load(folder / "item_ids.npy")) == 92
    items_file.write_text("item_id,title\n6,\n")
    assert main(arguments) == 2
    assert "item 6 has no text" in capsys.readouterr().err
    assert main(["add-items", "--items", str(items_file), "--output", "x"]) == 2
    assert "--output belongs to --model_dir" in capsys.readouterr().err


def test_texts_and_attributes_of_new_items_are_made_of_the_catalogues_own_columns(
    ruled_dir: Path, vectors: np.ndarray, catalog_of: CatalogOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(ruled_dir, tmp_path / "model")
    ids = np.load(folder / "item_ids.npy")
    catalog = catalog_of(ids).with_columns(shelf=pl.lit("Old"), pages=pl.lit(7), text_template=pl.lit("On {shelf};"))
    fields = ItemFields.of_catalog(catalog)
    ItemTable.of_catalog(catalog, ids).save(folder)
    path = folder / NEW_ITEMS / ADDITION_SETTINGS
    write_json(path, read_json(path) | {"item_fields": fields.model_dump()})
    write_manifest(folder)
    assert set(texts_of(folder, fields)[0]) == {"On Old;"}
    asked: list[str] = []
    monkeypatch.setattr(items, "_text_vectors", lambda texts, *_: asked.extend(texts) or vectors[: len(texts)])
    (tmp_path / "new.csv").write_text("item_id,title,shelf,pages\n5,Soap,New|Old,9\n")
    assert main(["add-items", "--model_dir", str(folder), "--items", str(tmp_path / "new.csv")]) == 0
    assert asked == ["On New; Old;"]
    allowed = Recommender.open(folder).allowed(rule="shelf = new and pages > 8")
    assert allowed is not None
    assert allowed.nonzero()[0].tolist() == [len(ids)]


def test_new_texts_that_the_model_cannot_tell_from_others_are_told(
    ruled_dir: Path,
    items_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = np.load(ruled_dir / NEW_ITEMS / TEXT_VECTORS)
    other = -known[LIKE]
    for number, (rows, told) in enumerate((([other, other], 2), ([known[LIKE], other], 1), ([known[5] + 1, other], 0))):
        monkeypatch.setattr(items, "_text_vectors", lambda *_, rows=rows: np.stack(rows))
        arguments = ["--model_dir", str(ruled_dir), "--items", str(items_file), "--output", str(tmp_path / f"{number}")]
        assert main(["add-items", *arguments]) == 0
        shown = capsys.readouterr().err
        assert ("warning" in shown) == (told > 0)
        assert not told or f"{told} of 2 new items have the text vector of an item with another text" in shown


TITLES = "Title: {title};"


@pytest.mark.parametrize("template", [TITLES, "Title: {title}; {description};"])
def test_items_that_were_embedded_by_more_than_the_table_holds_are_told_apart(
    added_dir: Path, items_file: Path, tmp_path: Path, template: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A ready text, or a description, under one id; then the same under another."""
    vector = -np.load(added_dir / NEW_ITEMS / TEXT_VECTORS)[LIKE]
    folder = shutil.copytree(added_dir, tmp_path / "model")
    monkeypatch.setattr(items, "_text_vectors", lambda *_: vector[None])
    arguments = ["add-items", "--model_dir", str(folder), "--text_template", template, "--items", str(items_file)]
    for item in (6, 8):
        ready = f"item_id,text\n{item},Soft soap\n"
        items_file.write_text(ready if template == TITLES else f"item_id,title,description\n{item},Soap,Soft\n")
        assert main(arguments) == 0
        assert "warning" not in capsys.readouterr().err


def release_in(root: Path, tiny_model: "TinyModel") -> Path:
    """A served release of the tiny model."""
    release = root / RELEASES / "one"
    for name, source in (("model", tiny_model.model_dir), ("semantic_ids", tiny_model.semantic_ids),
                         ("checkpoint", tiny_model.checkpoint), ("metrics", tiny_model.embeddings)):  # fmt: skip
        shutil.copytree(source, release / name)
    (release / "release.json").write_text('{"version": "one"}')
    write_profile(release, pl.DataFrame({"user_id": ["a"], "item_ids": [[1, 2, 3]]}))
    write_manifest(release)
    set_latest(RELEASES, "one", root)
    serve(first_pointer("one", "a test"), root)
    return release


@pytest.mark.usefixtures("embedded")
def test_the_served_release_gets_a_successor(
    tiny_model: "TinyModel", items_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "storage"
    monkeypatch.setenv("GENREC_STORAGE", str(root))
    release = release_in(root, tiny_model)
    ModelFolder(release / "model").withdraw(np.load(release / "model" / "item_ids.npy")[:1])
    assert main(["add-items", "--items", str(items_file)]) == 0
    after, pointer = served_release(root), served_pointer(root)
    assert pointer is not None
    assert pointer.before == ("one",)
    for folder in (release, after, after / "model"):
        verify_manifest(folder)
    ids = np.load(after / "model" / "item_ids.npy")
    assert ids.tolist()[90:] == SemanticIds.load(after / "semantic_ids").item_ids.tolist()[90:] == [5, 2000]
    assert ModelFolder(after / "model").withdrawn() == ids[:1].tolist()
    trained = read_profile(after)  # what drift is measured from
    assert {5, 2000} <= set(trained.item_ids.tolist())
    assert trained.lengths.tolist() == [0, 0, 0, 1]
    assert len(list((root / SERVED).iterdir())) == 3  # two pointers and latest.json
    serve(pointer.moved_back(None, "back"), root)
    assert served_release(root) == release


def test_an_item_withdrawn_while_items_are_added_stays_withdrawn(
    tiny_model: "TinyModel", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(tiny_model.model_dir, tmp_path / "model")
    ids = np.load(folder / "item_ids.npy")
    ModelFolder(folder).withdraw(ids[:1])
    copy, other = shutil.copyfile, threading.Thread(target=ModelFolder(folder).withdraw, args=(ids[1:2],))

    def withdraw_after_the_list_was_copied(source: Path, target: Path, **options: bool) -> object:
        copied = copy(source, target, **options)
        if Path(source).name == "withdrawn.json":
            other.start()
            other.join(0.5)
        return copied

    monkeypatch.setattr(shutil, "copyfile", withdraw_after_the_list_was_copied)
    add_items(folder, NewItems(np.array([5]), ["a"], [{}]), ItemEmbeddings.load(tiny_model.embeddings).raw[:1])
    other.join()
    held = np.load(folder / "item_ids.npy")
    assert held[-1] == 5
    assert ModelFolder(folder).withdrawn() == ids[:2].tolist()


def test_a_release_that_was_served_while_items_were_added_stays_served(
    tiny_model: "TinyModel", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release_in(tmp_path, tiny_model)
    before = require_pointer(tmp_path)
    shutil.copytree(tmp_path / RELEASES / "one", tmp_path / RELEASES / "two")

    def add_while_another_is_served(*given: Any) -> np.ndarray:
        serve(require_pointer(tmp_path).moved("two", "its gates passed"), tmp_path)
        return add_items(*given)

    monkeypatch.setattr("genrec_core.bundle.item_additions.add_items", add_while_another_is_served)
    new, vectors = NewItems(np.array([5]), ["a"], [{}]), ItemEmbeddings.load(tiny_model.embeddings).raw[:1]
    with pytest.raises(ServedMeanwhileError, match=r"release two was served while this ran.*run it again"):
        add_to_served(new, vectors, before, tmp_path)
    pointer = require_pointer(tmp_path)
    assert (pointer.version, pointer.before, pointer.known) == ("two", ("one",), ("one", "two"))
    assert sorted(path.name for path in (tmp_path / RELEASES).glob("[!.]*")) == ["latest.json", "one", "two"]
    assert latest(RELEASES, tmp_path).name == "one"
    monkeypatch.undo()
    version, _ = add_to_served(new, vectors, pointer, tmp_path)
    after = require_pointer(tmp_path)
    assert (after.version, after.before) == (version, ("one", "two"))


def test_the_measured_model_of_a_refitted_release_gets_the_items_too(tiny_model: "TinyModel", tmp_path: Path) -> None:
    release = release_in(tmp_path, tiny_model)
    shutil.copytree(tiny_model.model_dir, release / "measured")
    new, vectors = NewItems(np.array([5]), ["a"], [{}]), ItemEmbeddings.load(tiny_model.embeddings).raw[:1]
    version, _ = add_to_served(new, vectors, require_pointer(tmp_path), tmp_path)
    models, _ = compared_models(require_pointer(tmp_path), tmp_path)
    assert [folder.name for folder in models.values()] == ["measured", "measured"]
    assert ModelFolder(models[version]).item_ids[-1] == 5
    assert ModelFolder(models["one"]).item_ids[-1] != 5


@pytest.mark.usefixtures("embedded", "object_server")
def test_a_release_in_a_bucket_gets_a_successor_there(
    tiny_model: "TinyModel", items_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENREC_STORAGE", "s3://shop/genrec")
    release = release_in(storage_root(), tiny_model)
    ModelFolder(release / "model").withdraw(np.load(release / "model" / "item_ids.npy")[:1])
    assert main(["add-items", "--items", str(items_file)]) == 0
    shutil.rmtree(storage_root())  # as on another machine
    after = served_release(storage_root())
    verify_manifest(after)
    ids = np.load(after / "model" / "item_ids.npy")
    assert ids.tolist()[90:] == [5, 2000]
    assert ModelFolder(after / "model").withdrawn() == ids[:1].tolist()
