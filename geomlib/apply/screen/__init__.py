"""Screening: from a file of molecules to the same file with properties, predictions, ranks and a status of each row."""

from geomlib.apply.screen.run import STAGES, ScreenPlan, ScreenResult, screen

__all__ = ["STAGES", "ScreenPlan", "ScreenResult", "screen"]
