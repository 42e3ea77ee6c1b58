"""``docs/configs.md`` says what the code does: its tables are the code's own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from coral.spec import load_config
from coral.spec.dialects import AXOLOTL, DIALECTS, LLAMA_FACTORY
from coral.spec.dialects.axolotl_keys import DATASET_MAPPED, DATASET_REFUSED
from coral.spec.dialects.dialect import Dialect, Refusal
from coral.spec.dialects.llama_factory_keys import DESCRIBED, DESCRIBED_REFUSED
from coral.spec.dialects.shared import PLAIN_ADAMW, SHORTENED_ADAMW
from coral.tasks import discover

DOCS = (Path(__file__).parents[1] / "docs" / "configs.md").read_text()


def section(title: str) -> str:
    """The text under a heading, up to the next one of any level."""
    match = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)", DOCS, re.DOTALL | re.MULTILINE)
    assert match is not None, f"docs/configs.md has no section {title!r}"
    return match.group(1).strip()


def table(rows: Mapping[str, str]) -> str:
    """Keys and what becomes of them."""
    lines = [f"| `{key}` | {told} |" for key, told in rows.items()]
    return "\n".join(["| key | becomes |", "|---|---|", *lines])


def refusals(refused: Mapping[str, Refusal]) -> str:
    """Keys by what they ask for."""
    grouped: dict[str, list[str]] = {}
    for key, refusal in refused.items():
        grouped.setdefault(refusal.asks, []).append(f"`{key}`")
    return "\n".join(f"- {asks}: {', '.join(keys)}" for asks, keys in grouped.items())


def ignored(dialect: Dialect) -> str:
    """Keys by what they are about."""
    return "\n".join(
        f"- {about}: {', '.join(f'`{key}`' for key in keys)}"
        for about, keys in dialect.ignored.items()
    )


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_what_becomes_of_every_key_is_documented(dialect: Dialect) -> None:
    assert table(dialect.mapped) in section(f"{dialect.name}: keys that are translated")
    assert section(f"{dialect.name}: keys that are ignored") == ignored(dialect)
    assert refusals(dialect.refused) in section(f"{dialect.name}: keys that are errors")


def test_what_becomes_of_data_sets_is_documented() -> None:
    axolotl = section("Axolotl: an entry of `datasets`")
    assert table(DATASET_MAPPED) in axolotl
    assert refusals(DATASET_REFUSED) in axolotl
    llama_factory = section("LLaMA-Factory: an entry of `dataset_info.json`")
    assert table(DESCRIBED) in llama_factory
    assert refusals(DESCRIBED_REFUSED) in llama_factory


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_the_defaults_of_a_dialect_are_documented(dialect: Dialect) -> None:
    told = ", ".join(f"`{key}: {value}`" for key, value in dialect.defaults.items())
    assert told in section("Defaults").replace("\n", " ")


def test_the_optimizers_that_are_adamw_are_documented() -> None:
    for name in (*PLAIN_ADAMW, *SHORTENED_ADAMW):
        assert f"`{name}`" in section("Optimizers")


@pytest.mark.parametrize("dialect", [AXOLOTL, LLAMA_FACTORY], ids=lambda dialect: dialect.name)
def test_the_example_that_is_documented_loads(
    dialect: Dialect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```(yaml|json)\n(.*?)```", DOCS, re.DOTALL)
    example = next(text for _, text in blocks if text.startswith(f"# {dialect.name}"))
    Path("data").mkdir()
    Path("data/dataset_info.json").write_text(next(text for kind, text in blocks if kind == "json"))
    Path("config.yml").write_text(example)
    loaded = load_config(Path("config.yml"), discover())
    assert loaded.notes[0].startswith(f"read as {dialect.article} {dialect.name} config")
    assert {gene.path for gene in loaded.spec.space.genes} == {
        "adapter.rank",
        "schedule.learning_rate",
    }
