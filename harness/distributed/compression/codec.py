"""The template of a compressor that is an encoding: residual, encode, exchange, decode and add in the order of ranks.

A message is a few fields one after the other, such as scales and bytes. Numbers are worked on in chunks that fit into
the cache. Two ranks, and small vectors, exchange whole messages. More ranks exchange parts (as a reduce-scatter and an
all-gather do, so that nobody receives more than 2 messages' bytes): each rank adds up one part of all messages in
float32, and encodes the sum once more. What that leaves out joins its own residual.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from harness.distributed.compression.feedback import FeedbackCompressor, draws
from harness.distributed.transports.base import Communicator

CHUNK = 64 * 1024
"""Numbers that are worked on at once on a CPU: with what they are decoded to they stay in a second-level cache."""
CHUNK_ON_DEVICE = 4 * 1024 * 1024
GATHERED = 256 * 1024
"""Bytes of all ranks' messages up to which they are exchanged whole: one round is quicker than two."""
ALIGNMENT = 16

Fields = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Field:
    """Of a message: one item of `dtype` for each `per` numbers."""

    dtype: torch.dtype
    per: int = 1


class Codec(FeedbackCompressor):
    fields: tuple[Field, ...]
    """What a message consists of, wide dtypes first."""
    noise = 0
    """Numbers that an encoding draws from, for each chunk; 0 where it draws none."""

    @abstractmethod
    def encode(self, numbers: torch.Tensor, fields: Fields, drawn: int) -> None:
        """Writes `numbers`, float32 (n,), n a multiple of what the fields need, into `fields`; `self.work` is free for
        it. `drawn`: below `noise`, uniformly."""

    @abstractmethod
    def decode(self, fields: Fields, out: torch.Tensor) -> None:
        """What `encode` wrote, in `out` float32 (n,)."""

    def prepare(self, vector: torch.Tensor, group: Communicator) -> None:
        device, self.size = vector.device, group.size
        unit = math.lcm(*(field.per for field in self.fields))
        whole = self._bytes(padded(vector.numel(), unit))
        self.parts = 1 if group.size <= 2 or group.size * whole <= GATHERED else group.size
        part = padded(-(-vector.numel() // self.parts), unit)
        chunk = max(CHUNK if device.type == "cpu" else CHUNK_ON_DEVICE, unit) // unit * unit
        self.chunks = [(start, min(start + chunk, part)) for start in range(0, part, chunk)]
        chunk = min(chunk, part)
        self.spare, self.sum, self.work = torch.empty(3, chunk, device=device)
        row = self._bytes(part)

        def messages(count: int) -> tuple[torch.Tensor, list[list[Fields]]]:
            """Bytes (count, row), and their fields by message and chunk."""
            rows = torch.zeros(count, row, dtype=torch.uint8, device=device)
            return rows, [self._cut(each, part) for each in rows]

        self.own, self.own_fields = messages(self.parts)
        self.received, self.received_fields = messages(group.size)
        if self.parts > 1:
            self.again, self.again_fields = messages(1)
            self.sums, self.sums_fields = messages(group.size)
        self.of_part = [
            slice(min(start, vector.numel()), min(start + part, vector.numel()))
            for start in range(0, part * self.parts, part)
        ]
        self.residual = None
        if self.error_feedback:
            self.residual = self.keep("residual", torch.zeros(part * self.parts, device=device), vector.numel())
        self.residuals = [None] * self.parts if self.residual is None else list(self.residual.view(self.parts, part))
        self.mine = group.rank
        self.sent = self.own.numel()

    def _bytes(self, numbers: int) -> int:
        return padded(sum(numbers // field.per * field.dtype.itemsize for field in self.fields), ALIGNMENT)

    def _cut(self, row: torch.Tensor, numbers: int) -> list[Fields]:
        """The fields of a message of so many numbers, by chunk."""
        whole, offset = [], 0
        for field in self.fields:
            length = numbers // field.per * field.dtype.itemsize
            whole.append(row[offset : offset + length].view(field.dtype))
            offset += length
        return [
            tuple(items[start // field.per : end // field.per] for items, field in zip(whole, self.fields))
            for start, end in self.chunks
        ]

    def sum_(self, vector: torch.Tensor, group: Communicator) -> None:
        self.sent = self.own.numel()
        drawn, count = self._draw(), len(self.chunks)
        for number, (part, fields, residual) in enumerate(zip(self.of_part, self.own_fields, self.residuals)):
            self._encode(vector[part], fields, residual, drawn[number * count : (number + 1) * count])
        if self.parts == 1:
            group.all_gather_(self.received, self.own[0])
            self._add_up(vector)
            return
        group.all_to_all_(self.received, self.own)
        mine = self.of_part[self.mine]
        self._add_up(vector[mine])
        self._encode_again(vector[mine], drawn[self.parts * count :])
        group.all_gather_(self.sums, self.again[0])
        for part, fields in zip(self.of_part, self.sums_fields):
            self._decode(fields, vector[part])

    def _draw(self) -> Sequence[int]:
        count = (self.parts + (self.parts > 1)) * len(self.chunks)
        return draws(self.own_key, self.updates).integers(0, self.noise, count).tolist() if self.noise else [0] * count

    def _encode(
        self, numbers: torch.Tensor, fields: list[Fields], residual: torch.Tensor | None, drawn: Sequence[int]
    ) -> None:
        """A part of this rank's gradient, with what earlier messages left out."""
        count = len(numbers)
        for (start, end), chunk, number in zip(self.chunks, fields, drawn):
            stop = min(end, count)
            if start >= stop:
                break
            part = numbers[start:stop]
            if residual is None:
                self.encode(part if stop == end else self._pad(part, end - start), chunk, number)
                continue
            kept, decoded = residual[start:end], self.spare[: end - start]
            kept[: stop - start].add_(part)
            self.encode(kept, chunk, number)
            self.decode(chunk, decoded)
            kept.sub_(decoded)
            if stop < end:
                kept[stop - start :].zero_()

    def _pad(self, numbers: torch.Tensor, length: int) -> torch.Tensor:
        out = self.sum[:length]
        out[: len(numbers)].copy_(numbers)
        out[len(numbers) :].zero_()
        return out

    def _add_up(self, out: torch.Tensor) -> None:
        """The messages that this rank has received."""
        count = len(out)
        for number, (start, end) in enumerate(self.chunks):
            stop, decoded, total = min(end, count), self.spare[: end - start], self.sum[: end - start]
            if start >= stop:
                break
            total = out[start:stop] if stop == end else total
            self.decode(self.received_fields[0][number], total)
            for fields in self.received_fields[1:]:
                self.decode(fields[number], decoded)
                total.add_(decoded)
            if stop < end:
                out[start:stop].copy_(total[: stop - start])

    def _encode_again(self, sums: torch.Tensor, drawn: Sequence[int]) -> None:
        """The sums of this rank's part, for all."""
        count, residual = len(sums), self.residuals[self.mine]
        for (start, end), fields, number in zip(self.chunks, self.again_fields[0], drawn):
            stop, decoded = min(end, count), self.spare[: end - start]
            if start >= stop:
                break
            part = sums[start:stop]
            self.encode(part if stop == end else self._pad(part, end - start), fields, number)
            if residual is not None:
                self.decode(fields, decoded)
                residual[start:stop].add_(part).sub_(decoded[: stop - start])

    def _decode(self, fields: list[Fields], out: torch.Tensor) -> None:
        for (start, end), chunk in zip(self.chunks, fields):
            stop, decoded = min(end, len(out)), self.spare[: end - start]
            if start >= stop:
                break
            if stop == end:
                self.decode(chunk, out[start:stop])
            else:
                self.decode(chunk, decoded)
                out[start:stop].copy_(decoded[: stop - start])


def padded(numbers: int, unit: int) -> int:
    """The next multiple of `unit`."""
    return -(-numbers // unit) * unit
