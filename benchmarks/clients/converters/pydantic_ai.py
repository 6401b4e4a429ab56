"""pydantic-ai: the strict transformer of its OpenAI models."""

import json
import sys

from pydantic_ai.profiles.openai import OpenAIJsonSchemaTransformer

for tool in json.load(sys.stdin):
    known, error = 0, ""
    try:
        strict = OpenAIJsonSchemaTransformer(tool["input_schema"], strict=True).walk()
        known = len(strict["required"])
    except Exception as problem:  # noqa: BLE001 - what a library raises is the answer
        error = f"{type(problem).__name__}: {problem}"[:300]
    print(json.dumps({"tool": tool["name"], "arguments": known, "error": error}))
