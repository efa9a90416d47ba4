"""The leaderboard page, the CSV and the cost table: what they say, what they escape, how the page sorts."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from browser import browser, sideways
from clip_antidote.benchmark.costs import costs_table
from clip_antidote.benchmark.leaderboard import leaderboard
from clip_antidote.benchmark.published import Published, published_table
from clip_antidote.benchmark.records import RunRecord
from clip_antidote.benchmark.runs_csv import runs_csv
from clip_antidote.benchmark.store import RunLog
from clip_antidote.benchmark.tables import markdown
from conftest import Cli
from test_benchmark_compare import rates, run
from test_report_browser import CONTRAST, LONG

NASTY = "<script>alert(1)</script>\"'&{{ 7*7 }}"


def runs() -> list[RunRecord]:
    """Three models, two defenses; the second is better by ASR and worse by CA."""
    made = []
    for number, suspect in enumerate(("a", "b", LONG)):
        for defense, after in (("first", rates(0.7, 0.2, 0.5)), ("second", rates(0.6, 0.01 * number, 0.4))):
            costs: dict[str, Any] = {"seconds": 10.0 * (number + 1), "clean_images": 160, "trained": 1000 * number}
            stages = {"tuning": 3.0}
            made.append(run(suspect, defense, after, peak_memory={"process": 700 + number}, stages=stages, **costs))
    return made


FAILED = run("a", "third", rates(0.8), failed=NASTY)
PAPER = Published(defense="cbpt", attack="mean", backbone=NASTY, asr=0.39, asr_counts="all images", source=NASTY)


def test_costs_by_hand() -> None:
    old = run("a", "older", rates(0.7))
    lines = costs_table([*runs(), old]).splitlines()
    assert lines[0] == "| defense | seconds | memory, MiB | device memory, MiB | clean images | trained parameters |"
    assert lines[2] == "| first | 20 | 702 | – | 160 | 2,000 |"
    assert lines[4] == "| older | 1 | – | – | – | – |"


def test_published_numbers_name_their_way() -> None:
    table = published_table([PAPER])
    assert "| cbpt | mean |" in table
    assert "| – | 0.39 | all images |" in table
    assert published_table([]) == ""


def test_a_cell_of_a_table_stays_one() -> None:
    assert markdown(["a"], [["b | c\nd"]]).splitlines()[2] == "| b \\| c d |"


def test_the_csv_holds_every_run() -> None:
    formula = run("=1+1", "first", rates(0.5), target=None)
    rows = list(csv.DictReader(io.StringIO(runs_csv([*runs(), FAILED, formula]))))
    assert len(rows) == 8
    assert (rows[0]["state"], rows[6]["state"], rows[6]["after_ca"]) == ("done", "failed", "")
    assert rows[6]["reason"] == NASTY
    assert float(rows[0]["after_asr"]) == 0.2
    assert float(rows[0]["after_asr_low"]) == pytest.approx(0.133367, abs=1e-6), "Wilson, 20 of 100"
    assert float(rows[0]["fidelity"]) == pytest.approx((0.9 - 0.2) / 0.9 * 0.7 / 0.8)
    assert (rows[0]["peak_process_mib"], rows[0]["after_asr_count"]) == ("700", "100")
    assert rows[7]["suspect"] == "'=1+1", "no spreadsheet runs it"


def test_the_page_escapes_everything_and_runs_its_own_script_alone() -> None:
    odd = run(NASTY, NASTY, rates(0.7, 0.1), suspect_sha256=NASTY, targets_suspected=(NASTY,), stages={NASTY: 1.0})
    page = leaderboard([odd], [FAILED], [PAPER])
    assert page.count("<script>") == 1
    assert "alert(1)</script>" not in page
    assert "{{ 7*7 }}" in page, "no template either"
    script = page.split("<script>")[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page
    assert "default-src 'none'" in page
    assert not re.search(r"(?:src|href)=\"(?!#)", page), "nothing is loaded, links stay in the page"


def test_the_page_has_the_means_intervals_and_reports() -> None:
    page = leaderboard(runs(), [FAILED], [PAPER])
    links = re.findall(r'href="#(run-\d+)"', page)
    assert links == [f"run-{number}" for number in range(6)]
    assert all(f'id="{link}"' in page for link in links)
    assert page.count("second on") == 3
    row = next(line for line in page.splitlines() if line.strip().startswith("<tr>") and ">second<" in line)
    assert 'data-v="0.01"' in row, "the mean of 0, 1 and 2 %"
    assert "[0.0, 2.0]" in row, "the bootstrap over models"
    assert "(undefended)" in page
    assert leaderboard([run("c", "none", rates(0.7), target=None)]).count('class="sortable"') == 1, (
        "no poisoned model"
    )


def test_the_command_writes_all_forms(cli: Cli, tmp_path: Path) -> None:
    log = RunLog(tmp_path / "grid")
    for made in [*runs(), FAILED]:
        log.append(made)
    said = cli("benchmark", "table", "--out", "grid").out
    assert "| first | 20 | 702 |" in said
    assert "| a | third | failed: " in said
    assert (tmp_path / "grid" / "tables.md").read_text() == said
    assert len((tmp_path / "grid" / "runs.csv").read_text().splitlines()) == 8
    assert "<h1>Leaderboard</h1>" in (tmp_path / "grid" / "leaderboard.html").read_text()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as running:
        yield running


@pytest.fixture
def board(tmp_path: Path) -> str:
    file = tmp_path / "leaderboard.html"
    file.write_text(leaderboard(runs(), [FAILED], [PAPER]), encoding="utf-8")
    return file.as_uri()


COLUMN = "[...document.querySelectorAll('table.sortable')[1].tBodies[0].rows].map(r => r.cells[5].dataset.v)"


def test_a_column_sorts_and_a_run_opens_its_report(chromium: Any, board: str) -> None:
    page = chromium.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.goto(board)
    head = page.locator("table.sortable").nth(1).locator("thead th").nth(5)
    head.locator("button").click()
    assert [float(v) for v in page.evaluate(COLUMN)] == [0.0, 0.01, 0.02, 0.2, 0.2, 0.2]
    assert head.get_attribute("aria-sort") == "ascending"
    head.locator("button").press("Enter")
    assert [float(v) for v in page.evaluate(COLUMN)] == [0.2, 0.2, 0.2, 0.02, 0.01, 0.0]
    page.locator('a[href="#run-3"]').click()
    page.wait_for_selector("#run-3[open]")
    assert said == [], "the policy of the page allows its script"
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1200])
def test_the_page_can_be_read(chromium: Any, board: str, width: int, scheme: str) -> None:
    page = chromium.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.goto(board)
    page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert sideways(page) <= 0
    assert page.evaluate(CONTRAST) == []
    page.close()


def test_paper_shows_whole_tables(chromium: Any, board: str) -> None:
    page = chromium.new_page(viewport={"width": 718, "height": 1000}, color_scheme="dark")
    page.goto(board)
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate(CONTRAST) == []
    cut = "[...document.querySelectorAll('.scroll')].filter(b => b.scrollWidth > b.clientWidth).length"
    assert page.evaluate(cut) == 0
    page.close()
