"""The forward pass's operations in torch, on any of its devices, with gradients where they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from whisq.extras import require_torch
from whisq.network.operations import NORM_EPSILON

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray


class TorchOperations:
    """Torch in float32, with ``threads`` for the whole process where given.

    Raises ``MissingExtraError`` where it is not installed.
    """

    def __init__(self, device: str = "cpu", threads: int | None = None) -> None:
        require_torch()
        import torch

        if threads is not None:
            torch.set_num_threads(threads)
        self.device = device
        self._torch = torch
        self._functional = torch.nn.functional

    def array(self, values: NDArray[Any]) -> torch.Tensor:
        """Return a tensor on the device; on a CPU it shares the memory of float32 values that can be written."""
        found = np.ascontiguousarray(values, np.float32)
        return self._torch.from_numpy(found if found.flags.writeable else found.copy()).to(self.device)

    def numpy(self, x: torch.Tensor) -> NDArray[Any]:
        """Return a tensor's values."""
        found: NDArray[Any] = x.detach().cpu().numpy()
        return found

    def no_gradients(self) -> Any:
        """Return torch's own context."""
        return self._torch.no_grad()

    def linear(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """Return x Wᵀ + b."""
        return self._functional.linear(x, weight, bias)

    def layer_norm(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Return x normed over the last axis."""
        return self._functional.layer_norm(x, weight.shape, weight, bias, NORM_EPSILON)

    def gelu(self, x: torch.Tensor) -> torch.Tensor:
        """Return x Φ(x)."""
        return self._functional.gelu(x)

    def conv1d(self, x: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor, stride: int) -> torch.Tensor:
        """Return the convolution over the last axis."""
        return self._functional.conv1d(x, kernel, bias, stride=stride, padding=1)

    def attention(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, *, causal: bool
    ) -> torch.Tensor:
        """Return softmax(q kᵀ / √width) v."""
        return self._functional.scaled_dot_product_attention(queries, keys, values, is_causal=causal)

    def attention_weights(self, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """Return softmax(q kᵀ / √width)."""
        return self._torch.softmax(queries * queries.shape[-1] ** -0.5 @ keys.swapaxes(-1, -2), dim=-1)

    def concatenate(self, arrays: Sequence[torch.Tensor], axis: int) -> torch.Tensor:
        """Return tensors joined along an axis."""
        return self._torch.cat(list(arrays), dim=axis)

    def float64(self, x: torch.Tensor) -> torch.Tensor:
        """Return a tensor in float64."""
        return x.double()

    def exp(self, x: torch.Tensor) -> torch.Tensor:
        """Return e to the power of each value."""
        return x.exp()

    def log_sum_exp(self, x: torch.Tensor) -> torch.Tensor:
        """Return log Σ exp x: by hand, torch's own takes twice as long on a CPU."""
        largest = x.amax(-1, keepdim=True)
        return (x - largest).exp_().sum(-1).log_().add_(largest[..., 0])
