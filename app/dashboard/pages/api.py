"""The HTTP interface as a page: every operation with its fields, answers and a command."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from bitbudget.app.core.canonical import JsonObject

__all__ = ["api_page"]

_METHODS: Final = ("get", "post", "put", "delete", "patch")
_PREFIX: Final = "#/components/schemas/"


def api_page(document: JsonObject) -> JsonObject:
    """Return what the page shows of an OpenAPI document, operations by their tag."""
    operations = list(_operations(document))
    tags = dict.fromkeys(operation["tag"] for operation in operations)
    schemas = document["components"]["schemas"]
    return {
        "title": "API",
        "section": "API",
        "twin": "/openapi.json",
        "version": document["info"]["version"],
        "groups": [
            {"tag": t, "operations": [o for o in operations if o["tag"] == t]} for t in tags
        ],
        "schemas": [_schema(name, schemas[name]) for name in sorted(schemas)],
    }


def _operations(document: JsonObject) -> Iterator[JsonObject]:
    for path, methods in document["paths"].items():
        for method in _METHODS:
            if method in methods:
                yield _operation(path, method, methods[method])


def _operation(path: str, method: str, said: JsonObject) -> JsonObject:
    body = said.get("requestBody", {}).get("content", {})
    return {
        "id": said["operationId"],
        "tag": (said.get("tags") or ["server"])[0],
        "method": method.upper(),
        "path": path,
        "summary": said.get("description") or said.get("summary", ""),
        "needs_key": bool(said.get("security")),
        "parameters": [
            {"name": p["name"], "in": p["in"], **_field(p["schema"], p.get("description", ""))}
            for p in said.get("parameters", ())
        ],
        "body": [{"media": kind, **_field(part["schema"])} for kind, part in body.items()],
        "answers": [_answer(status, each) for status, each in said["responses"].items()],
        "command": _command(path, method, body, needs_key=bool(said.get("security"))),
    }


def _answer(status: str, said: JsonObject) -> JsonObject:
    content = said.get("content", {})
    kinds = [
        _field(part.get("schema") or part.get("itemSchema") or {}) for part in content.values()
    ]
    return {"status": status, "words": said.get("description", ""), "kinds": kinds}


def _command(path: str, method: str, body: Mapping[str, Any], *, needs_key: bool) -> str:
    """Return a curl command with the names of what must be filled in."""
    filled = path
    for name in ("job_id", "lease_id", "followup_id", "measurement_id", "name", "digest"):
        filled = filled.replace(f"{{{name}}}", name.removesuffix("_id").upper())
    words = ["curl -s" if method == "get" else f"curl -s -X {method.upper()}"]
    words += ['-H "Authorization: Bearer $TOKEN"'] if needs_key else []
    words.append(f"localhost:8765{filled}")
    if "application/json" in body:
        words.append("-H 'content-type: application/json' -d @body.json")
    elif body:
        words.append("--data-binary @FILE")
    return " ".join(words)


def _field(schema: JsonObject, words: str = "") -> JsonObject:
    """Return the type of a field in words, the schemas it refers to, and its description."""
    return {
        "type": _type(schema),
        "links": list(dict.fromkeys(_references(schema))),
        "words": words or schema.get("description", ""),
        "default": json.dumps(schema["default"]) if schema.get("default") is not None else "",
    }


def _type(schema: JsonObject) -> str:
    if "$ref" in schema:
        return str(schema["$ref"]).removeprefix(_PREFIX)
    parts = schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf")
    if parts:
        return " or ".join(dict.fromkeys(_type(part) for part in parts))
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if values:
        return " or ".join(json.dumps(value) for value in values)
    kind = str(schema.get("type", "any"))
    if kind == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_type(schema['additionalProperties'])}"
    return kind


def _references(schema: object) -> Iterator[str]:
    if isinstance(schema, dict):
        if isinstance(schema.get("$ref"), str):
            yield schema["$ref"].removeprefix(_PREFIX)
        for name, value in schema.items():
            if name != "discriminator":
                yield from _references(value)
    elif isinstance(schema, list):
        for item in schema:
            yield from _references(item)


def _schema(name: str, schema: JsonObject) -> JsonObject:
    required = set(schema.get("required", ()))
    fields = [
        {"name": field, "required": field in required, **_field(said)}
        for field, said in schema.get("properties", {}).items()
    ]
    words = schema.get("description", "")
    return {"name": name, "words": words, "fields": fields, "type": _type(schema)}
