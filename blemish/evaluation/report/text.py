"""Sentences and number formats of a report: counts at the threshold, their significance, and reasons for absence."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import PurePath

    from blemish.types import Report

NO_BREAK = "\u00a0"
# Metric, its title and its explanation, in the order shown.
METRICS = {
    "image_AUROC": ("Image AUROC", "how well scores tell defective images from good ones; 0.5 is guessing"),
    "image_AP": ("Image AP", "mean precision over all thresholds"),
    "image_F1Max": ("Image F1-max", "the best F1 of any threshold, chosen with the answers at hand"),
    "pixel_AUROC": (
        "Pixel AUROC",
        "how well the map tells defective pixels from good ones; small defects count little",
    ),
    "pixel_AP": ("Pixel AP", "mean precision over all thresholds of the map"),
    "pixel_F1Max": ("Pixel F1-max", "the best F1 of any threshold of the map"),
    "AUPRO": (
        "AUPRO",
        "mean overlap with each marked defect, large or small, at up to 30" + NO_BREAK + "% false pixels",
    ),
    "AUPRO_0.05": ("AUPRO, strict", "the same at up to 5" + NO_BREAK + "% false pixels"),
    "SegF1": ("SegF1", "F1 of all pixels at the calibrated threshold of the map"),
}
TIMINGS = {
    "n_train": "Training images",
    "n_test": "Test images",
    "fit_s": "Fitting",
    "test_s": "Testing",
    "predict_ms": "Per image",
}

# With fewer, the difference may be chance.
LEAST_MISSED = 3

_UNITS = {"_ms": "ms", "_s": "s", "_mb": "MB", "_gb": "GB", "_px": "px"}


class Counts(NamedTuple):
    """Images of a report at its threshold.

    Attributes:
        n_defective: images that the data set calls defective.
        n_found: those of them that the detector calls defective.
        n_good: images that the data set calls good.
        n_alarms: those of them that the detector calls defective.
    """

    n_defective: int
    n_found: int
    n_good: int
    n_alarms: int


def counts(report: Report) -> Counts:
    """Count the good and the defective images of a report, and those of them called defective."""
    defective = [result.label for result in report.tested if result.sample.is_defective]
    good = [result.label for result in report.tested if not result.sample.is_defective]
    return Counts(len(defective), sum(defective), len(good), sum(good))


def look_again(report: Report) -> tuple[int, int]:
    """Count the defective and the good images whose outcome is "look again"."""
    again = [result.sample.is_defective for result in report.tested if report.outcome(result) == "look again"]
    return sum(again), len(again) - sum(again)


def percent(share: float) -> str:
    """Return a rate in percent with three significant digits.

    >>> percent(0.01).replace(NO_BREAK, " "), percent(0.98413).replace(NO_BREAK, " ")
    ('1 %', '98.4 %')
    """
    return f"{100 * share:.3g}{NO_BREAK}%"


def observed(share: float) -> str:
    """Return a counted rate in percent with one decimal, the resolution of a few hundred images.

    >>> observed(0.05).replace(NO_BREAK, " ")
    '5.0 %'
    """
    return f"{100 * share:.1f}{NO_BREAK}%"


def measure(name: str, value: float) -> str:
    """Return a value with the unit of its name's suffix (_s, _ms, _mb, _gb, _px); the prefix n_ is a count.

    >>> [measure(*pair).replace(NO_BREAK, " ") for pair in (("fit_s", 12.34), ("fit_s", 4321.0), ("n_train", 1234.0))]
    ['12.3 s', '72 min 1 s', '1 234']
    """
    if name.endswith("_s") and value >= 119.5:
        minutes, seconds = divmod(round(value), 60)
        return f"{minutes:,}{NO_BREAK}min {seconds}{NO_BREAK}s".replace(",", NO_BREAK)
    unit = next((unit for end, unit in _UNITS.items() if name.endswith(end)), "")
    digits = (
        f"{value:,.0f}" if abs(value) >= 1000 or (name.startswith("n_") and value == int(value)) else f"{value:.3g}"
    )
    return digits.replace(",", NO_BREAK) + (NO_BREAK + unit if unit else "")


def three_decimals(value: float) -> str:
    """Return a metric with three decimals, with a fourth where a value below 1 would round to 1.

    >>> three_decimals(0.98765), three_decimals(1.0), three_decimals(0.99987)
    ('0.988', '1.000', '0.9998')
    """
    rounded = f"{value:.3f}"
    return f"{int(value * 10_000) / 10_000:.4f}" if rounded == "1.000" and value < 1 else rounded


def path_tail(path: PurePath) -> str:
    """Return the last three parts of a path, which identify the file without the folders of a computer.

    >>> from pathlib import PurePosixPath
    >>> path_tail(PurePosixPath("/home/anna/line4/test/cut/000.png"))
    'test/cut/000.png'
    """
    return "/".join(path.parts[-3:])


def wilson_interval(n_hits: int, n: int) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of a rate with `n_hits` in `n` trials; (0, 1) if `n` is 0.

    >>> [round(limit, 3) for limit in wilson_interval(1, 20)]
    [0.009, 0.236]

    Source: Wilson 1927.
    """
    if n == 0:
        return 0.0, 1.0
    z = 1.959964  # 97.5 % of the normal distribution
    share, spread = n_hits / n, z * z / n
    middle = (share + spread / 2) / (1 + spread)
    half = math.sqrt(share * (1 - share) * spread + spread * spread / 4) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


def tail_probability(n_hits: int, n: int, rate: float) -> float:
    """Return the upper tail of the binomial distribution: P(at least `n_hits` in `n` trials) at a rate.

    >>> round(tail_probability(1, 20, 0.01), 3)
    0.182
    """
    if n_hits <= 0 or rate >= 1:
        return 1.0
    if rate <= 0:
        return 0.0

    def log_probability(k: int) -> float:
        ways = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
        return ways + k * math.log(rate) + (n - k) * math.log1p(-rate)

    return min(1.0, math.fsum(math.exp(log_probability(k)) for k in range(n_hits, n + 1)))


def headline(report: Report) -> str:
    """Return the outcome at the threshold as a sentence without metrics."""
    n_defective, n_found, n_good, n_alarms = counts(report)
    if not n_defective and not n_good:
        return "No image was tested."
    if not n_defective:
        defects = "there were no defective images, so nothing is known of misses"
    elif n_defective == 1:
        defects = f"the one defective image was {'found' if n_found else 'missed'}"
    else:
        defects = f"{_of(n_found, n_defective, 'defective images')} found"
    called = "called defective" if report.upper_threshold is None else "above the threshold"
    if not n_good:
        alarms = "there were no good images, so nothing is known of false positives"
    elif n_good == 1:
        alarms = f"the one good image was {called if n_alarms else 'called good'}"
    else:
        alarms = f"{_of(n_alarms, n_good, 'good ones' if n_defective else 'good images')} {called}"
        alarms += f" ({observed(n_alarms / n_good)})" if n_alarms else ""
    n_defective, n_good = look_again(report)
    again = f"Look again: {n_defective} defective and {n_good} good. " if n_defective or n_good else ""
    asked = f"You asked for {percent(report.false_positive_rate_set)} false positives."
    return f"{defects[0].upper()}{defects[1:]}; {alarms}. {again}{asked}"


def _of(n_hits: int, n: int, of_what: str) -> str:
    """Return the subject and verb of a sentence about `n_hits` of `n` >= 2 images."""
    if n_hits == n:
        return f"{'both' if n == 2 else f'all {n}'} {of_what} were"
    if not n_hits:
        return f"none of {n} {of_what} was"
    return f"{n_hits} of {n} {of_what} {'was' if n_hits == 1 else 'were'}"


def caution(report: Report) -> str:
    """Return whether the false positives contradict the stated rate (binomial test); "" if nothing needs saying.

    The significance level is 1 %: the promised rate itself varies with the calibration images, and a report may cover
    many categories.
    """
    _, _, n_good, n_alarms = counts(report)
    rate = report.false_positive_rate_set
    if not n_good:
        return ""
    if tail_probability(n_alarms, n_good, rate) < 0.01:
        return (
            "These are more false positives than chance explains: the good test images differ from the training "
            "images (light, lens, material, position), or there were too few of those to promise that rate."
        )
    if n_alarms > rate * n_good:
        return f"With {n_good} good images that many false positives are within what chance allows."
    if n_good * rate < 1:
        needed = f"{math.ceil(3 / rate):,}".replace(",", NO_BREAK)  # the rule of three, at 95 %
        return f"{n_good} good images are too few to check that rate; it takes about {needed}."
    return ""


def missed_caution(report: Report) -> str:
    """Return that another threshold would find many more defects, and what to do; "" if none would.

    It would with half of the misses at most, and no more false positives among the good test images than the rate that
    is stated, or than there are.
    """
    n_defective, n_found, n_good, n_alarms = counts(report)
    n_missed = n_defective - n_found
    if not n_good or n_missed < max(LEAST_MISSED, n_defective / 4):
        return ""
    good = sorted(result.score for result in report.tested if not result.sample.is_defective)
    n_allowed = max(n_alarms, math.floor(report.false_positive_rate_set * n_good))
    lower = good[max(n_good - 1 - n_allowed, 0)]
    n_left = sum(result.score <= lower for result in report.tested if result.sample.is_defective)
    if 2 * n_left > n_missed:
        return ""
    return (
        f"{n_missed} of {n_defective} defective images are below the threshold {report.threshold:.4g}; with one of "
        f"{lower:.4g} it would be {n_left}, and no more false positives among these {n_good} good images. Defective or "
        "odd images among the good ones of the fit raise the threshold: `blemish suspects` lists the plainest, look "
        "for others too. `blemish thresholds` weighs other rates."
    )


def reason_absent(report: Report, metric: str) -> str:
    """Return the reason why a metric is absent from a report."""
    n_defective, _, n_good, _ = counts(report)
    if not n_defective and not n_good:
        return "no images"
    if not n_defective:
        return "no defective images"
    if metric.startswith("image_"):
        return "no good images" if not n_good else "not computed"
    has_masks = any(result.sample.mask_path is not None for result in report.tested)
    return "not computed" if has_masks else "no masks"
