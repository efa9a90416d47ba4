"""The command and the function `scan`: the verdict, and the same verdict in every format."""

from __future__ import annotations

import importlib
import io
import json
import os
import re
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import clip_antidote as ca
from clip_antidote.cli.scan import ALARM as SHOWN_ALARM
from clip_antidote.data.images import LabelledImages
from clip_antidote.detection.evidence import FittedEvidence
from clip_antidote.detection.limits import LIMITS
from clip_antidote.detection.verdict import ALARM
from clip_antidote.errors import ClipAntidoteError, DataError, UsageError
from clip_antidote.jobs import scan as job
from clip_antidote.models import DualEncoder
from clip_antidote.purification.config import CBPTConfig
from clip_antidote.reporting import ScanReport, render_scan, scan_cyclonedx, scan_sarif, to_png
from clip_antidote.reporting.html import Picture
from clip_antidote.reporting.scan_report import chance, in_words
from conftest import Cli, exit_status
from test_detection import fitted
from test_sarif import check, misfits

EVIDENCE = fitted(*[-9.0] * 12, *[0.0] * 7, weights={"alignment": 2.0, "any": 1.0}, offset=6.0)
"""With four shots, 7 of 19 clean models are as suspicious as the embedded one, and none as its poisoned twin."""

DOUBT = fitted(*[-9.0] * 19, weights={"alignment": 2.0, "any": 1.0}, offset=2.0)
"""By this the embedded model is more suspicious than any clean one."""

FORMATS = ("json", "html", "sarif", "cyclonedx")


@dataclass(frozen=True)
class Ran:
    """A scan by the command line, and the files it wrote."""

    status: int
    out: str
    folder: Path

    def text(self, name: str) -> str:
        return (self.folder / name).read_text(encoding="utf-8")

    def read(self, name: str) -> Any:
        return json.loads(self.text(name))

    @property
    def report(self) -> ScanReport:
        return ScanReport.model_validate(self.read("json"))


def quicken(patch: pytest.MonkeyPatch, evidence: FittedEvidence = EVIDENCE) -> None:
    """Makes scans short, and compares with clean models made by hand."""

    def settings(seed: int, alarm: float) -> CBPTConfig:
        survey = {"steps": 2, "sample": 8, "wave_most": 1}
        inversion = {"final_steps": 2, "form_steps": 2, "survey": survey, "alarm": alarm}
        return CBPTConfig.build({"seed": seed, "pool": 80, "inversion": inversion})

    patch.setattr("clip_antidote.jobs.scan.scan_settings", settings)
    patch.setattr("clip_antidote.detection.scan.embedded_evidence", lambda: evidence)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    quicken(monkeypatch)


def ran(model: str, folder: Path, evidence: FittedEvidence = EVIDENCE) -> Ran:
    files = [word for name in FORMATS for word in (f"--{name}", folder / name)]
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed), redirect_stderr(io.StringIO()):
        quicken(patch, evidence)
        status = exit_status("scan", model, "--data", "embedded:clothing", "--shots", 4, *files)
    return Ran(status, printed.getvalue(), folder)


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    return ran("demo:badnet", tmp_path_factory.mktemp("poisoned"))


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    return ran("tiny", tmp_path_factory.mktemp("clean"))


@pytest.fixture(scope="module")
def doubtful(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    return ran("tiny", tmp_path_factory.mktemp("doubtful"), DOUBT)


# The verdict


def test_a_poisoned_model_is_suspicious(poisoned: Ran) -> None:
    assert poisoned.status == 1
    first = poisoned.out.splitlines()[0]
    assert first.startswith("suspicious: a backdoor for 'hat' is likely (p = 0.05; no clean model of 19 looked as")
    assert first.endswith("the smallest p there can be is 1/20 = 0.05)")
    verdict = poisoned.report.verdict
    assert (verdict.p_value, verdict.alarm, verdict.targets) == (0.05, ALARM, ("hat",))
    assert [trigger.target for trigger in poisoned.report.triggers] == ["hat"] * 5
    families = [trigger.family for trigger in poisoned.report.triggers]
    assert (sorted(families[:4]), families[4]) == (["additive"] * 2 + ["mask"] * 2, "corners")
    assert all(0 <= (trigger.flip_rate or 0) <= 1 for trigger in poisoned.report.triggers)
    assert poisoned.report.stages.keys() == {"features", "survey", "triggers"}
    assert not poisoned.report.warnings


def test_a_clean_model_is_not(clean: Ran) -> None:
    assert clean.status == 0
    first = clean.out.splitlines()[0]
    assert first == "nothing found (p = 0.4: 7 of 19 clean models look as suspicious)"
    assert not clean.report.verdict.suspicious
    assert not clean.report.triggers, "nothing is inverted where nothing is suspicious"
    assert "dummy trigger" not in clean.out


def test_a_class_without_a_trigger_that_works_is_not_accused(doubtful: Ran) -> None:
    verdict, report = doubtful.report.verdict, doubtful.report
    assert (doubtful.status, verdict.suspicious, verdict.targets) == (0, False, ())
    assert (verdict.p_value, len(verdict.unconfirmed)) == (0.05, 1)
    (name,) = verdict.unconfirmed
    assert name == verdict.ranking[0].name
    first = doubtful.out.splitlines()[0]
    assert first.startswith(
        f"not confirmed: '{name}' stands out as a target does, but no trigger that works was found"
    )
    assert first.endswith(
        "as suspicious, but the likeliest form of trigger sends less than 80 % of the images there)"
    )
    assert {trigger.target for trigger in report.triggers} == {name}, "what was tried is shown"
    assert f"send this share of other images to '{name}'" in doubtful.out
    assert '<span class="tag">not confirmed</span>' in doubtful.text("html")
    (result,) = doubtful.read("sarif")["runs"][0]["results"]
    assert (result["ruleId"], result["level"]) == ("backdoor-unconfirmed", "warning")
    assert result["locations"][0]["logicalLocations"] == [{"fullyQualifiedName": name, "kind": "class"}]
    told = {entry["name"]: entry["value"] for entry in doubtful.read("cyclonedx")["components"][0]["properties"]}
    assert (told["clip-antidote:verdict"], told["clip-antidote:unconfirmed-target"]) == ("not confirmed", name)


def test_the_console_says_what_speaks_for_a_class_and_what_is_not_seen(poisoned: Ran) -> None:
    flat = " ".join(re.sub("[│┃]", " ", poisoned.out).split())
    first = poisoned.report.verdict.ranking[0]
    assert in_words(first)
    assert first.findings[0].meaning.split()[0] in flat
    for sentence in LIMITS:
        assert f"- {sentence}" in flat
    assert re.search(r"seconds: \d+\.\d \(features \d+\.\d, survey", flat)


def test_the_alarm_that_help_shows_is_the_one_that_is_used() -> None:
    assert SHOWN_ALARM == ALARM


# The same in every format


@pytest.mark.parametrize("name", ["poisoned", "clean", "doubtful"])
def test_all_formats_say_the_same(name: str, request: pytest.FixtureRequest) -> None:
    done: Ran = request.getfixturevalue(name)
    report, verdict = done.report, done.report.verdict
    assert report.to_json() == done.read("json")
    assert report.limits == LIMITS
    sarif = done.read("sarif")["runs"][0]
    assert sarif["properties"]["scan"] == done.read("json")
    (result,) = sarif["results"]
    assert result["properties"]["p_value"] == verdict.p_value
    assert report.reason in result["message"]["text"]
    card = done.read("cyclonedx")["components"][0]["modelCard"]
    metrics = card["quantitativeAnalysis"]["performanceMetrics"]
    assert [float(metric["value"]) for metric in metrics] == [verdict.p_value, verdict.probability, verdict.score]
    assert card["considerations"]["technicalLimitations"] == list(LIMITS)
    page = done.text("html")
    assert f"<b>{verdict.p_value:.2g}</b>" in page
    assert report.reason in page
    assert all(entry.name in page for entry in verdict.ranking)
    assert report.headline in done.out
    assert report.reason in done.out


def test_sarif_points_to_the_target(poisoned: Ran, clean: Ran) -> None:
    log = poisoned.read("sarif")
    check(log)
    (result,) = log["runs"][0]["results"]
    assert (result["ruleId"], result["level"]) == ("backdoor-suspected", "error")
    assert result["locations"] == [{"logicalLocations": [{"fullyQualifiedName": "hat", "kind": "class"}]}]
    assert log["runs"][0]["artifacts"] == [], "the demo is made from the files of the clean model"
    rule = log["runs"][0]["tool"]["driver"]["rules"][result["ruleIndex"]]
    linked = {(link["target"]["toolComponent"]["name"], link["target"]["id"]) for link in rule["relationships"]}
    assert {key for _, key in linked} == {"AML.T0018", "AML.T0020", "AML.T0043.004", "ML10:2023"}
    assert len({name for name, _ in linked}) == 2
    log = clean.read("sarif")
    check(log)
    (result,) = log["runs"][0]["results"]
    assert (result["ruleId"], result["level"]) == ("no-backdoor-found", "note")
    (artifact,) = log["runs"][0]["artifacts"]
    assert artifact["hashes"]["sha-256"] == clean.report.model.sha256
    place = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert place == artifact["location"]["uri"]


def test_sarif_passes_warnings_on(clean: Ran) -> None:
    log = scan_sarif(clean.report.model_copy(update={"warnings": ("so few",)}))
    check(log)
    assert [(r["ruleId"], r["level"]) for r in log["runs"][0]["results"]] == [
        ("no-backdoor-found", "note"),
        ("verdict-less-sure", "warning"),
    ]


BOM: dict[str, Any] = {
    "$schema": str,
    "bomFormat": str,
    "specVersion": str,
    "serialNumber": str,
    "version": int,
    "metadata": {"timestamp": str, "tools": {"components": [{"type": str, "name": str, "version": str}]}},
    "components": [
        {
            "type": str,
            "bom-ref": str,
            "name": str,
            "hashes": [{"alg": str, "content": str}],
            "modelCard": {
                "modelParameters": {"task": str, "architectureFamily": str, "modelArchitecture?": str},
                "quantitativeAnalysis": {"performanceMetrics": [{"type": str, "value": str, "slice": str}]},
                "considerations": {"technicalLimitations": [str]},
            },
            "properties": [{"name": str, "value": str}],
        }
    ],
}
"""What of the schema is used; it was compared with the published one of CycloneDX 1.7 when it was written."""


@pytest.mark.parametrize("name", ["poisoned", "clean"])
def test_the_bill_of_materials_holds_to_the_schema(name: str, request: pytest.FixtureRequest) -> None:
    done: Ran = request.getfixturevalue(name)
    bom = done.read("cyclonedx")
    assert misfits(bom, BOM) == []
    assert (bom["bomFormat"], bom["specVersion"]) == ("CycloneDX", "1.7")
    assert re.fullmatch(r"urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", bom["serialNumber"])
    (model,) = bom["components"]
    assert model["type"] == "machine-learning-model"
    assert model["hashes"] == [{"alg": "SHA-256", "content": done.report.model.sha256}]
    named = {entry["name"].removeprefix("clip-antidote:"): entry["value"] for entry in model["properties"]}
    assert named["verdict"] == ("suspicious" if name == "poisoned" else "nothing found")
    assert named.get("suspected-target") == ("hat" if name == "poisoned" else None)


def test_the_published_schema_agrees(poisoned: Ran, clean: Ran) -> None:
    pytest.importorskip("jsonschema", reason="checks the schema that cyclonedx-python-lib ships")
    pytest.importorskip("cyclonedx", reason="ships the schema")
    schemas, validation = (importlib.import_module(f"cyclonedx.{part}") for part in ("schema", "validation.json"))
    validator = validation.JsonStrictValidator(schemas.SchemaVersion.V1_7)
    for done in (poisoned, clean):
        assert validator.validate_str(done.text("cyclonedx")) is None


def test_the_serial_number_follows_from_the_content(clean: Ran) -> None:
    report = clean.report
    serial = scan_cyclonedx(report)["serialNumber"]
    later = report.model_copy(update={"created": "2030-01-01T00:00:00+00:00", "seconds": 1.0})
    assert scan_cyclonedx(later)["serialNumber"] == serial
    other = report.model_copy(update={"verdict": report.verdict.model_copy(update={"p_value": 0.41})})
    assert scan_cyclonedx(other)["serialNumber"] != serial


def test_no_folder_of_this_machine_is_in_what_is_shared(clean: Ran) -> None:
    model = clean.report.model.model_copy(update={"spec": "open_clip:RN50@/home/secret/m.pt"})
    report = clean.report.model_copy(update={"model": model})
    assert "secret" not in json.dumps(scan_cyclonedx(report))
    assert "secret" not in render_scan(report)


# The page


def test_the_page_shows_the_dummy_triggers_and_loads_nothing(poisoned: Ran, clean: Ran) -> None:
    page = poisoned.text("html")
    sources = re.findall(r"\b(?:src|href|srcset|data|action)\s*=\s*[\"']?([^\"'\s>]*)", page)
    assert len(sources) == 6, "a chart and five triggers"
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert "<script" not in page
    assert "What a scan cannot see" in page
    assert clean.text("html").count("<img") == 1
    assert "<h1>Nothing found</h1>" in clean.text("html")


def test_names_cannot_become_markup(poisoned: Ran) -> None:
    evil = "<script>x</script>"
    verdict = poisoned.report.verdict
    ranking = (verdict.ranking[0].model_copy(update={"name": evil}), *verdict.ranking[1:])
    verdict = verdict.model_copy(update={"targets": (evil,), "ranking": ranking, "towers": (evil,)})
    report = poisoned.report.model_copy(
        update={"verdict": verdict, "classes": (evil,), "data": evil, "warnings": (evil,)}
    )
    page = render_scan(report, [Picture(evil, evil, to_png(torch.zeros(3, 2, 2)))])
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_probabilities_are_never_certain() -> None:
    said = {0.0: "< 1 %", 0.004: "< 1 %", 0.5: "50 %", 0.994: "99 %", 0.9999: "> 99 %"}
    assert {value: chance(value) for value in said} == said


# In Python


def test_loaded_models_and_images_give_the_same_verdict(
    clean: Ran, tiny: DualEncoder, train_images: LabelledImages, quick: None
) -> None:
    drawn = train_images.sample_shots(4, seed=0)
    found = ca.scan(tiny, drawn, shots=16)
    assert found.verdict == clean.report.verdict
    assert found.model.sha256 == clean.report.model.sha256
    assert found.data == "40 images that were loaded"
    assert ca.scan(tiny, train_images, shots=4).verdict == clean.report.verdict, "of more images some are drawn"


def test_wrong_values_get_a_sentence(tiny: DualEncoder, train_images: LabelledImages) -> None:
    for alarm in (0.0, -1.0, 1.5, float("nan")):
        with pytest.raises(UsageError, match="above 0 and at most 1"):
            ca.scan(tiny, train_images, alarm=alarm)
    with pytest.raises(UsageError, match="give classes to load_images"):
        ca.scan(tiny, train_images, classes="classes.txt")
    with pytest.raises(DataError, match="shots must be at least 1"):
        ca.scan(tiny, train_images, shots=0)
    with pytest.raises(DataError, match="fewer than the 100000 shots"):
        ca.scan("tiny", "embedded:clothing", shots=100000)
    one = LabelledImages(train_images.subset([0]).source, torch.tensor([0]), ("hat",))
    with pytest.raises(DataError, match="at least two"):
        ca.scan(tiny, one)
    with pytest.raises(ClipAntidoteError, match="cannot read the model"):
        ca.scan("nonsense", train_images)


# Odd inputs


def test_few_classes_and_shots_are_warned_of(photos: Path, model_folder: str, quick: None, cli: Cli) -> None:
    done = cli("scan", model_folder, "--data", photos, "--shots", 2, "--json", "s.json", "--html", "s.html")
    assert done.status == 0
    assert done.out.startswith("nothing found (p = 1: with fewer than 4 classes none can stand out")
    assert "warning: there are 2 classes" in done.out
    assert "warning: clean images per class: 2" in done.out
    assert len(ScanReport.model_validate_json(Path("s.json").read_text()).warnings) >= 2
    assert "too few classes to compare" in Path("s.html").read_text()


def test_an_alarm_that_no_model_can_set_off_is_warned_of(
    tiny: DualEncoder, train_images: LabelledImages, quick: None
) -> None:
    found = ca.scan(tiny, train_images, shots=2, alarm=0.01)
    assert any("no p-value is below 0.05" in sentence for sentence in found.warnings)
    assert not ca.scan(tiny, train_images, shots=2, alarm=0.05).warnings[1:], "of the few shots alone"


def test_classes_and_templates_from_files(tmp_path: Path, quick: None, cli: Cli) -> None:
    names = ["hat", "dress", "shoes", "skirt"]
    (tmp_path / "classes.txt").write_text("".join(f"{name} = [red]{name}\n" for name in names))
    (tmp_path / "templates.txt").write_text("a photo of a {}.\n")
    files = ["--classes", "classes.txt", "--templates", "templates.txt", "--json", "s.json"]
    done = cli("scan", "tiny", "--data", "embedded:clothing", "--shots", 4, "--alarm", 1, "--seed", 3, *files)
    assert done.status == 1, "at 1 every model is suspicious"
    found = ScanReport.model_validate_json(Path("s.json").read_text())
    assert found.classes == tuple(f"[red]{name}" for name in names)
    assert all(f" [red]{name} " in done.out for name in names), "no markup is read"
    assert (found.seed, found.verdict.alarm, found.shots) == (3, 1.0, 4)


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails where the work begins."""

    def work(*args: object, **kwargs: object) -> None:
        raise AssertionError("the work began")

    monkeypatch.setattr(job, "_scan", work)


@pytest.mark.parametrize("name", FORMATS)
def test_files_that_cannot_be_written_are_refused_before_the_work(
    name: str, tmp_path: Path, no_work: None, cli: Cli
) -> None:
    (tmp_path / "file").write_text("x")
    start = ("scan", "tiny", "--data", "embedded:clothing", f"--{name}")
    for place, said in ((tmp_path, "is a folder"), (tmp_path / "file" / "x", "cannot write"), ("", "folder")):
        done = cli(*start, place)
        assert done.status == 2
        assert said in done.err
        assert done.err.count("error:") == 1
    if os.path.exists("/proc/self"):
        assert cli(*start, "/proc/self/x").status == 2
    assert os.listdir(tmp_path) == ["file"]


def test_two_outputs_need_two_files(no_work: None, cli: Cli) -> None:
    done = cli("scan", "tiny", "--data", "embedded:clothing", "--json", "x", "--html", "./x")
    assert done.status == 4
    assert "two outputs" in done.err


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
def test_a_full_device_ends_in_a_sentence(photos: Path, model_folder: str, quick: None, cli: Cli) -> None:
    done = cli("scan", model_folder, "--data", photos, "--shots", 1, "--json", "/dev/full")
    assert done.status == 2
    assert "cannot write /dev/full" in done.err
    assert done.err.count("error:") == 1
