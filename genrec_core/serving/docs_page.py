"""The page ``/docs``: the content of ``/openapi.json`` as HTML without a script, so a browser needs no other host."""

import json
import shlex
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment

HEADERS = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
_PAGE = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string("""\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>{{ info.title }}</title>
<style>
  body { font: 16px/1.5 sans-serif; max-width: 64em; margin: 2em auto; padding: 0 1em }
  table { border-collapse: collapse }
  th, td { border: 1px solid #ccc; padding: .3em .6em; text-align: left; vertical-align: top }
  pre { background: #f4f4f4; padding: .6em; overflow-x: auto }
</style>
<h1>{{ info.title }}</h1>
<p>{{ info.description }}</p>
{% for route in routes %}
<h2><code>{{ route.method }} {{ route.path }}</code></h2>
<p>{{ route.summary }}</p>
{% if route.fields %}
<table>
  <tr><th>Field</th><th>Type</th><th>Default</th><th>Description</th></tr>
  {% for field in route.fields %}
  <tr>{% for cell in field %}<td>{{ cell }}</td>{% endfor %}</tr>
  {% endfor %}
</table>
{% endif %}
<pre>{{ route.example }}</pre>
{% endfor %}
</html>
""")


def docs_page(openapi: dict[str, Any], server: str) -> str:
    """The page of the server at an address; references in its OpenAPI document are not followed."""
    routes = [
        _route(method.upper(), path, about, server.rstrip("/"))
        for path, methods in openapi["paths"].items()
        for method, about in methods.items()
    ]
    return _PAGE.render(info=openapi["info"], routes=routes)


def _route(method: str, path: str, about: dict[str, Any], server: str) -> dict[str, Any]:
    body = about.get("requestBody", {}).get("content", {}).get("application/json", {})
    parameters = about.get("parameters", [])
    command = ["curl"] if method == "GET" else ["curl", "-X", method]
    if "example" in body:
        command += ["-H", "Content-Type: application/json", "-d", json.dumps(body["example"])]
    return {
        "method": method,
        "path": path,
        "summary": about["summary"],
        "fields": [
            *_fields({"properties": {part["name"]: part["schema"] for part in parameters}}),
            *_fields(body.get("schema", {})),
        ],
        "example": shlex.join([*command, server + path + _query(parameters)]),
    }


def _query(parameters: list[dict[str, Any]]) -> str:
    values = {part["name"]: part["example"] for part in parameters if "example" in part}
    return f"?{urlencode(values)}" if values else ""


def _fields(schema: dict[str, Any], parent: str = "") -> Iterator[tuple[str, ...]]:
    """A row for each field of an object, followed by the fields of the objects that it lists."""
    for name, field in schema.get("properties", {}).items():
        default = "required" if name in schema.get("required", ()) else json.dumps(field.get("default"))
        yield parent + name, _kind(field), default, field.get("description", "")
        yield from _fields(field.get("items", {}), f"{parent}{name}[].")


def _kind(field: dict[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(map(_kind, field["anyOf"]))
    if "enum" in field:
        return " or ".join(map(json.dumps, field["enum"]))
    items = f" of {_kind(field['items'])}" if "items" in field else ""
    return str(field.get("type", "any")) + items
