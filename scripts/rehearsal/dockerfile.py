"""Reads a Dockerfile into stages, and .dockerignore into the files a build sees: the parts of both that ours uses."""

import fnmatch
import json
import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

_STAGE = re.compile(r"(\S+)\s+AS\s+(\S+)", re.IGNORECASE)
_MOUNT = re.compile(r"--mount=type=cache,target=(\S+)\s+")
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
# What changes nothing in a folder that stands for an image.
_SILENT = frozenset({"LABEL", "EXPOSE", "VOLUME"})


@dataclass(slots=True)
class Stage:
    """One FROM and what follows it, in order: (instruction, its argument on one line)."""

    name: str
    parent: str
    steps: list[tuple[str, str]] = field(default_factory=list)


@dataclass(slots=True)
class Config:
    """What an image says about how to run it; children inherit it."""

    env: dict[str, str] = field(default_factory=dict)
    workdir: str = "/"
    user: str = "0:0"
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)
    signal: str = "SIGTERM"

    def take(self, instruction: str, argument: str) -> bool:
        """Apply an instruction that changes no file; False for any other."""
        match instruction:
            case "ENV":
                for pair in shlex.split(argument):
                    name, _, value = pair.partition("=")
                    self.env[name] = self.expand(value)
            case "WORKDIR":
                self.workdir = argument
            case "USER":
                self.user = argument
            case "ENTRYPOINT":
                self.entrypoint = json.loads(argument)
            case "CMD":
                self.command = json.loads(argument)
            case "HEALTHCHECK":
                self.health = json.loads(argument.partition("CMD ")[2])
            case "STOPSIGNAL":
                self.signal = argument
            case _:
                return instruction in _SILENT
        return True

    def inherited(self) -> "Config":
        """What a stage starts with that is built on this one."""
        return replace(self, env=dict(self.env))

    def expand(self, text: str) -> str:
        """Text with $NAME and ${NAME} replaced by this image's environment; what it does not know becomes empty."""
        return _VARIABLE.sub(lambda found: self.env.get(found[1] or found[2], ""), text)


def stages(text: str) -> dict[str, Stage]:
    """Every stage by name, in order; ARGs before the first FROM are put in, those inside a stage come from outside.

    Raises ValueError for a FROM without a name.
    """
    found: dict[str, Stage] = {}
    defaults = Config()
    for instruction, argument in _instructions(text):
        if instruction == "FROM":
            match = _STAGE.fullmatch(defaults.expand(argument))
            if match is None:
                raise ValueError(f"FROM {argument}: a stage needs a name")
            stage = found[match[2]] = Stage(match[2], match[1])
        elif not found:
            name, _, value = argument.partition("=")
            defaults.env[name] = value
        elif instruction != "ARG":
            stage.steps.append((instruction, argument))
    return found


def caches(argument: str) -> tuple[list[str], str]:
    """The folders that a RUN wants kept between builds, and the command without them."""
    return _MOUNT.findall(argument), _MOUNT.sub("", argument)


def context_files(root: Path) -> Iterator[Path]:
    """The files under a folder that its .dockerignore lets a build see, relative to it."""
    rules = [line for line in (root / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    for folder, names, files in os.walk(root):
        here = Path(folder).relative_to(root)
        names[:] = [name for name in names if _seen(here / name, rules) or here != Path()]
        yield from (here / name for name in files if _seen(here / name, rules))


def _seen(path: Path, rules: list[str]) -> bool:
    """Whether the last rule that matches the path, or a folder it lies in, lets it through."""
    seen = True
    for rule in rules:
        pattern, keeps = rule.removeprefix("!"), rule.startswith("!")
        for part in (path, *path.parents[:-1]):
            plain = str(part)
            if fnmatch.fnmatch(plain, pattern) or (
                pattern.startswith("**/") and fnmatch.fnmatch(part.name, pattern.removeprefix("**/"))
            ):
                seen = keeps
                break
    return seen


def _instructions(text: str) -> Iterator[tuple[str, str]]:
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        if line.strip():
            instruction, _, argument = line.strip().partition(" ")
            yield instruction.upper(), argument.strip()
