import pytest

from geomlib.errors import ConfigError
from geomlib.tasks.schedule import Schedule
from geomlib.training.schedules import WSD, Constant, Cosine, Exponential


def test_exponential_in_stairs_reaches_the_stop_rate():
    schedule = Exponential(stop_lr=1e-5, decay_steps=100)
    gamma = (1e-5 / 1e-3) ** (100 / 1000)
    assert schedule.factor(0, 1000, 1e-3) == schedule.factor(99, 1000, 1e-3) == 1.0
    assert schedule.factor(250, 1000, 1e-3) == pytest.approx(gamma**2)
    assert schedule.factor(1000, 1000, 1e-3) == pytest.approx(1e-2)
    assert schedule.factor(5000, 1000, 1e-3) == pytest.approx(1e-2)
    smooth = Exponential(stop_lr_ratio=1e-2, decay_steps=100, smooth=True)
    assert smooth.factor(250, 1000, 1e-3) == pytest.approx(gamma**2.5)


def test_stairs_longer_than_the_run_are_an_error():
    with pytest.raises(ConfigError, match="decay_steps is 5000, but the run has 600 steps"):
        Exponential(stop_lr=1e-5).factor(0, 600, 1e-3)
    assert Exponential(smooth=True).factor(600, 600, 1e-3) == pytest.approx(0.01)


def test_warm_up_rises_in_a_line_and_the_rest_starts_after_it():
    schedule = Cosine(warmup_steps=10, warmup_start_factor=0.2)
    assert [schedule.factor(k, 110, 1.0) for k in (0, 5, 10)] == pytest.approx([0.2, 0.6, 1.0])
    assert schedule.factor(60, 110, 1.0) == pytest.approx(0.5)
    assert schedule.factor(110, 110, 1.0) == pytest.approx(0.0)
    assert Constant(warmup_ratio=0.1).factor(5, 100, 1.0) == pytest.approx(0.5)
    assert Schedule().factor(7, None, 1.0) == 1.0


def test_wsd_is_stable_then_falls():
    schedule = WSD(decay_ratio=0.2, stop_lr_ratio=0.1)
    assert [schedule.factor(k, 100, 1.0) for k in (0, 80, 90, 100)] == pytest.approx([1.0, 1.0, 0.55, 0.1])
    assert WSD(decay_ratio=0.2, stop_lr_ratio=0.1, shape="cosine").factor(90, 100, 1.0) == pytest.approx(0.55)
    assert WSD(decay_ratio=0.2, stop_lr=1e-4, shape="exponential").factor(90, 100, 1e-2) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Cosine(stop_lr=1e-5, stop_lr_ratio=0.1), "not both"),
        (lambda: Cosine(warmup_steps=3, warmup_ratio=0.1), "not both"),
        (lambda: Cosine(stop_lr=1.0).factor(5, 10, 1e-3), "above the start"),
        (lambda: Cosine().factor(0, None, 1e-3), "needs an end"),
        (lambda: Constant(warmup_steps=10).factor(10, 10, 1e-3), "leave nothing"),
        (lambda: WSD(decay_ratio=0.0), "decay_ratio"),
        (lambda: WSD(shape="square"), "shape"),
        (lambda: Exponential(stop_lr=0.0, decay_steps=1).factor(0, 10, 1e-3), "above zero"),
    ],
)
def test_contradictions_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
