"""Makes some of schemathesis's uploads speech: random bytes alone would never get past the decoder."""

import os

import schemathesis
from hypothesis import strategies

with open(os.environ["SPEECH"], "rb") as file:
    SPEECH = file.read()

schemathesis.openapi.format("binary", strategies.one_of(strategies.just(SPEECH), strategies.binary(max_size=256)))
