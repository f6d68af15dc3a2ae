"""Block Lanczos on ``AᵀA`` with full reorthogonalisation: the engine of the truncated SVD.

From a Gaussian block, orthonormal rows Q_1, Q_2, … (each block p×d) are built with

    ``Q_j AᵀA = R_{j-1}ᵀ Q_{j-1} + A_j Q_j + R_j Q_{j+1}``                              (1)

so after s blocks ``T = Q AᵀA Qᵀ`` is block tridiagonal, Q meets the rest of the space only
through R_s, and the images ``A Q_jᵀ`` are at hand. A step costs two products with A, p columns
wide; narrow blocks reach a given accuracy in fewer columns, wide ones use the memory better.

Source: Golub and Underwood 1977 (block Lanczos); the Gaussian start as in Musco and Musco 2015
(arXiv 1504.05477). Blocks are orthonormalised by Cholesky of their Gram matrix in float64,
where the squared condition does no harm, and by Householder QR where it would.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

CHOLESKY_PIVOT = 1e-4
"""Smallest pivot (of unit rows) that Cholesky is trusted with: a defect of at most 1e-8."""

CACHED_BYTES = 2**20
"""Bytes of A that stay in a core's own cache from the first product to the second."""


def gaussian(rows: int, like: Float[Tensor, "n d"], generator: torch.Generator) -> Tensor:
    """Return a (rows, d) standard normal block, drawn where the generator lives."""
    block = torch.randn(
        rows, like.shape[1], generator=generator, device=generator.device, dtype=like.dtype
    )
    return block.to(like.device)


def orthonormal_rows(block: Float[Tensor, "p d"]) -> Float[Tensor, "p d"]:
    """Return orthonormal rows in float64, row i spanned by rows 1..i of the block.

    Rows that depend on earlier ones, zero rows too, are replaced by some unit rows orthogonal to
    the others; p must not exceed d.
    """
    rows = block.double()
    norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    rows = rows / torch.where(norms > 0, norms, torch.ones_like(norms))
    # Once leaves a defect of up to 1e-8, enough for float32; twice leaves rounding of float64.
    for _ in range(2 if block.dtype == torch.float64 else 1):
        lower, failed = torch.linalg.cholesky_ex(rows @ rows.mT)
        if bool(failed) or not bool(lower.diagonal().min() > CHOLESKY_PIVOT):
            break
        identity = torch.eye(len(lower), dtype=lower.dtype, device=lower.device)
        rows = torch.linalg.solve_triangular(lower, identity, upper=False) @ rows
    else:
        return rows
    factor, upper = torch.linalg.qr(rows.mT)
    signs = torch.where(upper.diagonal() < 0, -1.0, 1.0)
    result: Tensor = (factor * signs).mT
    return result


def _products(
    matrix: Float[Tensor, "n d"], rows: Float[Tensor, "p d"]
) -> tuple[Float[Tensor, "n p"], Float[Tensor, "p d"]]:
    """Return ``A rowsᵀ`` and ``rows AᵀA``; on CPUs with A read from memory once."""
    n, d = matrix.shape
    columns = rows.mT.contiguous()
    threads = torch.get_num_threads()
    strip = max(16, CACHED_BYTES // (d * matrix.element_size()))
    turns = n // (threads * strip)
    if matrix.device.type != "cpu" or matrix.stride(1) != 1 or not turns:
        image = matrix @ columns
        return image, (matrix.mT @ image).mT
    # In each turn each thread takes one strip, alone, through both products.
    whole = turns * threads * strip
    strips = matrix[:whole].view(threads, turns, strip, d)
    image = matrix.new_empty(n, len(rows))
    images = image[:whole].view(threads, turns, strip, len(rows))
    shared = columns.expand(threads, -1, -1)
    product = matrix.new_zeros(threads, len(rows), d)
    for turn in range(turns):
        images[:, turn] = part = torch.bmm(strips[:, turn], shared)
        product.baddbmm_(part.mT, strips[:, turn])
    image[whole:] = rest = matrix[whole:] @ columns
    return image, product.sum(dim=0).addmm_(rest.mT, matrix[whole:])


class BlockLanczos:
    """A growing block Krylov basis of ``AᵀA``, within the complement of other rows.

    Attributes:
        matrix: A, (n, d); products are cheapest with d ≤ n.
        block: p, the rows a step adds.
        size: m, rows of the basis so far.
        images: ``A Q_jᵀ`` (n, p) a block, if they were asked to be kept.
        diagonal: A_j of (1), float64 (p, p) a block.
        coupling: R_j of (1), float64 (p, p) a block: ``Q_j AᵀA = … + R_j Q_{j+1}``. The last one
            is known up to a rotation from the right: Q_{j+1} is made when it is needed.
    """

    def __init__(
        self,
        matrix: Float[Tensor, "n d"],
        block: int,
        capacity: int,
        generator: torch.Generator,
        *,
        deflated: Float[Tensor, "k d"] | None = None,
        keep_images: bool = False,
    ) -> None:
        self.matrix = matrix
        self.block = block
        self.size = 0
        self.images: list[Tensor] = []
        self.diagonal: list[Tensor] = []
        self.coupling: list[Tensor] = []
        self._generator = generator
        self._keep_images = keep_images
        held = 0 if deflated is None else len(deflated)
        # The deflated rows come first, so that one product projects on them and on the basis.
        self._rows = matrix.new_empty(held + capacity, matrix.shape[1])
        self._held = held
        if deflated is not None:
            self._rows[:held] = deflated
        self._projected = torch.zeros(capacity, capacity, dtype=torch.float64, device=matrix.device)
        self._rest = gaussian(block, matrix, generator)

    @property
    def capacity(self) -> int:
        """The rows that the basis can grow to."""
        return len(self._projected)

    @property
    def basis(self) -> Float[Tensor, "m d"]:
        """Q, orthonormal rows."""
        return self._rows[self._held : self._held + self.size]

    @property
    def projected(self) -> Float[Tensor, "m m"]:
        """T = ``Q AᵀA Qᵀ``, float64."""
        return self._projected[: self.size, : self.size]

    def ritz_above(self, level: float) -> int:
        """Return how many eigenvalues T has above a level (Sylvester's law of inertia)."""
        count = 0
        shift = level * torch.eye(self.block, dtype=torch.float64, device=self.matrix.device)
        update = torch.zeros_like(shift)
        for own, to_next in zip(self.diagonal, self.coupling, strict=True):
            values, vectors = torch.linalg.eigh(own - shift - update)
            count += int((values > 0).sum())
            values = torch.where(values.abs() < 1e-14 * level, 1e-14 * level, values)
            half = vectors.mT @ to_next
            update = half.mT @ (half / values[:, None])
        return count

    def expand(self) -> None:
        """Take the next block into the basis: two products with A."""
        start, stop = self.size, self.size + self.block
        rows = self._append(self._rest)
        if self.coupling:
            self.coupling[-1] = self._rest.double() @ rows.double().mT
        image, product = _products(self.matrix, rows)
        if self._keep_images:
            self.images.append(image)
        # By (1) only the last two blocks matter, and the deflated rows; _append sees to rounding.
        first = max(start - self.block, 0)
        near = self._rows[: self._held + stop] if self._held else self._rows[first:stop]
        overlap = product @ near.mT
        projected = overlap[:, first - stop :].double()
        own = (projected[:, start - stop :] + projected[:, start - stop :].mT) / 2
        self._projected[start:stop, first:start] = projected[:, : start - first]
        self._projected[first:start, start:stop] = projected[:, : start - first].mT
        self._projected[start:stop, start:stop] = own
        self.size = stop
        self._rest = product - overlap @ near
        rest = self._rest.double()
        values, vectors = torch.linalg.eigh(rest @ rest.mT)
        self.diagonal.append(own)
        self.coupling.append(vectors * values.clamp_min(0).sqrt())

    def _append(self, rest: Tensor) -> Tensor:
        """Write orthonormal rows spanning ``rest`` behind the basis, orthogonal to it."""
        stop = self._held + self.size
        known = self._rows[:stop]
        if not bool(rest.any()):  # an invariant space, exactly: start anew beside it
            rest = gaussian(self.block, self.matrix, self._generator)
        rows = orthonormal_rows(rest).to(rest.dtype)
        for _ in range(4):
            overlap = rows @ known.mT
            rows -= overlap @ known
            size = float(torch.linalg.matrix_norm(overlap))
            if size * size < torch.finfo(rows.dtype).eps:  # what removing it did to the norms
                break
            rows = orthonormal_rows(rows).to(rest.dtype)
            if size < 0.1:  # twice is enough, unless the first pass left mostly rounding
                break
        self._rows[stop : stop + self.block] = rows
        return rows
