from .case import predict_case
from .run import predict_cases
from .settings import PredictionSettings

__all__ = ["PredictionSettings", "predict_case", "predict_cases"]
