"""Telling in whose words a config is written."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coral.errors import ConfigError, Fault
from coral.spec.dialects import AXOLOTL, DIALECTS, LLAMA_FACTORY, dialect_of
from coral.spec.dialects.dialect import OWN_KEYS, Dialect
from coral.spec.document import Document, dump_yaml, parse_document
from tests.spec.configs import Load
from tests.spec.dialects import configs


def document(text: str) -> Document:
    return parse_document(text, "config.yml")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (configs.AXOLOTL, "Axolotl"),
        (configs.LLAMA_FACTORY, "LLaMA-Factory"),
        ("base_model: m\nadapter: lora\n", "Axolotl"),
        ("base_model: m\ntasks: [a]\ndatasets: []\n", "Axolotl"),
        ("base_model: m\nwandb_project: p\nflash_attention: true\n", "Axolotl"),
        ("model_name_or_path: m\ndataset: a\nlora_rank: 8\n", "LLaMA-Factory"),
        ("model_name_or_path: m\ndo_train: true\nplot_loss: true\n", "LLaMA-Factory"),
    ],
)
def test_a_dialect_is_told_by_its_keys(text: str, name: str) -> None:
    found = dialect_of(document(text))
    assert found is not None
    assert found.name == name


@pytest.mark.parametrize(
    "text",
    [
        "base_model: m\ntasks: [a]\n",
        "base_model: m\ntasks: [a]\nlora_r: 8\nmicro_batch_size: 2\nnum_epochs: 3\n",
        "model_name_or_path: m\ntasks: [a]\nlora_rank: 8\ncutoff_len: 64\n",
        "base_model: m\ntasks: [a]\nwandb_project: p\n",
        "base_model: m\nlora_r: 8\n",
        "base_model: m\nno_such_key: 8\n",
    ],
)
def test_a_config_in_corals_own_words_is_left_as_it_is(text: str) -> None:
    assert dialect_of(document(text)) is None


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_a_key_has_one_meaning_in_a_dialect(dialect: Dialect) -> None:
    for key in dialect.mapped:
        assert key not in dialect.refused
        assert not dialect.ignores(key), key
    for key in dialect.refused:
        assert not dialect.ignores(key), key
    named = [key for keys in dialect.ignored.values() for key in keys]
    assert len(named) == len(set(named))


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_no_key_of_corals_own_is_ignored_or_refused(dialect: Dialect) -> None:
    """``max_length`` is the exception: LLaMA-Factory generates by it."""
    taken = {key for key in OWN_KEYS if dialect.ignores(key) or key in dialect.refused}
    assert taken <= ({"max_length"} if dialect is LLAMA_FACTORY else set())


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_every_key_that_says_nothing_is_let_pass(dialect: Dialect, read: Load) -> None:
    whole = configs.AXOLOTL if dialect is AXOLOTL else configs.LLAMA_FACTORY
    before = read(whole)
    written = document(whole).data
    unsaid = [key for key in dialect.plain_keys() if key not in written]
    assert len(unsaid) > 50
    assert read(whole + "".join(f"{key}:\n" for key in unsaid)).spec == before.spec


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 4096)
    | st.floats(-1, 1e6)
    | st.just(float("nan"))
    | st.sampled_from(["auto", "lora", "a,b", "x", "", "{{ messages }}", "org/data", "train"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["path", "type", "name", "split", "roles", "pad_token", "field"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
@given(data=st.data())
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_key_says_it_is_read_or_a_fault_of_its_line(
    dialect: Dialect, data: st.DataObject, read: Load
) -> None:
    whole = document(configs.AXOLOTL if dialect is AXOLOTL else configs.LLAMA_FACTORY).data
    keys = sorted({*dialect.plain_keys(), *whole})
    changed = data.draw(st.dictionaries(st.sampled_from(keys), VALUES, min_size=1, max_size=3))
    faults: tuple[Fault, ...] = ()
    try:
        read(dump_yaml({**whole, **changed}))
    except ConfigError as error:
        faults = error.faults
    assert all(fault.rule and fault.remedy for fault in faults)
    assert all(fault.where.rpartition(":")[2].isdecimal() for fault in faults)
