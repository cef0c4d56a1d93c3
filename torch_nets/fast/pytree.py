"""`VectorDict` as torch's pytrees know a dict: its leaves in order, and a plain dict when it is
built again.
"""

from torch.utils import _pytree

from purenets.core.vector_dict import VectorDict


def register() -> None:
    """Tell torch.func and torch.compile that a `VectorDict` is a container."""
    if VectorDict not in _pytree.SUPPORTED_NODES:
        known = _pytree.SUPPORTED_NODES[dict]
        _pytree.register_pytree_node(
            VectorDict,
            known.flatten_fn,
            known.unflatten_fn,
            serialized_type_name="purenets.VectorDict",
            flatten_with_keys_fn=known.flatten_with_keys_fn,
        )
