"""The one training loop: optimiser groups, schedule, moving average, precision, checkpoints, several processes, log."""

from .checkpoint import Checkpoint, load_checkpoint, read_checkpoint, save_checkpoint
from .config import EngineConfig
from .console import let_go, stderr_console
from .distributed import World, close, init, resolve_device
from .ema import Ema, ema_decay_at
from .files import CHECKPOINT, LOCK, METRICS_TABLE, RUN_FILES
from .lock import sole_trainer
from .loop import Evaluate, FitResult, fit
from .optimiser import build_optimiser, parameter_groups
from .precision import Precision, choose_precision
from .resume import GLOBAL_BATCH
from .schedule import schedule_factor, warmup_steps
from .signals import Interrupted
from .state import method_state
from .ways import USUAL, TorchAlone, Ways

__all__ = [
    "CHECKPOINT",
    "GLOBAL_BATCH",
    "LOCK",
    "METRICS_TABLE",
    "RUN_FILES",
    "USUAL",
    "Checkpoint",
    "Ema",
    "EngineConfig",
    "Evaluate",
    "FitResult",
    "Interrupted",
    "Precision",
    "TorchAlone",
    "Ways",
    "World",
    "build_optimiser",
    "choose_precision",
    "close",
    "ema_decay_at",
    "fit",
    "init",
    "let_go",
    "load_checkpoint",
    "method_state",
    "parameter_groups",
    "read_checkpoint",
    "resolve_device",
    "save_checkpoint",
    "schedule_factor",
    "sole_trainer",
    "stderr_console",
    "warmup_steps",
]
