"""Training on data of one's own from Python, and what it gives."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from pe_spatial.common.parts import encoder_key
from pe_spatial.common.reading import read_json
from pe_spatial.inference.predictor import Predictor
from pe_spatial.own.compose import Composition, compose
from pe_spatial.own.encoders import require_weights
from pe_spatial.own.request import Request
from pe_spatial.training import launch
from pe_spatial.training.checkpoint import resolve_checkpoint


@dataclass(frozen=True)
class Run:
    """A finished training.

    Attributes:
        folder: With checkpoints, curves and `RESULT.md`.
    """

    folder: Path

    @property
    def metrics(self) -> dict[str, float]:
        """Of the last validation."""
        metrics: dict[str, float] = read_json(self.folder / "result.json", {"metrics": dict})["metrics"]
        return metrics

    @property
    def best(self) -> Path:
        """The best checkpoint, or the last where none was chosen."""
        return resolve_checkpoint(self.folder)

    def predictor(self) -> Predictor:
        """The best model, ready to predict."""
        return Predictor(self.best)


class FirstScreenHook(Hook):
    """Shows what was recognized and decided before the facts of the run.

    Args:
        lines: To show.
    """

    priority = "NORMAL"

    def __init__(self, lines: Sequence[str]) -> None:
        self.lines = lines

    def before_train(self, runner: Runner) -> None:
        """Show."""
        for line in self.lines:
            runner.logger.info(line)


@overload
def train(
    what: Config, resume: launch.Resume = "no", hooks: Sequence[Hook] = (), trust: Sequence[str] = ()
) -> Runner: ...


@overload
def train(what: str, *, hooks: Sequence[Hook] = (), trust: Sequence[str] = (), **request: Any) -> Run: ...


def train(
    what: Config | str,
    resume: launch.Resume = "no",
    hooks: Sequence[Hook] = (),
    trust: Sequence[str] = (),
    **request: Any,
) -> Runner | Run:
    """Train a task on your own data, or a loaded config.

        run = pe_spatial.train("detection", data="photos", model="mask_rcnn-s", epochs=20)
        run.metrics, run.best, run.predictor()

    Args:
        what: A task; or a loaded config with `work_dir`, see `pe_spatial.training.launch.train`.
        resume: Of a config: whether to continue.
        hooks: Of the caller, beside those of the config.
        trust: Packages of your own that the config may import; see SECURITY.md.
        **request: Of a task: the options of `pe_spatial.own.request.Request`.

    Returns:
        The run of a task; of a config its Runner.

    Raises:
        UserError: Something does not fit together; the message has the value, the rule and the remedy.
    """
    if isinstance(what, str):
        return train_composition(compose(Request(what, **request)), hooks, trust)
    return launch.train(what, resume, hooks, trust)


def train_composition(composition: Composition, hooks: Sequence[Hook] = (), trust: Sequence[str] = ()) -> Run:
    """Train what was composed.

    Raises:
        UserError: As of `launch.train`; or the weights of the encoder are not here and cannot be fetched.
    """
    _require_weights(composition.config)
    launch.train(composition.config, "no", [FirstScreenHook(composition.lines), *hooks], [*composition.trust, *trust])
    return Run(Path(composition.config.work_dir).absolute())


def _require_weights(config: Config) -> None:
    """Find or fetch the weights of all encoders before anything else is begun."""
    model = config.model
    scratch = "; or train from scratch with weights=none"
    require_weights(model[encoder_key(model)].get("weights"), "weights", scratch)
    for teacher in (model.get("teachers") or {}).values():
        require_weights(teacher.get("backbone", teacher).get("weights"), "teacher")
