from .cache import CaseStore
from .dataset import Case, CaseDataset
from .layouts import read_data
from .prepare import prepare_phantom, prepare_synapse
from .sampling import EpochBatchSampler, SliceDataset
from .splits import divide_cases

__all__ = [
    "Case",
    "CaseDataset",
    "CaseStore",
    "EpochBatchSampler",
    "SliceDataset",
    "divide_cases",
    "prepare_phantom",
    "prepare_synapse",
    "read_data",
]
