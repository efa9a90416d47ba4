"""A writer of SARIF 2.1.0, the format that code hosts and scanners exchange findings in; it knows no rule itself."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from pydantic import Field

from clip_antidote.config import Record

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
Level = Literal["error", "warning", "note", "none"]


class SarifRule(Record):
    """What a kind of result means.

    Attributes:
        id: Its stable name.
        level: The level of its results unless they say another.
        summary: One sentence.
        advice: What to do, one sentence.
        taxa: Ids in the taxonomies that are handed to `sarif_log`.
    """

    id: str
    level: Level
    summary: str
    advice: str
    taxa: tuple[str, ...] = ()


class SarifResult(Record):
    """One result.

    Attributes:
        rule: Id of its rule.
        level: How bad it is.
        message: One sentence.
        file: Path of the file it is in; none where empty.
        offset: Bytes from the beginning of the file.
        part: Name of a part of the file: a tensor, an entry, a class.
        kind: What the part is, in a word.
        properties: Anything else, as JSON has it.
    """

    rule: str
    level: Level
    message: str
    file: str = ""
    offset: int | None = None
    part: str | None = None
    kind: str = "member"
    properties: dict[str, Any] = Field(default_factory=dict)


class SarifArtifact(Record):
    """A file that was looked at; `sha256` in hexadecimal, `size` in bytes."""

    file: str
    size: int | None = None
    sha256: str | None = None


class Taxonomy(Record):
    """A published list of things that rules refer to: from ids to names."""

    name: str
    organization: str
    uri: str
    taxa: dict[str, str]


ATLAS_URI = "https://atlas.mitre.org"
OWASP_URI = "https://owasp.org/www-project-machine-learning-security-top-10/"


def atlas(taxa: Mapping[str, str]) -> Taxonomy:
    """Returns techniques of MITRE ATLAS, from ids to names, as a taxonomy."""
    return Taxonomy(name="MITRE ATLAS", organization="MITRE", uri=ATLAS_URI, taxa=dict(taxa))


def owasp(taxa: Mapping[str, str]) -> Taxonomy:
    """Returns entries of the OWASP Machine Learning Security Top 10, from ids to names, as a taxonomy."""
    return Taxonomy(
        name="OWASP Machine Learning Security Top 10", organization="OWASP", uri=OWASP_URI, taxa=dict(taxa)
    )


def sarif_log(
    rules: Sequence[SarifRule],
    results: Sequence[SarifResult],
    *,
    artifacts: Sequence[SarifArtifact] = (),
    taxonomies: Sequence[Taxonomy] = (),
    properties: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Returns a log of one run, ready to be written as JSON.

    Args:
        rules: All that the results name, and whatever else was checked.
        results: The results.
        artifacts: The files that were looked at.
        taxonomies: What the rules' `taxa` are ids of; no id is in two of them.
        properties: Anything else about the run, as JSON has it.

    Raises:
        KeyError: A result names no rule, or a rule no taxon.
    """
    places = {rule.id: number for number, rule in enumerate(rules)}
    driver: dict[str, Any] = {
        "name": "clip-antidote",
        "version": metadata.version("clip-antidote"),
        "rules": [_rule(rule, taxonomies) for rule in rules],
    }
    run: dict[str, Any] = {
        "tool": {"driver": driver},
        "invocations": [{"executionSuccessful": True}],
        "artifacts": [_artifact(artifact) for artifact in artifacts],
        "results": [_result(result, places[result.rule]) for result in results],
        "columnKind": "unicodeCodePoints",
    }
    if taxonomies:
        driver["supportedTaxonomies"] = [{"name": one.name, "index": n} for n, one in enumerate(taxonomies)]
        run["taxonomies"] = [_taxonomy(one) for one in taxonomies]
    if properties:
        run["properties"] = dict(properties)
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def file_uri(path: str) -> str:
    """Returns a path as a URI: relative where the path is, with every odd byte escaped."""
    absolute = Path(path).is_absolute()
    return ("file://" if absolute else "") + quote(os.fsencode(Path(path).as_posix()))


def _rule(rule: SarifRule, taxonomies: Sequence[Taxonomy]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "id": rule.id,
        "shortDescription": {"text": rule.summary},
        "help": {"text": rule.advice},
        "defaultConfiguration": {"level": rule.level},
    }
    if rule.taxa and taxonomies:
        places = {
            taxon: (place, {"name": taxonomy.name, "index": number})
            for number, taxonomy in enumerate(taxonomies)
            for place, taxon in enumerate(taxonomy.taxa)
        }
        described["relationships"] = [
            {
                "target": {"id": taxon, "index": places[taxon][0], "toolComponent": places[taxon][1]},
                "kinds": ["relevant"],
            }
            for taxon in rule.taxa
        ]
    return described


def _result(result: SarifResult, index: int) -> dict[str, Any]:
    described: dict[str, Any] = {
        "ruleId": result.rule,
        "ruleIndex": index,
        "level": result.level,
        "message": {"text": result.message},
    }
    location: dict[str, Any] = {}
    if result.file:
        location["physicalLocation"] = {"artifactLocation": {"uri": file_uri(result.file)}}
        if result.offset is not None:
            location["physicalLocation"]["region"] = {"byteOffset": result.offset}
    if result.part:
        location["logicalLocations"] = [{"fullyQualifiedName": result.part, "kind": result.kind}]
    if location:
        described["locations"] = [location]
    if result.properties:
        described["properties"] = result.properties
    return described


def _artifact(artifact: SarifArtifact) -> dict[str, Any]:
    described: dict[str, Any] = {"location": {"uri": file_uri(artifact.file)}}
    if artifact.size is not None:
        described["length"] = artifact.size
    if artifact.sha256 is not None:
        described["hashes"] = {"sha-256": artifact.sha256}
    return described


def _taxonomy(taxonomy: Taxonomy) -> dict[str, Any]:
    return {
        "name": taxonomy.name,
        "organization": taxonomy.organization,
        "informationUri": taxonomy.uri,
        "shortDescription": {"text": f"What rules refer to in {taxonomy.name}."},
        "taxa": [{"id": key, "name": name} for key, name in taxonomy.taxa.items()],
    }
