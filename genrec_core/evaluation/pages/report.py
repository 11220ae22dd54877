"""The page that shows an evaluation: one HTML file with its plots inside, to be opened in any browser."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from genrec_core.evaluation.exactness import CUTOFFS as EXACT_CUTOFFS
from genrec_core.evaluation.pages import metrics as plots

if TYPE_CHECKING:
    from genrec_core.evaluation.evaluate import Evaluation

_STYLE = """
:root { color-scheme: light dark; --ink: #1e293b; --soft: #64748b; --line: #e2e8f0; --card: #ffffff; --page: #f8fafc;
  --good: #047857; --bad: #b91c1c; }
@media (prefers-color-scheme: dark) { :root { --ink: #e2e8f0; --soft: #94a3b8; --line: #334155; --card: #1e293b;
  --page: #0f172a; --good: #34d399; --bad: #f87171; } img { background: #fff; border-radius: 8px; } }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 18px; margin: 36px 0 8px; } p { margin: 6px 0; }
.soft { color: var(--soft); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 24px 0; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 14px 16px; }
.card b { display: block; font-size: 26px; font-weight: 650; } .card span { color: var(--soft); font-size: 13px; }
.plots { display: flex; flex-wrap: wrap; gap: 16px; } .plots img { max-width: 100%; height: auto; }
.wide { overflow-x: auto; } table { border-collapse: collapse; background: var(--card); min-width: 100%; }
th, td { text-align: right; padding: 6px 12px; border-bottom: 1px solid var(--line); }
td { font-variant-numeric: tabular-nums; }
th:first-child, td:first-child { text-align: left; } th { color: var(--soft); font-weight: 600; font-size: 13px; }
.good { color: var(--good); } .bad { color: var(--bad); } small { color: var(--soft); }
"""
_CARDS = ("recall@10", "ndcg@10", "recall@100", "recall@1000")
_NAMES = {
    "coverage@10": "items in someone's first 10", "coverage@100": "items in someone's first 100",
    "gini@10": "Gini of exposure, first 10", "gini@100": "Gini of exposure, first 100",
    "new_item_share@10": "new items among the first 10", "new_item_share@100": "new items among the first 100",
    "new_item_recall@10": "Recall@10, new items", "new_item_recall@100": "Recall@100, new items",
    "new_item_recall@1000": "Recall@1000, new items", "miss_share": "misses",
}  # fmt: skip


def report_page(evaluation: "Evaluation") -> str:
    """The whole page as HTML.

    Raises:
        GenrecError: matplotlib is not installed.
    """
    metrics = evaluation.metrics
    headline = metrics[metrics["ranking"]]
    body = [
        f"<h1>What the {escape(metrics['ranking'])} ranking finds</h1>",
        f'<p class="soft">{metrics["users"]:,} users of the {escape(metrics["split"])} split, {metrics["items"]:,} '
        f"items, {metrics['beams']:,} beams; {escape(metrics['headline'])}</p>",
        _cards(headline),
        '<div class="plots">',
        _image(plots.recall_curves(evaluation.ranks, metrics["beams"]), "Recall at every K"),
        _image(plots.exposure_curves(evaluation.shown), "Lorenz curve of exposure"),
        "</div>",
        _metrics_section(metrics, tuple(evaluation.ranks)),
        _seeds_section(metrics.get("seeds")),
        _against_section(metrics),
        _exactness_section(metrics["beam_against_exact"]),
        f"<h2>Where it works</h2><p>Recall@10 by length of the history and by how often the target was bought in "
        f"training. {escape(metrics['tie_order'])}</p>",
        _image(plots.slice_bars(evaluation.slices), "Recall@10 by slice"),
        f'<p class="soft">Intervals: {escape(metrics["interval"])}.</p>',
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>genrec evaluation</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body><main>{''.join(body)}</main></body></html>\n"
    )


def _cards(headline: Mapping[str, Any]) -> str:
    cards = []
    for name in _CARDS:
        if name in headline:
            low, high = headline[f"{name}_interval"]
            cards.append(
                f'<div class="card"><span>{_title(name)}</span><b>{headline[name]:.4f}</b>'
                f"<span>{low:.4f} to {high:.4f}</span></div>"
            )
    return f'<div class="cards">{"".join(cards)}</div>'


def _metrics_section(metrics: Mapping[str, Any], rankings: Sequence[str]) -> str:
    names = list(dict.fromkeys(name for mode in rankings for name, value in metrics[mode].items() if _single(value)))
    rows = [[_title(name), *(_figure(metrics[mode].get(name)) for mode in rankings)] for name in names]
    new = metrics["new_items"]
    note = (
        f"{new['items']} items are new: no history or target of the training holds them. "
        f"{new['test_users']} users of this split have one as their target."
    )
    return f"<h2>All rankings</h2>{_table(['', *rankings], rows)}<p class='soft'>{escape(note)}</p>"


def _against_section(metrics: Mapping[str, Any]) -> str:
    rows = []
    for rival, found in metrics["against"].items():
        for name, at in found.items():
            kind = "good" if at["low"] > 0 else "bad" if at["high"] < 0 else ""
            difference = f'<span class="{kind}">{at["difference"]:+.4f}</span>'
            rows.append([escape(rival), _title(name), difference, f"{at['low']:+.4f} to {at['high']:+.4f}"])
    head = ["against", "metric", "difference", "interval"]
    return f"<h2>Paired differences, same users</h2>{_table(head, rows)}"


def _seeds_section(seeds: Mapping[str, Any] | None) -> str:
    """Mean and spread over trainings that differ in their seed alone."""
    if not seeds:
        return ""
    rows = [
        [escape(mode), _title(name), f"{at['mean']:.4f}", f"{at['spread']:.4f}", " ".join(map(_figure, at["values"]))]
        for mode, found in seeds["metrics"].items()
        for name, at in found.items()
    ]
    head = ["ranking", "metric", "mean", "standard deviation", f"seeds {', '.join(map(str, seeds['seeds']))}"]
    return f"<h2>Over {len(seeds['seeds'])} seeds</h2>{_table(head, rows)}"


def _exactness_section(exact: Mapping[str, Any]) -> str:
    if not exact:
        return ""
    rows = [
        [
            escape(mode),
            str(found["users"]),
            str(found["beams"]),
            *(_share(found.get(f"exact@{k}")) for k in EXACT_CUTOFFS),
        ]
        for mode, found in exact.items()
    ]
    head = ["ranking", "users", "beams", *(f"of the exact first {k}" for k in EXACT_CUTOFFS)]
    return f"<h2>Beam against exact scoring of every item</h2>{_table(head, rows)}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{"".join(f"<th>{cell}</th>" for cell in head)}</tr>{lines}</table></div>'


def _image(png: bytes, title: str) -> str:
    return f'<img alt="{escape(title)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def _title(name: str) -> str:
    return escape(_NAMES.get(name, name.replace("recall", "Recall").replace("ndcg", "NDCG")))


def _single(value: object) -> bool:
    return isinstance(value, float)


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"
