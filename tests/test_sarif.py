"""The SARIF writer: its logs hold to the parts of the schema that it uses, and to what refers to what."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from clip_antidote.inspection.inspect import inspect_files
from clip_antidote.inspection.rules import ATLAS, RULES
from clip_antidote.jobs.inspect import inspection_sarif
from clip_antidote.reporting.sarif import (
    SarifArtifact,
    SarifResult,
    SarifRule,
    atlas,
    file_uri,
    owasp,
    sarif_log,
)
from conftest import Cli

RULE = SarifRule(id="r", level="warning", summary="S.", advice="A.", taxa=("AML.T0018",))
TEXT = {"text": str}
OPTIONAL = "?"
SHAPES: dict[str, Any] = {
    "$schema": str,
    "version": str,
    "runs": [
        {
            "tool": {
                "driver": {
                    "name": str,
                    "version": str,
                    "rules": [
                        {
                            "id": str,
                            "shortDescription": TEXT,
                            "help": TEXT,
                            "defaultConfiguration": {"level": str},
                            "relationships?": [
                                {
                                    "target": {"id": str, "index": int, "toolComponent": {"name": str, "index": int}},
                                    "kinds": [str],
                                }
                            ],
                        }
                    ],
                    "supportedTaxonomies?": [{"name": str, "index": int}],
                }
            },
            "invocations": [{"executionSuccessful": bool}],
            "artifacts": [{"location": {"uri": str}, "length?": int, "hashes?": {"sha-256": str}}],
            "results": [
                {
                    "ruleId": str,
                    "ruleIndex": int,
                    "level": str,
                    "message": TEXT,
                    "locations?": [
                        {
                            "physicalLocation?": {"artifactLocation": {"uri": str}, "region?": {"byteOffset": int}},
                            "logicalLocations?": [{"fullyQualifiedName": str, "kind": str}],
                        }
                    ],
                    "properties?": dict,
                }
            ],
            "taxonomies?": [
                {
                    "name": str,
                    "organization": str,
                    "informationUri": str,
                    "shortDescription": TEXT,
                    "taxa": [{"id": str, "name": str}],
                }
            ],
            "columnKind": str,
            "properties?": dict,
        }
    ],
}
"""What of the schema the writer uses; it was compared with the published schema by jsonschema when it was written."""


def misfits(value: Any, shape: Any, where: str = "log") -> list[str]:
    """Where a value departs from a shape: another type, an entry missing, or one that is unknown."""
    if isinstance(shape, type):
        good = isinstance(value, shape) and (shape is bool or not isinstance(value, bool))
        return [] if good else [f"{where} is no {shape.__name__}"]
    if isinstance(shape, list):
        if not isinstance(value, list):
            return [f"{where} is no list"]
        return [fault for n, item in enumerate(value) for fault in misfits(item, shape[0], f"{where}[{n}]")]
    if not isinstance(value, dict):
        return [f"{where} is no object"]
    known = {name.rstrip(OPTIONAL): inner for name, inner in shape.items()}
    faults = [f"{where}.{name} is missing" for name in shape if not name.endswith(OPTIONAL) and name not in value]
    faults += [f"{where}.{name} is unknown" for name in value if name not in known]
    return faults + [f for n in value if n in known for f in misfits(value[n], known[n], f"{where}.{n}")]


def check(log: dict[str, Any]) -> None:
    assert misfits(log, SHAPES) == []
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]
    driver = run["tool"]["driver"]
    ids = [rule["id"] for rule in driver["rules"]]
    assert len(set(ids)) == len(ids)
    for rule in driver["rules"]:
        assert rule["defaultConfiguration"]["level"] in ("error", "warning", "note", "none")
        for link in rule.get("relationships", []):
            part = run["taxonomies"][link["target"]["toolComponent"]["index"]]
            assert part["name"] == link["target"]["toolComponent"]["name"]
            assert part["taxa"][link["target"]["index"]]["id"] == link["target"]["id"]
    for result in run["results"]:
        assert ids[result["ruleIndex"]] == result["ruleId"]
        assert result["level"] in ("error", "warning", "note", "none")
        for place in result.get("locations", []):
            region = place.get("physicalLocation", {}).get("region", {"byteOffset": 0})
            assert region["byteOffset"] >= 0
    for uri in re.findall(r'"uri": "([^"]*)"', json.dumps(log)):
        assert re.fullmatch(r"(file://)?[A-Za-z0-9/._~%-]*", uri), uri
    for artifact in run["artifacts"]:
        assert re.fullmatch("[0-9a-f]{64}", artifact.get("hashes", {}).get("sha-256", "0" * 64))


def test_a_log_with_everything() -> None:
    results = [
        SarifResult(rule="r", level="error", message="m", file="a b/ü.pt", offset=7, part="x.y", properties={"k": 1}),
        SarifResult(rule="r", level="note", message="m"),
        SarifResult(rule="r", level="warning", message="m", part="a tensor", kind="member"),
    ]
    artifacts = [SarifArtifact(file="/a/b.pt", size=3, sha256="0" * 64), SarifArtifact(file="c")]
    taxonomies = [owasp({"ML10:2023": "Model Poisoning"}), atlas({"x": "y", **ATLAS})]
    log = sarif_log([RULE], results, artifacts=artifacts, taxonomies=taxonomies, properties={"n": []})
    check(log)
    place = log["runs"][0]["results"][0]["locations"][0]
    assert place["physicalLocation"] == {"artifactLocation": {"uri": "a%20b/%C3%BC.pt"}, "region": {"byteOffset": 7}}
    assert place["logicalLocations"][0]["fullyQualifiedName"] == "x.y"
    assert "locations" not in log["runs"][0]["results"][1]
    assert log["runs"][0]["artifacts"][0]["location"]["uri"] == "file:///a/b.pt"


def test_a_log_with_nothing() -> None:
    check(sarif_log([RULE], []))
    check(sarif_log([], []))


def test_the_check_notices_what_is_wrong() -> None:
    log = sarif_log([RULE], [SarifResult(rule="r", level="note", message="m")])
    log["runs"][0]["results"][0]["message"] = "m"
    log["runs"][0]["other"] = 1
    del log["runs"][0]["tool"]["driver"]["name"]
    assert len(misfits(log, SHAPES)) == 3


def test_unknown_rules_and_taxa_are_refused() -> None:
    with pytest.raises(KeyError):
        sarif_log([RULE], [SarifResult(rule="other", level="note", message="m")])
    with pytest.raises(KeyError):
        sarif_log([RULE], [], taxonomies=[atlas({"AML.T0010": "other"})])


def test_names_that_are_no_text_become_uris() -> None:
    assert file_uri("p\udcffq [x].pt") == "p%FFq%20%5Bx%5D.pt"


def test_the_rules_of_inspections_refer_to_known_techniques() -> None:
    assert {taxon for rule in RULES.values() for taxon in rule.taxa} <= ATLAS.keys()
    for rule in RULES.values():
        assert rule.summary.endswith(".")
        assert rule.advice.endswith(".")


def test_inspections_as_sarif(model_folder: str, tmp_path: Path, cli: Cli) -> None:
    check(inspection_sarif(inspect_files("tiny")))
    (tmp_path / "x [b].pt").write_bytes(b"\x80\x02cposix\nsystem\nX\x02\x00\x00\x00id\x85R.")
    ran = cli("inspect", "x [b].pt", "--sarif", "found.sarif")
    assert ran.status == 1
    log = json.loads((tmp_path / "found.sarif").read_text())
    check(log)
    (result,) = log["runs"][0]["results"]
    assert result["ruleId"] == "unsafe-global"
    assert result["locations"][0]["physicalLocation"]["region"] == {"byteOffset": 2}
    assert result["properties"]["opcode"] == "GLOBAL"
    linked = log["runs"][0]["tool"]["driver"]["rules"][result["ruleIndex"]]["relationships"]
    assert "AML.T0011.000" in [link["target"]["id"] for link in linked]
