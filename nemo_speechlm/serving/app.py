"""The web application: a page, what the model is, and recordings in, JSON out.

Nothing is fetched from elsewhere, and no other page in the same browser can use it: requests must name one of the
allowed hosts, and recordings have a content type that browsers do not send across sites without asking.
"""

import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.serving.listener import Listener
from nemo_speechlm.serving.turns import Busy, TimeUp, Turns

PAGE = Path(__file__).parent / "page"
CONTENT_TYPE = "application/octet-stream"
"""Of recordings, whatever their format."""

_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; media-src 'self' blob:; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def make_app(
    listener: Listener, *, max_megabytes: float, time_limit: float, waiting: int, hosts: Sequence[str] = ("*",)
) -> Starlette:
    """The application.

    Args:
        listener: the model.
        max_megabytes: of the largest upload; a megabyte has 10^6 bytes.
        time_limit: seconds from a recording's arrival to its answer, and for its upload.
        waiting: how many recordings may wait while one is recognized.
        hosts: names by which browsers may ask; ``*``: any.
    """
    turns = Turns(waiting, time_limit)
    most = int(max_megabytes * 1e6)

    async def about(request: Request) -> Response:
        return JSONResponse({**listener.about(), "max_bytes": most}, headers=_HEADERS)

    async def recognize(request: Request) -> Response:
        if request.headers.get("content-type") != CONTENT_TYPE:
            return _error(415, f"send the recording with the header Content-Type: {CONTENT_TYPE}")
        with tempfile.NamedTemporaryFile(prefix="recording-") as file:
            try:
                async with asyncio.timeout(time_limit):
                    if not await _receive(request, file, most):
                        return _error(413, f"the file is larger than {max_megabytes:g} MB (max_megabytes)")
                answer = await turns.run(lambda check: listener.listen(Path(file.name), check))
            except TimeoutError:
                return _error(408, f"the recording did not arrive within {time_limit:g} s (time_limit)")
            except ClientDisconnect:
                return Response(status_code=400)
            except (Busy, TimeUp) as error:
                return _error(503, str(error))
            except InputError as error:
                return _error(422, error.reason)
            except SpeechLMError as error:
                return _error(422, str(error))
            except Exception as error:  # of the model: the page says it, and the next recording is taken
                said = f"the model failed on this recording: {type(error).__name__}: {error}"
                print(f"error: {said}", file=sys.stderr)
                return _error(500, said)
        return JSONResponse({"name": request.query_params.get("name", ""), **answer}, headers=_HEADERS)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        turns.close()

    return Starlette(
        routes=[
            *(Route(f"/{name}", _file(path)) for name, path in _files().items()),
            Route("/about", about),
            Route("/recognize", recognize, methods=["POST"]),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))],
        lifespan=lifespan,
    )


async def _receive(request: Request, file, most: int) -> bool:  # a NamedTemporaryFile
    """Write what is uploaded to a file; False if it is too large."""
    if int(request.headers.get("content-length", 0)) > most:
        return False
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > most:
            return False
        file.write(chunk)
    file.flush()
    return True


def _files() -> dict[str, Path]:
    """The files of the page by the names that they are asked for."""
    return {"" if path.name == "index.html" else path.name: path for path in sorted(PAGE.iterdir())}


def _file(path: Path):  # an endpoint
    async def endpoint(request: Request) -> Response:
        return FileResponse(path, headers=_HEADERS)

    return endpoint


def _error(status: int, message: str) -> Response:
    return JSONResponse({"error": message}, status_code=status, headers=_HEADERS)
