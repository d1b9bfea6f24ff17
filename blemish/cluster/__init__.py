"""The same work on many machines, on Ray: fits and tests of many categories, predictions and defects of many images.

Ray is loaded when a function of this package is called, and not before.
"""

from blemish.cluster.errors import ClusterError
from blemish.cluster.evaluation import EvaluationResult, evaluate_many
from blemish.cluster.fit import FitResult, fit_many
from blemish.cluster.indexing import index_many
from blemish.cluster.maps import read_map, read_mask
from blemish.cluster.plan import FitPlan, PlannedFit, plan_fits
from blemish.cluster.predictions import PredictResult, predict

__all__ = [
    "ClusterError",
    "EvaluationResult",
    "FitPlan",
    "FitResult",
    "PlannedFit",
    "PredictResult",
    "evaluate_many",
    "fit_many",
    "index_many",
    "plan_fits",
    "predict",
    "read_map",
    "read_mask",
]
