"""Weights spread over devices."""

from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from transformers import PreTrainedModel


def shard(model: PreTrainedModel, mesh: DeviceMesh) -> None:
    """Spread weights, gradients and what the optimiser keeps over a mesh, gathering one layer at a time (FSDP2).

    Args:
        model: with or without adapters in it; its weights must have one precision.
        mesh: Lightning's, of the dimensions ``data_parallel`` and ``tensor_parallel``.

    Raises:
        ValueError: if processes are to share the work on each example, which this network is not made for.
    """
    if mesh["tensor_parallel"].size() > 1:
        sizes = [mesh[name].size() for name in ("data_parallel", "tensor_parallel")]
        raise ValueError(
            f"the strategy's data_parallel_size is {sizes[0]} and its tensor_parallel_size {sizes[1]}; set them to the "
            "number of processes and to 1."
        )
    mesh = mesh["data_parallel"]
    for module in model.modules():
        if type(module).__name__ in (model._no_split_modules or ()):
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
