"""Shards on Ray: in order, the same as here, whatever dies meanwhile; refused where there is no cluster to be had."""

import importlib
import os
import secrets
import signal
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import genrec_core
from genrec_core.embedding.text import embed_texts
from genrec_core.engines import engine as engines
from genrec_core.engines.engine import Engine, RayEngine, open_engine
from genrec_core.errors import GenrecError
from genrec_core.quantization.quantizer import find_codes
from genrec_core.quantization.residual import ResidualQuantizer
from genrec_core.settings import EmbeddingSettings, EngineSettings, SemanticIdSettings, engine_from_environment

TEXTS = [f"Title: {'nail lacquer ' * (number % 17)}{number}; Brand: OPI;" for number in range(150)]


def test_without_a_setting_work_stays_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GENREC_ENGINE", raising=False)
    with open_engine(engine_from_environment()) as engine:
        assert engine is None


def test_an_unknown_engine_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENREC_ENGINE", "spark")
    with pytest.raises(GenrecError, match="GENREC_ENGINE=spark: "):
        engine_from_environment()


def test_ray_without_an_address_does_not_fall_back() -> None:
    with pytest.raises(GenrecError, match="set RAY_ADDRESS"), open_engine(EngineSettings(name="ray")):
        pass


def test_here_shards_are_computed_in_order_one_at_a_time(shard_work: ModuleType) -> None:
    taken: list[int] = []
    found = Engine().map(shard_work.refused, 9, (taken.append(number) or number for number in range(9)))
    assert [next(found), next(found)] == [0, 1]
    assert taken == [0, 1]


def _require_ray() -> None:
    """Skip without Ray. It is not imported here: it reads its settings when it is."""
    if find_spec("ray") is None:
        pytest.skip("the extra ray is not installed")


@pytest.fixture(scope="module")
def shard_work() -> Iterator[ModuleType]:
    """The module of that name beside this one, where Ray's workers find it too."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PYTHONPATH", str(Path(__file__).parent))
        environment.syspath_prepend(Path(__file__).parent)
        yield importlib.import_module("shard_work")


@pytest.fixture(scope="module")
def cluster(shard_work: ModuleType) -> Iterator[RayEngine]:
    """Ray on this machine; connected as a user's process is."""
    _require_ray()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        before = signal.getsignal(signal.SIGTERM)
        with open_engine(EngineSettings(name="ray", address="local")) as engine:
            assert signal.getsignal(signal.SIGTERM) is before
            assert isinstance(engine, RayEngine)
            yield engine


def test_results_come_in_the_order_of_the_shards(cluster: RayEngine, shard_work: ModuleType) -> None:
    found = list(cluster.map(shard_work.after, 100, enumerate([0.3, 0.0, 0.1, 0.0] * 5)))
    assert [number for number, _ in found] == list(range(100, 120))
    assert os.getpid() not in {process for _, process in found}


def test_shards_are_taken_only_a_few_ahead(cluster: RayEngine, shard_work: ModuleType) -> None:
    taken: list[int] = []
    found = cluster.map(shard_work.refused, 10**6, (taken.append(number) or number for number in range(10**6)))
    assert next(found) == 0
    assert len(taken) <= 3 * cluster.cores
    found.close()


def test_an_error_arrives_as_it_was_raised(cluster: RayEngine, shard_work: ModuleType) -> None:
    with pytest.raises(GenrecError, match=r"^7 is more than 6$"):
        list(cluster.map(shard_work.refused, 6, range(20)))


def test_shards_whose_workers_die_are_computed_again(
    cluster: RayEngine, shard_work: ModuleType, tmp_path: Path
) -> None:
    assert list(cluster.map(shard_work.dying_once, tmp_path, range(6))) == list(range(6))


def test_a_shard_that_kills_every_worker_ends_with_its_reason(
    cluster: RayEngine, shard_work: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "_RETRIES", 1)
    with pytest.raises(GenrecError, match="Ray could not compute a shard in 2 attempts"):
        list(cluster.map(shard_work.dying, None, range(1)))


def test_a_node_with_other_code_is_refused(
    cluster: RayEngine, shard_work: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "code_digest", lambda: "of another version")
    with pytest.raises(GenrecError, match="runs other code of genrec"):
        list(cluster.map(shard_work.refused, 6, range(2)))


def test_texts_get_the_vectors_that_they_get_here(cluster: RayEngine) -> None:
    settings, seen = EmbeddingSettings(batch_size=16), list[tuple[int, int]]()
    found = embed_texts(TEXTS, settings, lambda done, total: seen.append((done, total)), cluster)
    np.testing.assert_array_equal(found, embed_texts(TEXTS, settings))
    assert seen[-1] == (150, 150)


def test_vectors_get_the_codes_that_they_get_here(cluster: RayEngine) -> None:
    vectors = np.random.default_rng(3).normal(size=(20_000, 12)).astype(np.float32)
    quantizer = ResidualQuantizer.fit(vectors[:2000], SemanticIdSettings(codebook_size=32, iterations=5))
    codes = quantizer.encode(vectors)
    np.testing.assert_array_equal(find_codes(quantizer, vectors, engine=cluster), codes)
    np.testing.assert_array_equal(find_codes(quantizer, vectors), codes)


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9", "head"])
def test_a_cluster_that_is_not_there_is_named(address: str) -> None:
    _require_ray()
    settings = EngineSettings(name="ray", address=address)
    with pytest.raises(GenrecError, match=f"RAY_ADDRESS={address}: nobody listens there"), open_engine(settings):
        pass


def test_the_digest_covers_all_code_of_genrec_core() -> None:
    assert Path(genrec_core.__file__).parent == engines._PACKAGE
