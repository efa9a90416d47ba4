"""Paired statistics of two grids or defenses, and TrojAI's fidelity, by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clip_antidote.benchmark.comparing import bootstrap_interval, compare, mcnemar_bounds, smallest_p
from clip_antidote.benchmark.fidelity import fidelity, mean_fidelity
from clip_antidote.benchmark.pairing import Pair, pair_defenses, pair_grids
from clip_antidote.benchmark.records import RunRecord
from clip_antidote.benchmark.store import RunLog
from clip_antidote.errors import DataError, UsageError
from clip_antidote.evaluation.intervals import Rate
from clip_antidote.evaluation.metrics import Metrics
from conftest import Cli


def rates(ca: float, asr: float | None = None, pa: float | None = None) -> Metrics:
    counted = {"ca": ca, "asr": asr, "pa": pa}
    return Metrics(**{key: Rate(round(100 * v), 100) for key, v in counted.items() if v is not None})  # type: ignore[arg-type]


def run(suspect: str, defense: str, after: Metrics, *, seed: int = 0, **values: Any) -> RunRecord:
    facts = {"attack": "badnet", "target": "cat", "shots": 16, "seconds": 1.0, "before": rates(0.8, 0.9, 0.1)}
    return RunRecord.model_validate(
        {"suspect": suspect, "defense": defense, "seed": seed, "after": after, **facts, **values}
    )


def write(folder: Path, *runs: RunRecord) -> Path:
    log = RunLog(folder)
    for each in runs:
        log.append(each)
    return folder


def test_fidelity_by_hand() -> None:
    before = rates(0.8, 0.9)
    assert fidelity(before, rates(0.6, 0.09), poisoned=True) == pytest.approx(0.9 * 0.75)
    assert fidelity(before, before, poisoned=True) == 0, "nothing was done"
    assert fidelity(before, rates(0.8, 0.0), poisoned=True) == pytest.approx(1)
    assert fidelity(before, rates(0.8, 0.99), poisoned=True) == pytest.approx(-0.1), "the attack got stronger"
    assert fidelity(rates(0.8), rates(0.6), poisoned=False) == pytest.approx(0.75), (
        "a clean model has only CA to lose"
    )
    assert fidelity(rates(0.8, 0.0), rates(0.8, 0.0), poisoned=True) is None, "there was no attack to mitigate"
    assert fidelity(rates(0.0, 0.9), rates(0.8, 0.0), poisoned=True) is None
    assert fidelity(rates(0.8), rates(0.8), poisoned=True) is None, "ASR was not measured"
    clean = run("c", "x", rates(0.6), target=None)
    assert mean_fidelity([run("a", "x", rates(0.6, 0.09)), clean]) == pytest.approx((0.675 + 0.75) / 2)
    assert mean_fidelity([]) is None


def test_the_model_is_the_unit_and_seeds_are_averaged_first() -> None:
    """Model m: A 0.70 and 0.50 by seed, B 0.50 and 0.50, so +0.10; model n: 0.40 against 0.60, so −0.20."""
    runs_a = [
        run("m", "x", rates(0.7, 0.1)),
        run("m", "x", rates(0.5, 0.1), seed=1),
        run("n", "x", rates(0.4, 0.1)),
    ]
    runs_b = [
        run("m", "x", rates(0.5, 0.3)),
        run("m", "x", rates(0.5, 0.3), seed=1),
        run("n", "x", rates(0.6, 0.1)),
    ]
    made = {c.metric: c for c in compare([Pair("x", a, b) for a, b in zip(runs_a, runs_b, strict=True)])}
    assert list(made) == ["ca", "asr", "fidelity"], "PA was not measured"
    ca = made["ca"]
    assert (ca.models, ca.cells) == (2, 3)
    assert (ca.a, ca.b, ca.difference) == pytest.approx((0.5, 0.55, -0.05))
    assert (ca.wins, ca.ties, ca.losses) == (1, 0, 1)
    assert (ca.sign_p, ca.interval) == (1.0, None)
    asr = made["asr"]
    assert asr.difference == pytest.approx(-0.1)
    assert (asr.wins, asr.ties, asr.losses) == (1, 1, 0), "less ASR is better"


def test_tests_of_six_models_by_hand() -> None:
    """All six differences favor A: two of 2^6 signs are as extreme, in both tests."""
    runs = [
        (run(str(k), "x", rates(0.5 + k / 100, 0.5 - k / 100)), run(str(k), "x", rates(0.5, 0.5)))
        for k in range(1, 7)
    ]
    ca, asr, _ = compare([Pair("x", a, b) for a, b in runs])
    for made in (ca, asr):
        assert (made.wins, made.ties, made.losses) == (6, 0, 0)
        assert made.sign_p == pytest.approx(2 / 64)
        assert made.wilcoxon_p == pytest.approx(2 / 64)
    assert ca.difference == pytest.approx(0.035)
    assert asr.interval is not None
    assert -0.06 <= asr.interval[0] < -0.035 < asr.interval[1] <= -0.01
    assert smallest_p(5) == 0.0625
    assert smallest_p(6) == 0.03125
    assert smallest_p(0) == 1


def test_the_bootstrap_interval() -> None:
    assert bootstrap_interval([0.1, 0.2]) is None
    assert bootstrap_interval([0.1] * 5) == pytest.approx((0.1, 0.1))
    wide, narrow = bootstrap_interval([-1, 0, 1] * 2), bootstrap_interval([-1, 0, 1] * 20)
    assert wide is not None
    assert narrow is not None
    assert wide[0] < narrow[0] < 0 < narrow[1] < wide[1]
    assert bootstrap_interval([0.0, 0.1, 0.3], seed=3) == bootstrap_interval([0.0, 0.1, 0.3], seed=3)


def test_what_counts_say_of_mcnemars_test_by_hand() -> None:
    """Of ten images 7 and 4: at best three discordant ones, all A's (2/8); at worst nine, six to three (0.508)."""
    low, high = mcnemar_bounds(Rate(7, 10), Rate(4, 10))
    assert low == pytest.approx(2 / 8)
    assert high == pytest.approx(2 * (1 + 9 + 36 + 84) / 512)
    assert mcnemar_bounds(Rate(0, 10), Rate(0, 10)) == (1, 1)
    assert mcnemar_bounds(Rate(10, 10), Rate(0, 10)) == pytest.approx((2 / 1024, 2 / 1024)), "counts leave no choice"
    with pytest.raises(DataError, match="10 and 20 images"):
        mcnemar_bounds(Rate(1, 10), Rate(1, 20))


def test_two_grids_and_two_defenses_are_paired(cli: Cli, tmp_path: Path) -> None:
    good, bad = rates(0.7, 0.0, 0.6), rates(0.6, 0.2, 0.5)
    a = write(
        tmp_path / "a",
        *(run(name, "cbpt", good, suspect_sha256="1") for name in "mn"),
        run("m", "par", bad, suspect_sha256="1"),
        run("m", "coop", bad, refused="no"),
    )
    b = write(tmp_path / "b", run("m", "cbpt", bad, suspect_sha256="2"), run("z", "cbpt", bad))
    pairs = pair_grids(a, b)
    assert [(p.group, p.a.suspect) for p in pairs.pairs] == [("cbpt", "m")]
    assert (pairs.only_a, pairs.only_b) == (2, 1), "what refused is not there"
    assert "other weights" in pairs.notes[0]
    within = pair_defenses(a, "cbpt", "par")
    assert [(p.group, p.a.suspect) for p in within.pairs] == [("cbpt – par", "m")]
    assert within.notes == ()
    said = cli("benchmark", "compare", a, b).out
    assert "| cbpt | ASR | 1 (1) | 0.00 | 20.00 | −20.00 | – | 1 / 0 / 0 | 1.000 | 1.000 |" in said
    assert "| cbpt | m | 16 | 0 | +10.0 (p 0.002 to " in said
    assert "With 1 model no sign test can give less than p = 1" in said
    report = cli("benchmark", "compare", "cbpt", "par", "--out", a, "--json").json()
    assert report["unit"] == "model"
    assert report["comparisons"][0]["difference"] == pytest.approx(0.1)
    assert report["cells"][0]["asr"] == pytest.approx(-0.2)


def test_what_cannot_be_compared_is_a_sentence(tmp_path: Path) -> None:
    a = write(tmp_path / "a", run("m", "cbpt", rates(0.7, 0.0)), run("n", "par", rates(0.7, 0.0)))
    b = write(tmp_path / "b", run("z", "cbpt", rates(0.7, 0.0)))
    with pytest.raises(DataError, match="share no cell"):
        pair_grids(a, b)
    with pytest.raises(DataError, match="'cbpt' and 'par' share no cell"):
        pair_defenses(a, "cbpt", "par")
    with pytest.raises(UsageError, match="no runs of the defense 'apt'; it has cbpt, par"):
        pair_defenses(a, "cbpt", "apt")
    with pytest.raises(DataError, match="no runs"):
        pair_grids(a, tmp_path / "nowhere")
