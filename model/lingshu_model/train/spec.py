"""What a training run is made of, read from one JSON file."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lingshu_model.contracts.catalogue import MOST_CAVEAT, MOST_CAVEATS
from lingshu_model.contracts.messages import TrainedKind
from lingshu_model.network.config import PAPER_PRESETS, PRESETS
from lingshu_model.train.recipes.choice import DEFAULT, PAPER, RECIPES
from lingshu_model.train.spec_file import SpecError, explained, read_json

Name = Annotated[str, Field(min_length=1)]
Caveat = Annotated[str, Field(min_length=1, max_length=MOST_CAVEAT)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Perturbations(_Strict):
    """Which obs column names the perturbation, what control is called there, and the kind."""

    column: Name
    control: Name | Annotated[list[Name], Field(min_length=1)]
    """What control cells are called in the column: one name, or several."""
    kind: TrainedKind
    targets: dict[str, str] = {}
    """What a value of the column is called, where that is not the value itself."""
    separator: str | None = None
    """What stands between the targets of a combination, such as `+`; None = no combinations."""

    @property
    def controls(self) -> tuple[str, ...]:
        """Every name of control cells."""
        return (self.control,) if isinstance(self.control, str) else tuple(self.control)


class Unseen(_Strict):
    """A perturbation that is never trained on in contexts with these fields: a test of reach."""

    context: dict[str, str]
    target: str


class Source(_Strict):
    """One h5ad file: which cells of it are used, and what their context and perturbation are."""

    file: Name
    counts: Annotated[str, Field(pattern=r"^(X|raw/X|layers/.+)$")] = "X"
    """The matrix of raw counts: `X`, `layers/NAME` or `raw/X`."""
    gene_names: str | None = None
    """The var column with the names of genes; None = the index of var."""
    where: dict[str, list[str]] = {}
    """Keep cells whose obs column is one of these values."""
    context: Annotated[dict[Name, Name], Field(min_length=1)]
    """Context field to a constant value, or to `obs:COLUMN`."""
    rename: dict[str, dict[str, str]] = {}
    """Context field to names for its column's values; cells with a value not named are left out."""
    without: list[dict[str, str]] = []
    """Cells with all of these obs values are left out."""
    perturbation: Perturbations | None = None


class SamplerDefaults(_Strict):
    """The checkpoint's fixed schedule and guidance."""

    schedule: Literal["cosine", "linear", "information"] = "cosine"
    steps: Annotated[int, Field(ge=1, le=256)] = 8
    guidance: Annotated[float, Field(ge=0, le=10)] = 0.0
    tile: Annotated[int, Field(ge=1, le=1024)] = 64


class TrainingSpec(_Strict):
    """One training run.

    `batch` cells make an optimiser step, computed `micro_batch` cells at a time on every rank.
    `validation` and `test` are the fractions of cells, stratified by condition, that are kept out:
    to choose settings by, and to measure the outcome by.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
    sources: Annotated[list[Source], Field(min_length=1)]
    unseen: list[Unseen] = []
    adapted_to: list[Unseen] = []
    """Perturbations whose held-out figures steered choices of this specification or of the recipe:
    the evidence says so wherever it is quoted."""
    ontology: dict[str, str] = {}
    """Context value to its term in an ontology, such as `CL:0000236`."""
    panel: str | None = None
    """A CSV whose first column lists the panel's symbols; None = the first source's genes."""
    aliases: str | None = None
    """HGNC's complete set, to match names by and for `panel.json`; `shipped` = the genes of the
    shipped panel, by whose symbols human Ensembl ids are then called; None = names as they are."""
    recipe: Literal[*RECIPES] = DEFAULT  # pyright: ignore[reportInvalidTypeForm]
    """`default`: a network and effects; `effects`: effects and stored control cells, no network;
    `paper`: a network of the paper's form alone, with guidance
    (`lingshu_model.train.recipes.paper`)."""
    delivery: Literal["auto", "moved", "training_cells", "pinned"] = "auto"
    """How effects reach cells (`lingshu_model.sampling.delivery`); `auto`: what is nearer to the
    validation cells."""
    replicate: str | None = None
    """The obs column of the replicate, donor or batch; None = cells are taken as independent."""
    dose: str | None = None
    """The obs column of the dose of a perturbed cell; every dose is a condition of its own."""
    time: str | None = None
    """The obs column of the time; it becomes the context field `time`."""
    allow_unfit: bool = False
    """Whether conditions that fail the fitness check leave the exit status at 0."""
    network: Literal[*PRESETS] | None = None  # pyright: ignore[reportInvalidTypeForm]
    epochs: Annotated[int, Field(ge=1)] = 8
    batch: Annotated[int, Field(ge=1)] = 256
    micro_batch: Annotated[int, Field(ge=1)] = 64
    lr: Annotated[float, Field(gt=0)] = 2e-4
    final_lr: Annotated[float, Field(gt=0)] = 2e-5
    warmup_steps: Annotated[int, Field(ge=0)] = 100
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    clip: Annotated[float, Field(gt=0)] = 1.0
    sigma_rel: Annotated[float, Field(gt=0, lt=0.3)] = 0.05
    shams: Annotated[int, Field(ge=0, le=256)] = 16
    gene_features: Annotated[int, Field(ge=1)] = 16
    """Co-expression features of a gene, from control and all other training cells."""
    priors: str | None = None
    """A CSV of further gene features, a symbol and numbers a row (`lingshu_model.train.priors`)."""
    validation: Annotated[float, Field(ge=0, lt=0.5)] = 0.1
    test: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    seed: Annotated[int, Field(ge=0)] = 0
    caveats: Annotated[list[Caveat], Field(max_length=MOST_CAVEATS)] = []
    """Sentences that every answer from the checkpoint carries, such as where its cells are from."""
    drawn_cells: bool = False
    """Whether cells of the files are drawn from a distribution, so that none of them is private."""
    reference: Literal["all", "controls"] = "all"
    """Conditions whose training means are stored, 4 bytes for each gene of each."""
    pool_counts: Annotated[int, Field(ge=1)] = 3_000_000
    """Largest number of non-zero counts in the stored control cells; 4 bytes each."""
    residuals: Annotated[int, Field(ge=1)] = 4_000_000
    """Largest number of values in the residuals of the evidence; about 8 bytes each."""
    calibration: list[Annotated[int, Field(ge=2)]] = []
    """Of specifications before effects were stored apart; it has no meaning any more."""
    sampler: SamplerDefaults = SamplerDefaults()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.recipe == "default" and self.network is None:
            message = f"the default recipe needs a network, one of {', '.join(PRESETS)}"
            raise ValueError(message)
        if self.recipe == "effects" and self.delivery not in ("auto", "training_cells"):
            message = f"delivery {self.delivery!r} needs a network; the recipe `effects` has none"
            raise ValueError(message)
        if self.recipe == PAPER:
            self._check_paper()
        return self

    def _check_paper(self) -> None:
        if self.network not in PAPER_PRESETS:
            message = (
                f"the recipe `paper` has a network without additions, one of "
                f"{', '.join(PAPER_PRESETS)}, not {self.network!r}"
            )
            raise ValueError(message)
        if self.shams or self.priors or self.delivery != "auto":
            message = (
                "the recipe `paper` has no null labels (shams: 0), no priors and no delivery; "
                "`lingshu train SPEC --recipe paper` leaves them out of another specification"
            )
            raise ValueError(message)

    @classmethod
    def read(cls, path: Path) -> "TrainingSpec":
        """Return the spec in a JSON file.

        Raises:
            SpecError: the file is no JSON, or a field is wrong; file and field are named.
        """
        return cls.of(read_json(path), str(path))

    @classmethod
    def of(cls, value: Any, name: str) -> "TrainingSpec":
        """Return the spec that a JSON value is; `name` stands for it in errors."""
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            message = f"{name}: {explained(error, cls.model_json_schema())}"
            raise SpecError(message) from error
