"""The tools, one file each: arguments, result, function, SPEC. Know nothing of doors."""
