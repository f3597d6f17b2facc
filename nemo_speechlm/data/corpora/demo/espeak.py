"""Speech from espeak-ng, for corpora that a program makes itself.

espeak-ng is GPL. It comes with the extra ``languages`` (the package ``espeakng-loader``) and is loaded only here, when
a synthesizer is asked for.
"""

import ctypes
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from nemo_speechlm.data.espeak_library import espeak_files
from nemo_speechlm.errors import SpeechLMError

_SYNCHRONOUS, _UTF8, _RATE, _PITCH, _RANGE = 2, 1, 1, 3, 4  # the constants of speak_lib.h that we need


class Voice(NamedTuple):
    """A voice of espeak-ng.

    Attributes:
        name: its language and variant, such as ``"en-us+f2"``.
        rate: words per minute.
        pitch: 0 to 99, 50 is the variant's own.
        range: 0 to 99, how lively the pitch is.
    """

    name: str
    rate: int = 160
    pitch: int = 50
    range: int = 50


class Espeak:
    """The synthesizer; there is one in a process (:func:`espeak`), because the library keeps its state in globals.

    Attributes:
        sample_rate: of the audio that :meth:`speak` returns.
    """

    def __init__(self) -> None:
        library, data = espeak_files()
        self._library = ctypes.CDLL(str(library))
        self._chunks: list[np.ndarray] = []
        # The callback must outlive every call into the library.
        self._callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)(
            self._collect
        )
        self.sample_rate: int = self._library.espeak_Initialize(_SYNCHRONOUS, 200, str(data).encode(), 0)
        if self.sample_rate <= 0:
            raise SpeechLMError(f"espeak-ng cannot read its data in {data}")
        self._library.espeak_SetSynthCallback(self._callback)

    def _collect(self, samples: Any, count: int, events: Any) -> int:
        if samples and count > 0:
            self._chunks.append(np.ctypeslib.as_array(samples, shape=(count,)).copy())
        return 0

    def speak(self, text: str, voice: Voice, seed: int = 0) -> np.ndarray:
        """Say ``text``; returns (S,) float32 in [-1, 1] at :attr:`sample_rate`.

        Args:
            text: what to say.
            voice: who says it.
            seed: of the voice's breath and flutter.

        Raises:
            SpeechLMError: if espeak-ng has no such voice, or has nothing to say.
        """
        if self._library.espeak_SetVoiceByName(voice.name.encode()) != 0:
            raise SpeechLMError(f"espeak-ng has no voice {voice.name!r}")
        for parameter, value in ((_RATE, voice.rate), (_PITCH, voice.pitch), (_RANGE, voice.range)):
            self._library.espeak_SetParameter(parameter, value, 0)
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(seed + 1))
        self._chunks = []
        encoded = text.encode() + b"\0"
        status = self._library.espeak_Synth(encoded, ctypes.c_size_t(len(encoded)), 0, 0, 0, _UTF8, None, None)
        if status != 0 or not self._chunks:
            raise SpeechLMError(f"espeak-ng could not say {text!r} (status {status})")
        return np.concatenate(self._chunks).astype(np.float32) / 32768.0


@cache
def espeak() -> Espeak:
    """This process's synthesizer.

    Raises:
        SpeechLMError: if the extra ``languages`` is not installed.
    """
    return Espeak()
