"""Judge the crate of an archive with `roc-validator`, offline: `validate_crate.py ARCHIVE [LEVEL]`.

Run by the Python of an environment with `roc-validator` and `rocrate==0.13.0`, which brings the
context of RO-Crate 1.1 that every crate of ours refers to. Prints one JSON object, independent of
lingshu-tools.
"""

import json
import sys
import tempfile
from importlib.metadata import distribution, version
from pathlib import Path

from requests_cache import CachedRequest, CachedResponse, CachedSession
from rocrate_validator import services
from rocrate_validator.models import Severity, ValidationSettings
from rocrate_validator.utils.uri import URI

CONTEXT = "https://w3id.org/ro/crate/1.1/context"
PROFILE = "process-run-crate"


def remember(cache: Path) -> None:
    """Put the context where the validator looks before it asks the network."""
    # Not imported: it needs packages that are not needed here.
    file = distribution("rocrate").locate_file("rocrate/data/ro-crate.jsonld")
    content = Path(str(file)).read_bytes()
    if json.loads(content)["@id"] != CONTEXT:
        message = "another RO-Crate than 1.1 in the package `rocrate`: install rocrate==0.13.0"
        raise SystemExit(message)
    session = CachedSession(str(cache), backend="sqlite")
    request = CachedRequest(method="GET", url=CONTEXT, headers={"Accept": "application/json"})
    kept = {"content": content, "status_code": 200, "url": CONTEXT, "request": request}
    answer = CachedResponse(**kept, headers={"Content-Type": "application/ld+json"})
    session.cache.save_response(answer, session.cache.create_key(request))


def main() -> None:
    """Print what the validator found."""
    archive, level = sys.argv[1], (sys.argv[2:] or ["recommended"])[0]
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        remember(cache)
        settings = ValidationSettings(
            rocrate_uri=URI(archive),
            profile_identifier=PROFILE,
            requirement_severity=Severity[level.upper()],
            cache_path=cache,
            offline=True,
        )
        result = services.validate(settings)
        answer = [
            f"{issue.check.identifier} {issue.severity.name}: {issue.message}"
            for issue in result.get_issues()
        ]
    versions = {name: version(name) for name in ("roc-validator", "rocrate")}
    messages = {"profile": PROFILE, "level": level, "passed": result.passed(), "issues": answer}
    sys.stdout.write(json.dumps(versions | messages, indent=2) + "\n")


if __name__ == "__main__":
    main()
