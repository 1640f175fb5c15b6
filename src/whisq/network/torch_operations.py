"""The forward pass's operations in torch, on any of its devices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from whisq.errors import PlanError
from whisq.extras import require_packages
from whisq.network.operations import NORM_EPSILON

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray


class TorchOperations:
    """Torch in float32, with ``threads`` for the whole process where given.

    Raises ``MissingExtraError`` where it is not installed, ``PlanError`` for a device that it cannot use.
    """

    def __init__(self, device: str = "cpu", threads: int | None = None) -> None:
        require_packages("torch", purpose=f"running on {device}", extra="gpu")
        import torch

        try:
            torch.empty(1, device=device)
        # What is said depends on the device, on how torch was built, and on its release.
        except (RuntimeError, AssertionError) as error:
            raise PlanError(
                f"torch cannot use the device '{device}': {str(error).strip().splitlines()[0]}", hint="use --device cpu"
            ) from None

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

    def linear_back(self, gradient: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Return the gradient at the input of ``linear``."""
        return gradient @ weight

    def layer_norm_back(self, x: torch.Tensor, weight: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        """Return the gradient at ``x``."""
        without_bias = self._torch.zeros_like(weight)
        return self._back(lambda states: self.layer_norm(states, weight, without_bias), [x], gradient)[0]

    def gelu_back(self, x: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        """Return the gradient at ``x``."""
        return self._back(self.gelu, [x], gradient)[0]

    def attention_back(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, gradient: torch.Tensor, *, causal: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the gradients at queries, keys and values."""
        found = self._back(partial(self.attention, causal=causal), [queries, keys, values], gradient)
        return found[0], found[1], found[2]

    def _back(
        self, operation: Callable[..., torch.Tensor], inputs: Sequence[torch.Tensor], gradient: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        with self._torch.enable_grad():
            # One x for several gradients is one for each of them.
            leaves = [x.detach().expand(len(gradient), *x.shape[1:]).requires_grad_() for x in inputs]
            found: tuple[torch.Tensor, ...] = self._torch.autograd.grad(operation(*leaves), leaves, gradient)
            return found

    def second_moment(self, x: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
        """Return Σ w x xᵀ."""
        return (x if weights is None else x * weights[:, None]).T @ x

    def concatenate(self, arrays: Sequence[torch.Tensor], axis: int) -> torch.Tensor:
        """Return tensors joined along an axis."""
        return self._torch.cat(list(arrays), dim=axis)

    def float64(self, x: torch.Tensor) -> torch.Tensor:
        """Return a tensor in float64, on the CPU where the device has none."""
        return (x.cpu() if x.device.type == "mps" else x).double()

    def exp(self, x: torch.Tensor) -> torch.Tensor:
        """Return e to the power of each value."""
        return x.exp()

    def log_sum_exp(self, x: torch.Tensor) -> torch.Tensor:
        """Return log Σ exp x: by hand, torch's own takes twice as long on a CPU."""
        largest = x.amax(-1, keepdim=True)
        return (x - largest).exp_().sum(-1).log_().add_(largest[..., 0])
