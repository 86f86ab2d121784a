"""One HTML page about a training run and the dynamics that were run with its model."""

from geomlib.apply.report.page import write_evaluation, write_page, write_report

__all__ = ["write_evaluation", "write_page", "write_report"]
