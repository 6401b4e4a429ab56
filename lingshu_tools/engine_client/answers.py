"""An engine's answers, checked before anything is made of them: do they answer the request?"""

from http import HTTPStatus
from typing import IO
from urllib.parse import quote

import httpx
from pydantic import ValidationError

from lingshu_model import __version__
from lingshu_model.contracts import (
    ArmRequest,
    Cells,
    EngineInfo,
    JobRequest,
    JobView,
    Origin,
    Requester,
    decode_cells,
    digest_json,
)
from lingshu_tools.errors import (
    EngineBusyError,
    EngineError,
    ForeignAnswerError,
    InputError,
    LingshuError,
    NotFoundError,
)

# Characters that stay as they are in a header; % is escaped, so that nothing is ambiguous.
_PLAIN = " !#$&'()*+,/:;=?@[]"
_ERRORS: dict[int, type[LingshuError]] = {
    HTTPStatus.NOT_FOUND: NotFoundError,
    HTTPStatus.UNPROCESSABLE_ENTITY: InputError,
    HTTPStatus.TOO_MANY_REQUESTS: EngineBusyError,
}


def requester_headers(requester: Requester) -> dict[str, str]:
    """Return the headers that say on whose behalf a request is."""
    fields = {
        "X-Lingshu-Principal": requester.principal,
        "X-Lingshu-Experiment": requester.experiment,
        "X-Lingshu-Group": requester.group,
    }
    # A header holds ASCII alone, and a principal's name may be in any script.
    return {name: quote(value, safe=_PLAIN) for name, value in fields.items() if value}


def info_of(response: httpx.Response, place: str) -> EngineInfo:
    """Return what an engine of any version says of itself; fields not known here are left out.

    Raises:
        EngineError: it is no engine, or one that cannot be understood.
    """
    try:
        said = checked(response).json()
        fields = {name: said[name] for name in EngineInfo.model_fields if name in said}
        return EngineInfo.model_validate(fields)
    except (ValidationError, ValueError, TypeError) as error:
        message = (
            f"what answers at {place} is no engine that lingshu {__version__} understands. "
            "`lingshu engine stop` ends it"
        )
        raise EngineError(message) from error


def view_of(
    response: httpx.Response, wanted: JobRequest | None, job_id: str | None = None
) -> JobView:
    """Return the job's view in an answer, which must be that of the job asked for.

    Raises:
        ForeignAnswerError: it is of another job, or no view.
    """
    try:
        view = JobView.model_validate_json(response.content)
    except ValidationError as error:
        message = f"the engine answered {response.text[:200]!r}, which is no view of a job"
        raise ForeignAnswerError(message) from error
    # Without a submission of this process only the job's id can be compared.
    arguments = (wanted.arm.digest, wanted.fresh) if wanted else (view.request, view.fresh)
    if (view.request, view.fresh) != arguments or job_id not in (None, view.job_id):
        message = (
            f"the engine answered with job {view.job_id} of arm {view.request}, and "
            f"{job_id or 'a job'} of {arguments[0]} was asked for: the answer was not used"
        )
        raise ForeignAnswerError(message)
    # The digest is what verdicts compare, so it is worked out again from the profile itself.
    if view.profile is not None and digest_json(view.profile) != view.profile_digest:
        message = f"the profile of job {view.job_id} is not {view.profile_digest}: it was not used"
        raise ForeignAnswerError(message)
    return view


def cells_of_request(file: IO[bytes], arm: ArmRequest) -> Cells:
    """Return the cells in a file, which must be those of an arm.

    Raises:
        ForeignAnswerError: they are another arm's, or no cells.
    """
    try:
        cells = decode_cells(file)
    except ValueError as error:
        raise ForeignAnswerError(str(error)) from error
    origin = cells.origin or Origin("an unknown arm")
    if origin.request != arm.digest or len(cells) != arm.n_cells:
        message = (
            f"the engine sent {len(cells)} cells of {origin.request}, and {arm.n_cells} of "
            f"{arm.digest} were asked for: they were not used"
        )
        raise ForeignAnswerError(message)
    return cells


def checked(response: httpx.Response) -> httpx.Response:
    """Return an answer that is no error.

    Raises:
        LingshuError: the engine's words, as the error that the status stands for.
    """
    if response.is_success:
        return response
    # A streamed answer has no body yet.
    response.read()
    try:
        text = str(response.json()["error"])
    except (ValueError, KeyError, TypeError):
        text = f"the engine answered {response.status_code}: {response.text[:200]!r}"
    raise _ERRORS.get(response.status_code, EngineError)(text)
