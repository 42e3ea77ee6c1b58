"""The JSON Schema of a config says what the loader says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from coral.bundled import bundled_folder
from coral.errors import ConfigError
from coral.spec import dump_spec
from coral.spec.document import parse_document
from coral.spec.schema import config_schema
from tests.spec.configs import HEAD, Load
from tests.spec.test_dump import RICH

QUICKSTART = bundled_folder("config") / "quickstart.yaml"


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    return Draft202012Validator(config_schema())


def _read(text: str) -> dict[str, Any]:
    return parse_document(text, "x").data


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(config_schema())


@pytest.mark.parametrize("file", sorted(QUICKSTART.parent.glob("*.yaml")), ids=lambda f: f.stem)
def test_every_bundled_config_fits_the_schema(file: Path, validator: Draft202012Validator) -> None:
    validator.validate(_read(file.read_text()))


@pytest.mark.parametrize("body", ["", RICH], ids=["defaults", "everything"])
def test_a_config_and_its_resolved_form_fit_the_schema(
    body: str, load: Load, validator: Draft202012Validator
) -> None:
    validator.validate(_read(HEAD + body))
    validator.validate(_read(dump_spec(load(body).spec)))


@pytest.mark.parametrize(
    "body",
    [
        "sede: 1",
        "training: {lora_rr: 8}",
        "training: {adapter: {ranks: 8}}",
        "search_space: {lora_rr: [4, 8]}",
        "search_space: {adapter: {ranks: [4, 8]}}",
        "search_space: {lora_r: {low: 2, hihg: 8}}",
        "search_space: {lora_alpha: [4, 8]}",
        "evolution: {generation: 2}",
        "evolution: {recipes: [{lora_rr: 8}]}",
        "training_stages: [{name: a, epochs: 1}]",
        "prune: {audit: 0.1}",
        "objectives: [{metrics: auroc}]",
        "budget: {epochs: 1}",
        "execution: {worker: 1}",
        "mode: simulated",
        "simulation: {profil: mine}",
        "simulation: {agreement: {S0_sanity: 1}}",
        "simulation: {faults: {crash: 1.5}}",
        "simulation: {faults: {crashes: 0.5}}",
        "simulation: {memory_bytes: 0}",
        "evolution: {warm_start: true}",
        "warm_start: {mode: both}",
        "warm_start: {cold_share: 1.5}",
        "warm_start: {entry: 2}",
        "exploit: {quantile: 0.6}",
        "soup: {rank: 0}",
        "soup: {members: 3}",
        "squeeze: {ranks: [8, 0]}",
        "squeeze: {energies: [1.0]}",
        "confirm: {seeds: 0}",
        "cache: 5",
        "cache_bytes: 0",
        "cache_bytes: lots",
        "cache_bytes: 200MiB",
        "lora_r: 0",
        "seed: -1",
        "lr_scheduler: cosinus",
        "search_space: {lr_scheduler: []}",
        "training_stages: []",
        "model_name_or_path: org/other",
    ],
)
def test_what_the_loader_refuses_does_not_fit_the_schema(
    body: str, load: Load, validator: Draft202012Validator
) -> None:
    assert not validator.is_valid(_read(f"{HEAD}{body}\n"))
    with pytest.raises(ConfigError):
        load(f"{body}\n")


def test_a_config_without_tasks_or_model_does_not_fit(validator: Draft202012Validator) -> None:
    assert not validator.is_valid({"base_model": "org/encoder"})
    assert not validator.is_valid({"tasks": ["kind"]})
