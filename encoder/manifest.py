"""What an exported model consists of: manifests that name every file by digest.

A manifest is canonical JSON; the sha256 of its bytes is the identity of the backbone or the version.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from typing import Any, ClassVar, Protocol, TypeVar, get_origin, get_type_hints

from encoder.batch import PACKED_INPUTS, PADDED_INPUTS
from encoder.errors import ArtifactRefused

Fetch = Callable[[str], bytes]
"""sha256 in hex -> the bytes with that digest."""
Store = Callable[[bytes], str]
"""Bytes -> their sha256 in hex, once they are kept."""

SCHEMA = 1
MAX_TOKENS = 1 << 20
MAX_DIMENSION = 1 << 16
INPUTS = {"packed": PACKED_INPUTS, "padded": PADDED_INPUTS}
"""Layout of a backbone's graph -> names of its inputs."""
_DIGEST = re.compile(r"[0-9a-f]{64}")


def sha256(data: bytes) -> str:
    """Digest of bytes in lower-case hex."""
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of an artifact: its sha256 in hex and its size in bytes."""

    sha256: str
    size: int

    @classmethod
    def of(cls, data: bytes) -> "FileEntry":
        """The entry that names these bytes."""
        return cls(sha256(data), len(data))


@dataclass(frozen=True, slots=True)
class Parity:
    """How near the exported graph came to the model it was exported from: over `texts` texts, the largest absolute
    difference of a component and the smallest cosine."""

    texts: int
    max_abs_difference: float
    min_cosine: float


@dataclass(frozen=True, slots=True)
class PrecisionFacts:
    """What a precision was worth on the machine that imported the backbone, all against float32 on the CPU provider.

    Where several providers compute in it, every figure is the worst of theirs.

    Attributes:
        providers: Names of the providers it was measured on.
        texts: How many texts the differences were taken over.
        max_abs_difference: Largest difference of a component.
        min_cosine: Smallest cosine.
        batch_difference: Largest difference of a component of one text's vector between batches of other sizes and
            lengths, in this precision.
        retrieval: nDCG@10 on the retrieval probe, in points of 100.
    """

    providers: str
    texts: int
    max_abs_difference: float
    min_cosine: float
    batch_difference: float
    retrieval: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneManifest:
    """A pretrained encoder as one ONNX graph with pooling and L2 normalisation inside.

    Attributes:
        name: Name it is served under.
        source: Where the weights came from, in words.
        weights_sha256: Digest of the source's weights file.
        dimension: Width of the sentence vector.
        pooling: "mean", "cls" or "max".
        max_tokens: Most tokens of a text, special tokens included.
        opset: ONNX operator set of the graph.
        precision: Number format of the weights in "model.onnx".
        outputs: Output name -> width.
        files: "model.onnx", "tokenizer.json" and "probes.json"; "retrieval.json" in those imported since there is a
            retrieval probe, "model.int8.onnx" in those whose int8 form keeps enough.
        versions: Library name -> version the export was made with.
        parity: Measured agreement with torch.
        prompts: Prompt name -> text the source recommends to put in front.
        layout: How the graph takes texts: "packed", several in a row, or "padded", one a row.
        precisions: Precision -> what it was worth at import; "int8" is there even where it was not kept. Empty in a
            manifest made before this was measured.
    """

    KIND: ClassVar[str] = "backbone"
    FILES: ClassVar[frozenset[str]] = frozenset({"model.onnx", "tokenizer.json", "probes.json"})
    MORE_FILES: ClassVar[frozenset[str]] = frozenset({"model.int8.onnx", "retrieval.json"})
    LATER: ClassVar[frozenset[str]] = frozenset({"precisions", "layout"})

    name: str
    source: str
    weights_sha256: str
    dimension: int
    pooling: str
    max_tokens: int
    opset: int
    outputs: dict[str, int]
    files: dict[str, FileEntry]
    versions: dict[str, str]
    parity: Parity
    precision: str = "fp32"
    prompts: dict[str, str]
    precisions: dict[str, PrecisionFacts] = field(default_factory=dict)
    layout: str = "padded"

    @property
    def inputs(self) -> frozenset[str]:
        """Names of the graph's inputs."""
        return INPUTS[self.layout]

    def to_dict(self) -> dict[str, Any]:
        """The manifest as plain JSON values."""
        return manifest_dict(self)

    def to_bytes(self) -> bytes:
        """Canonical JSON: sorted keys, no spaces, no timestamps."""
        return manifest_bytes(self)

    @property
    def digest(self) -> str:
        """sha256 of `to_bytes()`: the identity of the backbone."""
        return sha256(self.to_bytes())

    @classmethod
    def from_bytes(cls, data: bytes) -> "BackboneManifest":
        """Read a manifest strictly.

        Raises:
            ArtifactRefused: Not JSON, or a field is missing, unknown or of the wrong kind.
        """
        manifest = read_manifest(cls, data)
        require_digest(manifest.weights_sha256, "weights_sha256")
        if manifest.outputs.get("sentence_embedding") != manifest.dimension:
            raise ArtifactRefused("backbone manifest: outputs must give sentence_embedding the width of dimension")
        if manifest.max_tokens < 1 or manifest.dimension < 1:
            raise ArtifactRefused("backbone manifest: dimension and max_tokens must be at least 1")
        if manifest.max_tokens > MAX_TOKENS or manifest.dimension > MAX_DIMENSION:
            raise ArtifactRefused(
                f"backbone manifest: max_tokens may be up to {MAX_TOKENS} and dimension up to {MAX_DIMENSION}"
            )
        if manifest.layout not in INPUTS:
            raise ArtifactRefused("backbone manifest: layout must be packed or padded")
        return manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadManifest:
    """A version of a head adapter: a small graph from base vectors to adapted vectors.

    Attributes:
        backbone: Digest of the backbone whose vectors it reads.
        dimension: Width of its input and output.
        files: "head.onnx" and "probes.safetensors".
        parity: Measured agreement with the module in torch.
        recipe: The recipe it was fitted with.
        dataset: "name", "revision" and "digest" of the rows.
        metrics: Figures of the fit and the evaluation.
        parent: Digest of the version it was compared with, if any.
        job: The job that made it.
        versions: Library name -> version.
    """

    KIND: ClassVar[str] = "head"
    FILES: ClassVar[frozenset[str]] = frozenset({"head.onnx", "probes.safetensors"})

    kind: str = "head"
    backbone: str
    dimension: int
    files: dict[str, FileEntry]
    parity: Parity
    recipe: dict[str, Any]
    dataset: dict[str, Any]
    metrics: dict[str, Any]
    parent: str | None
    job: str
    versions: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """The manifest as plain JSON values."""
        return manifest_dict(self)

    def to_bytes(self) -> bytes:
        """Canonical JSON: sorted keys, no spaces, no timestamps."""
        return manifest_bytes(self)

    @property
    def digest(self) -> str:
        """sha256 of `to_bytes()`: the identity of the version."""
        return sha256(self.to_bytes())

    @classmethod
    def from_bytes(cls, data: bytes) -> "HeadManifest":
        """Read a manifest strictly.

        Raises:
            ArtifactRefused: Not JSON, or a field is missing, unknown or of the wrong kind.
        """
        manifest = read_manifest(cls, data)
        require_digest(manifest.backbone, "backbone")
        if manifest.parent is not None:
            require_digest(manifest.parent, "parent")
        if manifest.dimension < 1:
            raise ArtifactRefused("head manifest: dimension must be at least 1")
        return manifest


def load_manifest_bytes(digest: str, fetch: Fetch) -> bytes:
    """Bytes of the manifest with this digest.

    Raises:
        ArtifactRefused: What came back has another digest.
    """
    require_digest(digest, "manifest digest")
    data = fetch(digest)
    if sha256(data) != digest:
        raise ArtifactRefused(f"the manifest {digest} does not have that digest")
    return data


def load_files(files: Mapping[str, FileEntry], fetch: Fetch) -> dict[str, bytes]:
    """Bytes of every file a manifest names, each checked against its size and digest.

    Raises:
        ArtifactRefused: A file differs from what the manifest names.
    """
    loaded = {}
    for name, entry in files.items():
        data = fetch(entry.sha256)
        if len(data) != entry.size:
            raise ArtifactRefused(f"{name} has {len(data)} bytes, its manifest says {entry.size}")
        if sha256(data) != entry.sha256:
            raise ArtifactRefused(f"{name} does not have the digest {entry.sha256} that its manifest names")
        loaded[name] = data
    return loaded


class AnyManifest(Protocol):
    """A frozen dataclass that is written and read as a manifest.

    It may have `MORE_FILES`, which need not be there, and `LATER`, fields that older manifests lack: they are not
    written at their default, so that an old manifest keeps its digest.
    """

    KIND: ClassVar[str]
    FILES: ClassVar[frozenset[str]]
    __dataclass_fields__: ClassVar[dict[str, Any]]


Manifest = TypeVar("Manifest", bound=AnyManifest)


def canonical(value: object) -> bytes:
    """JSON with sorted keys and no spaces."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "surrogatepass")


def manifest_dict(manifest: AnyManifest) -> dict[str, Any]:
    """The manifest as plain JSON values."""
    unset = _unset(type(manifest))
    value = {name: item for name, item in asdict(manifest).items() if name not in unset or item != unset[name]}
    return {**value, "kind": manifest.KIND, "schema": SCHEMA}


def manifest_bytes(manifest: AnyManifest) -> bytes:
    """Canonical JSON: sorted keys, no spaces, no timestamps."""
    return canonical(manifest_dict(manifest))


def json_object(data: bytes, what: str) -> dict[str, Any]:
    """The JSON object in these bytes.

    Raises:
        ArtifactRefused: There is none.
    """
    try:
        value = json.loads(data, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ArtifactRefused(f"{what} is not JSON") from error
    if not isinstance(value, dict):
        raise ArtifactRefused(f"{what} is not a JSON object")
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def read_manifest(cls: type[Manifest], data: bytes) -> Manifest:
    """Read a manifest strictly.

    Raises:
        ArtifactRefused: Not JSON, or a field is missing, unknown or of the wrong kind.
    """
    what = f"{cls.KIND} manifest"
    value = json_object(data, what)
    if (value.get("kind"), value.get("schema")) != (cls.KIND, SCHEMA) or value["schema"] is True:
        raise ArtifactRefused(f"not a {what} of schema {SCHEMA}")
    del value["schema"]
    names = {each.name for each in fields(cls)}
    if "kind" not in names:
        del value["kind"]
    if wrong := (value.keys() ^ names) - (_unset(cls).keys() - value.keys()):
        raise ArtifactRefused(f"{what}: fields missing or unknown: {', '.join(sorted(wrong))}")
    hints = get_type_hints(cls)
    for name, item in value.items():
        value[name] = _typed(item, hints[name], f"{what}: {name}")
    more: frozenset[str] = getattr(cls, "MORE_FILES", frozenset())
    if value["files"].keys() - more != cls.FILES:
        raise ArtifactRefused(f"{what}: files must be exactly {', '.join(sorted(cls.FILES))}")
    for name, entry in value["files"].items():
        require_digest(entry.sha256, f"{what}: {name}")
    return cls(**value)


def _unset(cls: type[AnyManifest]) -> dict[str, Any]:
    """The fields that older manifests lack, with the values they stand for there."""
    later: frozenset[str] = getattr(cls, "LATER", frozenset())
    return {
        each.name: each.default_factory() if each.default_factory is not MISSING else each.default
        for each in fields(cls)
        if each.name in later
    }


def _typed(item: Any, hint: Any, where: str) -> Any:
    """The JSON value as the annotated type; only the kinds of annotation used in this file."""
    if hint is Any:
        return item
    if isinstance(hint, type) and is_dataclass(hint):
        hints = get_type_hints(hint)
        if not isinstance(item, dict) or item.keys() != hints.keys():
            raise ArtifactRefused(f"{where} must have exactly {', '.join(hints)}")
        return hint(**{name: _typed(item[name], hints[name], f"{where}.{name}") for name in hints})
    if get_origin(hint) is dict:
        if not isinstance(item, dict):
            raise ArtifactRefused(f"{where} must be an object")
        inner = hint.__args__[1]
        return {key: _typed(entry, inner, f"{where}.{key}") for key, entry in item.items()}
    # bool is an int to Python, and an int is a fair float to JSON.
    right = isinstance(item, (int, float) if hint is float else hint) and not isinstance(item, bool)
    if not right:
        raise ArtifactRefused(f"{where} has the wrong type")
    return item


def require_digest(value: str, where: str) -> None:
    """Raise ArtifactRefused where a value is no digest."""
    if not _DIGEST.fullmatch(value):
        raise ArtifactRefused(f"{where} is not a sha256 in lower-case hex")
