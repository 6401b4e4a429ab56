"""openai-agents: conversion to the strict form, in which every argument is required."""

import json
import sys

from agents.strict_schema import ensure_strict_json_schema

for tool in json.load(sys.stdin):
    known, error = 0, ""
    try:
        strict = ensure_strict_json_schema(tool["input_schema"])
        known = len(strict["required"])
    except Exception as problem:  # noqa: BLE001 - what a library raises is the answer
        error = f"{type(problem).__name__}: {problem}"[:300]
    print(json.dumps({"tool": tool["name"], "arguments": known, "error": error}))
