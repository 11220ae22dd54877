"""What the launchpad opens with can be launched as it stands."""

import re
from collections.abc import Iterator
from enum import Enum
from typing import Any, ClassVar, Literal, get_args, get_origin

import dagster as dg
import pytest
import yaml
from dagster._core.definitions.assets.job.asset_job import IMPLICIT_ASSET_JOB_NAME
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext, WorkspaceRequestContext
from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget
from dagster_graphql.test.utils import execute_dagster_graphql
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from genrec_core.evaluation.sweep import Sweep
from genrec_core.settings import PRESETS, Preset, ReleaseSettings, Settings, TrainingSettings
from genrec_dagster.config import MAIN_MARK, PRESET_NAME, Gates, ReleaseRule, TrainingForm
from genrec_dagster.definitions import defs
from genrec_dagster.jobs import CleaningForm
from genrec_dagster.training import training_key

LOCATION = "genrec"
JOBS = sorted(job.name for job in defs.jobs or [])
ASSETS = sorted(key.to_user_string() for key in defs.resolve_asset_graph().get_all_asset_keys())
EVERYTHING = "all assets"
OPENED = """query($selector: PipelineSelector!) {runConfigSchemaOrError(selector: $selector) {
  __typename ... on RunConfigSchema {rootDefaultYaml}}}"""
JUDGED = """query($selector: PipelineSelector!, $config: RunConfigData!) {
  isPipelineConfigValid(pipeline: $selector, runConfigData: $config, mode: "default") {
    __typename ... on RunConfigValidationInvalid {errors {message}}}}"""


# --- words -----------------------------------------------------------------------------------------------------------


def models(base: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """The project's models below ``base``: settings, forms and resources."""
    for model in base.__subclasses__():
        if model.__module__.startswith(("genrec_core", "genrec_dagster")):
            yield model
        yield from models(model)


def strings(value: object) -> Iterator[str]:
    """The strings in a default but the empty one, which YAML is given in quotes."""
    if isinstance(value, str):
        yield from filter(None, [value])
    elif isinstance(value, list | tuple | set):
        for entry in value:
            yield from strings(entry)


def choices(annotation: Any) -> Iterator[str]:
    """The words among which a field of this type lets one choose."""
    if get_origin(annotation) is Literal:
        yield from strings(get_args(annotation))
    elif isinstance(annotation, type) and issubclass(annotation, Enum):
        for member in annotation:
            yield from (member.name, *strings(member.value))
    for argument in get_args(annotation):
        yield from choices(argument)


def is_yaml_word(value: str) -> bool:
    """Whether YAML 1.1 reads the unquoted ``value`` as something other than a string."""
    resolved = yaml.SafeLoader("").resolve(yaml.ScalarNode, value, (True, False))
    # PyYAML itself leaves these two strings; the standard does not.
    return resolved != "tag:yaml.org,2002:str" or value.lower() in {"y", "n"}


ALL_MODELS = sorted({*models(Settings), *models(dg.Config)}, key=lambda model: (model.__module__, model.__name__))


@pytest.mark.parametrize("model", ALL_MODELS, ids=lambda model: model.__name__)
def test_no_value_of_a_setting_is_a_word_that_yaml_reads_as_something_else(model: type[BaseModel]) -> None:
    for name, field in model.model_fields.items():
        default = None if field.default is PydanticUndefined else field.default
        words = [word for word in (*strings(default), *choices(field.annotation)) if is_yaml_word(word)]
        assert not words, f"{model.__name__}.{name}"


def test_no_preset_holds_a_word_that_yaml_reads_as_something_else() -> None:
    for preset in PRESETS.values():
        for part in Preset.model_fields:
            values = getattr(preset, part).model_dump()
            assert not [name for name, value in values.items() if any(map(is_yaml_word, strings(value)))]


@pytest.mark.parametrize("word", ["off", "On", "NO", "yes", "y", "n", "true", "null", "~", "1.5", "2026-11-27", ""])
def test_the_words_of_yaml_are_known(word: str) -> None:
    assert is_yaml_word(word)


def test_the_settings_that_are_looked_at_are_all_there_are() -> None:
    assert {TrainingSettings, TrainingForm, ReleaseSettings, ReleaseRule, CleaningForm, Gates, Sweep} <= {*ALL_MODELS}


# Each is filled with a preset's values by a subclass of the same name, which is the form.
FORMS = [
    model
    for model in ALL_MODELS
    if issubclass(model, dg.Config | dg.ConfigurableResource)
    and not any(filled.__name__ == model.__name__ for filled in model.__subclasses__())
]


@pytest.mark.parametrize("model", ALL_MODELS, ids=lambda model: model.__name__)
def test_each_description_is_a_sentence_that_can_be_read_alone(model: type[BaseModel]) -> None:
    for name, field in model.model_fields.items():
        text = field.description
        if text is None:  # not a setting: a path or an address that the definitions give
            continue
        assert text[0].isupper(), name
        assert text.endswith("."), name
        unclear = {"asked", "latter", "whoever", "of such", "all the same"}
        assert not [word for word in unclear if word in text.lower()], name


@pytest.mark.parametrize("model", ALL_MODELS, ids=lambda model: model.__name__)
def test_a_long_form_names_and_marks_at_most_five_main_settings(model: type[BaseModel]) -> None:
    main = getattr(model, "main", ())
    assert len(main) <= 5
    assert set(main) <= set(model.model_fields)
    if model in FORMS and len(model.model_fields) > 5:
        assert main
    if model in FORMS and main:
        marked = [name for name, field in model.model_fields.items() if (field.description or "").startswith(MAIN_MARK)]
        assert set(marked) == set(main)
        assert all((model.model_fields[name].description or "").count(MAIN_MARK) == 1 for name in main)
        assert str(model.__doc__).endswith(f"Main settings: {', '.join(main)}.")


def test_marking_a_form_changes_neither_the_order_nor_the_hash_of_its_settings() -> None:
    assert list(TrainingForm().model_dump()) == list(TrainingSettings().model_dump())
    same = TrainingSettings(**TrainingForm().model_dump())
    assert training_key(same, {"a": "1"}) == training_key(PRESETS[PRESET_NAME].training, {"a": "1"})


# --- forms -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def workspace() -> Iterator[WorkspaceRequestContext]:
    """The definitions as the webserver knows them."""
    target = LoadableTargetOrigin(module_name="genrec_dagster.definitions")
    location = InProcessCodeLocationOrigin(target, location_name=LOCATION)
    with (
        dg.instance_for_test() as instance,
        WorkspaceProcessContext(instance, InProcessWorkspaceLoadTarget(location)) as process,
    ):
        yield process.create_request_context()


class BrowserDumper(yaml.SafeDumper):
    """Writes as the page does, by YAML 1.2, in which ``off`` is a plain string."""

    yaml_implicit_resolvers: ClassVar[dict[str, list[Any]]] = {}


for _kind, _form, _first in (
    ("null", r"(null|Null|NULL|~|)$", ["n", "N", "~", ""]),
    ("bool", r"(true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"[-+]?\d+$", list("-+0123456789")),
    ("float", r"[-+]?(\.\d+|\d+(\.\d*)?)([eE][-+]?\d+)?$", list("-+.0123456789")),
):
    BrowserDumper.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(_form), _first)


def written_by_the_page(config: Any) -> str:
    """The text that the page puts into its editor."""
    return yaml.dump(config, Dumper=BrowserDumper)


def opened(workspace: WorkspaceRequestContext, selector: dict[str, Any]) -> str:
    """What stands in the launchpad of a job or of some assets before anything is typed."""
    answer = execute_dagster_graphql(workspace, OPENED, {"selector": selector}).data["runConfigSchemaOrError"]
    assert answer["__typename"] == "RunConfigSchema"
    return written_by_the_page(yaml.safe_load(answer["rootDefaultYaml"]))


def errors(workspace: WorkspaceRequestContext, selector: dict[str, Any], config: str) -> list[str]:
    """What the launchpad finds wrong with ``config``."""
    asked = execute_dagster_graphql(workspace, JUDGED, {"selector": selector, "config": config})
    answer = asked.data["isPipelineConfigValid"]
    assert answer["__typename"] in {"PipelineConfigValidationValid", "RunConfigValidationInvalid"}
    return [error["message"] for error in answer.get("errors", [])]


def selector_of(job: str, *assets: str) -> dict[str, Any]:
    """A job, or the assets of one."""
    return {
        "pipelineName": job,
        "repositoryName": "__repository__",
        "repositoryLocationName": LOCATION,
        **({"assetSelection": [{"path": [name]} for name in assets]} if assets else {}),
    }


SELECTORS = {
    **{job: selector_of(job) for job in JOBS},
    **{asset: selector_of(IMPLICIT_ASSET_JOB_NAME, asset) for asset in ASSETS},
    EVERYTHING: selector_of(IMPLICIT_ASSET_JOB_NAME, *ASSETS),
}


@pytest.mark.parametrize("name", SELECTORS)
def test_a_launchpad_opens_without_an_error(workspace: WorkspaceRequestContext, name: str) -> None:
    assert errors(workspace, SELECTORS[name], opened(workspace, SELECTORS[name])) == []


def test_a_word_of_yaml_would_be_found(workspace: WorkspaceRequestContext) -> None:
    config = yaml.safe_load(opened(workspace, SELECTORS["tiger_checkpoint"]))
    config["ops"]["tiger_checkpoint"]["config"]["amp"] = "off"
    written = written_by_the_page(config)
    assert "amp: off\n" in written
    assert "amp" in errors(workspace, SELECTORS["tiger_checkpoint"], written)[0]


# --- bounds ----------------------------------------------------------------------------------------------------------

PLANNED = """query($selector: PipelineSelector!, $config: RunConfigData!) {
  executionPlanOrError(pipeline: $selector, runConfigData: $config, mode: "default") {
    __typename ... on PythonError {message}}}"""


@pytest.mark.parametrize(
    ("part", "name", "setting", "value", "said"),
    [
        ("ops", "tiger_checkpoint", "epochs", 0, "epochs=0: Input should be greater than or equal to 1"),
        ("ops", "semantic_ids", "levels", 9, "levels=9: Input should be less than or equal to 8"),
        ("ops", "raw_beauty", "sha256", "abc", "sha256=abc: String should match pattern"),
        ("resources", "gates", "recall_at_10", 1.5, "recall_at_10=1.5: Input should be less than or equal to 1"),
        (
            "ops",
            "semantic_ids_codebook_use",
            "least_use",
            2.0,
            "least_use=2.0: Input should be less than or equal to 1",
        ),
    ],
)
def test_a_value_out_of_bounds_is_refused_before_a_run_is_launched(
    workspace: WorkspaceRequestContext, part: str, name: str, setting: str, value: object, said: str
) -> None:
    config = yaml.dump({part: {name: {"config": {setting: value}}}})
    variables = {"selector": SELECTORS["full_graph"], "config": config}
    answer = execute_dagster_graphql(workspace, PLANNED, variables).data["executionPlanOrError"]
    assert answer["__typename"] == "PythonError"
    assert said in answer["message"]
