"""A model whose item ids are text: every door gives back the catalogue's ids, letter by letter."""

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genrec_core.bundle.item_additions import add_items
from genrec_core.bundle.model_folder import ModelFolder
from genrec_core.bundle.new_items import NewItems
from genrec_core.cli.main import main
from genrec_core.errors import GenrecError
from genrec_core.monitoring.answers import count_listed_items, exposure_of, lists_with_reasons
from genrec_core.quantization.semantic_ids import SemanticIds
from genrec_core.quantization.update import assign_ids
from genrec_core.recommend.predict import predict_file, rejected_path
from genrec_core.recommend.recommender import Recommender
from genrec_core.releases.pointer import carry_withdrawn
from genrec_core.settings import PredictionSettings, ServingSettings
from tests.core.tiny_model import DIM, ITEMS, TinyModel, build_tiny_model

pytest.importorskip("torch")

ODD = [
    "0005", "5", "-1", "1.0", "1e5", "nan", "None", "null", "NA", "0143039431", "12345678901234567890123", "=1+1", "#x",
    "a,b", 'say "hi"', '"quoted"', "it's", "two words", "tab\there", "semi;colon", "[x]", "(1, 2)", "back\\slash",
    "\\n", "naïve", "ключ", "日本", "😀", "e\u0301", "a\u00a0b", "a\u2028b", "550e8400-e29b-41d4-a716-446655440000",
]  # fmt: skip
IDS = sorted([*ODD, *(f"B{number:09d}" for number in range(ITEMS - len(ODD)))])
TOP = 6


@pytest.fixture(scope="module")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    return build_tiny_model(tmp_path_factory.mktemp("text_model"), IDS)


@pytest.fixture(scope="module")
def recommender(text_model: TinyModel) -> Recommender:
    return Recommender.open(text_model.model_dir)


def rows_of(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))[1:]


histories_of = st.lists(st.lists(st.sampled_from(IDS), max_size=5), min_size=1, max_size=4)
fixed = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def test_the_lists_are_those_of_the_same_model_with_integer_ids(
    recommender: Recommender, tiny_recommender: Recommender
) -> None:
    histories = [np.random.default_rng(user).choice(ITEMS, 4, replace=False) for user in range(20)]
    by_text = recommender.recommend([[*recommender.item_ids[rows], "gone"] for rows in histories], TOP)
    by_number = tiny_recommender.recommend([[*tiny_recommender.item_ids[rows], 5] for rows in histories], TOP)
    row_of = {item: row for row, item in enumerate(tiny_recommender.item_ids.tolist())}
    assert [items.tolist() for items in by_text] == [[IDS[row_of[item]] for item in items] for items in by_number]
    assert recommender.item_ids.dtype.kind == "U"


@fixed
@given(histories_of, st.sampled_from(["json", "python", "numpy", "parquet"]), st.sampled_from(["csv", "parquet"]))
def test_files_give_back_the_ids_of_the_catalogue(
    recommender: Recommender, tmp_path: Path, histories: list[list[str]], form: str, answer: str
) -> None:
    users = [f'user {number}, "x"' for number in range(len(histories))]
    source, output = tmp_path / f"in.{'parquet' if form == 'parquet' else 'csv'}", tmp_path / f"out.{answer}"
    if form == "parquet":
        pl.DataFrame(
            {"user_id": users, "item_ids": histories}, schema_overrides={"item_ids": pl.List(pl.String)}
        ).write_parquet(source)
    else:
        printed = {"json": json.dumps, "python": str, "numpy": lambda items: f"[{' '.join(map(repr, items))}]"}[form]
        with source.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(
                [["user_id", "item_ids"], *([u, printed(h)] for u, h in zip(users, histories, strict=True))]
            )
    report = predict_file(recommender, source, output, PredictionSettings(top_k=TOP), show_progress=False)
    wanted = [
        [user, *items] for user, items in zip(users, map(list, recommender.recommend(histories, TOP)), strict=True)
    ]
    found = list(map(list, pl.read_parquet(output).rows())) if answer == "parquet" else rows_of(output)
    assert found == wanted
    assert {item for row in found for item in row[1:]} <= set(IDS)
    assert (report.rejected, report.unknown_items) == (0, 0)
    listed = count_listed_items(
        output,
        recommender.item_ids,
        pl.DataFrame({"user_id": users, "item_ids": histories}, schema_overrides={"item_ids": pl.List(pl.String)}),
    )
    assert listed == (TOP * len(users), 0, 0, 0)
    assert exposure_of(output, recommender.item_ids).places == TOP * len(users)


def test_words_of_a_text_file_are_ids_and_lists_of_a_request_narrow_it(
    recommender: Recommender, tmp_path: Path
) -> None:
    (tmp_path / "in.txt").write_text("u 0005 5 naïve\nu;0005 5\nu,0005 5\n", encoding="utf-8")
    predict_file(
        recommender, tmp_path / "in.txt", tmp_path / "out.csv", PredictionSettings(top_k=3), show_progress=False
    )
    assert rows_of(tmp_path / "out.csv") == [["u", *recommender.recommend([["0005", "5", "naïve"]], 3)[0]]]
    (tmp_path / "in.csv").write_text(
        'user_id,item_ids,allow,deny\na,5 0005,"[""a,b"", ""two words"", ""5""]",0005\nb,"5,0005",,\nc,"[5, null]",,\n',
        encoding="utf-8",
    )
    predict_file(
        recommender, tmp_path / "in.csv", tmp_path / "out.csv", PredictionSettings(top_k=3), show_progress=False
    )
    ((user, *items),) = rows_of(tmp_path / "out.csv")
    assert (user, set(items)) == ("a", {"a,b", "two words", ""})
    reasons = [row[1] for row in rows_of(rejected_path(tmp_path / "out.csv"))]
    assert "write a JSON array" in reasons[0]
    assert reasons[1] == "item None is neither text nor an integer"


def test_a_line_of_a_list_is_one_id_and_withdrawn_items_stay_away(text_model: TinyModel, tmp_path: Path) -> None:
    model, paths = (
        shutil.copytree(text_model.model_dir, tmp_path / "model"),
        (tmp_path / "in.txt", tmp_path / "out.csv"),
    )
    (tmp_path / "gone.txt").write_text("two words\n a,b \n0005\n\n日本\r\n", encoding="utf-8")
    assert main(["withdraw", "--items", str(tmp_path / "gone.txt"), "--model_dir", str(model)]) == 0
    assert ModelFolder(model).withdrawn() == ["0005", "a,b", "two words", "日本"]
    (tmp_path / "deny.csv").write_text('item_id\nnaïve\n"say ""hi"""\n"semi;colon"\nitem_id\n', encoding="utf-8")
    paths[0].write_text("u 5\n")
    files = ["--input_path", str(paths[0]), "--output_path", str(paths[1]), "--deny", str(tmp_path / "deny.csv")]
    assert main(["predict", "--model_dir", str(model), *files, "--topk", "90", "--quiet"]) == 0
    gone = {"two words", "a,b", "0005", "日本", "naïve", 'say "hi"', "semi;colon", "5"}
    assert {item for item in rows_of(paths[1])[0][1:] if item} == set(IDS) - gone
    other = shutil.copytree(text_model.model_dir, tmp_path / "other")
    assert carry_withdrawn(model, other) == 4
    (tmp_path / "gone.txt").write_text("0005\n00005\n")
    assert main(["withdraw", "--restore", "--items", str(tmp_path / "gone.txt"), "--model_dir", str(model)]) == 2
    (tmp_path / "gone.txt").write_text("item_id\na,b\n")
    assert main(["withdraw", "--restore", "--items", str(tmp_path / "gone.txt"), "--model_dir", str(model)]) == 2


@pytest.fixture(scope="module")
def client(text_model: TinyModel) -> Iterator[Any]:
    from fastapi.testclient import TestClient

    from genrec_core.serving.app import Server, build_app
    from genrec_core.serving.metrics import Metrics
    from genrec_core.serving.models import ModelHolder

    metrics = Metrics()
    holder = ModelHolder(text_model.model_dir, 1, metrics)
    holder.load()
    with TestClient(build_app(Server(holder, ServingSettings(threads=1), metrics, None))) as client:
        yield client


@fixed
@given(histories_of)
def test_the_server_answers_with_the_ids_of_the_catalogue(
    client: Any, recommender: Recommender, histories: Any
) -> None:
    users = [{"user_id": number, "item_ids": items} for number, items in enumerate(histories)]
    answer = client.post("/predictions/mymodel", json={"topk": TOP, "instances": users}).json()["predictions"]
    wanted = [items.tolist() for items in recommender.recommend(histories, TOP)]
    assert [user["predictions"] for user in answer] == wanted


def test_a_number_stands_for_its_digits_and_another_value_is_refused(client: Any) -> None:
    def post(items: list[Any], **options: Any) -> Any:
        body = {"topk": 3, "instances": [{"user_id": "u", "item_ids": items}], **options}
        return client.post("/predictions/mymodel", json=body).json()

    assert post([5]) == post(["5"]) != post(["0005"])
    assert set(post([5], allow=["a,b", 5, "0005"])["predictions"][0]["predictions"]) == {"a,b", "0005"}
    assert post(["5 "])["predictions"][0]["unknown_items"] == 1
    for value in (1.5, None, True, ["5"]):
        assert post([value])["error"]["field"] == "instances.0.item_ids.0"
    assert client.get("/model").json()["item_ids"] == "text"
    fields = client.get("/openapi.json").json()["paths"]["/predictions/mymodel"]["post"]["requestBody"]["content"]
    items = fields["application/json"]["schema"]["properties"]["instances"]["items"]["properties"]["item_ids"]["items"]
    assert {form["type"] for form in items["anyOf"]} == {"integer", "string"}


def test_torchserve_and_mlflow_answer_with_text_ids(text_model: TinyModel, recommender: Recommender) -> None:
    pd = pytest.importorskip("pandas")
    from genrec_core.export.pyfunc import PyfuncRecommender
    from genrec_core.export.torchserve_handler import RecommenderHandler

    wanted, instance = recommender.recommend([["a,b", "5"]], 3)[0].tolist(), {"user_id": "u", "item_ids": ["a,b", 5]}
    handler = RecommenderHandler()
    handler.recommender = recommender
    context = SimpleNamespace(set_response_content_type=lambda *_: None)
    (answer,) = handler.handle([{"body": {"topk": 3, "instances": [instance]}}], context)
    assert answer["predictions"][0]["predictions"] == wanted
    pytest.importorskip("mlflow")
    frame = pd.DataFrame({"user_id": ["u"], "item_ids": [np.array(["a,b", "5"])]})
    assert PyfuncRecommender(recommender).predict(frame, {"topk": 3})["predictions"][0] == wanted


def test_new_items_have_text_ids_too(text_model: TinyModel, tmp_path: Path) -> None:
    ids, vectors = ["a new, item", "0006"], np.random.default_rng(1).normal(size=(2, DIM)).astype(np.float32)
    extended = assign_ids(text_model.semantic_ids, ids, vectors, tmp_path / "ids")
    assert SemanticIds.load(tmp_path / "ids").item_ids.tolist() == [*IDS, *ids] == extended.item_ids.tolist()
    new = NewItems(np.array(ids), ["one", "two"], [{}, {}])
    add_items(text_model.model_dir, new, vectors, tmp_path / "larger")
    larger = Recommender.open(tmp_path / "larger")
    assert set(larger.recommend([["0006"]], ITEMS + 2)[0]) == {*IDS, "a new, item"}
    with pytest.raises(GenrecError, match=r"item 7: the ids in .* are text"):
        assign_ids(text_model.semantic_ids, [7], vectors[:1], tmp_path / "wrong")


def test_pages_name_items_by_their_ids(text_model: TinyModel, tmp_path: Path) -> None:
    (tmp_path / "lists.csv").write_text('user_id,pred_1,pred_2\nu,0005,"a,b"\n')
    recommender = Recommender.open(text_model.model_dir)
    (row,) = lists_with_reasons(recommender, [("u", ["5", "gone"])], tmp_path / "lists.csv", 2)
    assert (row["newest items"], row["recommended"]) == ("item gone · item 5", "item 0005 · item a,b")


def test_training_measuring_and_comparing_read_text_ids(
    text_model: TinyModel, tiny_model: TinyModel, tmp_path: Path
) -> None:
    from genrec_core.evaluation.evaluate import evaluate_checkpoint
    from genrec_core.evaluation.release_comparison import ValidationUsers, judge
    from genrec_core.settings import EvaluationSettings, ReleaseSettings
    from genrec_core.tiger.training import TrainingData

    draw = np.random.default_rng(2)
    items = [draw.choice(IDS, 5, replace=False).tolist() for _ in range(30)]
    histories = pl.DataFrame({"user_id": list(map(str, range(30))), "item_ids": items})
    histories.write_parquet(tmp_path / "histories.parquet")
    inputs = (text_model.semantic_ids, text_model.embeddings)
    assert TrainingData.load(tmp_path / "histories.parquet", *inputs)
    metrics = evaluate_checkpoint(
        text_model.checkpoint, *inputs, histories, EvaluationSettings(beams=90, exact_users=5)
    )
    assert metrics["users"] == 30
    settings, served = ReleaseSettings(users=30, beams=90, top_k=90), {"same": text_model.model_dir}
    assert judge(text_model.model_dir, served, histories, settings).compared["same"].outcome(0.01) == "not worse"
    with pytest.raises(GenrecError, match="of two kinds, text and integers"):
        ValidationUsers.drawn(text_model.model_dir, histories, settings).ranks(tiny_model.model_dir)
