from pathlib import Path, PurePosixPath

import pytest

from blemish import types as records
from blemish.evaluation.report.text import (
    NO_BREAK,
    caution,
    counts,
    headline,
    measure,
    missed_caution,
    path_tail,
    percent,
    reason_absent,
    tail_probability,
    three_decimals,
    wilson_interval,
)
from blemish.types import Report, Sample
from tests.lazy import scipy_stats


def report_of(
    good: int = 0, alarms: int = 0, defective: int = 0, found: int = 0, *, rate: float = 0.01, mask: bool = False
) -> Report:
    tested = [
        records.Tested(Sample(Path(f"good/{i}.png")), 30.0 if i < alarms else 10.0, i < alarms, 0.5, 0.05)
        for i in range(good)
    ]
    for i in range(defective):
        sample = Sample(Path(f"cut/{i}.png"), defect="cut", mask_path=Path("m.png") if mask else None)
        tested.append(records.Tested(sample, 30.0 if i < found else 10.0, i < found, 0.01, 0.05))
    return Report("part", {}, {}, {}, 20.0, rate, tuple(tested))


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ((20, 1, 63, 61), "61 of 63 defective images were found; 1 of 20 good ones was called defective (5.0 %)."),
        ((20, 0, 63, 63), "All 63 defective images were found; none of 20 good ones was called defective."),
        ((20, 2, 63, 1), "1 of 63 defective images was found; 2 of 20 good ones were called defective (10.0 %)."),
        ((1, 0, 2, 0), "None of 2 defective images was found; the one good image was called good."),
        ((1, 1, 1, 1), "The one defective image was found; the one good image was called defective."),
        ((2, 2, 1, 0), "The one defective image was missed; both good ones were called defective (100.0 %)."),
        (
            (0, 0, 3, 3),
            "All 3 defective images were found; there were no good images, so nothing is known of false",
        ),
        ((3, 0, 0, 0), "There were no defective images, so nothing is known of misses; none of 3 good images was"),
    ],
)
def test_headline(numbers: tuple[int, int, int, int], text: str) -> None:
    sentence = headline(report_of(*numbers)).replace(NO_BREAK, " ")
    assert sentence.startswith(text)
    assert sentence.endswith("You asked for 1 % false positives.")


def test_headline_without_images() -> None:
    assert headline(report_of()) == "No image was tested."


def test_counts_by_ground_truth_and_label() -> None:
    assert counts(report_of(20, 1, 63, 61)) == (63, 61, 20, 1)


@pytest.mark.parametrize(
    ("good", "alarms", "rate", "text"),
    [
        (20, 3, 0.01, "more false positives than chance explains"),
        (20, 1, 0.01, "With 20 good images that many false positives are within what chance allows."),
        (20, 0, 0.01, "20 good images are too few to check that rate; it takes about 300."),
        (5, 0, 0.001, f"it takes about 3{NO_BREAK}000."),
        (400, 3, 0.01, ""),
        (0, 0, 0.01, ""),
    ],
)
def test_caution_is_a_binomial_test(good: int, alarms: int, rate: float, text: str) -> None:
    sentence = caution(report_of(good, alarms, 1, 1, rate=rate))
    assert text in sentence
    assert bool(sentence) == bool(text)


@pytest.mark.parametrize(
    ("good", "alarms", "defective", "found", "text"),
    [
        ([10, 11, 12], 0, [15.0] * 7, 0, "7 of 7 defective images are below the threshold 20; with one of 12 it would"),
        ([10, 11, 12], 0, [15.0, 15, 9, 25], 1, "3 of 4 defective images are below the threshold 20; with one of 12"),
        ([10, 11, 19], 0, [15.0] * 7, 0, ""),  # it would cost a false positive
        ([10, 11, 25], 1, [15.0] * 7, 0, "with one of 11 it"),  # one is there already
        ([10, 11, 12], 0, [15.0, 15], 0, ""),
        ([10, 11, 12], 0, [25.0] * 10 + [15.0] * 3, 10, ""),
        ([], 0, [15.0] * 7, 0, ""),
    ],
)  # fmt: skip
def test_a_threshold_that_misses_what_another_finds_is_told(
    good: list[float], alarms: int, defective: list[float], found: int, text: str
) -> None:
    tested = [records.Tested(Sample(Path("good/1.png")), score, score > 20, 0.5, 0.05) for score in good]
    tested += [records.Tested(Sample(Path("cut/1.png"), defect="cut"), s, s > 20, 0.5, 0.05) for s in defective]
    report = Report("part", {}, {}, {}, 20.0, 0.02, tuple(tested))
    assert counts(report) == (len(defective), found, len(good), alarms)
    assert (text in missed_caution(report)) if text else not missed_caution(report)


@pytest.mark.slow
@pytest.mark.parametrize("n_hits", [0, 1, 3, 20])
@pytest.mark.parametrize("rate", [0.0, 0.01, 0.5, 1.0])
def test_tail_probability_equals_scipy(n_hits: int, rate: float) -> None:
    assert tail_probability(n_hits, 20, rate) == pytest.approx(scipy_stats.binom.sf(n_hits - 1, 20, rate), abs=1e-12)


@pytest.mark.parametrize(("n_hits", "n"), [(0, 5), (1, 20), (61, 63), (7, 7), (500, 1000)])
def test_wilson_interval_equals_scipy(n_hits: int, n: int) -> None:
    expected = scipy_stats.binomtest(n_hits, n).proportion_ci(method="wilson")
    assert wilson_interval(n_hits, n) == pytest.approx((expected.low, expected.high), abs=1e-6)
    assert wilson_interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("report", "metric", "reason"),
    [
        (report_of(), "image_AUROC", "no images"),
        (report_of(2), "AUPRO", "no defective images"),
        (report_of(0, 0, 2, 2), "image_AUROC", "no good images"),
        (report_of(2, 0, 2, 2), "AUPRO", "no masks"),
        (report_of(2, 0, 2, 2, mask=True), "AUPRO", "not computed"),
        (report_of(2, 0, 2, 2), "image_AP", "not computed"),
    ],
)
def test_an_absent_metric_has_a_reason(report: Report, metric: str, reason: str) -> None:
    assert reason_absent(report, metric) == reason


def test_percent_keeps_three_digits() -> None:
    assert [percent(x).replace(NO_BREAK, " ") for x in (0, 0.001, 0.98413, 1)] == ["0 %", "0.1 %", "98.4 %", "100 %"]


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("fit_s", 12.34, "12.3 s"), ("fit_s", 119.4, "119 s"), ("fit_s", 119.6, "2 min 0 s"),
        ("fit_s", 76_543.0, "1 275 min 43 s"), ("predict_ms", 45.67, "45.7 ms"), ("predict_ms", 4567.8, "4 568 ms"),
        ("n_train", 264.0, "264"), ("n_test", 12_345.0, "12 345"), ("peak_mb", 812.5, "812 MB"),
        ("image_size_px", 320.0, "320 px"), ("other", 0.123456, "0.123"), ("fit_s", float("nan"), "nan s"),
    ],
)  # fmt: skip
def test_the_suffix_of_a_name_is_its_unit(name: str, value: float, text: str) -> None:
    assert measure(name, value).replace(NO_BREAK, " ") == text


@pytest.mark.parametrize(
    ("value", "shown"),
    [(1.0, "1.000"), (0.99999, "0.9999"), (0.9996, "0.9996"), (0.9994, "0.999"), (0.0, "0.000"), (-0.25, "-0.250")],
)
def test_a_metric_below_one_is_not_rounded_to_one(value: float, shown: str) -> None:
    assert three_decimals(value) == shown


def test_a_file_name_has_no_more_than_three_parts_of_its_path() -> None:
    assert path_tail(PurePosixPath("/home/anna/line4/test/cut/000.png")) == "test/cut/000.png"
    assert path_tail(PurePosixPath("000.png")) == "000.png"
