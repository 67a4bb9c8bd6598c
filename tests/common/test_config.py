import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from components.common.config import Params, StageParams, deep_merge, parse, section_of
from components.common.errors import StageError


class Inner(Params):
    gap_s: float = Field(0.5, gt=0)


class Far(Params):
    far_s: float


class Model(StageParams):
    epochs: int = Field(1, ge=0)
    inner: Inner = Inner()
    many: tuple[Inner, ...] = ()
    either: Inner | Far = Inner()


def test_an_unknown_key_names_the_nearest_known_one():
    with pytest.raises(StageError, match=r"unknown key 'epoch', did you mean 'epochs'\?: here"):
        parse(Model, {"epoch": 3}, "here")


@pytest.mark.parametrize("section", [{"inner": {"gaps_s": 1}}, {"many": [{"gap_s": 1}, {"gap": 1}]}])
def test_an_unknown_key_is_found_at_any_depth(section):
    with pytest.raises(StageError, match="did you mean 'gap_s'"):
        parse(Model, section, "here")


def test_the_members_of_a_union_are_not_part_of_a_key():
    with pytest.raises(StageError) as caught:
        parse(Model, {"either": {"gap_s": "x"}}, "here")
    assert "'either.gap_s' = 'x'" in str(caught.value)
    assert "Inner" not in str(caught.value)


def test_a_value_out_of_range_names_key_value_and_range():
    with pytest.raises(StageError, match=r"'inner.gap_s' = -1: input should be greater than 0"):
        parse(Model, {"inner": {"gap_s": -1}}, "here")


def test_whole_floats_are_integers():
    assert parse(Model, {"epochs": 2.0}, "here").epochs == 2
    with pytest.raises(StageError, match=r"'epochs' = 2\.5"):
        parse(Model, {"epochs": 2.5}, "here")


def test_parameters_do_not_change_after_reading():
    with pytest.raises(ValueError, match="frozen"):
        parse(Model, {}, "here").epochs = 3


def test_a_key_inherits_shared_values_and_the_seed():
    document = {"seed": 7, "pretrain": {"shared": {"a": {"b": 1, "c": 2}}, "dino": {"a": {"c": 3}}}}
    assert section_of(document, "pretrain", "dino") == {"seed": 7, "a": {"b": 1, "c": 3}}
    assert section_of({**document, "pretrain": {"dino": {"seed": 1}}}, "pretrain", "dino")["seed"] == 1


def test_a_missing_key_is_named_with_a_guess():
    with pytest.raises(StageError, match="no entry 'dinno' under 'pretrain', did you mean 'dino'"):
        section_of({"pretrain": {"dino": {}}}, "pretrain", "dinno")


trees = st.recursive(
    st.integers(), lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3), max_leaves=8
)
mappings = st.dictionaries(st.sampled_from("abc"), trees, max_size=3)


@given(mappings, mappings)
def test_merging_keeps_every_leaf_of_the_upper_layer(base, over):
    def leaves(tree, path=()):
        if isinstance(tree, dict) and tree:
            for key, value in tree.items():
                yield from leaves(value, (*path, key))
        elif not isinstance(tree, dict):
            yield path, tree

    merged = deep_merge(base, over)
    assert set(leaves(over)) <= set(leaves(merged))
    assert set(leaves(merged)) <= set(leaves(over)) | set(leaves(base))
    assert deep_merge(merged, over) == merged
