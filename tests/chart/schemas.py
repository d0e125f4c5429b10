"""Custom resources against the schemas of their definitions: strictly, so that a typo is found."""

import functools
from pathlib import Path
from typing import Any

import jsonschema
import yaml

# Not part of this project: https://github.com/ray-project/kuberay (1.7.0) and prometheus-operator (0.93).
FOLDERS = tuple(Path(__file__).parents[depth] / "shared" / "crds" for depth in (3, 4))


def folder() -> Path | None:
    """Where definitions are at hand."""
    return next((each for each in FOLDERS if each.is_dir()), None)


@functools.cache
def definitions(where: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Strict schemas by apiVersion and kind."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for path in sorted(where.glob("*.yaml")):
        spec = yaml.load(path.read_text(), loader)["spec"]
        for version in spec["versions"]:
            schema = strict(version["schema"]["openAPIV3Schema"])
            schema["properties"]["metadata"] = {"type": "object"}
            found[f"{spec['group']}/{version['name']}", spec["names"]["kind"]] = schema
    return found


def strict(schema: Any) -> Any:
    """The same as JSON Schema, where nothing that is not named may be."""
    if not isinstance(schema, dict):
        return schema
    made = {key: value for key, value in schema.items() if not key.startswith("x-kubernetes-")}
    for key in ("items", "additionalProperties", "not"):
        if key in made:
            made[key] = strict(made[key])
    for key in ("anyOf", "oneOf", "allOf"):
        if key in made:
            made[key] = [strict(each) for each in made[key]]
    if "properties" in made:
        made["properties"] = {name: strict(each) for name, each in made["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            made.setdefault("additionalProperties", False)
    if schema.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
        made.setdefault("anyOf", [{"type": "integer"}, {"type": "string"}])
    if made.pop("nullable", False) and "type" in made:
        made["type"] = [made["type"], "null"]
    return made


def check(document: dict[str, Any], where: Path) -> None:
    """Raises jsonschema.ValidationError, or KeyError for a kind that is not defined there."""
    schema = definitions(where)[document["apiVersion"], document["kind"]]
    jsonschema.Draft202012Validator(schema).validate(document)
