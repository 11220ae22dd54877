"""The page of all settings: ``python -m tests.settings_page > genrec_core/settings/README.md``."""

from typing import Any

from genrec_core.settings import PRESETS, Preset, Settings

# Part of a preset: the asset or resource whose launchpad form shows it.
FORMS = {
    "data": "raw_beauty",
    "catalog": "item_catalog",
    "embedding": "item_embeddings",
    "split": "user_histories",
    "semantic_ids": "semantic_ids",
    "training": "tiger_checkpoint",
    "evaluation": "recall_metrics",
    "gates": "gates",
    "export": "onnx_encoder",
    "release": "release",
    "monitoring": "monitoring",
    "prediction": "batch_predictions",
}
_HEAD = """# Settings

`python -m tests.settings_page` writes this page from the settings models; a test compares them.

A setting is a field of its asset's form in Dagster's launchpad. Those that users change most stand first here, in bold.
A form is sorted by name: its description names them, and theirs begin with "Main setting." Those of `tiger_checkpoint`,
`recall_metrics` and `onnx_encoder` are also options of `genrec train`, `evaluate` and `export`. `GENREC_SETTINGS`
changes their defaults, by part and name: `GENREC_SETTINGS='{"training": {"minutes": 90}, "release": {"refit": true}}'`.
`PRESET` fills all; unset, it is `auto` for the data of `GENREC_RAW`, else `sample`. The defaults are those of `beauty`,
for two CPU cores. `auto` is `beauty` with five numbers that follow from the data; `beauty-gpu` is `beauty` in one
process.
"""


def page() -> str:
    """The page as Markdown: where the presets differ, then a table for each form."""
    names = list(PRESETS)
    lines = [_HEAD, "## Where the presets differ", "", _row("setting", *(f"`{name}`" for name in names))]
    lines.append(_row(*["---"] * (len(names) + 1)))
    for part, form in FORMS.items():
        parts = [getattr(PRESETS[name], part) for name in names]
        for name in type(parts[0]).model_fields:
            values = [_shown(getattr(settings, name)) for settings in parts]
            if len(set(values)) > 1:
                lines.append(_row(f"`{form}.{name}`", *values))
    for part, form in FORMS.items():
        lines += ["", f"## {form}", "", f"Part `{part}` of a preset.", "", *_table(getattr(Preset(), part))]
    return "\n".join(lines)


def _table(settings: Settings) -> list[str]:
    rows = [_row("setting", "default", "bounds", "what it does"), _row(*["---"] * 4)]
    fields, main = type(settings).model_fields, type(settings).main
    for name in [*main, *[name for name in fields if name not in main]]:
        field = fields[name]
        description = (field.description or "").rstrip(".").replace("|", "\\|")
        rows.append(
            _row(
                f"**`{name}`**" if name in main else f"`{name}`",
                _shown(getattr(settings, name)),
                _bounds(field.metadata),
                description,
            )
        )
    return rows


def _bounds(metadata: list[Any]) -> str:
    """The bounds of a field, such as ``>= 1, <= 48``."""
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    return ", ".join(
        f"{sign} {getattr(bound, name):,}" for bound in metadata for name, sign in signs.items() if hasattr(bound, name)
    )


def _shown(value: object) -> str:
    """A value as the launchpad takes it."""
    if value is None:
        return "unset"
    return str(value).lower() if isinstance(value, bool) else f"`{value}`"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    print(page())
