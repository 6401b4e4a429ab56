"""The network's configuration, and its presets.

`lingshu-85m-s8` and `lingshu-85m-s32` are exactly the paper's (arXiv 2603.25240, supp. table 2);
`lingshu-paper-…` are of the same form and smaller. The other presets have additions for small data
sets that the paper does not have: a narrower gene width, an embedding per group position, an output
bias per gene, an effect offset per condition and gene, and a cell state.
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class NetworkConfig:
    """Shape of the network.

    Attributes:
        d_model: width of the trunk.
        n_layers: transformer blocks.
        n_heads: attention heads.
        d_ff: inner width of SwiGLU.
        group: genes per group (the paper's S).
        d_gene: width of a gene's embedding before W_down and after W_up; the paper's is d_model.
        group_embedding: add a learned vector per group position.
        gene_bias: add a learned logit per gene and token.
        tilt: an effect offset per condition and gene; of checkpoints of format 1 only.
        pair_rank: rank of pairwise interactions of combinations; of format 1.
        reach: offsets of targets never perturbed, from their features; of format 1.
        state_rank: components of the cell state, which is computed from the cell's depth and its
            revealed genes; 0 = none.
    """

    d_model: int
    n_layers: int
    n_heads: int
    d_ff: int
    group: int
    d_gene: int
    group_embedding: bool = False
    gene_bias: bool = False
    tilt: bool = False
    state_rank: int = 0
    pair_rank: int = 0
    reach: bool = False

    def __post_init__(self) -> None:
        """Check that widths divide, and that pairs and reach have effect offsets.

        Raises:
            ValueError: they do not.
        """
        # Even: rotary positions rotate pairs of channels of a head.
        if self.d_model % self.n_heads or (self.d_model // self.n_heads) % 2:
            message = f"d_model {self.d_model} must be n_heads {self.n_heads} times an even width"
            raise ValueError(message)
        if (self.pair_rank or self.reach) and not self.tilt:
            message = "pair_rank and reach need a tilt: what they say is added to it"
            raise ValueError(message)

    @property
    def levelled(self) -> bool:
        """Whether a gene's logits have a term level * ln(1 + count)."""
        return self.tilt or self.state_rank > 0

    def without_offsets(self) -> "NetworkConfig":
        """Return the configuration without effect offsets, which format 2 stores separately."""
        return replace(self, tilt=False, pair_rank=0, reach=False)


def _small(
    d_model: int,
    n_layers: int,
    group: int,
    *,
    d_gene: int = 32,
    head: int = 32,
    state_rank: int,
    pair_rank: int = 0,
    reach: bool = False,
) -> NetworkConfig:
    return NetworkConfig(
        d_model,
        n_layers,
        n_heads=d_model // head,
        d_ff=4 * d_model,
        group=group,
        d_gene=d_gene,
        group_embedding=True,
        gene_bias=True,
        tilt=True,
        state_rank=state_rank,
        pair_rank=pair_rank,
        reach=reach,
    )


PRESETS: dict[str, NetworkConfig] = {
    "lingshu-85m-s8": NetworkConfig(640, 13, 10, 2560, group=8, d_gene=640),
    "lingshu-85m-s32": NetworkConfig(640, 13, 10, 2560, group=32, d_gene=640),
    "lingshu-paper-7m-s32": NetworkConfig(256, 6, 4, 1024, group=32, d_gene=256),
    "lingshu-paper-1m-s13": NetworkConfig(128, 4, 4, 512, group=13, d_gene=128),
    "lingshu-paper-tiny": NetworkConfig(64, 2, 2, 256, group=4, d_gene=64),
    "lingshu-7m-s128": _small(256, 4, group=128, d_gene=16, head=64, state_rank=48),
    "lingshu-1m-s13": _small(128, 4, group=13, state_rank=24),
    "lingshu-1m-s13-reach": _small(128, 4, group=13, state_rank=24, pair_rank=8, reach=True),
    "lingshu-tiny": _small(64, 2, group=4, state_rank=4),
}
PAPER_PRESETS = tuple(name for name, shape in PRESETS.items() if not shape.levelled)
"""Presets of the paper's form, without additions."""
