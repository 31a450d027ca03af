"""What profile.json says about a calibration set."""

from luq_gguf.calibration.profiler import calibration_facts
from luq_gguf.core.calibration_set import CalibrationData
from luq_gguf.core.types import Sample


def test_a_profile_says_which_day_chat_templates_were_told():
    facts = calibration_facts(CalibrationData((), (Sample("x"),), None, 1, 0.0, 0, "0f"))
    assert facts.to_json()["chat_date"] == "2026-01-01"
