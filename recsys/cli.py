"""The command line around Hydra: mistakes end in one clear message and exit code 1, and leave nothing behind."""

import contextlib
import errno
import functools
import logging
import os
import re
import shutil
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from io import TextIOWrapper
from pathlib import Path
from types import FrameType
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf, ValueNode, read_write
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
from pytorch_lightning.utilities import rank_zero_only
from rich.console import Console
from yaml import YAMLError

from recsys.checkpoints import Interrupted
from recsys.config import USER_ERRORS
from recsys.declare import nearest

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None  # type: ignore[assignment]

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
STUDY = "study.db"  # of a search
BEGUN = ("config.yaml", STUDY, f"*/tune/{STUDY}")  # what a run, a search or a comparison writes first
TERMINATED, REFUSED = 128 + signal.SIGTERM, 2
log = logging.getLogger(__name__)
Job = tuple[list[str], Path]  # a run's overrides and its folder


class Refused(Exception):
    """Nothing failed, but what was asked for is not to be had; the process ends with exit code 2."""


def launch(
    config_name: str,
    task: Callable[[DictConfig], float | None],
    after_several: Callable[[list[Job]], None] | None = None,
) -> None:
    """Run `task` under Hydra with the configuration `config_name`; ends the process.

    A user's mistake prints one message and gives exit code 1; in a multirun the other runs go on, and those that came
    to their end are handed to `after_several`.
    """
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # hand errors to us instead of printing a trace
    failures: list[str] = []
    done: list[Job] = []

    @functools.wraps(task)
    def job(cfg: DictConfig) -> float | None:
        try:
            quiet_libraries()
            check_types(cfg)
            result = task(cfg)
            done.append((list(HydraConfig.get().overrides.task), run_folder()))
            return result
        except (*USER_ERRORS, OmegaConfBaseException) as error:
            failures.append(str(error))
            complain(describe(error) + leave_folder(run_folder()))
            return None
        except TakenFolder as error:
            failures.append(str(error))
            complain(str(error))
            return None
        except Refused as error:
            complain(str(error))
            sys.exit(REFUSED)
        except Interrupted as error:
            if getattr(rank_zero_only, "rank", 0) == 0:
                complain(str(error))
            elif not (run_folder() / "config.yaml").exists():
                leave_folder(run_folder())  # each of torchrun's processes names a folder by its own clock
            sys.exit(128 + error.number)
        except (KeyboardInterrupt, SystemExit) as error:  # Lightning answers Ctrl-C with an exit
            complain(" ".join(("interrupted." + leave_folder(run_folder()), *getattr(error, "__notes__", ()))))
            sys.exit(TERMINATED if error.args == (TERMINATED,) else 130)

    try:
        with terminable():
            hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=config_name)(job)()
    except (HydraException, OmegaConfBaseException, OSError, YAMLError) as error:
        complain(explain(error, config_name))
        sys.exit(1)
    if after_several and len(done) > 1:
        after_several(done)
    sys.exit(1 if failures else 0)


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM end the body by SystemExit, so that half-written files are removed; training has its own answer."""

    def leave(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        sys.exit(TERMINATED)

    earlier = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, earlier)


def complain(message: str) -> None:
    """Print an error message on stderr."""
    Console(stderr=True, highlight=False, soft_wrap=True).print("[bold red]error:[/]", end=" ")
    print(message.strip(), file=sys.stderr)  # noqa: T201 - the one place that speaks to the terminal


def run_folder() -> Path:
    """The folder of the running job."""
    return Path(HydraConfig.get().runtime.output_dir)


def go_on_in(folder: Path) -> Path:
    """Make an earlier run's folder that of the running job, with its run.log; nothing is left of the new one."""
    new = run_folder().resolve()
    if folder.resolve() != new:
        for handler in logging.getLogger().handlers:
            if isinstance(handler, RunLog):
                handler.discard()
                handler.baseFilename = str(folder / "run.log")  # which it opens with the next message
        leave_folder(new)
        config: Any = HydraConfig.get()
        with read_write(config):
            config.runtime.output_dir = str(folder)
    return folder


class TakenFolder(Exception):
    """Another process runs in the folder, and nothing there is to be touched."""


class RunLog(logging.FileHandler):
    """run.log, open as long as a process runs in the folder, which keeps others out.

    When it cannot be written the run ends with a message, rather than going on with a trace per line.
    """

    def _open(self) -> TextIOWrapper:
        """Raises TakenFolder where another process has the file open; the ranks of one run share it."""
        stream = super()._open()
        if fcntl and getattr(rank_zero_only, "rank", 0) == 0:
            try:
                fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the process's own: not that of workers it leaves
            except OSError as error:
                if error.errno in (errno.EACCES, errno.EAGAIN):  # others: a network file system without locks
                    stream.close()
                    raise TakenFolder(
                        f"another process is at work in {Path(self.baseFilename).parent}; wait for its end, or give "
                        "another folder by hydra.run.dir=..."
                    ) from None
        return stream

    def discard(self) -> None:
        """Close and remove the file, unless it was not opened: one that is there is another process's."""
        if self.stream is not None:
            self.close()
            Path(self.baseFilename).unlink(missing_ok=True)

    def handleError(self, record: logging.LogRecord) -> None:
        """Raises OSError naming the file."""
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            raise OSError(error.errno, f"cannot write the file: {error.strerror}", self.baseFilename) from error
        super().handleError(record)


def write_run_log(text: str) -> None:
    """Write to run.log alone, where the running job has one."""
    record = log.makeRecord(log.name, logging.INFO, __file__, 0, text, (), None)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, RunLog):
            handler.handle(record)


def leave_folder(folder: Path) -> str:
    """Remove what Hydra wrote for a run that came to nothing; keep one that began, with the error's trace in its log.

    Returns what the message should add.
    """
    if any(any(folder.glob(name)) for name in BEGUN):
        with contextlib.suppress(OSError), (folder / "run.log").open("a", encoding="utf-8") as file:
            file.write(traceback.format_exc())
        return f" What was done so far and run.log are in {folder}."
    for handler in logging.getLogger().handlers:
        if isinstance(handler, RunLog) and Path(handler.baseFilename).parent == folder:
            logging.getLogger().removeHandler(handler)  # a multirun announces its next run before it has a log
            handler.discard()
            break
    shutil.rmtree(folder / ".hydra", ignore_errors=True)
    with contextlib.suppress(OSError):  # not empty: not ours to remove
        for place in (folder, *folder.parents[:3]):
            place.rmdir()
    return ""


def explain(error: Exception, config_name: str) -> str:
    """A configuration error in one sentence, with the nearest valid name."""
    cause = error.__cause__ or error
    if isinstance(error, OverrideParseException):
        name, _, value = error.override.partition("=")
        return (
            f"`{error.override}` cannot be read as option=value; close every bracket, and put a text with signs such "
            f"as = or ; in quotes inside those of the shell: '{name}=\"{value}\"'."
        )
    if isinstance(cause, (ConfigKeyError, ConfigAttributeError)) and cause.parent_node is not None:
        name = str(cause.full_key)
        added = name.startswith("data.") and CONFIGS / "train.yaml" in _main_files(config_name)
        more = f" To add what the file does not list, write +{name}=..." if added else ""
        return f"there is no option `{name}`: {nearest(str(cause.key), cause.parent_node)}{more}"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options is not None:
        group, _, name = error.missing_cfg_file.rpartition("/")
        own = " For a yaml of your own add 'hydra.searchpath=[file://<its configs folder>]'." if group == "data" else ""
        return f"there is no `{group}={name}`: {nearest(name, error.options)}{own}"
    if match := re.match(r"Could not override '([^'.]+)'", str(error)):
        groups = [path.name for path in CONFIGS.iterdir() if path.is_dir()]
        options = [*groups, *(name for file in _main_files(config_name) for name in OmegaConf.load(file))]
        names = {str(o) for o in options} - {"defaults", "hydra", match[1]}  # a group may be one of another script
        return f"there is no option `{match[1]}`: {nearest(match[1], names)}"
    return " ".join(describe(error).split())


def describe(error: Exception) -> str:
    """An error's message as a sentence; an OSError that names no file is given the run's folder."""
    message = str(error).rstrip().removesuffix(".")
    if isinstance(error, OSError) and error.errno is not None and error.filename is None:
        message += f" in the run's folder, {run_folder() if HydraConfig.initialized() else '`hydra.run.dir`'}"
    return message if message.endswith(("?", "!")) else f"{message}."


def check_types(cfg: DictConfig) -> None:
    """Refuse a value whose type differs from the one that the option's own yaml file shows.

    Options whose file shows a text or null take any value here; they are checked where they are used.
    """
    choices = HydraConfig.get().runtime.choices
    files = {group: CONFIGS / group / f"{choice}.yaml" for group, choice in choices.items() if "/" not in group}
    files.pop("data", None)  # the schema types its own options
    for group, file in files.items():
        if file.is_file() and group in cfg:
            _same_types(OmegaConf.load(file), cfg[group], group)
    for main in _main_files(str(HydraConfig.get().job.config_name)):
        _same_types(OmegaConf.load(main), cfg, "")


def _main_files(config_name: str) -> list[Path]:
    """The yaml of a script and that of the script whose options it takes over."""
    file = CONFIGS / f"{config_name}.yaml"
    shown: Any = OmegaConf.load(file)
    defaults = shown.get("defaults", [])
    return [file, *(CONFIGS / f"{name}.yaml" for name in defaults if isinstance(name, str) and name != "_self_")]


def _same_types(shown: object, given: object, where: str) -> None:
    if isinstance(shown, DictConfig) and isinstance(given, DictConfig):
        for key in map(str, shown):
            option = f"{where}.{key}".lstrip(".")
            if OmegaConf.is_missing(given, key):
                raise ValueError(f"`{option}` has no value; give one as {option}=...")
            if key in given and not OmegaConf.is_missing(shown, key):
                _same_types(shown._get_node(key), given._get_node(key), option)
        return
    shown, given = (node._value() if isinstance(node, ValueNode) else node for node in (shown, given))
    kinds = {bool: (bool,), int: (int,), float: (int, float)}.get(type(shown))
    wrong_bool = isinstance(given, bool) and not isinstance(shown, bool)
    if given is not None and kinds and (wrong_bool or not isinstance(given, kinds)):
        name = {bool: "true or false", int: "an integer", float: "a number"}[type(shown)]
        raise ValueError(f"`{where}` must be {name} (such as {shown}), got {given!r}.")


def quiet_libraries() -> None:
    """Leave out what libraries say on every run and nobody can act on."""
    for name in ("pytorch_lightning", "lightning.pytorch", "onnxscript", "onnx_ir", "matplotlib"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # says which optional packages it does without
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)  # TorchRec asks it what is deprecated
    for message in (
        ".*does not have many workers.*",
        ".*LeafSpec.*is deprecated.*",
        ".*smaller than the logging interval.*",
        ".*dataloader is not resumable.*",  # the sampler goes on where the run stopped
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*It is recommended to use `self.log.*sync_dist=True.*",  # metrics are equal on every process already
    ):
        warnings.filterwarnings("ignore", message)
