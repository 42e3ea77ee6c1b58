"""The sections on what is inherited, derived and confirmed, and on the cache."""

from __future__ import annotations

from pathlib import Path

import pytest

from coral.settings import (
    ConfirmSettings,
    ExploitSettings,
    SoupSettings,
    SqueezeSettings,
    WarmStartSettings,
)
from coral.spec import load_resolved
from tests.spec.configs import HEAD, REGISTRY, Faults, Load, only
from tests.spec.test_faults import LADDER, Case

CASES = {
    "an unknown key": Case(
        "warm_start:\n  cold_shar: 0.1\n",
        4,
        "warm_start.cold_shar",
        "unknown key",
        "Did you mean 'cold_share'?",
    ),
    "the switch of older configs": Case(
        "evolution:\n  warm_start: true\n",
        4,
        "evolution.warm_start",
        "unknown key",
        "It is a section now: `warm_start: {mode: crossover}`, or none.",
    ),
    "a mode that does not exist": Case(
        "warm_start: {mode: parents}\n",
        3,
        "warm_start.mode",
        "must be 'none', 'parent' or 'crossover', got \"parents\"",
        "Did you mean 'parent'?",
    ),
    "more than all children cold": Case(
        "warm_start:\n  mode: parent\n  cold_share: 1.5\n",
        5,
        "warm_start.cold_share",
        "must be <= 1, got 1.5",
        "the default is 0.2.",
    ),
    "less than no child cold": Case(
        "warm_start: {cold_share: -0.1}\n",
        3,
        "warm_start.cold_share",
        "must be >= 0, got -0.1",
        "the default is 0.2.",
    ),
    "an energy beyond all of it": Case(
        "warm_start: {min_retained_energy: 80}\n",
        3,
        "warm_start.min_retained_energy",
        "must be <= 1, got 80",
        "the default is 0.8.",
    ),
    "a similarity that is none": Case(
        "warm_start: {min_similarity: high}\n",
        3,
        "warm_start.min_similarity",
        'must be a number, got "high"',
        "the default is 0.0.",
    ),
    "an entry that is no stage": Case(
        "warm_start:\n  entry: S2_seriuos\n",
        4,
        "warm_start.entry",
        "must be first, parent or a stage's name, got S2_seriuos",
        "Did you mean 'S2_serious'?",
    ),
    "an entry on a ladder of one's own": Case(
        f"{LADDER}warm_start: {{entry: S2_serious}}\n",
        9,
        "warm_start.entry",
        "must be first, parent or a stage's name, got S2_serious",
        "Entries that exist: first, parent, probe, final.",
    ),
    "more than half exchanged": Case(
        "exploit:\n  quantile: 0.6\n",
        4,
        "exploit.quantile",
        "must be <= 0.5, got 0.6",
        "the default is 0.0.",
    ),
    "a soup of rank zero": Case(
        "soup: {rank: 0}\n", 3, "soup.rank", "must be > 0, got 0", "leave the key out"
    ),
    "less than no candidates": Case(
        "soup: {candidates: -1}\n",
        3,
        "soup.candidates",
        "must be >= 0, got -1",
        "the default is ",
    ),
    "a rank that is not positive": Case(
        "squeeze:\n  ranks:\n    - 8\n    - 0\n",
        6,
        "squeeze.ranks[1]",
        "must be > 0, got 0",
        "the default is [8, 4, 2].",
    ),
    "one rank for a list": Case(
        "squeeze: {ranks: 8}\n", 3, "squeeze.ranks", "must be a list, got 8", "[8, 4, 2]"
    ),
    "all of the energy": Case(
        "squeeze:\n  energies: [0.9, 1.0]\n",
        4,
        "squeeze.energies[1]",
        "must be < 1, got 1.0",
        "the default is [0.9].",
    ),
    "none of the energy": Case(
        "squeeze: {energies: [0]}\n",
        3,
        "squeeze.energies[0]",
        "must be > 0, got 0",
        "the default is [0.9].",
    ),
    "no seed": Case(
        "confirm: {seeds: 0}\n", 3, "confirm.seeds", "must be > 0, got 0", "the default is 2."
    ),
    "a number for a section": Case(
        "confirm: 2\n", 3, "confirm", "must be a mapping, got 2", "Write `key: value` lines."
    ),
    "a cache that is no text": Case(
        "cache: 5\n", 3, "cache", "must be a text, got 5", "leave the key out"
    ),
}
BYTES_REMEDY = "Write it as 200MB, 1.5GB or 200000000."


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_fault_names_line_key_rule_value_and_remedy(case: Case, faults: Faults) -> None:
    fault = only(faults(case.text))
    assert (fault.where, fault.key) == (f"agnews.yaml:{case.line}", case.key)
    assert case.rule in fault.rule
    assert case.remedy in fault.remedy


def test_a_stage_at_fault_does_not_make_the_entry_wrong(faults: Faults) -> None:
    body = LADDER.replace("epoch_budget: 1\n", "epoch_budget: 0\n") + "warm_start: {entry: late}\n"
    assert only(faults(body)).key == "training_stages[1].epoch_budget"


def test_every_section_is_read_as_it_is_written(load: Load) -> None:
    spec = load(
        f"{LADDER}"
        "warm_start: {mode: parent, cold_share: 0.5, entry: final}\n"
        "exploit: {quantile: 0.5}\n"
        "soup: {candidates: 2, rank: 3}\n"
        "squeeze: {ranks: [], energies: [0.5]}\n"
        "confirm: {top_k: 0}\n"
        "cache: /tmp/cache\n"
    ).spec
    assert spec.warm_start == WarmStartSettings(mode="parent", cold_share=0.5, entry="final")
    assert spec.exploit == ExploitSettings(quantile=0.5)
    assert spec.soup == SoupSettings(candidates=2, rank=3)
    assert spec.squeeze == SqueezeSettings(ranks=(), energies=(0.5,))
    assert spec.confirm == ConfirmSettings(top_k=0)
    assert spec.cache == "/tmp/cache"


@pytest.mark.parametrize(
    ("written", "count"),
    [
        ("200MB", 200_000_000),
        ("1.5GB", 1_500_000_000),
        ("'2 TB'", 2_000_000_000_000),
        ("64kB", 64_000),
        ("64KB", 64_000),
        ("12B", 12),
        ("12", 12),
        ("2e9", 2_000_000_000),
        ("null", None),
    ],
)
def test_bytes_are_written_alone_or_with_a_unit(
    written: str, count: int | None, load: Load
) -> None:
    assert load(f"cache_bytes: {written}\n").spec.cache_bytes == count
    assert load("", cache_bytes=written).spec.cache_bytes == count


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("-1", "-1"),
        ("0", "0"),
        ("0.5", "0.5"),
        ("0MB", '"0MB"'),
        ("lots", '"lots"'),
        ("200MiB", '"200MiB"'),
        ("-1GB", '"-1GB"'),
        ("true", "true"),
        ("[1]", "[1]"),
        (".inf", "Infinity"),
    ],
)
def test_what_is_no_number_of_bytes_is_told_how_to_write_one(
    written: str, shown: str, faults: Faults
) -> None:
    fault = only(faults(f"seed: 1\ncache_bytes: {written}\n"))
    assert (fault.where, fault.key) == ("agnews.yaml:4", "cache_bytes")
    assert f"must be a number of bytes > 0, alone or with a unit, got {shown}." in fault.rule
    assert fault.remedy == BYTES_REMEDY


def test_a_run_that_an_older_coral_began_goes_on_without_inheritance(tmp_path: Path) -> None:
    resolved = tmp_path / "config.resolved.yaml"
    resolved.write_text(f"{HEAD}evolution: {{generations: 2, warm_start: false}}\n")
    spec = load_resolved(resolved, REGISTRY, {"evolution.generations": "4"}).spec
    assert spec.evolution.generations == 4
    assert spec == spec.without_inheritance()


def test_a_resolved_config_keeps_what_its_sections_say(tmp_path: Path) -> None:
    resolved = tmp_path / "config.resolved.yaml"
    resolved.write_text(f"{HEAD}exploit: {{quantile: 0.25}}\n")
    spec = load_resolved(resolved, REGISTRY).spec
    assert spec.exploit.quantile == 0.25
    assert spec.warm_start.mode == "crossover"
