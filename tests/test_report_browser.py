"""The report in a real browser: on a telephone, in the dark, and on paper."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from browser import browser, sideways
from clip_antidote.detection.statistics import STATISTICS
from clip_antidote.detection.verdict import ClassVerdict, Finding, Verdict
from clip_antidote.purification.config import CBPTConfig
from clip_antidote.purification.record import PurificationRecord, ScoreRow, TriggerRow
from clip_antidote.reporting import (
    ClassChange,
    ModelFacts,
    Picture,
    PlantedAttack,
    Report,
    Sample,
    ScannedModel,
    ScanReport,
    ScanTrigger,
    render_html,
    render_scan,
    to_png,
)

LONG = "a_class_name_without_any_space_that_is_much_longer_than_a_telephone_is_wide_" * 3
RATES = ("ca", "mean_per_class_recall", "asr", "asr_all", "asr_floor", "pa", "target_ca")


def rates(value: float) -> dict[str, Any]:
    measured: dict[str, Any] = {}
    for name in RATES:
        measured |= {name: value, f"{name}_interval": [value / 2, (1 + value) / 2], f"{name}_count": 37200}
    return measured


PNG = to_png(torch.rand(3, 80, 80, generator=torch.Generator().manual_seed(0)), scale=3)


@pytest.fixture(scope="module", params=["purification", "scan"])
def report(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A report with everything in it, and with long names; by its address."""
    page = purification_page() if request.param == "purification" else scan_page()
    file = tmp_path_factory.mktemp("report") / "report.html"
    file.write_text(page, encoding="utf-8")
    return file.as_uri()


def scan_page() -> str:
    findings = tuple(Finding(statistic=name, value=0.1, z=3.0, weight=2.0) for name in STATISTICS)
    names = (LONG, *(f"class {number}" for number in range(4)))
    verdict = Verdict(
        suspicious=True,
        score=4.0,
        probability=0.98,
        needed=None,
        p_value=0.016,
        least_p=0.016,
        alarm=0.05,
        clean_models=61,
        towers=("ResNet", LONG),
        classes=len(names),
        shots=16.0,
        targets=(LONG,),
        ranking=tuple(
            ClassVerdict(label=number, name=name, score=4.0 - 3 * number, share=0.2, findings=findings)
            for number, name in enumerate(names)
        ),
    )
    report = ScanReport(
        created="2026-01-02T03:04:05+00:00",
        model=ScannedModel(spec=f"local-dir:/some/where/{LONG}", sha256="ab" * 32, parameters=123456789),
        data=f"/photographs/{LONG}",
        classes=names,
        shots=16,
        seed=0,
        verdict=verdict,
        triggers=tuple(
            ScanTrigger(name=f"0{i}-mask", family="mask", target=LONG, flip_rate=0.9, size=0.01) for i in range(4)
        ),
        stages={"survey": 3.0, "triggers": 99.0},
        seconds=102.0,
        warnings=(f"a warning about {LONG}",),
        versions={"torch": "2.10.0+something.rather.long.0123456789abcdef0123456789abcdef"},
    )
    return render_scan(report, [Picture(f"0{i}-mask", LONG, PNG) for i in range(4)])


def purification_page() -> str:
    classes = ("hat", LONG, *(f"class {i}" for i in range(20)))
    made = PurificationRecord(
        method="cbpt-gate",
        targets_suspected=(LONG,),
        shots=16,
        seed=0,
        settings=CBPTConfig(),
        scores=tuple(
            ScoreRow(class_name=n, score=float(i), alignment=0.5, inversion=1.0) for i, n in enumerate(classes)
        ),
        triggers=tuple(
            TriggerRow(name=f"0{i}-mask", family="mask", hypothesis=LONG, flip_rate=0.9, size=0.01, file="triggers/0")
            for i in range(4)
        ),
        stages={"features": 3.0, "inversion": 99.0},
        seconds=102.0,
        versions={"torch": "2.10.0+something.rather.long.0123456789abcdef0123456789abcdef"},
    )
    return render_html(
        Report(
            version="0.1.0",
            created="2026-01-02T03:04:05+00:00",
            command="demo",
            model=ModelFacts(spec=f"local-dir:/some/where/{LONG}", sha256="ab" * 32, parameters=123456789),
            purification=made,
            classes=classes,
            measured_on="37200 test images",
            data=f"/photographs/{LONG}",
            target_true="hat",
            attack=PlantedAttack(name="badnet", poison_rate=0.03, steps=180, seconds=99.0),
            before=rates(0.7),
            after=rates(0.6),
            after_single=rates(0.5),
            reference=rates(0.8),
            per_class=tuple(ClassChange(class_name=n, before=0.5, after=0.6, count=30) for n in classes),
            warnings=(f"a warning about {LONG}",),
        ),
        [Picture(f"0{i}-mask", LONG, PNG) for i in range(4)],
        [Sample(PNG, "hat", LONG, "hat", kind) for kind in ("clean", "triggered", "dummy") for _ in range(3)],
    )


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as running:
        yield running


def opened(chromium: Any, address: str, **settings: Any) -> Any:
    page = chromium.new_page(**settings)
    page.goto(address)
    page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    return page


CONTRAST = """() => {
  const light = text => {
    const [r, g, b] = text.match(/[\\d.]+/g).map(Number).map(v => v / 255)
      .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = element => {
    for (let at = element; at; at = at.parentElement) {
      const color = getComputedStyle(at).backgroundColor;
      if (color !== 'rgba(0, 0, 0, 0)') return color;
    }
    return 'rgb(255, 255, 255)';
  };
  const found = [];
  for (const element of document.querySelectorAll('body *')) {
    if (![...element.childNodes].some(node => node.nodeType === 3 && node.data.trim())) continue;
    const [one, other] = [light(getComputedStyle(element).color), light(ground(element))].sort((a, b) => b - a);
    const ratio = (one + 0.05) / (other + 0.05);
    if (ratio < 4.5) found.push(`${ratio.toFixed(2)} ${element.tagName} ${element.textContent.trim().slice(0, 30)}`);
  }
  return found;
}"""
"""Texts with less contrast than WCAG 2 asks for (4.5 to 1)."""


@pytest.mark.parametrize("width", [400, 320, 1200])
def test_it_never_scrolls_sideways(chromium: Any, report: str, width: int) -> None:
    page = opened(chromium, report, viewport={"width": width, "height": 800})
    assert sideways(page) <= 0
    outside = """w => [...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll') &&
        e.getBoundingClientRect().right > w + 0.5).map(e => e.tagName + '.' + e.className)"""
    assert page.evaluate(outside, width) == []
    page.close()


def test_wide_tables_scroll_in_their_box(chromium: Any, report: str) -> None:
    page = opened(chromium, report, viewport={"width": 400, "height": 800})
    boxes = page.evaluate(
        "[...document.querySelectorAll('.scroll')].map(b => [b.scrollWidth > b.clientWidth, b.tabIndex])"
    )
    assert any(wide for wide, _ in boxes)
    assert all(index == 0 for _, index in boxes), "the keyboard reaches them"
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_can_be_read(chromium: Any, report: str, scheme: str) -> None:
    page = opened(chromium, report, viewport={"width": 400, "height": 800}, color_scheme=scheme)
    assert page.evaluate(CONTRAST) == []
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 24, 30)"
    assert dark == (scheme == "dark")
    assert (page.evaluate("getComputedStyle(document.querySelector('.chart')).filter") != "none") == dark
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_paper_is_white(chromium: Any, report: str, scheme: str) -> None:
    page = opened(chromium, report, viewport={"width": 718, "height": 1000}, color_scheme=scheme)
    page.emulate_media(media="print", color_scheme=scheme)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate(CONTRAST) == []
    assert page.evaluate("getComputedStyle(document.querySelector('.chart')).filter") == "none"
    assert sideways(page) <= 0
    cut = "[...document.querySelectorAll('.scroll')].filter(b => b.scrollWidth > b.clientWidth).length"
    assert page.evaluate(cut) == 0, "paper does not scroll"
    page.close()
