"""What the pages say of specifications holds."""

import json
import re
from pathlib import Path
from typing import Any

from lingshu_model.train.spec import TrainingSpec

PAGE = (Path(__file__).parents[2] / "docs" / "your-data.md").read_text("utf-8")


def test_the_example_of_a_specification_is_one():
    block = re.search(r"```json\n(.*?)```", PAGE, re.DOTALL)
    assert block
    value: Any = json.loads(block[1])
    spec = TrainingSpec.of(value, "docs/your-data.md")
    rule = spec.sources[0].perturbation
    assert rule is not None
    assert rule.controls == ("non-targeting", "safe-targeting")


def test_every_field_of_the_example_is_in_the_schema_with_a_word():
    schema = TrainingSpec.model_json_schema()
    parts = [schema, *schema["$defs"].values()]
    known = {name for part in parts for name in part["properties"]}
    named = {name for row in re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE) for name in
             re.findall(r"`([a-z_]+)`", row)}  # fmt: skip
    assert named <= known
    assert {"counts", "control", "separator", "replicate", "dose"} <= named
