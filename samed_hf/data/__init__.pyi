from .arguments import DataArguments
from .cache import CaseStore
from .dataset import Case, CaseDataset
from .layouts import read_data
from .phantom import phantom_affine, phantom_patient
from .prepare import prepare_phantom, prepare_synapse
from .processor import make_processor
from .sampling import EpochBatchSampler, SliceDataset
from .splits import divide_cases

__all__ = [
    "Case",
    "CaseDataset",
    "CaseStore",
    "DataArguments",
    "EpochBatchSampler",
    "SliceDataset",
    "divide_cases",
    "make_processor",
    "phantom_affine",
    "phantom_patient",
    "prepare_phantom",
    "prepare_synapse",
    "read_data",
]
