"""What a user can mend of a base and its prompts is said in words, with a remedy that can be followed."""

import json
from dataclasses import replace

import pytest

from tests.pretrained import model_on, save_pipeline
from vsad.models import VALDM, sd


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return save_pipeline(tmp_path_factory.mktemp("base"))


@pytest.mark.parametrize("tune", ["new", "lora"])
def test_a_base_that_has_moved_is_named_in_the_file_that_says_where_it_is(tmp_path, tune):
    base = save_pipeline(tmp_path / "base")
    made = model_on(base, tune=tune)
    made.save_pretrained(tmp_path / "model")
    moved = base.rename(tmp_path / "moved")
    file = tmp_path / "model" / "adapter" / "config.json"
    with pytest.raises(FileNotFoundError) as raised:
        VALDM.from_pretrained(tmp_path / "model")
    assert f"set base of valdm in {file} to the folder that holds it, or put the base back" in str(raised.value)
    assert "--set" not in str(raised.value)
    content = json.loads(file.read_text())
    content["valdm"]["base"] = str(moved)
    file.write_text(json.dumps(content))
    assert VALDM.from_pretrained(tmp_path / "model").config == replace(made.config, base=str(moved))


@pytest.mark.parametrize("prompt", ["{category!r}", "{category:>500}", "{{{category}}}", "{category} {", "a photo"])
def test_a_prompt_holds_the_category_and_no_other_braces(prompt):
    with pytest.raises(ValueError, match=r"prompt must hold {category} and no other braces, got '.*'; mend it"):
        replace(sd(), conditioning="text", categories=("cable",), prompt=prompt)
    replace(sd(), conditioning="text", categories=("cable",), prompt="{category}, or a {category}")


def test_categories_that_are_cut_off_prompts_are_refused(pipeline):
    config = {"conditioning": "text", "categories": ("cable", "screw")}
    with pytest.raises(ValueError, match=r"differ in the first 12 tokens, .* for '.* a cable' and '.* a screw'; short"):
        model_on(pipeline, **config, prompt="a photo of " * 5 + "a {category}")
    model_on(pipeline, **config)
