"""The same work on many machines, on Ray: fits of many categories, predictions of many images.

Ray is loaded when a function of this package is called, and not before.
"""

from blemish.cluster.errors import ClusterError
from blemish.cluster.fit import FitResult, fit_many
from blemish.cluster.plan import FitPlan, PlannedFit, plan_fits
from blemish.cluster.predictions import PredictResult, predict

__all__ = ["ClusterError", "FitPlan", "FitResult", "PlannedFit", "PredictResult", "fit_many", "plan_fits", "predict"]
