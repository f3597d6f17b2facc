"""The program behind ``serve.py``: a socket, the model, the server."""

import socket
import sys
from contextlib import suppress

from omegaconf import DictConfig

from nemo_speechlm.checks import check_model_file, check_number, check_whole, is_hub_name
from nemo_speechlm.decoding.options import DecodingOptions
from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.imports import importing
from nemo_speechlm.inference.inputs import check_cutting
from nemo_speechlm.quiet import verbose_by_environment

LOCAL = ("127.0.0.1", "localhost", "::1")


def check_options(cfg: DictConfig) -> DecodingOptions:
    """Check what can be checked before a model is loaded.

    Raises:
        SpeechLMError: naming the key that is wrong.
    """
    check_whole("port", cfg.port)
    if cfg.port > 65535:
        raise InputError(f"port is {cfg.port}, expected a whole number from 0 to 65535")
    for key in ("max_megabytes", "max_duration", "time_limit"):
        check_number(key, cfg[key], above=0)
    check_whole("waiting", cfg.waiting)
    check_cutting(cfg)
    if cfg.units is not None and not is_hub_name(str(cfg.units)):
        check_model_file(cfg.units)
    return DecodingOptions.of(cfg)


def open_socket(host: str, port: int) -> socket.socket:
    """A socket that listens at an address.

    Raises:
        SpeechLMError: if it is taken, or not one of this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
    except OSError as error:
        found.close()
        raise SpeechLMError(f"cannot listen at host={host} port={port}: {error.strerror or error}") from error
    return found


def serve(cfg: DictConfig, options: DecodingOptions) -> None:
    """Serve the page until Ctrl-C.

    Args:
        cfg: see ``conf/serve.yaml``.
        options: of decoding.

    Raises:
        SpeechLMError: if the libraries of the extra ``serve`` are missing, the address is taken, or the model is not
            one that recognizes.
    """
    try:
        import starlette  # noqa: F401
        import uvicorn
    except ImportError as error:
        raise SpeechLMError("serve needs starlette and uvicorn: pip install 'nemo_speechlm[serve]'") from error
    with open_socket(cfg.host, cfg.port) as bound:  # before a model is loaded: the address may be taken
        with importing():
            from nemo_speechlm.serving.app import make_app
            from nemo_speechlm.serving.listener import Listener

        local = cfg.host in LOCAL
        if not local:
            print(
                f"warning: host={cfg.host}: whoever reaches this machine can use the page. There is no password and "
                "no encryption, and browsers give a microphone only to 127.0.0.1 and to https.",
                file=sys.stderr,
            )
        app = make_app(
            Listener.of(cfg, options),
            max_megabytes=cfg.max_megabytes,
            time_limit=cfg.time_limit,
            waiting=cfg.waiting,
            hosts=[*LOCAL, f"[{LOCAL[2]}]"] if local else ["*"],
        )
        level = "info" if verbose_by_environment() else "error"
        server = uvicorn.Server(uvicorn.Config(app, log_level=level, timeout_graceful_shutdown=5))
        bound.listen()
        port = bound.getsockname()[1]
        shown = f"[{cfg.host}]" if ":" in cfg.host else cfg.host
        print(f"Open http://{shown}:{port}/ in a browser; Ctrl-C ends.", file=sys.stderr)
        with suppress(
            KeyboardInterrupt
        ):  # that is how it ends; where a shell has it in the background, it just returns
            server.run(sockets=[bound])
        print("ended", file=sys.stderr)
