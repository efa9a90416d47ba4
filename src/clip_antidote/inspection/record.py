"""What an inspection found, typed: `--json` is this, and console and SARIF are made from it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from clip_antidote.config import Record

Level = Literal["error", "warning", "note"]
"""An error makes a model unusable or dangerous, a warning asks to be looked at, a note is no finding."""

Certainty = Literal["certain", "likely", "unlikely"]


class Finding(Record):
    """Something that is wrong or odd.

    Attributes:
        rule: A key of `inspection.rules.RULES`.
        level: How bad it is.
        message: One sentence.
        file: Name of the file, as given.
        tensor: Name of the tensor it is about.
        entry: Name inside of the archive, where the file is one.
        offset: Bytes from the beginning of the file; None where the place is in a compressed entry.
        opcode: Name of the pickle instruction there.
    """

    rule: str
    level: Level
    message: str
    file: str = ""
    tensor: str | None = None
    entry: str | None = None
    offset: int | None = None
    opcode: str | None = None


class FileFacts(Record):
    """A file of the model.

    Attributes:
        name: The path, as given.
        format: See `inspection.formats`.
        size: In bytes.
        sha256: In hexadecimal; None in the quick form.
        weights: Whether this is the file that the model is loaded from.
    """

    name: str
    format: str
    size: int
    sha256: str | None = None
    weights: bool = False


class PickleGlobal(Record):
    """A Python object that a pickle names.

    Attributes:
        module: Its module; "?" where it is computed by the pickle itself.
        name: Its name there.
        verdict: "plain" where PyTorch's weights-only reader takes it, "code" for a type of a TorchScript archive,
            "foreign" for others, "unsafe" where it is known to run programs, load code or reach files.
        opcode: The instruction that names it.
        file: The file.
        entry: Name inside of the archive, where the file is one.
        offset: Bytes from the beginning of the file; None in a compressed entry.
        in_pickle: Bytes from the beginning of the pickle.
    """

    module: str
    name: str
    verdict: Literal["plain", "code", "foreign", "unsafe"]
    opcode: str
    file: str
    entry: str | None
    offset: int | None
    in_pickle: int


class TensorFacts(Record):
    """The tensors of the weights.

    Attributes:
        count: How many there are.
        parameters: Numbers in all of them.
        dtypes: Tensors by data type.
        not_finite: Tensors with NaN or Inf.
        zero: Tensors of zeros only, other than biases and running means.
        dead_channels: Rows of zeros in matrices and filters.
        largest: The largest magnitude, None where there is no finite number.
        largest_in: The tensor that has it.
    """

    count: int
    parameters: int
    dtypes: dict[str, int]
    not_finite: int
    zero: int
    dead_channels: int
    largest: float | None
    largest_in: str | None


class TextTower(Record):
    """The text tower, as its tensors tell it; None where they do not."""

    context_length: int | None = None
    vocabulary: int | None = None
    width: int | None = None
    layers: int | None = None


class ImageTower(Record):
    """The image tower, as its tensors tell it; None where they do not.

    Attributes:
        kind: "ResNet", "vision transformer", "timm", or the layout's name.
        width: Of the transformer, or of the ResNet's stem.
        layers: Blocks of the transformer, or of the four stages.
        patch: Pixels of a patch.
    """

    kind: str | None = None
    width: int | None = None
    layers: tuple[int, ...] | None = None
    patch: int | None = None


class Architecture(Record):
    """Which architecture of open_clip the weights belong to.

    Attributes:
        name: The architecture; None where none fits.
        stated: Whether the spec or a configuration says so.
        certainty: "certain" where all names and shapes agree.
        agreement: Share of entries that agree, in [0, 1].
        ties: Other architectures with the very same names and shapes.
        spec: What to write to load it; None where it cannot be loaded.
        layout: Whose names the entries have.
        published: The published weights that this file is, by its checksum.
    """

    name: str | None = None
    stated: bool = False
    certainty: Certainty | None = None
    agreement: float | None = None
    ties: tuple[str, ...] = ()
    spec: str | None = None
    layout: str = "open_clip"
    published: str | None = None


class ActivationFacts(Record):
    """GELU or QuickGELU, and how that is known."""

    name: str | None
    evidence: str


class Preprocessing(Record):
    """How images are prepared, and how that is known."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize_mode: str
    interpolation: str
    evidence: str


class ZeroShotCheck(Record):
    """Zero-shot accuracy on the embedded photographs, in [0, 1].

    Attributes:
        images: How many were tried.
        classes: Of how many classes.
        accuracy: Share that was recognized.
        chance: What guessing gives.
        other_activation: The accuracy with the other activation, None where the model has neither.
    """

    images: int
    classes: int
    accuracy: float
    chance: float
    other_activation: float | None


class Inspection(Record):
    """An inspected model.

    Attributes:
        version: Of this schema.
        model: The spec or path, as given.
        kind: "file", or the kind of folder.
        skipped: What was not looked at, and why.
    """

    version: Literal[1] = 1
    model: str
    kind: str
    files: tuple[FileFacts, ...] = ()
    pickles: tuple[PickleGlobal, ...] = ()
    tensors: TensorFacts | None = None
    architecture: Architecture | None = None
    activation: ActivationFacts | None = None
    preprocessing: Preprocessing | None = None
    text_tower: TextTower | None = None
    image_tower: ImageTower | None = None
    zero_shot: ZeroShotCheck | None = None
    findings: tuple[Finding, ...] = ()
    skipped: tuple[str, ...] = Field(default=())

    @property
    def weights(self) -> FileFacts | None:
        """The file that the model is loaded from."""
        return next((file for file in self.files if file.weights), None)

    @property
    def found(self) -> bool:
        """Whether there is a finding, of level warning or error."""
        return any(finding.level != "note" for finding in self.findings)

    def at_level(self, level: Level) -> tuple[Finding, ...]:
        """Returns the findings of a level."""
        return tuple(finding for finding in self.findings if finding.level == level)
