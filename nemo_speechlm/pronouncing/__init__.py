"""Words to phones: English, espeak-ng, lexicons, letters to sounds."""
