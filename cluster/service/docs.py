"""The published schema as a page that needs nothing from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from typing import Any

HEAD = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title></head><body>
<h1>{title}</h1><p>{summary} The same for programs: <a href="/openapi.json">/openapi.json</a>.</p>"""


def page_of(schema: Mapping[str, Any]) -> str:
    """Every route with the fields of its body and the errors that it may give."""
    info = schema["info"]
    parts = [HEAD.format(title=escape(info["title"]), summary=escape(info.get("summary", "")))]
    for path, methods in schema["paths"].items():
        for method, route in methods.items():
            parts.append(f"<h2>{method.upper()} {escape(path)}</h2><p>{escape(route.get('description', ''))}</p>")
            body = route.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
            if body.get("properties"):
                parts.append(fields(body["properties"]))
            errors = [(c, r["description"]) for c, r in route.get("responses", {}).items() if c >= "400"]
            if errors:
                rows = "".join(f"<tr><td>{escape(c)}</td><td>{escape(text)}</td></tr>" for c, text in errors)
                parts.append(f"<table><tr><th>status</th><th>when</th></tr>{rows}</table>")
    return "".join([*parts, "</body></html>"])


def fields(properties: Mapping[str, Any]) -> str:
    """A table of a body's fields."""
    rows = []
    for name, field in properties.items():
        shape = {k: v for k, v in field.items() if k not in ("description", "title", "default")}
        cells = (name, field.get("description", ""), json.dumps(field.get("default")), json.dumps(shape))
        rows.append("".join(f"<td>{escape(cell)}</td>" for cell in cells))
    head = "<tr><th>field</th><th>what it says</th><th>default</th><th>shape</th></tr>"
    return f"<table>{head}{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"
