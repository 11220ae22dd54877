"""The page ``/docs``: what ``/openapi.json`` holds, as HTML without a script. A browser needs no other host for it."""

import json
import shlex
from collections.abc import Iterator
from html import escape
from typing import Any

HEADERS = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
_STYLE = (
    "body{font:16px/1.5 sans-serif;max-width:64em;margin:2em auto;padding:0 1em}"
    "table{border-collapse:collapse}th,td{border:1px solid #ccc;padding:.3em .6em;text-align:left;vertical-align:top}"
    "pre{background:#f4f4f4;padding:.6em;overflow-x:auto}"
)
_COLUMNS = ("Field", "Type", "Default", "Description")


def docs_page(openapi: dict[str, Any], server: str) -> str:
    """The page of a server.

    Args:
        openapi: its description; references are not followed.
        server: its address, which the examples ask.
    """
    title = escape(openapi["info"]["title"])
    routes = [
        _route(method.upper(), path, about, server)
        for path, methods in openapi["paths"].items()
        for method, about in methods.items()
    ]
    head = f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{_STYLE}</style>"
    return f"{head}<h1>{title}</h1><p>{escape(openapi['info']['description'])}</p>{''.join(routes)}</html>"


def _route(method: str, path: str, about: dict[str, Any], server: str) -> str:
    call, body = ["curl"], about.get("requestBody", {}).get("content", {}).get("application/json", {})
    if method != "GET":
        call += ["-X", method]
    if "example" in body:
        call += ["-H", "Content-Type: application/json", "-d", json.dumps(body["example"])]
    example = escape(shlex.join([*call, server.rstrip("/") + path]))
    heading = f"<h2><code>{escape(method)} {escape(path)}</code></h2><p>{escape(about['summary'])}</p>"
    return f"{heading}{_table(list(_fields(body.get('schema', {}))))}<pre>{example}</pre>"


def _table(rows: list[tuple[str, ...]]) -> str:
    if not rows:
        return ""
    head = "".join(f"<th>{column}</th>" for column in _COLUMNS)
    cells = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows]
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"


def _fields(schema: dict[str, Any], parent: str = "") -> Iterator[tuple[str, ...]]:
    """A row for each field of an object, followed by those of the objects that it lists."""
    for name, field in schema.get("properties", {}).items():
        default = "required" if name in schema.get("required", ()) else json.dumps(field.get("default"))
        yield parent + name, _kind(field), default, field.get("description", "")
        yield from _fields(field.get("items", {}), f"{parent}{name}[].")


def _kind(field: dict[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(map(_kind, field["anyOf"]))
    if "enum" in field:
        return " or ".join(map(json.dumps, field["enum"]))
    listed = f" of {_kind(field['items'])}" if "items" in field else ""
    return str(field.get("type", "any")) + listed
