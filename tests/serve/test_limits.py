"""The texts of refusals."""

import json

from src.serve import app as app_module
from src.serve.limits import Refusal, from_upload


def test_refusals_with_half_a_surrogate_pair_are_answers():
    refusal = Refusal(415, f"{from_upload(chr(0xd800) + '.txt')} {chr(0xdfff)}\a: no volume\nat all")
    assert refusal.reason == "\ufffd.txt \ufffd\ufffd: no volume\nat all"
    assert refusal.logged == "... \ufffd\ufffd: no volume; at all"
    assert json.loads(app_module._refused(refusal).body) == {"error": refusal.reason}
