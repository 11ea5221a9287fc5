"""Folders that stand for images: a stage's steps done in a root of its own, and programs started in it."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dockerfile import Config, Stage, caches, context_files

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Mounts are the new namespace's own and end with its last process; the root is entered last.
_ENTER = """\
set -eu
root=$1; read_only=$2; shift 2
mount --bind "$root" "$root"
if [ "$read_only" = yes ]; then mount -o remount,bind,ro "$root"; mount -t tmpfs -o mode=1777 none "$root/tmp"; fi
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"; mount --rbind /dev "$root/dev"
while [ "$1" != -- ]; do
  mount --bind "$1" "$root$2"
  if [ "$3" = ro ]; then mount -o remount,bind,ro "$root$2"; fi
  shift 3
done
shift
exec "$@"
"""


@dataclass(slots=True)
class Root:
    """One image: its folder and how it is run."""

    folder: Path
    config: Config = field(default_factory=Config)

    def command(
        self,
        program: Sequence[str],
        *,
        mounts: Mapping[str, tuple[Path, bool]],
        user: str = "0:0",
        read_only: bool = False,
        workdir: str = "/",
    ) -> list[str]:
        """The command line that runs a program in this root.

        Args:
            mounts: Place in the root -> what is mounted there, and whether it may be written.
            user: Numeric uid:gid.
            read_only: As containers are run: nothing can be written but /tmp and what is mounted.
        """
        places = []
        for place, (source, writable) in mounts.items():
            inside = self.folder / place.lstrip("/")
            if not inside.exists():
                if source.is_dir():
                    inside.mkdir(parents=True)
                else:
                    inside.parent.mkdir(parents=True, exist_ok=True)
                    inside.touch()
            places += [str(source), place, "rw" if writable else "ro"]
        enter = ["unshare", "--mount", "--pid", "--fork", "--kill-child=SIGKILL", "sh", "-c", _ENTER, "enter"]
        inside_command = ["sh", "-c", 'cd "$1"; shift; exec "$@"', "at", workdir, *program]
        change = ["chroot", f"--userspec={user}", str(self.folder), *inside_command]
        return [*enter, str(self.folder), "yes" if read_only else "no", *places, "--", *change]


def build(
    name: str,
    stages: Mapping[str, Stage],
    base: Path,
    work: Path,
    context: Path,
    mounts: Mapping[str, tuple[Path, bool]],
    built: dict[str, Root],
    pass_on: Mapping[str, str],
) -> Root:
    """Build a stage and those it needs, each once; one that nothing changed for is taken from the last build.

    Args:
        base: Root folder that stands for every image that is not a stage.
        work: Where stages are built, a folder each.
        context: The build's context.
        mounts: Places that RUN sees besides: the host's resolver, packages it has.
        built: What was built before; this adds to it.
        pass_on: Build arguments: environment of every RUN.
    """
    if name in built:
        return built[name]
    stage = stages[name]

    def needed(other: str) -> Root:
        return build(other, stages, base, work, context, mounts, built, pass_on)

    parent = needed(stage.parent) if stage.parent in stages else Root(base, Config({"PATH": _PATH}))
    folder, done = work / name, work / f"{name}.done"
    root = Root(folder, parent.config.inherited())
    key = _key(stage, parent, context, needed)
    if done.exists() and done.read_text() == key:
        for step in stage.steps:
            root.config.take(*step)
        built[name] = root
        return root
    done.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o755)
    subprocess.run(["cp", "-a", "--reflink=auto", f"{parent.folder}/.", str(folder)], check=True)
    for instruction, argument in stage.steps:
        print(f"  {name}: {instruction} {argument[:110]}", file=sys.stderr, flush=True)
        if root.config.take(instruction, argument):
            if instruction == "WORKDIR":
                (folder / argument.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif instruction == "RUN":
            _run(root, argument, mounts, pass_on, work)
        elif instruction == "COPY":
            _copy(root, argument, needed, context)
        else:
            raise ValueError(f"{instruction} is not rehearsed")
    done.write_text(key)
    built[name] = root
    return root


def _key(stage: Stage, parent: Root, context: Path, needed: Callable[[str], Root]) -> str:
    """What a stage depends on, as a digest: its steps, the stages it copies from, the files of the context."""
    digest = hashlib.sha256(json.dumps([str(parent.folder), _mark(parent), stage.steps]).encode())
    for instruction, argument in stage.steps:
        if instruction == "COPY" and argument.startswith("--from="):
            digest.update(_mark(needed(argument.split()[0].removeprefix("--from="))).encode())
        elif instruction == "COPY":
            for file in _chosen(argument, context):
                digest.update(f"{file}\0".encode() + (context / file).read_bytes())
    return digest.hexdigest()


def _mark(root: Root) -> str:
    done = root.folder.with_name(f"{root.folder.name}.done")
    return done.read_text() if done.exists() else ""


def _chosen(argument: str, context: Path) -> list[Path]:
    """The files of the context that a COPY takes."""
    words = set(argument.split()[:-1])
    return sorted(file for file in context_files(context) if "." in words or str(file) in words)


def _run(
    root: Root, argument: str, mounts: Mapping[str, tuple[Path, bool]], pass_on: Mapping[str, str], work: Path
) -> None:
    kept, command = caches(argument)
    more = dict(mounts)
    for place in kept:
        store = work / "cache" / place.strip("/").replace("/", "-")
        store.mkdir(parents=True, exist_ok=True)
        more[place] = (store, True)
    environment = {**pass_on, **root.config.env}
    line = root.command(["sh", "-c", command], mounts=more, workdir=root.config.workdir)
    status = subprocess.run(line, check=False, env=environment, stdout=sys.stderr).returncode
    if status != 0:
        raise SystemExit(f"RUN ended with {status}: {command}")


def _copy(root: Root, argument: str, needed: Callable[[str], Root], context: Path) -> None:
    words = argument.split()
    target = root.folder / os.path.normpath(os.path.join("/", root.config.workdir, words[-1])).lstrip("/")  # noqa: PTH118
    if words[0].startswith("--from="):
        source = needed(words[0].removeprefix("--from=")).folder / words[1].lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-a", "--reflink=auto", "--no-target-directory", str(source), str(target)], check=True)
        return
    for file in _chosen(argument, context):
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(context / file, target / file)
