"""Micro-batches of training and validation rows, as a function of the step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from components.data.order import Mixture
from components.data.rows import RowBlock, TokenRows
from components.diffusion import noise
from components.diffusion.noise import Stream
from components.errors import DataError
from components.objectives.base import Batch
from components.training.job import Job

Split = Literal["train", "validation"]
VALIDATION_SEED = 0x5EED


def has_rows(job: Job, split: Split) -> bool:
    """A small corpus may have put nothing into a split; then nothing is validated."""
    return any(len(TokenRows(folder, split)) for folder in job.rows)


class RowSource:
    """The rows of one split of a job's corpora, as one rank of the training sees them."""

    def __init__(self, job: Job, split: Split, *, rank: int, world_size: int, device: torch.device):
        """Open the corpora that have rows in the split.

        Raises:
            DataError: none has.
        """
        corpora = [TokenRows(folder, split) for folder in job.rows]
        used = [i for i, rows in enumerate(corpora) if len(rows)]
        if not used:
            raise DataError(
                f"There is no row in the {split} split of {', '.join(str(f) for f in job.rows)}. "
                f"Use a larger corpus, or lower validation_share and test_share."
            )
        self.job, self.rank, self.world_size, self.device = job, rank, world_size, device
        self.corpora = [corpora[i] for i in used]
        sizes = [len(rows) for rows in self.corpora]
        config = job.config
        if split == "train":
            self.seed, self.num_rows, self.label_dropout = config.seed, config.batch_rows, config.label_dropout
        else:
            self.seed, self.num_rows, self.label_dropout = VALIDATION_SEED, min(config.validation_rows, sum(sizes)), 0.0
        self.mixture = Mixture(sizes, [job.weights[i] for i in used], self.seed)
        self.uneven = any(rows.uneven for rows in self.corpora)
        self.pads_count = all(rows.pad_in_loss for rows in self.corpora)

    def batches(self, step: int) -> Iterator[Batch]:
        """This rank's micro-batches of the global batch. Every rank gets the same number of them.

        Rows of several lengths are dealt out from the longest on, so that ranks have equally much to do and rows of one length
        share a micro-batch where they can.
        """
        per_rank = -(-self.num_rows // self.world_size)
        micro = min(self.job.rows_at_once(self.world_size), per_rank)
        own, sizes = torch.arange(per_rank) + self.rank * per_rank, None
        if self.uneven:
            sizes = torch.ones(per_rank * self.world_size, dtype=torch.int64)
            sizes[: self.num_rows] = torch.from_numpy(self.sizes(step))
            own = sizes.argsort(descending=True, stable=True)[self.rank :: self.world_size]
        for index in own.split(micro):
            yield self.batch(step, index, None if sizes is None else sizes[index])

    def sizes(self, step: int) -> NDArray[np.int32]:
        """Positions of each row of global batch ``step``."""
        corpus, row = self.mixture.pick(step * self.num_rows + np.arange(self.num_rows))
        found = np.zeros(self.num_rows, dtype=np.int32)
        for number, rows in enumerate(self.corpora):
            found[corpus == number] = rows.sizes(row[corpus == number])
        return found

    def batch(self, step: int, index: Tensor, sizes: Tensor | None = None) -> Batch:
        """Rows ``index`` [B] of global batch ``step``, cut to so many positions [B]; an index past its end is padding
        without targets."""
        stream = step * self.num_rows + index.clamp(max=self.num_rows - 1)
        rows = gather(self.corpora, self.mixture, stream)
        length = rows.tokens.shape[1] if sizes is None else int(sizes.max())
        tokens = torch.from_numpy(rows.tokens[:, :length])
        position = torch.arange(length)[None, :]
        maskable = (position >= torch.from_numpy(rows.num_prompt)[:, None]) & (index < self.num_rows)[:, None]
        if sizes is not None:
            maskable &= position < sizes[:, None]
        target = maskable if self.pads_count else maskable & (tokens != self.job.pad_id)
        keys = noise.row_keys(self.seed, stream)
        label = None if rows.label is None else torch.from_numpy(rows.label).float()
        if label is not None and self.label_dropout:
            hidden = noise.uniform(keys, step, 0, 1, Stream.LABEL)[:, 0] < self.label_dropout
            label = label.masked_fill(hidden, torch.nan)
        return Batch(
            tokens=tokens.to(self.device),
            maskable=maskable.to(self.device),
            target=target.to(self.device),
            index=index.to(self.device),
            keys=keys.to(self.device),
            num_rows=self.num_rows,
            step=step,
            label=None if label is None else label.to(self.device),
            sizes=None if sizes is None or bool((sizes == length).all()) else sizes,
        )


def gather(corpora: list[TokenRows], mixture: Mixture, stream: Tensor) -> RowBlock:
    """The rows at places ``stream`` [B] of the endless mixture; labels only where every corpus has them."""
    corpus, row = mixture.pick(stream.numpy())
    parts = [rows.take(row[corpus == number]) for number, rows in enumerate(corpora)]
    # Parts lie one after the other; the k-th row of the batch is the rank of its place in a stable sort by corpus.
    back = np.argsort(np.argsort(corpus, kind="stable"), kind="stable")
    labels = [part.label for part in parts if part.label is not None]
    return RowBlock(
        np.concatenate([part.tokens for part in parts])[back],
        np.concatenate([part.num_prompt for part in parts])[back],
        np.concatenate(labels)[back] if len(labels) == len(parts) else None,
        np.concatenate([part.size for part in parts])[back],
    )
